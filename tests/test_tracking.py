"""MLflow: runs, metrics and provenance in a real store; the detector as a model without a pickle, loaded and served."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.selection import Trial
from raeflow.study import Calibration, Data, Search, Study, Training
from raeflow.tracking import Tracker
from raeflow.training import fit

START_S = 180


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of this file: a fresh one takes seconds of migrations. A space, as users' folders have."""
    return tmp_path_factory.mktemp("tracking") / "my runs"


def study(home: Path, name: str, **more: Any) -> Study:
    return Study(name=name, data=Data("rows.parquet", normal=[("label", "!=", 5)]), home=str(home), **more)


def trial(number: int, epochs: int = 3, **more: Any) -> Trial:
    history = [{"epoch": e, "validation_loss": 1 / e, "loss_model": 2 / e} for e in range(1, epochs + 1)]
    values: dict[str, Any] = {
        "number": number, "variant": "autoencoder", "hyper": {"latent": 8, "layers": (64, 32), "rate": 1e-3}, "value": 0.9 + number / 100,
        "validation_loss": 0.25, "epochs": epochs, "seconds": 4.0, "status": "complete", "history": history,
    }  # fmt: skip
    return Trial(**{**values, **more})


def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracker.uri, tracker.uri)


def children(tracker: Tracker) -> dict[str, Any]:
    parent = client(tracker).get_run(tracker.parent_run_id)
    found = client(tracker).search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.parent_run_id}'")
    return {run.info.run_name: run for run in found}


def test_a_study_is_a_parent_with_children(home):
    with Tracker(study(home, "family"), fingerprint="f00d" * 16) as tracker:
        assert client(tracker).get_run(tracker.parent_run_id).info.status == "RUNNING"
        tracker.trial(trial(0))
        tracker.trial(trial(1, value=None, status="failed", message="diverged", validation_loss=None, history=()))
        tracker.step("train autoencoder", {"latent": 8}, {"validation_loss": 0.2, "seconds": 60.0}, trial(0).history)
        tracker.step("calibrate", {"method": "mean_std"}, {"value": 0.5, "nothing": None})
    parent = client(tracker).get_run(tracker.parent_run_id)
    runs = children(tracker)
    assert parent.info.status == "FINISHED"
    assert set(runs) == {"trial 0 autoencoder", "trial 1 autoencoder", "train autoencoder", "calibrate"}
    first = runs["trial 0 autoencoder"]
    assert first.data.params == {"variant": "autoencoder", "head": "error", "latent": "8", "layers": "[64, 32]", "rate": "0.001"}
    assert first.data.metrics["selection_score"] == 0.9
    assert first.data.metrics["best_validation_loss"] == 0.25
    assert first.info.end_time - first.info.start_time >= 3900
    losses = client(tracker).get_metric_history(first.info.run_id, "validation_loss")
    assert [(m.step, m.value) for m in sorted(losses, key=lambda m: m.step)] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    train = runs["train autoencoder"].data.metrics
    assert (train["best_validation_loss"], train["validation_loss"]) == (0.2, pytest.approx(1 / 3))
    failed = runs["trial 1 autoencoder"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["raeflow.message"] == "diverged"
    assert "selection_score" not in failed.data.metrics
    assert parent.data.metrics == {
        "best_selection_score": 0.9, "train autoencoder.validation_loss": 0.2, "train autoencoder.seconds": 60.0, "calibrate.value": 0.5,
    }  # fmt: skip


def test_where_a_result_comes_from_is_kept(home):
    tracker = Tracker(study(home, "lineage"), fingerprint="f00d" * 16)
    tracker.finish()
    run = client(tracker).get_run(tracker.parent_run_id)
    tags = run.data.tags
    assert tags["raeflow.fingerprint"] == "f00d" * 16
    assert tags["raeflow.python"].startswith("3.")
    assert tags["raeflow.torch"] == torch.__version__
    assert tags["raeflow.device"]
    assert tags["mlflow.source.name"] == "raeflow"
    assert run.data.params["training.epochs"] == "50"
    assert run.data.params["data.normal"] == '[["label", "!=", 5]]'
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == [("f00d" * 16)[:36]]
    folder = home / "mlartifacts" / tracker.parent_run_id / "artifacts"
    assert json.loads((folder / "study.json").read_text())["name"] == "lineage"
    assert "mlflow" in json.loads((folder / "environment.json").read_text())["packages"]


def test_the_commit_of_the_current_folder_is_kept(home, tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    outside = Tracker(study(home, "outside"))
    assert "mlflow.source.git.commit" not in client(outside).get_run(outside.parent_run_id).data.tags
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    for name, dirty in (("clean", "false"), ("changed", "true")):
        tracker = Tracker(study(home, name))
        tags = client(tracker).get_run(tracker.parent_run_id).data.tags
        assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
        assert tags["mlflow.source.git.dirty"] == dirty
        (tmp_path / "a").write_text("2")


def test_a_study_run_again_goes_on_with_its_parent(home):
    first = Tracker(study(home, "again"))
    first.trial(trial(0))
    first.step("calibrate", {"k": 1}, {"value": 0.5, "seconds": 1.0})
    # A kill between a run's start and its end.
    half = client(first).create_run(
        client(first).get_run(first.parent_run_id).info.experiment_id,
        run_name="trial 1 autoencoder",
        tags={"raeflow.key": "trial 1", "mlflow.parentRunId": first.parent_run_id},
    )
    second = Tracker(study(home, "again", training=Training(epochs=7)))
    assert second.parent_run_id == first.parent_run_id
    for number in range(3):
        second.trial(trial(number))
    second.step("calibrate", {"k": 1}, {"value": 0.5, "seconds": 2.0})
    second.step("calibrate", {"k": 2}, {"value": 0.7, "seconds": 2.0})
    third = Tracker(study(home, "again"))
    third.trial(trial(3, value=0.1))
    assert client(third).get_run(third.parent_run_id).data.metrics["best_selection_score"] == 0.92
    second.finish()
    runs = client(second).search_runs(
        [client(first).get_run(first.parent_run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{first.parent_run_id}'"
    )
    names = sorted(run.info.run_name for run in runs)
    assert names == ["calibrate", "calibrate", *(f"trial {n} autoencoder" for n in range(4))]
    assert half.info.run_id not in {run.info.run_id for run in runs}
    parent = client(first).get_run(first.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["training.epochs"] == "50"
    assert parent.data.tags["raeflow.changed.training.epochs"] == "7"


def test_another_store_or_a_deleted_parent_begins_anew(home, tmp_path):
    first = Tracker(study(home, "anew"))
    client(first).delete_run(first.parent_run_id)
    second = Tracker(study(home, "anew"))
    assert second.parent_run_id != first.parent_run_id


def test_long_and_odd_parameters_are_cut_not_refused(home):
    tracker = Tracker(study(home, "long"))
    tracker.trial(trial(0, hyper={"wide": "x" * 9000, "nothing": None, "a(b)=c": 1, "deep": {"er": {"still": 2}}}))
    params = children(tracker)["trial 0 autoencoder"].data.params
    assert params["wide"] == "x" * 499 + "…"
    assert params["a_b__c"] == "1"
    assert params["deep.er.still"] == "2"
    assert "nothing" not in params


def test_thousands_of_epochs_go_in_batches(home):
    tracker = Tracker(study(home, "epochs"))
    tracker.trial(trial(0, epochs=1200))
    run = children(tracker)["trial 0 autoencoder"]
    assert len(client(tracker).get_metric_history(run.info.run_id, "loss_model")) == 1200


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_what_breaks_a_study_is_its_status(home, error, status):
    with pytest.raises(error), Tracker(study(home, f"broken_{status}")) as tracker:
        raise error
    assert client(tracker).get_run(tracker.parent_run_id).info.status == status


def test_artifacts_go_with_their_step(home, tmp_path):
    (tmp_path / "page.html").write_text("one")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"png")
    tracker = Tracker(study(home, "artifacts"))
    run = tracker.step("report", {}, {}, artifacts=[tmp_path / "page.html", tmp_path / "plots"])
    (tmp_path / "page.html").write_text("two")
    assert tracker.step("report", {}, {}, artifacts=[tmp_path / "page.html"]) == run
    kept = home / "mlartifacts" / run / "artifacts"
    assert (kept / "page.html").read_text() == "two"
    assert (kept / "plots" / "a.png").exists()


def test_a_store_that_fails_midway_costs_no_work(home, monkeypatch):
    tracker = Tracker(study(home, "midway"))
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise MlflowException("the server is gone\nand more")

    monkeypatch.setattr(MlflowClient, "create_run", fail)
    with pytest.warns(RuntimeWarning, match=r"did not take trial 0: the server is gone$"):
        tracker.trial(trial(0))
    with pytest.warns(RuntimeWarning, match="trial 1"):
        tracker.trial(trial(1))
    with pytest.warns(RuntimeWarning, match="goes on untracked"):
        assert tracker.step("calibrate", {}, {"a": 1.0}) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.trial(trial(2))
    assert len(calls) == 3
    monkeypatch.undo()
    tracker.finish()
    assert client(tracker).get_run(tracker.parent_run_id).info.status == "FINISHED"


def test_a_store_that_recovers_is_used_again(home, monkeypatch):
    tracker = Tracker(study(home, "recovers"))
    for number in range(4):
        with monkeypatch.context() as patch, pytest.warns(RuntimeWarning):
            patch.setattr(MlflowClient, "create_run", lambda *_, **__: (_ for _ in ()).throw(OSError("down")))
            tracker.trial(trial(2 * number))
        tracker.trial(trial(2 * number + 1))
    assert set(children(tracker)) == {f"trial {n} autoencoder" for n in (1, 3, 5, 7)}


def test_a_bug_is_not_taken_for_a_failing_store(home):
    tracker = Tracker(study(home, "bug"))
    with pytest.raises(AttributeError):
        tracker.trial("no trial")  # type: ignore[arg-type]


def test_a_server_that_does_not_answer_is_refused_before_work_starts(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RaeflowError, match=r"Study\(tracking='http://user:\*\*\*@127.*no MLflow server answers there") as caught:
            Tracker(study(home, "unreachable", tracking=uri))
    assert "\n" not in str(caught.value)
    assert not (home / "unreachable" / "tracking.json").exists()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mlruns", r"tracking='mlruns'\): MLflow keeps runs in a database or on a server"),
        ("nonsense://x", "nonsense://x cannot be used"),
        ("postgresql+nodriver://u:secret@127.0.0.1/x", r"postgresql\+nodriver://u:\*\*\*@127.0.0.1/x"),
        ("sqlite:////proc/nowhere/mlflow.db", "cannot be used"),
    ],
)
def test_a_store_that_cannot_be_is_refused(home, uri, said):
    with pytest.raises(RaeflowError, match=said) as caught:
        Tracker(study(home, "refused"), uri)
    assert "secret" not in str(caught.value)


def test_no_password_is_written_down(home):
    search = Search(storage="postgresql://me:secret@db/optuna")
    tracker = Tracker(study(home, "hidden", search=search))
    tracker.finish()
    run = client(tracker).get_run(tracker.parent_run_id)
    assert run.data.params["search.storage"] == "postgresql://me:***@db/optuna"
    kept = (home / "mlartifacts" / tracker.parent_run_id / "artifacts" / "study.json").read_text()
    assert "secret" not in kept + (home / "hidden" / "tracking.json").read_text()


def test_a_deleted_experiment_is_told_with_its_remedy(home):
    tracker = Tracker(study(home, "deleted"))
    experiment = client(tracker).get_experiment_by_name("deleted").experiment_id
    client(tracker).delete_experiment(experiment)
    with pytest.raises(RaeflowError, match=f"mlflow experiments restore -x {experiment}"):
        Tracker(study(home, "deleted"))


def test_tracking_sets_nothing_global(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    tracker = Tracker(study(home, "modest"))
    tracker.trial(trial(0))
    tracker.finish()
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_studies_can_start_at_once_in_a_fresh_home(tmp_path):
    code = (
        "import sys; from raeflow import Study, Data; from raeflow.tracking import Tracker;"
        f"t = Tracker(Study(name=sys.argv[1], data=Data('x.parquet'), home={str(tmp_path)!r})); t.finish()"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE, text=True) for name in ("one", "two")]
    for process in both:
        assert process.wait(START_S) == 0, process.stderr.read() if process.stderr else ""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert {e.name for e in MlflowClient(uri, uri).search_experiments()} == {"Default", "one", "two"}
    assert not list(tmp_path.glob(".mlflow*"))


# The detector as a model


def made(shape: tuple[int, ...], kind: str, columns: tuple[str, ...], dtype: str = "float32") -> tuple[Detector, torch.Tensor]:
    x = torch.randn((300, *shape), generator=torch.Generator().manual_seed(0))
    if dtype == "uint8":
        x = (40 * x + 128).clamp(0, 255).to(torch.uint8)
    scaling = fit_scaling("auto", shape, x.dtype, [x])
    splits = Splits(RowSpec(columns, kind, shape, dtype), scaling, Rows(x[:150]), Rows(x[150:200]), Rows(x[200:250]), Rows(x[250:]))
    fitted = fit("autoencoder", {}, splits, Training(epochs=1, batch_size=50, device="cpu"))
    return Detector.assemble([fitted], splits, Calibration()), x[250:]


KINDS = {
    "table": ((4,), "columns", ("a", "b", "c d", "e"), "float32"),
    "list": ((6,), "list", ("features",), "float32"),
    "image": ((1, 8, 8), "list", ("image",), "uint8"),
}


@pytest.fixture(scope="module")
def registered(home: Path) -> dict[str, tuple[Tracker, Detector, torch.Tensor, str]]:
    """A detector of each kind of row, saved, logged and registered."""
    out = {}
    for name, kind in KINDS.items():
        detector, rows = made(*kind)
        folder = detector.save(home / name / "detector")
        tracker = Tracker(study(home, name))
        out[name] = (tracker, detector, rows, tracker.detector(detector, folder, rows.numpy()))
        tracker.finish()
    return out


@pytest.fixture
def global_uri(registered, monkeypatch) -> None:
    """MLflow's own loaders go by its global tracking URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered["table"][0].uri)


def given(kind: str, rows: torch.Tensor) -> Any:
    return pd.DataFrame(rows.double().numpy(), columns=list(KINDS[kind][2])) if kind == "table" else rows.numpy()


@contextmanager
def no_unpickling() -> Iterator[None]:
    """Whoever loads a pickle meanwhile fails."""
    import cloudpickle

    def poisoned(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((pickle, ("load", "loads", "Unpickler")), (cloudpickle, ("load", "loads")), (torch, ("load",))):
            for name in names:
                patch.setattr(module, name, poisoned)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_mlflow_loads_the_detector_without_unpickling(registered, global_uri, kind):
    _, detector, rows, uri = registered[kind]
    assert uri == f"models:/{kind}@champion"
    with no_unpickling():
        model = mlflow.pyfunc.load_model(uri)
        answer = model.predict(given(kind, rows))
    assert list(answer.columns) == ["anomaly_score", "is_anomaly"]
    np.testing.assert_allclose(answer["anomaly_score"], detector.score(rows), rtol=1e-6)
    assert answer["is_anomaly"].tolist() == detector.predict(rows).tolist()
    assert 0 < answer["is_anomaly"].sum() < len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_logged_model_holds_json_safetensors_and_a_few_lines(registered, global_uri, kind):
    uri = registered[kind][3]
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    names = {p.name for p in folder.rglob("*") if p.is_file()}
    assert {"detector.json", "weights.safetensors", "served.py", "MLmodel", "requirements.txt", "input_example.json"} <= names
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"))]
    for path in folder.rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith(b"\x80")
    requirements = (folder / "requirements.txt").read_text().split()
    assert requirements[0].startswith("raeflow==")
    assert any(r.startswith("torch") for r in requirements)
    example = json.loads((folder / "serving_input_example.json").read_text())
    assert len(next(iter(example.values()))["data"] if kind == "table" else next(iter(example.values()))) == 2
    builtins.compile((folder / "served.py").read_text(), "served.py", "exec")


def test_signatures_name_columns_or_give_the_tensor(registered, global_uri):
    table = mlflow.models.get_model_info(registered["table"][3]).signature
    assert table.inputs.input_names() == ["a", "b", "c d", "e"]
    assert table.outputs.input_names() == ["anomaly_score", "is_anomaly"]
    image = mlflow.models.get_model_info(registered["image"][3]).signature.inputs.inputs[0]
    assert (image.shape, image.type) == ((-1, 1, 8, 8), np.dtype("uint8"))


def test_rows_that_cannot_be_scored_are_refused_with_raeflows_sentence(registered, global_uri):
    model = mlflow.pyfunc.load_model(registered["list"][3])
    rows = registered["list"][2].numpy().copy()
    rows[3, 2] = np.nan
    with pytest.raises(MlflowException, match="row 3 holds nan"):
        model.predict(rows)


def test_a_detector_is_registered_once_and_a_new_one_takes_the_alias(registered, home):
    tracker, detector, rows, uri = registered["list"]
    folder = home / "list" / "detector"
    assert tracker.detector(detector, folder, rows) == uri
    assert len(client(tracker).search_model_versions("name = 'list'")) == 1
    more, _ = made((6,), "list", ("other",))
    tracker.detector(more, more.save(home / "list" / "more"), rows)
    assert str(client(tracker).get_model_version_by_alias("list", "champion").version) == "2"
    tracker.detector(detector, folder, rows)
    assert str(client(tracker).get_model_version_by_alias("list", "champion").version) == "1"
    parent = client(tracker).get_run(tracker.parent_run_id)
    assert parent.data.tags["raeflow.model"] == "models:/list/1"
    assert parent.data.tags["raeflow.detector"] == detector.id
    assert parent.outputs.model_outputs


# Real servers


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def server(*arguments: str, path: str, port: int, **environment: str) -> Iterator[str]:
    """`mlflow <arguments>` on this machine until the block ends."""
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    # `mlflow models serve` starts uvicorn by its name.
    path_of = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    settings = {**os.environ, "PATH": path_of, **environment}
    process = subprocess.Popen(command, env=settings, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        pause = threading.Event()
        for _ in range(START_S * 2):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, b"".join(said).decode()
                pause.wait(0.5)
        else:
            pytest.fail(f"no answer in {START_S} s: {b''.join(said).decode()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "image"])
def test_mlflow_models_serve_answers_rows_with_scores(registered, kind):
    tracker, detector, rows, uri = registered[kind]
    few = rows[:3]
    bodies = {
        "table": {"dataframe_split": {"columns": list(KINDS["table"][2]), "data": few.tolist()}},
        "image": {"inputs": few.tolist()},
    }
    arguments = ("models", "serve", "--model-uri", uri, "--env-manager", "local")
    with server(*arguments, path="/ping", port=free_port(), MLFLOW_TRACKING_URI=tracker.uri) as at:
        answer = post(f"{at}/invocations", bodies[kind])["predictions"]
        np.testing.assert_allclose([a["anomaly_score"] for a in answer], detector.score(few), rtol=1e-5)
        assert [a["is_anomaly"] for a in answer] == detector.predict(few).tolist()
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(f"{at}/invocations", {"inputs": [[1.0, 2.0]]})
        assert refused.value.code == 400


@pytest.mark.slow
def test_a_tracking_server_keeps_a_whole_study(tmp_path, monkeypatch):
    detector, rows = made(*KINDS["list"])
    folder = detector.save(tmp_path / "detector")
    store = (
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        str(tmp_path / "kept"),
        "--workers",
        "1",
    )
    with server("server", *store, path="/health", port=free_port()) as at:
        with Tracker(study(tmp_path / "home", "served", tracking=at), fingerprint="f00d") as tracker:
            tracker.trial(trial(0))
            tracker.step("report", {}, {"auroc": 0.9}, artifacts=[folder])
            uri = tracker.detector(detector, folder, rows)
        assert tracker.where.startswith(f"{at}/#/experiments/")
        assert client(tracker).get_run(tracker.parent_run_id).info.status == "FINISHED"
        assert set(children(tracker)) == {"trial 0 autoencoder", "report"}
        monkeypatch.setenv("MLFLOW_TRACKING_URI", at)
        answer = mlflow.pyfunc.load_model(uri).predict(rows.numpy())
        np.testing.assert_allclose(answer["anomaly_score"], detector.score(rows), rtol=1e-6)
    assert not (tmp_path / "home" / "mlflow.db").exists()
