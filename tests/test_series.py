"""Readings in order of time as windows: what is in them, what they never cross, and what no part of training sees."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raeflow.data import inspect, load
from raeflow.data.encoding.series import SeriesEncoding
from raeflow.data.rows import RowSpec, Splits
from raeflow.data.windows import Windows
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.pipeline import Session
from raeflow.selection import headed, judge
from raeflow.study import Calibration, Data, Search, Study, Training
from raeflow.training import fit

SECOND = 1_000_000
WINDOW = 8
PARTS = ("train", "validate", "calibrate", "test")


def clock(seconds: Any, zone: str | None = None) -> pa.Array:
    return pa.array(np.asarray(np.asarray(seconds) * SECOND, np.int64), pa.timestamp("us", zone))


def machines(sizes: dict[str, int] | None = None, skip: tuple[int, ...] = (), seed: int = 0) -> dict[str, pa.Array]:
    """A second a reading: `machine` and `second` as channels too, so that windows tell what they hold, and two that vary.

    After the seconds in `skip` every machine pauses for a minute.
    """
    drawn, parts = np.random.default_rng(seed), []
    for number, (name, count) in enumerate((sizes or {"a": 300, "b": 200}).items()):
        second = np.arange(count)
        wall = second + 60 * sum((second > at).astype(int) for at in skip)
        wave = np.sin(second / 5) + 0.1 * drawn.standard_normal(count) + 10 * number
        level = (1 + number) * drawn.standard_normal(count)
        parts.append((np.full(count, name), np.full(count, number), second, wall, wave, level))
    name, number, second, wall, wave, level = (np.concatenate(own) for own in zip(*parts, strict=True))
    return {
        "machine": pa.array(name), "time": clock(wall), "number": pa.array(number.astype(float)), "second": pa.array(second.astype(float)),
        "wave": pa.array(wave), "level": pa.array(level),
    }  # fmt: skip


def written(folder: Path, columns: dict[str, pa.Array], name: str = "readings", group: int = 90) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=group)
    return folder / f"{name}.parquet"


def data(path: Any, **said: Any) -> Data:
    """Windows of readings as they are, so that `held` can tell their machine and second."""
    usual = {"columns": ["number", "second", "wave", "level"], "series": "machine", "window": WINDOW, "scaling": "none"}
    return Data(path, time="time", **{**usual, **said})


def held(rows: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Machine (N,) and seconds (N, L) of windows; refused where a window holds two machines."""
    x = rows.values().numpy()
    if x.shape[1] == 3:  # one machine: its number is a constant, and no channel
        x = np.concatenate([np.zeros_like(x[:, :1]), x], 1)
    assert (x[:, 0] == x[:, 0, :1]).all()
    return x[:, 0, 0].astype(int), x[:, 1].astype(int)


def parts(splits: Splits) -> dict[str, Any]:
    return {name: getattr(splits, name) for name in PARTS}


# What is in a window, and what none goes over


def test_a_window_holds_readings_that_follow_one_another(tmp_path: Path) -> None:
    splits = load(data(written(tmp_path, machines())))
    assert splits.spec.shape == (4, WINDOW) and inspect(data(tmp_path / "readings.parquet")).shape == (4, WINDOW)
    for rows in parts(splits).values():
        _, seconds = held(rows)
        assert (np.diff(seconds, axis=1) == 1).all()
    # Train is the first 0.6 of each machine's readings, and a window begins at each of them but the last ones.
    machine, seconds = held(splits.train)
    assert [int((machine == m).sum()) for m in (0, 1)] == [180 - WINDOW + 1, 120 - WINDOW + 1]
    assert sorted(seconds[machine == 0][:, 0]) == list(range(173))


def test_blocks_of_time_follow_one_another_a_window_apart(tmp_path: Path) -> None:
    splits = load(data(written(tmp_path, machines())))
    found = {name: held(rows) for name, rows in parts(splits).items()}
    for machine in (0, 1):
        ends = [(seconds[own == machine].min(), seconds[own == machine].max()) for own, seconds in found.values()]
        for (_, last), (first, _) in itertools.pairwise(ends):
            assert first == last + WINDOW + 1


def test_no_window_goes_over_a_gap(tmp_path: Path) -> None:
    skip = (20, 25, 60)
    splits = load(data(written(tmp_path, machines(skip=skip))))
    machine, seconds = held(splits.train)
    assert not any(((seconds[:, 0] <= at) & (seconds[:, -1] > at)).any() for at in skip)
    # Of 0 to 20, 26 to 60 and 61 to 179; 21 to 25 are too few.
    assert seconds[machine == 0][:, 0].tolist() == [*range(14), *range(26, 54), *range(61, 173)]
    assert "6 gaps" in splits.series[0]
    wide = load(data(tmp_path / "readings.parquet", max_gap=100))
    assert len(wide.train) > len(splits.train) and "0 gaps" in wide.series[0]


def test_a_stride_thins_train_and_validate_alone(tmp_path: Path) -> None:
    path = written(tmp_path, machines())
    every, some = load(data(path)), load(data(path, stride=5))
    machine, seconds = held(some.train)
    assert seconds[machine == 0][:, 0].tolist() == list(range(0, 173, 5))
    assert len(some.validate) < len(every.validate)
    assert (len(some.calibrate or ()), len(some.test or ())) == (len(every.calibrate or ()), len(every.test or ()))


def test_windows_of_readings_that_are_not_normal_are_left_out_and_known(tmp_path: Path) -> None:
    columns = machines()
    second = columns["second"].to_numpy()
    fault = pa.array(((second == 50) | (second == 196) | (second == 290)).astype(np.int8))
    splits = load(data(written(tmp_path, {**columns, "fault": fault}), label="fault", normal=[("fault", "==", 0)]))
    machine, seconds = held(splits.train)
    assert not (seconds == 50).any() and {42, 51} <= set(seconds[machine == 0][:, 0].tolist())
    assert splits.labelled is not None and len(splits.labelled) > len(splits.validate)
    for rows in (splits.labelled, splits.test):
        machine, seconds = held(rows)
        strange = ((seconds == 196) | (seconds == 290)).any(1)
        assert rows is not None and rows.anomaly is not None and rows.anomaly.tolist() == strange.tolist()
    machine, seconds = held(splits.test)
    assert seconds[:, 0].tolist() == [s for m in (0, 1) for s in sorted(seconds[machine == m][:, 0].tolist())]
    assert splits.validate.values().equal(splits.labelled.values(slice(0, len(splits.validate))))


def test_whole_series_where_that_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, machines({name: 60 + 5 * i for i, name in enumerate("abcdefgh")}))
    splits = load(data(path, split_by="series"))
    found = {name: set(held(rows)[0].tolist()) for name, rows in parts(splits).items()}
    assert sum(map(len, found.values())) == 8 and set().union(*found.values()) == set(range(8)) and min(map(len, found.values())) == 1
    again = {name: set(held(rows)[0].tolist()) for name, rows in parts(load(data(path, split_by="series"))).items()}
    assert again == found


def test_what_a_column_or_a_file_says_of_splits_stands(tmp_path: Path) -> None:
    columns = machines({"a": 400})
    words = pa.array(np.where(np.arange(400) < 200, "train", "test"))
    splits = load(data(written(tmp_path, {**columns, "part": words}), split="part"))
    assert held(splits.test)[1][:, 0].tolist() == list(range(200, 400 - WINDOW + 1))
    assert held(splits.train)[1].max() < held(splits.validate)[1].min() < held(splits.calibrate)[1].min() < 200
    test = written(tmp_path / "more", machines({"c": 50}, seed=1))
    splits = load(data(written(tmp_path / "own", columns), test=test))
    assert len(splits.test or ()) == 50 - WINDOW + 1 and held(splits.train)[1].max() == round(400 * 0.6 / 0.8) - 1


# Order


def test_unsorted_files_are_put_in_order(tmp_path: Path) -> None:
    columns = machines(skip=(50,))
    mixed = np.random.default_rng(1).permutation(len(columns["second"]))
    first, second = mixed[:170], mixed[170:]
    for name, rows in (("one", first), ("two", second)):
        written(tmp_path / "mixed", {key: own.take(pa.array(rows)) for key, own in columns.items()}, name)
    sorted_, unsorted = load(data(written(tmp_path, columns))), load(data(tmp_path / "mixed"))
    assert "put in order" in unsorted.series[0] and "put in order" not in sorted_.series[0]
    for mine, theirs in zip(parts(unsorted).values(), parts(sorted_).values(), strict=True):
        # Series come in the order of their first reading; within them nothing differs.
        assert {x.numpy().tobytes() for x in mine.values()} == {x.numpy().tobytes() for x in theirs.values()}


@pytest.mark.parametrize("kind", ["zones", "dates", "numbers", "fractions", "text", "zoned text", "nanoseconds"])
def test_every_clock_gives_the_same_windows(tmp_path: Path, kind: str) -> None:
    columns = machines({"a": 200})
    seconds = np.arange(200)
    naive = [str(np.datetime64(int(s), "s")) for s in seconds]
    clocks = {
        "zones": clock(seconds, "Europe/Berlin"), "dates": pa.array(seconds.astype(np.int32), pa.int32()).cast(pa.date32()),
        "numbers": pa.array(seconds), "fractions": pa.array(seconds / 10), "text": pa.array(naive),
        "zoned text": pa.array([f"{text}+00:00" for text in naive]), "nanoseconds": clock(seconds).cast(pa.timestamp("ns")),
    }  # fmt: skip
    splits = load(data(written(tmp_path, {**columns, "time": clocks[kind]}), series=None))
    plain = load(data(written(tmp_path / "plain", columns), series=None))
    assert splits.train.values().equal(plain.train.values())
    assert splits.spec.windows is not None and splits.spec.windows.zoned == (kind in ("zones", "zoned text"))


def test_the_zones_of_two_files_are_one_time(tmp_path: Path) -> None:
    columns = machines({"a": 200})
    for name, part, zone in (("later", slice(100, 200), "Asia/Tokyo"), ("sooner", slice(0, 100), "UTC")):
        own = {key: values[part] for key, values in columns.items()}
        written(tmp_path, {**own, "time": clock(np.arange(200)[part], zone)}, name)
    splits = load(data(tmp_path))
    assert held(splits.train)[1][:, 0].tolist() == list(range(120 - WINDOW + 1))


def broken(kind: str) -> dict[str, pa.Array]:
    columns = machines({"a": 200, "b": 5})
    seconds = [*range(200), *range(5)]
    if kind == "double":
        seconds[121] = 120
    if kind == "changes":
        seconds[100:200] = range(100, 100 + 10 * 100, 10)
    if kind == "faster":
        seconds[:200] = [*range(0, 1200, 10), *range(1200, 1280)]
    columns["time"] = clock(seconds)
    if kind == "missing":
        columns["time"] = pa.array([None if i == 30 else s * SECOND for i, s in enumerate(seconds)], pa.timestamp("us"))
    if kind == "nameless":
        columns["machine"] = pa.array([None if i == 30 else "a" for i in range(205)])
    if kind == "zones":
        columns["time"] = pa.array([f"2024-01-01T00:{i // 60:02}:{i % 60:02}{'Z' if i == 7 else ''}" for i in range(205)])
    if kind == "no time":
        columns["time"] = pa.array(["2024-01-01"] * 204 + ["soon"])
    if kind == "flags":
        columns["time"] = pa.array([True] * 205)
    if kind == "infinite":
        columns["wave"] = pa.array([float("inf") if i == 30 else 0.1 * i for i in range(205)])
    if kind == "never":
        columns["time"] = pa.array([float("nan") if i == 30 else float(i) for i in range(205)])
    return columns


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("double", ["row 121", "series 'a'", "two readings at 1970-01-01 00:02:00", "keep one"]),
        ("changes", ["series 'a'", "usual step is 1 s", "from 1970-01-01 00:01:40 on", "8 steps or more of about 10 s"]),
        ("faster", ["series 'a'", "usual step is 10 s", "from 1970-01-01 00:20:00 on", "of about 1 s"]),
        ("missing", ["'time', row 30", "null"]), ("nameless", ["'machine', row 30", "null"]),
        ("zones", ["'2024-01-01T00:00:07Z' names its time zone", "'2024-01-01T00:00:00' does not"]),
        ("no time", ["'soon' shows no time"]), ("flags", ["holds bool, which is no clock"]), ("infinite", ["'wave'", "inf is not finite"]),
        ("never", ["'time'", "row 30", "nan"]),
    ],
)  # fmt: skip
def test_a_clock_that_cannot_be_put_right_is_refused_in_a_sentence(tmp_path: Path, kind: str, says: list[str]) -> None:
    path = written(tmp_path, broken(kind), group=1000)
    with pytest.raises(RaeflowError) as refusal:
        load(data(path, series=None if kind in ("zones", "no time", "never", "flags") else "machine"))
    text = str(refusal.value)
    assert all(part in text for part in (str(path), *says)[kind in ("changes", "faster") :]), text


def test_a_zone_in_one_file_alone_is_refused(tmp_path: Path) -> None:
    columns = machines({"a": 100})
    written(tmp_path, {**columns, "time": clock(np.arange(100), "UTC")}, "one")
    written(tmp_path, {**columns, "time": clock(np.arange(100, 200))}, "two")
    with pytest.raises(RaeflowError, match=r"two.parquet: the clock 'time' names no time zone, but it does in .*one.parquet"):
        load(data(tmp_path))


def test_series_shorter_than_a_window_are_told_and_refused_if_all_are(tmp_path: Path) -> None:
    splits = load(data(written(tmp_path, machines({"a": 300, "b": 5, "c": 7}))))
    assert splits.series[1] == "2 series have fewer readings than a window of 8 and are left out: b, c"
    assert set(held(splits.train)[0].tolist()) == {0}
    with pytest.raises(RaeflowError, match="the longest of 2 series has 7 readings, fewer than a window"):
        load(data(written(tmp_path / "short", machines({"b": 5, "c": 7}))))
    with pytest.raises(RaeflowError, match="no run of readings is so long, the longest has 5"):
        load(data(written(tmp_path / "gaps", machines({"a": 100}, skip=tuple(range(4, 100, 5))))))
    with pytest.raises(RaeflowError, match=r"the validate split has no window \(its .* readings have runs of"):
        load(data(written(tmp_path / "few", machines({"a": 100}))))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"time": None, "series": "m"}, "Data(series='m'): this is for readings in order of time"),
        ({"window": 1}, "window is a number of"), ({"stride": 0}, "stride is a number of"),
        ({"max_gap": 0.5}, "max_gap is a multiple"), ({"scale_by": "machine"}, "scale_by must be one"),
        ({"split_by": "series"}, "name the column that tells series apart"), ({"split": "hash"}, "a hash would put"),
        ({"bad_rows": "skip"}, "leaves a gap"), ({"contamination": "auto"}, "windows share their readings"), ({"series": "t"}, "cannot be"),
        ({"series": "m", "scale_by": "series", "split_by": "series"}, "no train readings"), ({"shape": (2, 3)}, "(channels, window)"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_clock_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        Data("readings.parquet", **{"time": "t", **said})
    assert why in str(refusal.value)


def test_readings_that_are_no_table_or_too_many_are_refused(tmp_path: Path) -> None:
    columns = machines({"a": 100})
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((100, 3, 4), np.float32))
    path = written(tmp_path, {"time": columns["time"], "image": images})
    with pytest.raises(RaeflowError, match=r"not values of shape \(3, 4\)"):
        load(Data(path, time="time", window=WINDOW))
    with pytest.raises(RaeflowError, match="not streamed yet"):
        load(data(written(tmp_path / "more", columns), memory=100))


# Channels


def test_channels_may_be_any_columns(tmp_path: Path) -> None:
    columns, drawn = machines(), np.random.default_rng(3)
    count = len(columns["second"])
    columns["time"] = clock(3600 * columns["second"].to_numpy())
    columns["word"] = pa.array(np.array(["on", "off"])[drawn.integers(0, 2, count)])
    columns["wave"] = pa.array(columns["wave"].to_numpy(), mask=drawn.random(count) < 0.2)
    columns["flag"] = pa.array(drawn.random(count) < 0.5)
    splits = load(Data(written(tmp_path, columns), time="time", series="machine", window=WINDOW, columns=["word", "wave", "flag", "time"]))
    told = dict(splits.told())
    assert told["word"].startswith("category") and "gaps marked" in told["wave"] and told["time"].startswith("clock")
    assert splits.spec.shape == (splits.encoding.channels, WINDOW) and torch.isfinite(splits.train.values()).all()
    without = load(Data(tmp_path / "readings.parquet", time="time", series="machine", window=WINDOW))
    assert dict(without.told())["time"] == "left out: Data(time='time')" and "machine" not in without.spec.columns


def test_a_reading_may_be_a_list(tmp_path: Path) -> None:
    columns = machines({"a": 200})
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).normal(5, 2, 600).astype(np.float32)), 3)
    splits = load(Data(written(tmp_path, {"time": columns["time"], "reading": lists}), time="time", window=WINDOW))
    x = splits.train.values()
    assert splits.spec.shape == (3, WINDOW) and x[::WINDOW].mean().abs() < 0.1 and (x[::WINDOW].std() - 1).abs() < 0.1


def test_each_series_is_scaled_by_its_own_train_block(tmp_path: Path) -> None:
    columns = machines({"a": 300, "b": 300, "c": 300})
    path = written(tmp_path, columns)
    own = load(data(path, columns=["wave", "level"], scaling="auto", scale_by="series"))
    readings = own.train.readings.values.reshape(3, 180, 2)  # type: ignore[attr-defined]
    assert readings.mean(1).abs().max() < 1e-3 and (readings.std(1, correction=0) - 1).abs().max() < 1e-3
    common = load(data(path, columns=["wave", "level"], scaling="auto"))
    assert common.train.readings.values.reshape(3, 180, 2).mean(1).abs().max() > 0.5  # type: ignore[attr-defined]
    encoding = own.encoding
    assert isinstance(encoding, SeriesEncoding) and encoding.steps.tolist() == [SECOND] * 3
    stored = torch.tensor([[10.0, 0.5], [9.0, -0.5]])
    assert encoding.decode(encoding.encode(stored, 1), 1).allclose(stored, atol=1e-5)
    assert encoding.encode(stored, encoding.place("new")).equal(encoding.reading(stored))
    # A gap lies where its own series does.
    assert encoding.encode(torch.tensor([[torch.nan, 0.5]]), 1)[0, 0] == 0


# No future


def test_no_later_reading_reaches_training_scaling_or_the_threshold(tmp_path: Path) -> None:
    columns = machines(skip=(40,))
    past = load(data(written(tmp_path, columns), columns=["wave", "level"], scaling="auto", scale_by="series"))
    second, machine = columns["second"].to_numpy(), columns["number"].to_numpy()
    late = second >= np.where(machine == 0, 240, 160)  # the test blocks begin there
    wild = {name: pa.array(np.where(late, 1e6 * np.sin(second), columns[name].to_numpy())) for name in ("wave", "level")}
    wall = np.where(
        late,
        columns["time"].cast(pa.int64()).to_numpy() // SECOND + 3 * (second - 100),
        columns["time"].cast(pa.int64()).to_numpy() // SECOND,
    )
    changed = load(
        data(
            written(tmp_path / "wild", {**columns, **wild, "time": clock(wall)}),
            columns=["wave", "level"],
            scaling="auto",
            scale_by="series",
        )
    )
    for name in ("train", "validate", "calibrate"):
        assert getattr(changed, name).values().equal(getattr(past, name).values()), name
    for name, tensor in past.encoding.state_dict().items():
        assert changed.encoding.state_dict()[name].equal(tensor), name


# Views


def test_windows_share_their_readings_in_memory_and_on_the_way(tmp_path: Path) -> None:
    splits = load(data(written(tmp_path, machines({"a": 4000, "b": 4000}), group=3000), window=64))
    rows = splits.train
    assert isinstance(rows, Windows) and rows.take(slice(5, 9)).readings is rows.readings
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(splits.for_search(), protocol=5, buffer_callback=buffers.append)
    sizes = sorted(len(b.raw()) for b in buffers)
    readings = 8000 * 4 * 4 * (0.6 + 0.1)
    assert len(body) < 50_000 and sum(sizes) < 1.4 * readings < 0.03 * sum(len(r) * 4 * 64 * 4 for r in (rows, splits.validate))
    again = pickle.loads(body, buffers=buffers)
    assert again.train.values(slice(0, 50)).equal(rows.values(slice(0, 50))) and again.spec == splits.spec


def test_batches_of_windows_are_those_of_rows(tmp_path: Path) -> None:
    rows = load(data(written(tmp_path, machines()))).train
    assert isinstance(rows, Windows)
    plain = rows.values()
    for said in ({"seed": 3}, {"seed": 3, "rank": 1, "world": 2}, {}):
        found = [raw.x for raw in rows.batches(32, **said)]
        order = (
            torch.arange(len(rows))
            if "seed" not in said
            else torch.randperm(len(rows), generator=torch.Generator().manual_seed(3 * 1_000_003))
        )
        own = [order[i : i + 32] for i in range(0, len(rows), 32)]
        own = [part[16:] for part in own if len(part) == 32] if "world" in said else own
        assert len(found) == len(own) and all(x.equal(plain[index]) for x, index in zip(found, own, strict=True))
    assert len(rows.most(10 * 4 * WINDOW)) == 10 and rows.most(1 << 30) is rows
    assert rows.take(torch.zeros(len(rows), dtype=torch.bool)).values().shape == (0, 4, WINDOW)


def test_windows_that_begin_in_one_stretch_are_one_draw(tmp_path: Path) -> None:
    splits = load(data(written(tmp_path, machines())))
    calibrate = splits.calibrate
    assert calibrate is not None
    keys = calibrate.draws(splits.spec)
    machine, seconds = held(calibrate)
    for m in (0, 1):
        own = seconds[machine == m][:, 0]
        assert len(np.unique(keys[machine == m])) == -(-len(own) // WINDOW)
        assert len(np.unique(keys[machine == m][own - own[0] < WINDOW])) == 1
    assert not set(keys[machine == 0]) & set(keys[machine == 1])


# From windows to a detector


def small(path: Path) -> Splits:
    return load(data(path, columns=["wave", "level"], scaling="auto", scale_by="series"))


def test_a_detector_of_windows_is_kept_with_all_that_cuts_and_scales_them(tmp_path: Path) -> None:
    path = written(tmp_path, machines({"a": 600, "b": 600}))
    splits = small(path)
    training = Training(epochs=2, batch_size=64, device="cpu")
    fitted = fit("autoencoder", {"latent": 3, "channels": 4, "depth": 1}, splits, training)
    judged = headed(fitted, fitted.model(), splits, judge("synthetic", splits.for_search(), 0))
    detector = Detector.assemble([judged.fitted], splits, Calibration(method="quantile", quantile=0.9), "s")
    count, blocks = detector.threshold.count, detector.threshold.distinct
    assert count == len(splits.calibrate or ()) and blocks == -(-count // WINDOW)
    loaded = Detector.load(detector.save(tmp_path / "detector"))
    assert loaded.id == detector.id and loaded.spec == splits.spec and RowSpec.from_json(loaded.spec.to_json()) == splits.spec
    assert np.array_equal(loaded.score(splits.test), detector.score(splits.test.values()))
    kept = loaded.graph.encoding
    assert isinstance(kept, SeriesEncoding) and kept.names == ("a", "b") and kept.own_scale.equal(splits.encoding.own_scale)
    stored = torch.tensor([[1.0, 2.0]])
    assert kept.encode(stored, 1).equal(splits.encoding.encode(stored, 1))
    how = loaded.spec.windows
    assert how is not None and (how.time, how.series, how.window, how.step, how.unit) == ("time", "machine", WINDOW, SECOND, "us")
    assert loaded.explain(splits.test.take(slice(0, 3))).shape == (3, 2, WINDOW)
    with pytest.raises(RaeflowError, match="tables of readings are not scored yet"):
        loaded.score(pq.read_table(path))
    with pytest.raises(RaeflowError, match=r"rows of a split have shape \(2, 16\)"):
        loaded.score(load(data(path, columns=["wave", "level"], window=16)).test)


@pytest.mark.ray
def test_a_study_searches_trains_and_calibrates_on_windows(tmp_path: Path) -> None:
    path = written(tmp_path, machines({"a": 600, "b": 600}))
    study = Study(
        name="windows", home=str(tmp_path / "runs"), data=data(path, columns=["wave", "level"], scaling="auto"),
        variants=("autoencoder", "knn"), training=Training(epochs=2, batch_size=64), search=Search(trials=2, epochs=1, slots=1),
    )  # fmt: skip
    lines: list[str] = []
    session = Session(study, lines.append)
    assert {t.status for t in session.search()} <= {"complete", "pruned"}
    detector = session.calibrate(session.train())
    assert any("1,200 readings of 2 series, one every 1 s, with 0 gaps" in line for line in lines)
    assert any("calibrate windows share readings" in line for line in lines)
    assert session.report(detector)[2].is_file() and np.isfinite(detector.score(session.splits.test)).all()
    with pytest.raises(RaeflowError, match="files of readings are not scored yet"):
        session.score(detector)
    # Another window is another study.
    with pytest.raises(RaeflowError, match="holds another study"):
        Session(study.but(data=dataclasses.replace(study.data, window=16)), lines.append)


def test_skab_as_windows(real_data: Path) -> None:
    path = real_data / "skab" / "skab_experiments.parquet"
    sensors = [name for name in pq.read_schema(path).names if name not in ("series", "datetime", "anomaly", "changepoint")]
    splits = load(
        Data(path, time="datetime", series="series", columns=sensors, window=32, label="anomaly", fractions=(0.24, 0.06, 0.06, 0.64))
    )
    assert "37,401 readings of 34 series, one every 1 s" in splits.series[0]
    assert splits.spec.shape == (8, 32) and isinstance(splits.encoding, SeriesEncoding) and len(splits.encoding.names) == 34
    # The faults begin after the first 400 or so readings of an experiment.
    assert splits.test is not None and splits.test.anomaly is not None and 0.4 < float(splits.test.anomaly.float().mean()) < 0.8
    x = splits.train.values()
    assert x.shape[1:] == (8, 32) and torch.isfinite(x).all()
