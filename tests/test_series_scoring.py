"""Scores of readings: each from its own column, none from the future, the same from tables, streams and files in pieces."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from raeflow import heads, scoring, variants
from raeflow.data import load
from raeflow.data.rows import Splits
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring import STAMP, planning
from raeflow.study import Calibration, Data
from raeflow.training import Fitted
from tests.series import assert_sees_no_future

L, SECOND = 8, 1_000_000


def readings(sizes: dict[str, int], seed: int = 0, pause: int | None = None) -> pa.Table:
    """A second a reading of two channels; after the second `pause` every machine is silent for a minute."""
    drawn, parts = np.random.default_rng(seed), []
    for name, count in sizes.items():
        second = np.arange(count)
        wall = second if pause is None else second + 60 * (second > pause)
        waves = [np.sin(second / 5) + 0.1 * drawn.standard_normal(count), np.cos(second / 7) + 0.1 * drawn.standard_normal(count)]
        parts.append((np.full(count, name), wall * SECOND, *waves))
    name, wall, a, b = (np.concatenate(own) for own in zip(*parts, strict=True))
    return pa.table({"machine": name, "time": pa.array(wall, pa.timestamp("us")), "a": a, "b": b, "id": np.arange(len(a))})


def data(path: Any, **said: Any) -> Data:
    return Data(path, time="time", columns=["a", "b"], window=L, **{"series": "machine", **said})


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    path = tmp_path_factory.mktemp("series") / "train.parquet"
    pq.write_table(readings({"m0": 400, "m1": 300}), path)
    return load(data(path, scale_by="series"))


def member(splits: Splits, variant: str = "autoencoder", head: heads.Head | None = None, seed: int = 0) -> Fitted:
    """A model as it is before training, but for what needs no training, under a head that is fitted."""
    shape = splits.spec.shape
    torch.manual_seed(seed)
    hyper = dataclasses.asdict(variants.get(variant).published(shape))
    model = variants.build(variant, shape, hyper)
    x = splits.train.values()  # type: ignore[attr-defined]
    if hasattr(model, "fit_rows"):
        model.fit_rows(x, 0)
    fitted = Fitted(variant, hyper, shape, model.state_dict())
    if head is None:
        return fitted
    head.fit(heads.collect(model.eval(), x, [head]))
    return dataclasses.replace(fitted, head=heads.described(head), head_weights=head.state_dict())


def assembled(splits: Splits, *members: Fitted) -> Detector:
    return Detector.assemble(members or [member(splits)], splits, Calibration(method="quantile", quantile=0.9))


@pytest.fixture(scope="module")
def detector(splits: Splits) -> Detector:
    return assembled(splits)


def by_hand(detector: Detector, table: pa.Table, at: str) -> np.ndarray[Any, Any]:
    """Scores of readings that are in order and have no gap, window by window."""
    maps: dict[int, list[float]] = {}
    names = table["machine"].to_numpy(zero_copy_only=False)
    encoding: Any = detector.graph.encoding
    stored = torch.tensor(np.stack([table["a"], table["b"]], 1), dtype=torch.float32)
    for last in range(len(table)):
        window = slice(last - L + 1, last + 1)
        if window.start < 0 or len(set(names[window])) > 1:
            continue
        x = encoding.encode(stored[window], encoding.place(names[last])).T.unsqueeze(0)
        model: Any = detector.graph.members[0]
        with torch.no_grad():
            errors = (x - model.reconstruct(x)).square().mean(1)[0].tolist()
        for place, error in enumerate(errors) if at == "all" else [(L - 1, errors[-1])]:
            maps.setdefault(window.start + place, []).append(error)
    return np.array([np.mean(maps[i]) if i in maps else np.nan for i in range(len(table))])


@pytest.mark.parametrize("at", ["last", "all"])
def test_a_score_is_the_readings_own_column_of_the_maps(detector: Detector, at: str) -> None:
    table = readings({"m1": 30, "m0": 25, "new": 20}, seed=1)
    found = detector.score(table, at=at)
    np.testing.assert_allclose(found, by_hand(detector, table, at), rtol=2e-5)
    assert np.isnan(found).sum() == (3 * (L - 1) if at == "last" else 0)
    order = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(detector.score(table.take(order), at=at), found[order])
    np.testing.assert_array_equal(detector.score(table.to_pandas(), at=at), found)
    np.testing.assert_allclose(detector.score(table, batch_size=7, at=at), found, rtol=2e-5)


def test_scores_begin_anew_behind_a_gap(detector: Detector) -> None:
    found = detector.score(readings({"m0": 60}, pause=30))
    assert np.flatnonzero(np.isnan(found)).tolist() == [*range(L - 1), *range(31, 31 + L - 1)]
    short = detector.score(readings({"m0": L - 1, "m1": L}), at="all")
    assert np.isnan(short).tolist() == [True] * (L - 1) + [False] * L


def every_head(splits: Splits) -> list[heads.Head]:
    """One of each kind, and those that cannot tell one reading from another."""
    model = variants.build("autoencoder", splits.spec.shape, dataclasses.asdict(variants.get("autoencoder").published(splits.spec.shape)))
    found = {f"{h.name} {getattr(h.hyper, 'of', '')}": h for h in heads.candidates(model, splits.spec.shape)}
    return [*found.values(), heads.build("memory", {"of": "code"})]


def no_future(detector: Detector, score: Any = None) -> None:
    table = readings({"m0": 40})

    def scores_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        told = table.slice(0, len(values)).set_column(2, "a", pa.array(values[:, 0])).set_column(3, "b", pa.array(values[:, 1]))
        return np.asarray((score or detector.score)(told))

    assert_sees_no_future(scores_of, np.stack([table["a"], table["b"]], 1), [9, 20, 33])


def test_no_head_sees_the_future(splits: Splits) -> None:
    listed = every_head(splits)
    assert len(listed) > 6
    for head in listed:
        own = assembled(splits, member(splits, head=head))
        no_future(own)
        found, whole = own.score(splits.test), own.graph._score(splits.test.values())  # type: ignore[arg-type, union-attr]
        tells = head.attribute(heads.outputs(own.models[0], splits.test.values(), head.needs)) is not None  # type: ignore[union-attr]
        # What cannot tell readings apart has the window's own score stand at its last reading.
        assert np.array_equal(found, whole.numpy()) == (not tells and head.name != "error")


@pytest.mark.parametrize("names", [("knn",), ("isolation_forest",), ("vae", "knn", "isolation_forest")])
def test_what_is_no_network_and_committees_score_readings_too(splits: Splits, names: tuple[str, ...]) -> None:
    own = assembled(splits, *(member(splits, name) for name in names))
    no_future(own)
    table = readings({"m0": 40})
    last, every = own.score(table), own.score(table, at="all")
    assert np.isfinite(last[L - 1 :]).all() and np.isfinite(every).all()
    if names == ("isolation_forest",):
        windows = own.graph.members[0].score(splits.test.values())  # type: ignore[union-attr, operator]
        np.testing.assert_array_equal(own.score(splits.test), windows)  # type: ignore[arg-type]
    if len(names) > 1:
        alone = [assembled(splits, member(splits, name)).score(table)[L - 1 :] for name in names]
        parts = [
            ((np.log(np.maximum(s, m.moments.floor)) if m.moments.floor is not None else s) - m.moments.mean) / m.moments.std  # type: ignore[union-attr]
            for s, m in zip(alone, own.members, strict=True)
        ]
        np.testing.assert_allclose(last[L - 1 :], np.mean(parts, 0), rtol=1e-4, atol=1e-5)


def test_a_stream_gives_the_scores_of_a_table(detector: Detector) -> None:
    table = readings({"m0": 60, "m1": 40, "new": 20}, pause=30)
    order = np.argsort(table["time"].to_numpy(), kind="stable")  # the machines take turns
    stream, wanted = detector.stream(), detector.score(table)
    got = [stream.push(row) for row in table.take(order).to_pylist()]
    assert [s is None for s in got] == np.isnan(wanted[order]).tolist()
    np.testing.assert_allclose(np.array(got, float), wanted[order], rtol=2e-6)
    other = detector.stream()
    assert [other.push({**row, "time": row["time"].isoformat()}) for row in table.take(order).slice(0, 30).to_pylist()] == got[:30]


def test_a_stream_refuses_in_one_sentence(detector: Detector) -> None:
    stream, rows = detector.stream(), readings({"m0": 30}).to_pylist()
    for row in rows[:12]:
        stream.push(row)
    with pytest.raises(RaeflowError, match=r"series 'm0' has a reading at 1970-01-01 00:00:03 after one at 1970-01-01 00:00:11: push"):
        stream.push(rows[3])
    with pytest.raises(RaeflowError, match="no column named 'b'"):
        stream.push({k: v for k, v in rows[12].items() if k != "b"})
    stream = detector.stream()
    for row in rows[:12]:
        stream.push(row)
    with pytest.raises(RaeflowError, match="push, column 'a', row 0: value inf is not finite"):
        stream.push({**rows[12], "a": np.inf})
    assert [stream.push(row) is None for row in rows[13 : 13 + L]] == [True] * (L - 1) + [False]


def test_thresholds_are_those_of_readings_and_neighbours_count_once(splits: Splits, detector: Detector) -> None:
    found = detector.score(splits.calibrate)  # type: ignore[arg-type]
    assert detector.threshold.count == len(found) and detector.threshold.distinct == len(np.unique(splits.calibrate.draws(splits.spec)))  # type: ignore[union-attr]
    assert detector.threshold.distinct is not None and detector.threshold.distinct < len(found) / 4
    # Independent rows would have said to know the rate far better.
    low, high = detector.threshold.alert_low, detector.threshold.alert_high
    assert high - low > 2 * (1.96 * np.sqrt(0.1 * 0.9 / len(found)))
    again = Detector.from_bytes(*detector.to_bytes(), "here")
    assert again.id == detector.id and again.looking_back == detector.looking_back and again.usual == detector.usual
    table = readings({"m0": 100})
    for at in ("last", "all"):
        scores = again.score(table, at=at)
        np.testing.assert_array_equal(again.predict(table, at=at), scores > again.threshold_at(at).value)
    assert again.threshold_at("all") is again.looking_back


def test_events_name_times_and_channels(detector: Detector) -> None:
    table = readings({"m0": 120, "m1": 120})
    b = table["b"].to_numpy().copy()
    b[60:66] += 30
    b[70:72] += 30
    odd = table.set_column(3, "b", pa.array(b))
    found = detector.events(odd, joined=10).sort_by([("peak_score", "descending")]).to_pylist()[0]
    begin = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=60)
    assert found["series"] == "m0" and found["start"] <= begin <= found["end"] and found["channels"][0]["channel"] == "b"
    assert detector.events(odd, joined=0).num_rows > detector.events(odd, joined=1000).num_rows
    errors = detector.explain(odd)
    assert errors.shape == (240, 2) and np.isnan(errors[: L - 1]).all() and errors[60, 1] > 10 * errors[60, 0]


def test_what_cannot_be_scored_is_refused_in_one_sentence(detector: Detector) -> None:
    table = readings({"m0": 20})
    for odd, said in (
        (table.drop(["time"]), "no column named 'time'"),
        (table.drop(["machine"]), "no column named 'machine'"),
        (pa.concat_tables([table, table.slice(3, 1)]), "row 20: series 'm0' has two readings at 1970-01-01 00:00:03"),
        (table.set_column(1, "time", pa.array(np.arange(20.0))), "holds plain numbers, but this detector learnt its steps from moments"),
        (table.set_column(1, "time", pa.array([None, *table["time"].to_pylist()[1:]])), "column 'time', row 0: the value is null"),
        (table.set_column(2, "a", pa.array([np.inf] * 20)), "row 0: value inf is not finite"),
    ):
        with pytest.raises(RaeflowError, match=said):
            detector.score(odd)
    for act in (lambda: detector.score(table, at="first"), lambda: detector.score(np.zeros((1, 2, L)), at="all")):
        with pytest.raises(RaeflowError, match=r"^at='"):
            act()
    with pytest.raises(RaeflowError, match="a table of readings is scored and explained"):
        detector.reconstruct(table)
    assert detector.score(table.slice(0, 0)).shape == (0,)


@pytest.mark.parametrize("kind", ["list", "words"])
def test_readings_of_other_kinds_and_without_a_series(tmp_path: Path, kind: str) -> None:
    drawn, count = np.random.default_rng(0), 400
    if kind == "list":
        x = drawn.normal(size=(count, 3)).astype(np.float32)
        columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 3)}
        names, odd = ["x[0]", "x[1]", "x[2]"], [0.0, 30.0, 0.0]
    else:
        level = np.where(drawn.random(count) < 0.1, None, drawn.normal(size=count).round(3))
        columns = {"level": pa.array(level.tolist(), pa.float64()), "word": pa.array(drawn.choice(["on", "off", "idle"], count))}
        names, odd = ["level", "word"], 30.0
    table = pa.table({"clock": pa.array(range(count)), **columns})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    splits = load(Data(tmp_path / "a.parquet", time="clock", window=L))
    own = assembled(splits, member(splits))
    rows = table.slice(100, 60).to_pylist()
    rows[30][names[0].partition("[")[0]] = odd
    strange = pa.Table.from_pylist(rows, table.schema)
    found = own.score(strange)
    assert int(np.nanargmax(found)) == 30 and own.explain(strange).shape == (60, len(names))
    event = max(own.events(strange).to_pylist(), key=lambda e: e["peak_score"])
    assert (event["series"], event["peak_time"]) == (None, 130) and event["channels"][0]["channel"] == (
        names[1] if kind == "list" else "level"
    )
    stream = own.stream()
    np.testing.assert_allclose([s for s in map(stream.push, rows) if s is not None], found[L - 1 :], rtol=1e-5)
    pq.write_table(strange, tmp_path / "b.parquet", row_group_size=25)
    summary = scoring.score(own, [str(tmp_path / "b.parquet")], tmp_path / "out")
    again = ds.dataset(tmp_path / "out").to_table()
    np.testing.assert_allclose(again["anomaly_score"].to_numpy(), found, rtol=1e-6)
    assert summary.events == own.events(strange).num_rows


# Files in pieces


def cut(folder: Path, table: pa.Table, files: int, seed: int = 0, group: int = 40) -> list[str]:
    """Files of very different sizes, the rows of which come in order of time, so that every machine is in most of them."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(seed)
    table = table.take(np.argsort(table["time"].to_numpy(), kind="stable"))
    places = np.sort(drawn.choice(np.arange(1, len(table)), files - 1, replace=False))
    found = []
    for number, (first, end) in enumerate(itertools.pairwise([0, *places.tolist(), len(table)])):
        rows = np.arange(first, end)
        rows = drawn.permutation(rows) if number % 5 == 0 else rows
        found.append(folder / f"{number:02d}.parquet")
        pq.write_table(table.take(rows), found[-1], row_group_size=group)
    return list(map(str, found))


def read(out: Path) -> pa.Table:
    return ds.dataset(out, format="parquet").to_table().sort_by("id")


def scored(out: Path) -> np.ndarray[Any, Any]:
    return read(out)["anomaly_score"].to_numpy()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "FRAGMENT_ROWS", 150)
    monkeypatch.setattr(planning, "CHUNK_ROWS", 64)


@pytest.mark.parametrize("at", ["last", "all"])
def test_pieces_give_what_one_pass_gives(detector: Detector, tmp_path: Path, small: None, at: str) -> None:
    table = readings({f"m{i}": 40 + 30 * i for i in range(6)}, pause=50)
    sources = cut(tmp_path / "in", table, 7)
    summary = scoring.score(detector, sources, tmp_path / "out", at=at, joined=3)
    found, wanted = read(tmp_path / "out"), detector.score(table, at=at)
    assert found["id"].to_pylist() == list(range(len(table)))
    assert found.select(table.column_names).equals(table)
    np.testing.assert_allclose(found["anomaly_score"].to_numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert found["is_anomaly"].fill_null(False).to_pylist() == detector.flags(wanted, at).tolist()
    assert (summary.unscored, summary.bad) == (int(np.isnan(wanted).sum()), 0) and summary.fragments > 7
    told = {p for p, s in zip(found["problem"].to_pylist(), found["anomaly_score"].to_pylist(), strict=True) if s is None}
    assert told <= {f"no score: no run of {L} readings without a gap {'ends with' if at == 'last' else 'holds'} it"}
    events, once = pq.read_table(summary.events_at), detector.events(table, joined=3, at=at)
    assert events.num_rows == summary.events > 3
    assert events.drop(["peak_score", "channels"]).equals(once.drop(["peak_score", "channels"]))
    for one, other in zip(events["channels"].to_pylist(), once["channels"].to_pylist(), strict=True):
        assert {c["channel"]: pytest.approx(c["share"], abs=1e-4) for c in one} == {c["channel"]: c["share"] for c in other}
    for name in ("out", "again"):
        again = scoring.score(detector, sources, tmp_path / name, at=at, joined=3)
        assert again.skipped == (again.fragments if name == "out" else 0)
        np.testing.assert_array_equal(scored(tmp_path / name), scored(tmp_path / "out"))


def test_files_see_no_future(detector: Detector, tmp_path: Path, small: None) -> None:
    number = itertools.count()

    def score(table: pa.Table) -> np.ndarray[Any, Any]:
        place = tmp_path / str(next(number))
        scoring.score(detector, cut(place / "in", table, 4), place / "out")
        return scored(place / "out")

    no_future(detector, score)


def test_a_changed_neighbour_is_seen_and_others_are_left_alone(detector: Detector, tmp_path: Path) -> None:
    table = readings({"m0": 300})
    for number in range(5):
        pq.write_table(table.slice(60 * number, 60), tmp_path / f"{number}.parquet")
    sources, out = [str(tmp_path / f"{number}.parquet") for number in range(5)], tmp_path / "out"
    scoring.score(detector, sources, out)
    a = table["a"].to_numpy().copy()
    a[115:120] += 5
    odd = table.set_column(2, "a", pa.array(a))
    pq.write_table(odd.slice(60, 60), tmp_path / "1.parquet")
    assert scoring.score(detector, sources, out).skipped == 3  # all but the file and the one after it
    np.testing.assert_allclose(scored(out), detector.score(odd), rtol=1e-6, atol=1e-6)
    assert scoring.score(detector, sources, out, at="all").skipped == 0
    assert scoring.score(detector, sources[1:], out, at="all").skipped == 3  # who has lost a neighbour is done again
    assert json.loads(pq.read_metadata(next(out.glob("4-*"))).metadata[STAMP])["at"] == "all"


def test_a_bad_reading_has_a_problem_and_breaks_its_series_off(detector: Detector, tmp_path: Path, small: None) -> None:
    table = readings({"m0": 100})
    a = table["a"].to_numpy().copy()
    a[[50, 79]] = np.inf
    bad = table.set_column(2, "a", pa.array(a))
    for number in range(5):
        pq.write_table(bad.slice(20 * number, 20), tmp_path / f"{number}.parquet")
    sources = [str(tmp_path / f"{number}.parquet") for number in range(5)]
    summary = scoring.score(detector, sources, tmp_path / "out")
    found = read(tmp_path / "out")
    assert summary.bad == 2 and summary.unscored == 3 * (L - 1)
    problems = found["problem"].to_pylist()
    assert [i for i, p in enumerate(problems) if p == "column 'a': value inf is not finite"] == [50, 79]
    assert [i for i, p in enumerate(problems) if p] == [*range(7), *range(50, 58), *range(79, 87)]
    for start, end in ((0, 50), (51, 79), (80, 100)):
        np.testing.assert_allclose(scored(tmp_path / "out")[start:end], detector.score(table.slice(start, end - start)), rtol=1e-6)
    with pytest.raises(RaeflowError, match=r"2\.parquet, row 10: column 'a': value inf is not finite"):
        scoring.score(detector, sources, tmp_path / "strict", bad_rows="refuse")


def test_files_that_cannot_be_scored_are_refused_before_anything_is_written(detector: Detector, tmp_path: Path) -> None:
    table = readings({"m0": 50})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.slice(20, 1), tmp_path / "b.parquet")
    pq.write_table(table.drop(["time"]), tmp_path / "c.parquet")
    pq.write_table(table.append_column("channel_errors", table["a"]), tmp_path / "d.parquet")
    for names, said in (("ab", r"b\.parquet, row 0: series 'm0' has two readings at"), ("c", "no column named 'time'"), ("d", "already")):
        with pytest.raises(RaeflowError, match=said):
            scoring.score(detector, [str(tmp_path / f"{n}.parquet") for n in names], tmp_path / "out")
    with pytest.raises(RaeflowError, match="joined=-1"):
        scoring.score(detector, [str(tmp_path / "a.parquet")], tmp_path / "out", joined=-1)
    rows = Detector.assemble([member(plain := load(Data(tmp_path / "a.parquet", columns=["a", "b"])))], plain, Calibration())
    for said in ({"joined": 5}, {"at": "all"}):
        with pytest.raises(RaeflowError, match="readings in order of time"):
            scoring.score(rows, [str(tmp_path / "a.parquet")], tmp_path / "out", **said)  # type: ignore[arg-type]
    with pytest.raises(RaeflowError, match="this is for detectors of Data"):
        rows.stream()
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from raeflow.detector import Detector
from raeflow.scoring import fragment, planning, score

*sources, folder, out, written = sys.argv[1:]
planning.FRAGMENT_ROWS = 150
count, write = 0, fragment.pq.ParquetWriter.write_table

def fatal(self, *chunk, **more):
    global count
    count += 1
    if count > int(written):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, *chunk, **more)

fragment.pq.ParquetWriter.write_table = fatal
score(Detector.load(folder, "cpu"), sources, out, threads=2)
"""


def many(folder: Path) -> tuple[pa.Table, list[str]]:
    """200 series in 40 files."""
    table = readings({f"m{i}": 10 + i % 31 for i in range(200)}, pause=20)
    return table, cut(folder, table, 40)


def test_after_a_kill_every_reading_is_there_once(detector: Detector, tmp_path: Path, small: None) -> None:
    table, sources = many(tmp_path / "in")
    folder, out = detector.save(tmp_path / "detector"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, *sources, str(folder), str(out), "17"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any(p.name.endswith(".tmp") for p in out.iterdir()) and not (out / "_events").exists()
    committed = [p for p in out.iterdir() if not p.name.startswith(".")]
    summary = scoring.score(detector, sources, out)
    assert summary.skipped == len(committed) > 5
    assert read(out)["id"].to_pylist() == list(range(len(table)))
    scoring.score(detector, sources, tmp_path / "unharmed")
    np.testing.assert_array_equal(scored(out), scored(tmp_path / "unharmed"))
    np.testing.assert_allclose(scored(out), detector.score(table), rtol=1e-6, atol=1e-6)
    assert pq.read_table(summary.events_at).equals(pq.read_table(tmp_path / "unharmed" / "_events" / "events.parquet"))


@pytest.fixture(scope="module")
def cluster() -> Any:
    """Two cores of this machine, without a dashboard; only what this module started is ended."""
    import ray

    if ray.is_initialized():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if "RAY_AUTH_TOKEN" not in os.environ:
            patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield
        ray.shutdown()


@pytest.mark.ray
def test_of_two_scorers_one_dies_and_none_sees_the_future(
    cluster: Any, detector: Detector, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raeflow.cluster import score as room

    class Deadly:  # local, so that it travels to the actors by value
        """A filesystem that ends the first process which reads from it."""

        def __init__(self, marker: str) -> None:
            self.marker = marker

        def open_input_file(self, path: str) -> Any:
            import os
            import signal

            from pyarrow import fs

            if not os.path.exists(self.marker):
                open(self.marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return fs.LocalFileSystem().open_input_file(path)

    table, sources = many(tmp_path / "in")
    folder, plan = detector.save(tmp_path / "detector"), room.plan

    def poisoned(*given: Any) -> Any:
        found = plan(*given)
        deadly = dataclasses.replace(found[9].piece, filesystem=Deadly(str(tmp_path / "marker")))
        return [*found[:9], dataclasses.replace(found[9], piece=deadly), *found[10:]]

    def events(summary: Any, own: Detector, fragments: Any, joined: Any) -> Any:  # this process reads the keys as ever
        return scoring.with_events(summary, own, plan(own, sources, tmp_path / "out"), joined)

    monkeypatch.setattr(room, "plan", poisoned)
    monkeypatch.setattr(room, "with_events", events)
    summary = room.score(folder, sources, tmp_path / "out", scorers=2)
    assert (tmp_path / "marker").exists() and summary.skipped == 0
    monkeypatch.setattr(room, "plan", plan)
    monkeypatch.setattr(room, "with_events", scoring.with_events)
    scoring.score(detector, sources, tmp_path / "plain")
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(len(table)))
    np.testing.assert_array_equal(scored(tmp_path / "out"), scored(tmp_path / "plain"))
    np.testing.assert_allclose(scored(tmp_path / "out"), detector.score(table), rtol=1e-6, atol=1e-6)
    assert pq.read_table(summary.events_at).equals(pq.read_table(tmp_path / "plain" / "_events" / "events.parquet"))
    # What comes after a moment changes no score up to it, on two scorers either: it is made extreme, or removed.
    early = table["time"].to_numpy().astype(np.int64) <= 12 * SECOND
    even = np.array([int(name[1:]) % 2 == 0 for name in table["machine"].to_pylist()])
    extreme = table.set_column(2, "a", pa.array(np.where(early, table["a"].to_numpy(), 1e6)))
    room.score(folder, cut(tmp_path / "odd", extreme.filter(pa.array(early | even)), 5), tmp_path / "changed", scorers=2)
    changed = read(tmp_path / "changed")
    kept = np.flatnonzero(early[changed["id"].to_numpy()])
    before = scored(tmp_path / "out")[changed["id"].to_numpy()[kept]]
    assert 0 < int(np.isfinite(before).sum()) < len(before) < len(changed) < len(table)
    np.testing.assert_allclose(changed["anomaly_score"].to_numpy()[kept], before, rtol=1e-6, atol=1e-6)
