"""Training on workers gives what training in one process gives, through deaths and streams too."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raeflow import checkpoint, training, variants
from raeflow.cluster import session
from raeflow.cluster import train as cluster_train
from raeflow.cluster.many import fit_many
from raeflow.cluster.train import Group, Task, name, on_workers, train
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.health import gauge_of
from raeflow.study import Cluster, Data, Study, Training

SHAPE = (8,)
ALL = variants.names()
TRAINING = Training(epochs=3, batch_size=64, device="cpu")


def splits() -> Splits:
    """256 train rows, so that whole batches of 64 leave none over, on one worker or two."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(384, 3, generator=drawn) @ torch.randn(3, *SHAPE, generator=drawn) + 0.1 * torch.randn(384, *SHAPE, generator=drawn)
    spec = RowSpec(tuple(f"x{i}" for i in range(SHAPE[0])), "columns", SHAPE, "float32")
    return Splits(
        spec, fit_scaling("standard", SHAPE, torch.float32, [x[:256]]), Rows(x[:256]), Rows(x[256:]), None, None, fingerprint="rows"
    )


def task(variant: str, **changes: Any) -> Task:
    hyper = checkpoint.plain(dataclasses.asdict(variants.get(variant).published(SHAPE)))
    return Task(variant, {**hyper, **changes}, TRAINING, 0)


def alone(one: Task) -> training.Fitted:
    rows = splits()
    return training.fit(one.variant, one.hyper, rows, one.training, one.seed, gauge_of(rows, one.training, one.seed))


def gap(a: training.Fitted, b: training.Fitted) -> float:
    """Largest difference of any weight."""
    assert a.weights.keys() == b.weights.keys()
    assert all(a.weights[k].shape == b.weights[k].shape for k in a.weights)
    return max(float((a.weights[k] - b.weights[k]).abs().nan_to_num().max()) for k in a.weights if a.weights[k].numel())


def moved(fitted: training.Fitted) -> float:
    """Largest way that any weight went in training."""
    torch.manual_seed(0)
    start = variants.build(fitted.variant, fitted.shape, fitted.hyper).state_dict()
    # What is no network starts with nothing.
    ways = [(w - start[k] if w.shape == start[k].shape else w).float().nan_to_num(posinf=0.0) for k, w in fitted.weights.items()]
    return max(float(way.abs().max()) for way in ways if way.numel())


def study(home: Path, **changes: Any) -> Study:
    return Study(name="fit", home=str(home), data=Data("rows"), training=TRAINING, **changes)


# In this process


@pytest.mark.parametrize("variant", ALL)
def test_no_workers_means_the_plain_loop(tmp_path: Path, variant: str) -> None:
    one = task(variant)
    assert gap(train(study(tmp_path), variant, one.hyper, splits(), 0), alone(one)) == 0


def test_a_killed_run_in_this_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_train, "ALONE_EVERY", -1.0)
    one = task("vae")
    saved: list[int] = []

    class Killed(Exception):
        pass

    whole = training.Run.save

    def save_twice(run: training.Run, folder: Path) -> None:
        whole(run, folder)
        saved.append(run.done)
        if len(saved) == 2:
            raise Killed

    monkeypatch.setattr(training.Run, "save", save_twice)
    with pytest.raises(Killed):
        train(study(tmp_path), "vae", one.hyper, splits(), 0)
    folder = tmp_path / "fit" / "training" / name(one, splits())
    assert saved == [1, 2] and folder.exists()
    monkeypatch.setattr(training.Run, "save", whole)
    fitted = train(study(tmp_path), "vae", one.hyper, splits(), 0)
    assert gap(fitted, alone(one)) == 0 and [e["epoch"] for e in fitted.history] == [1, 2, 3]
    assert not folder.exists(), "a run that is done leaves no checkpoint"


def test_only_the_same_run_goes_on() -> None:
    names = {name(t, splits()) for t in (task("vae"), task("vae", latent=2), dataclasses.replace(task("vae"), seed=1), task("autoencoder"))}
    assert len(names) == 4


def test_workers_must_share_a_batch_evenly(tmp_path: Path) -> None:
    with pytest.raises(RaeflowError, match="3 workers cannot share 64 rows"):
        train(study(tmp_path, cluster=Cluster(workers=3)), "vae", task("vae").hyper, splits(), 0)


# With Ray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    session.connect()
    import ray

    # Workers do not find this file; its functions travel by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def group(home: Path, failures: int = 0) -> Group:
    return Group(2, 1, 0, failures, str(home / "checkpoints"))


def every_variant(config: dict[str, Any]) -> Any:
    """One worker that trains all variants in turn: one start of Ray Train for all of them."""
    found = {}
    for one in config["tasks"]:
        found[one.variant] = cluster_train.work({**config, "task": one})
    found["hopeless"] = cluster_train.work({**config, "task": config["hopeless"]})
    return found


@pytest.mark.ray
def test_two_workers_reproduce_one(ray: Any, tmp_path: Path) -> None:
    tasks = [task(v) for v in ALL]
    config = {"tasks": tasks, "hopeless": task("vae", lr=1e30), "splits": ray.put(splits())}

    def without_checkpoints(config: dict[str, Any]) -> Any:
        cluster_train.WORKERS_EVERY = 1e9  # the next variant must not start from the last one's checkpoint
        cluster_train.agreed = lambda run, mine: False
        return every_variant(config)

    found = on_workers(without_checkpoints, config, group(tmp_path), "all")
    for one in tasks:
        fitted = found[one.variant]
        single = alone(one)
        assert gap(fitted, single) < 1e-5 < 1e-3 < moved(single), one.variant
        for mine, theirs in zip(fitted.history, single.history, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4), one.variant
    assert found["hopeless"].startswith("vae diverged in epoch 1"), "told in a sentence, and by all workers at once"


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_many_trainings_at_a_time_are_those_of_one_process() -> None:
    rows, seen = splits(), []
    tasks = [dataclasses.replace(task("autoencoder", latent=2), seed=seed) for seed in range(3)]
    found = fit_many([(one, rows) for one in tasks], ended=lambda place, done: seen.append((place, done.seconds)))
    assert [gap(done.fitted, alone(one)) for done, one in zip(found, tasks, strict=True)] == [0, 0, 0]
    assert sorted(place for place, _ in seen) == [0, 1, 2]
    assert all(seconds > 0 for _, seconds in seen)
    with pytest.raises(RaeflowError, match="training 2 of 2: vae diverged in epoch 1"):
        fit_many([(tasks[0], rows), (task("vae", lr=1e30), rows)])
    with pytest.raises(RaeflowError, match="cpus=4096"):
        fit_many([(tasks[0], rows)], cpus=4096)


def test_the_sentence_of_a_worker_becomes_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_train, "_fit", lambda trainer, group: SimpleNamespace(return_value="vae diverged in epoch 1"))
    with pytest.raises(RaeflowError, match="vae diverged in epoch 1"):
        on_workers(cluster_train.work, {"task": task("vae")}, group(tmp_path), "hopeless")


@pytest.mark.ray
def test_a_dead_worker_is_replaced_and_training_goes_on_from_its_checkpoint(ray: Any, tmp_path: Path) -> None:
    one = task("autoencoder")
    mark = tmp_path / "died"

    def dying(config: dict[str, Any]) -> Any:
        cluster_train.WORKERS_EVERY = -1.0  # a checkpoint each epoch
        starts = Path(config["mark"]).with_suffix(f".{os.getpid()}")
        tell = cluster_train.report

        def report(run: Any, metrics: dict[str, Any]) -> None:
            if metrics["epoch"] == 1 or not starts.exists():
                starts.write_text(str(run.done))
            tell(run, metrics)
            if run.rank == 1 and run.done == 2 and not Path(config["mark"]).exists():
                Path(config["mark"]).touch()
                # The controller takes reports in at its own pace; die once it has a checkpoint to go on from.
                kept = Path(config["mark"]).parent / "checkpoints"
                for _ in range(600):
                    if any("checkpoint_dir_name" in p.read_text() for p in kept.rglob("checkpoint_manager_snapshot.json")):
                        break
                    time.sleep(0.1)
                os._exit(1)

        cluster_train.report = report
        return cluster_train.work(config)

    config = {"task": one, "splits": ray.put(splits()), "mark": str(mark)}
    fitted = on_workers(dying, config, group(tmp_path, failures=2), "dying")
    assert mark.exists()
    firsts = sorted(int(p.read_text()) for p in tmp_path.glob("died.*"))
    assert firsts[0] == 1 and firsts[-1] in (2, 3), f"second attempts began at epochs {firsts}: not from a checkpoint"
    assert [e["epoch"] for e in fitted.history] == [1, 2, 3]
    assert gap(fitted, alone(one)) < 1e-5
    assert not (tmp_path / "checkpoints" / "dying").exists()


@pytest.mark.ray
def test_streamed_rows_are_dealt_to_workers_by_ray_data(ray: Any, tmp_path: Path) -> None:
    from raeflow.data import StreamedRows, load, resolve

    drawn = np.random.default_rng(0)
    x = (drawn.normal(size=(6000, 3)) @ drawn.normal(size=(3, 8)) + 0.1 * drawn.normal(size=(6000, 8))).astype(np.float32)
    for part in range(4):
        mine = x[part * 1500 : (part + 1) * 1500]
        pq.write_table(pa.table({f"x{i}": mine[:, i] for i in range(8)}), tmp_path / f"{part}.parquet", row_group_size=500)
    data = resolve(Data(str(tmp_path / "*.parquet"), memory=60_000))
    streamed = load(data)
    assert isinstance(streamed.train, StreamedRows)
    one = study(tmp_path, cluster=Cluster(workers=2)).but(training=Training(epochs=8, batch_size=50))
    fitted = train(one, "autoencoder", task("autoencoder").hyper, streamed, 0)
    single = train(one.but(cluster=Cluster()), "autoencoder", task("autoencoder").hyper, streamed, 0)
    losses = [e["validation_loss"] for e in fitted.history]
    assert losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(single.history[-1]["validation_loss"], rel=0.2), "the same rows in another order"


@pytest.mark.ray
def test_more_workers_than_cores_are_refused_at_once(ray: Any, tmp_path: Path) -> None:
    many = int(ray.cluster_resources()["CPU"]) * 32
    one = study(tmp_path, cluster=Cluster(workers=many)).but(training=Training(batch_size=many))
    with pytest.raises(RaeflowError, match=f"Cluster\\(workers={many}\\) needs {many} CPUs"):
        train(one, "vae", task("vae").hyper, splits(), 0)


@pytest.mark.ray
def test_connect_is_idempotent_and_listens_on_loopback(ray: Any) -> None:
    session.connect()
    assert ray.is_initialized()
    address = ray._private.worker.global_worker.node.address_info["webui_url"]
    assert address is None or address.startswith("127.0.0.1")


# The edge


def test_an_address_that_only_takes_jobs_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RaeflowError, match="ray job submit"):
        session._join("http://127.0.0.1:8265")


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as held:  # bound but not listening
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(RaeflowError, match="no Ray cluster answers there"):
            session._join(address)


def test_an_unwritable_home_gets_a_token_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.setitem(os.environ, "RAY_AUTH_TOKEN", "")  # so that the fixture takes the new one back
    session._ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    session.quiet()
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"


def test_a_long_temporary_folder_is_not_used_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 80)
    assert session._short_folder() == "/tmp/ray"
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert session._short_folder() is None
