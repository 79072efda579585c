"""`raeflow.fit` and `Data(frame)`: rows in memory, however they are held, go the way of every row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import raeflow
from raeflow import Calibration, Data, RaeflowError, Search, Study, Training
from raeflow.cluster.record import Record
from raeflow.data import load, resolve
from raeflow.data.frames import keep, to_table
from raeflow.memory import FEW, SHARES, exact_shares, small
from raeflow.pipeline import Session
from raeflow.study import to_json

SHORT = Training(epochs=2, batch_size=64)


def rows(count: int = 300, columns: int = 4, seed: int = 0) -> np.ndarray:
    """Correlated rows."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2)) @ rng.normal(size=(2, columns)) + 0.1 * rng.normal(size=(count, columns))


def frame(x: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])


class Stream:
    """A frame of some library of which nothing is known but that it speaks Arrow, as polars does, with its kind of text."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_a_fit_imports_no_cluster_and_leaves_no_file(tmp_path):
    code = """
import sys, numpy as np, raeflow
x = np.random.default_rng(0).normal(size=(300, 3))
detector = raeflow.fit(x, variants=("autoencoder", "vae"), training=raeflow.Training(epochs=1))
print(detector.predict(x).shape, [m for m in ("ray", "mlflow", "sklearn", "matplotlib") if m in sys.modules])
"""
    place = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "work", env=place, check=False)
    assert done.stdout.strip() == "(300,) []", done.stderr
    assert done.stderr == ""
    left = [p.name for p in (tmp_path / "tmp").iterdir() if not p.name.startswith("torchinductor")]  # torch's own, for who compiles
    assert not left and not list((tmp_path / "work").iterdir())


def test_the_same_rows_give_the_same_detector_however_they_are_held():
    x = rows()
    table = pa.table({f"x{i}": x[:, i] for i in range(4)})
    held = [
        x,
        torch.from_numpy(x),
        x.tolist(),
        frame(x),
        table,
        Stream(table),
        table.to_batches()[0],
        np.asfortranarray(x),
        x.astype(">f8"),
    ]
    made = [raeflow.fit(one, training=SHORT) for one in held]
    assert len({d.id for d in made}) == 1
    for one in (x, torch.from_numpy(x), frame(x), table, Stream(table)):
        np.testing.assert_array_equal(made[0].score(one), made[0].score(x))
        assert made[0].explain(one).shape == (300, 4)
    assert made[0].threshold.count == 300 - sum(len(part) for part in _parts(x)[:2])


def _parts(x):
    splits = load(Data(x, fractions=SHARES))
    return splits.train, splits.validate, splits.calibrate


def test_anomalies_are_found_with_nothing_asked_for():
    x, strange = rows(1000), np.random.default_rng(1).normal(size=(1000, 4)) * 2
    detector = raeflow.fit(x)
    assert detector.predict(strange).mean() > 0.8
    assert detector.predict(x).mean() < 0.25
    assert [m.variant for m in detector.members] == ["autoencoder"]
    more = raeflow.fit(x, variants="auto", heads="auto", committee="auto")
    assert {m.variant for m in more.members} <= {"autoencoder", "knn", "rank_knn"}, "whoever the judge elects"
    all_three = raeflow.fit(x, variants="auto", heads="auto", committee=3, training=SHORT)
    assert {m.variant for m in all_three.members} == {"autoencoder", "knn", "rank_knn"}
    assert more.predict(strange).mean() > 0.8


def test_polars():
    polars = pytest.importorskip("polars")
    x = rows()
    table = polars.DataFrame({f"x{i}": x[:, i] for i in range(4)})
    detector = raeflow.fit(table, training=SHORT)
    assert detector.id == raeflow.fit(x, training=SHORT).id
    np.testing.assert_array_equal(detector.score(table), detector.score(x))


def test_an_index_is_dropped_and_names_become_text():
    x = rows()
    plain = pd.DataFrame(x)
    indexed = plain.set_index(pd.Index(np.arange(300) * 7.0, name="0"))
    detector = raeflow.fit(indexed, training=SHORT)
    assert detector.spec.columns == ("0", "1", "2", "3")
    assert detector.id == raeflow.fit(plain, training=SHORT).id
    np.testing.assert_array_equal(detector.score(indexed), detector.score(x))


def test_gaps_of_arrays_and_frames_are_nulls():
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert to_table(x)["x1"].null_count == to_table(pd.DataFrame(x))["1"].null_count == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "seen"),
    [((40, 2, 32), np.float64, "float32"), ((40, 5, 8, 3), np.uint8, "uint8"), ((40, 1, 8, 8), np.float32, "float32")],
)
def test_signals_and_images(shape, dtype, seen):
    x = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    detector = raeflow.fit(x, training=Training(epochs=1))
    assert detector.spec.shape == shape[1:] and detector.spec.dtype == seen
    assert detector.score(x).shape == (40,) and detector.explain(x[:2]).shape == (2, *shape[1:])
    np.testing.assert_allclose(detector.score(to_table(x)), detector.score(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (rows(9), "9 rows: a detector needs at least 10"),
        (rows()[0], "<ndarray of shape (4,)>: an array of rows has shape"),
        (np.zeros((20, 0)), "<ndarray of shape (20, 0)>: an array of rows has shape"),
        (np.zeros((20, 2), complex), "<ndarray of shape (20, 2)>: rows are a frame, an Arrow table, or an array of real numbers"),
        ([[1, 2], [3]], "<list>: not an array of numbers"),
        ({"a": [1, 2]}, "<dict>: rows are a frame"),
        (pd.Series([1.0] * 20), "<Series of shape (20,)>"),
        (frame(rows()).rename(columns={"x1": "x0"}), "2 columns named 'x0'"),
        (pd.DataFrame({1: range(20), "1": range(20)}), "2 columns named '1'"),
        (pa.table([[1], [2]], names=["a", "a"]), "2 columns named 'a'"),
        (pd.DataFrame({"a": [1, "b"] * 20}), "<DataFrame of shape (40, 1)>: cannot be read as a table of columns"),
        (frame(rows()).assign(x2=np.inf), "the rows, column 'x2', row 0: value inf is not finite"),
        (frame(rows()).assign(label=1.0), "the rows: is column 'label' part of the row?"),
    ],
)
def test_rows_are_refused_in_one_sentence(given, sentence):
    with pytest.raises(RaeflowError) as error:
        raeflow.fit(given)
    assert sentence in str(error.value) and "\n" not in str(error.value) and "raeflow-" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"variants": "nothing"}, "'nothing'"),
        ({"hyper": {"autoencoder": {"backbone": "conv"}}}, "backbone='conv' needs rows of shape"),
        ({"minutes": 0}, "fit(minutes=0)"),
        ({"trials": 0}, "trials"),
        ({"committee": 3, "trials": 2}, "committee"),
        ({"committee": "3"}, "committee='3'"),
        ({"columns": ["nope"]}, "the rows: no column named 'nope'"),
        ({"hyper": {"autoencoder": {"nope": 1}}}, "no hyperparameter 'nope'"),
        ({"normal": [("x0", ">", 1e9)]}, "0 rows that normal="),
        ({"calibration": Calibration(method="quantile")}, "needs at least 99 losses"),
    ],
)
def test_values_are_refused_in_one_sentence(asked, sentence):
    with pytest.raises(RaeflowError) as error:
        raeflow.fit(frame(rows()), training=SHORT, **asked)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_ten_rows_are_enough():
    x = rows(10)
    detector = raeflow.fit(x)
    assert np.isfinite(detector.score(x)).all() and detector.threshold.count == 2
    assert raeflow.fit(x, variants=("autoencoder", "vae"), training=SHORT).members[0].variant in ("autoencoder", "vae")


def test_few_rows_keep_exact_shares_and_rows_left_out_get_none():
    kept = np.arange(120) % 6 != 0
    words = np.array(exact_shares(kept, 0))
    assert {word: int((words[kept] == word).sum()) for word in ("train", "validate", "calibrate")} == {
        "train": 70, "validate": 15, "calibrate": 15,
    }  # fmt: skip
    assert (words[~kept] == "train").all()
    assert exact_shares(kept, 0) == list(words) and exact_shares(kept, 1) != list(words)
    assert raeflow.fit(rows(FEW - 1), training=SHORT).threshold.count == 30


def test_many_rows_of_few_kinds_are_divided_all_the_same():
    x = rows(3)[np.arange(600) % 3]
    with pytest.raises(RaeflowError, match="no row is left"):
        load(Data(x, fractions=SHARES))
    assert raeflow.fit(x, training=SHORT).threshold.count == 90


def test_small_tables_take_small_batches_and_more_passes():
    for count in (6, 70, 700, 3500, 100_000):
        plan = small(count)
        steps = plan.epochs * -(-count // plan.batch_size)
        assert plan.batch_size <= min(count, 256) and plan.epochs >= 50 and steps >= 1000
        assert steps <= max(2100, 50 * count / 256 + 50)


def test_normal_rows_alone_are_learnt_from_and_a_label_is_no_column():
    x = rows(400)
    told = frame(x).assign(label=np.arange(400) % 2)
    told.loc[told.label == 1, "x0"] += 1000
    detector = raeflow.fit(told, label="label", normal=[("label", "==", 0)], training=Training(epochs=20))
    assert detector.spec.columns == ("x0", "x1", "x2", "x3")
    assert detector.predict(told)[1::2].all() and detector.predict(told)[::2].mean() < 0.5


def test_a_search_tries_what_a_study_would_try_and_keeps_the_best(tmp_path):
    lines: list[str] = []
    x, variants = rows(), ("autoencoder", "vae")
    detector = raeflow.fit(x, variants=variants, trials=4, training=SHORT, say=lines.append)
    trials = [line.split() for line in lines if line.startswith("trial")]
    assert [t[1] for t in trials] == ["1/4", "2/4", "3/4", "4/4"]
    best = max(trials, key=lambda t: float(t[3]))
    assert detector.members[0].variant == best[2]
    study = Study(name="same", data=Data(x), variants=variants, search=Search(trials=4), home=str(tmp_path))
    record = Record(study, load(Data(x, fractions=SHARES)))
    record.lag = 2
    asked = [record.ask() for _ in range(2)]
    assert [t[2] for t in trials[:2]] == [variant for _, variant, _ in asked] == list(variants)
    first = raeflow.fit(x, training=SHORT)
    assert first.members[0].hyper == asked[0][2]


def test_equal_seeds_give_equal_detectors_and_the_callers_dice_stay():
    x = rows()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    asked = {"variants": ("autoencoder", "vae"), "trials": 3, "training": SHORT}
    one, same, other = (raeflow.fit(x, seed=seed, **asked) for seed in (1, 1, 2))
    assert one.id == same.id != other.id
    assert torch.equal(torch.get_rng_state(), state)


def test_a_committee():
    detector = raeflow.fit(rows(), variants=("autoencoder", "vae"), committee=2, training=SHORT)
    assert {m.variant for m in detector.members} == {"autoencoder", "vae"} and all(m.moments for m in detector.members)


def test_the_clock_ends_a_search_and_there_is_a_detector_all_the_same():
    lines: list[str] = []
    detector = raeflow.fit(rows(), minutes=1e-9, training=Training(epochs=100_000, patience=None), say=lines.append)
    assert len([line for line in lines if line.startswith("trial")]) == 1
    assert detector.lineage["epochs"] == [1]
    lines.clear()
    raeflow.fit(rows(), variants=("autoencoder", "vae"), minutes=0.01, training=SHORT, say=lines.append)
    assert len([line for line in lines if line.startswith("trial")]) > 1


def test_trials_that_fail_are_passed_over():
    lines: list[str] = []
    asked = {"vae": {"lr": 1e30}}
    detector = raeflow.fit(rows(), variants=("vae", "autoencoder"), hyper=asked, training=SHORT, say=lines.append)
    assert detector.members[0].variant == "autoencoder"
    assert "vae failed:" in lines[1]
    with pytest.raises(RaeflowError, match="2 trials gave one: "):
        raeflow.fit(rows(), variants="vae", trials=2, hyper=asked, training=SHORT)


# --- studies of rows in memory -----------------------------------------------------------------------------------------------


def test_data_holds_a_frame_without_showing_it():
    x = frame(rows())
    data = Data(x, label=None)
    assert data == Data(x) and hash(data) == hash(Data(x)) and data != Data(x.copy())
    assert data.sources == ()
    for text in (repr(data), json.dumps(to_json(data)), str(Study(name="a", data=data))):
        assert "<DataFrame of shape (300, 4)>" in text and str(x.iloc[0, 0])[:6] not in text
    with pytest.raises(RaeflowError, match="source must be a path"):
        Data(7)


def test_equal_frames_give_equal_files(tmp_path):
    x = frame(rows())
    (one,), (same,) = (resolve(Data(each), tmp_path).source for each in (x, x.copy().set_index(np.arange(300) + 5)))
    table = pa.table({name: pa.chunked_array([x[name][:100], x[name][100:]]) for name in x})
    assert one == same == resolve(Data(Stream(table)), tmp_path).source[0]
    assert [str(p) for p in tmp_path.iterdir()] == [one]
    assert resolve(Data(x + 1), tmp_path).source[0] != one
    assert pq.read_table(one).equals(pa.table({name: x[name].to_numpy() for name in x}))


def test_text_of_any_kind_is_one_text(tmp_path):
    kinds = (pa.string(), pa.large_string(), pa.string_view())
    files = {keep(pa.table({"a": pa.array(["b", None, "c"], kind)}), tmp_path) for kind in kinds}
    assert len(files) == 1


def test_large_rows_are_written_in_groups(tmp_path):
    path = keep(to_table(np.zeros((3000, 1, 64, 64), np.float32)), tmp_path)
    assert pq.ParquetFile(path).metadata.num_row_groups == 2


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RaeflowError, match="cannot be written there"):
        keep(to_table(rows()), tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_study_keeps_its_frame_and_goes_on_from_it(tmp_path):
    x = frame(rows(400))
    study = Study(name="held", data=Data(x, test=x + 1), training=Training(epochs=1, batch_size=32), home=str(tmp_path))

    def opened(study: Study, fresh: bool = False) -> Session:
        session = Session(study, say=lambda _: None, fresh=fresh)
        session.tracker.finish("FINISHED")
        return session

    first = opened(study)
    files = sorted((tmp_path / "held" / "data").iterdir())
    assert len(files) == 2 and sorted(map(Path, first.study.data.sources)) == files
    assert len(first.splits.test) == 400 and first.splits.spec.columns == ("x0", "x1", "x2", "x3")
    written = (tmp_path / "held" / "study.json").read_text()
    assert files[0].name in written and "DataFrame" not in written
    again = opened(study.but(data=Data(x.copy(), test=x + 1)))
    assert again.splits.fingerprint == first.splits.fingerprint
    assert sorted((tmp_path / "held" / "data").iterdir()) == files
    with pytest.raises(RaeflowError, match="holds another study of this name"):
        opened(study.but(data=Data(x * 2)))
    other = opened(study.but(data=Data(x * 2)), fresh=True)
    assert [Path(other.study.data.source[0])] == list((tmp_path / "held" / "data").iterdir())
    assert load(other.study.data).fingerprint == other.splits.fingerprint


def test_a_search_by_the_clock_ends_though_every_trial_fails(monkeypatch):
    def burst(*_):
        raise RaeflowError("it burst")

    monkeypatch.setattr(raeflow.memory.selection, "judged", burst)
    with pytest.raises(RaeflowError, match=r"only 0 of 2 trials gave one: it burst"):
        raeflow.fit(rows(), variants=("knn", "isolation_forest"), minutes=1e-6, training=SHORT)
