"""Readings get their scores back from windows, and alerts become events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from raeflow.errors import RaeflowError
from raeflow.events import ReadingScores, find_events, from_maps, schema
from raeflow.timeline import Timeline
from tests.series import assert_sees_no_future

LENGTH = 8


def windows(readings, length=LENGTH):
    """(N, C) to (W, C, L), as a model sees them."""
    return np.lib.stride_tricks.sliding_window_view(readings, length, axis=0)


def error_maps(readings):
    """A stand-in for a model whose reconstruction of every place uses the whole window."""
    seen = windows(readings).astype(np.float32)
    return (seen - seen.mean(2, keepdims=True)) ** 2 * np.linspace(0.5, 1.5, LENGTH, dtype=np.float32)


def by_hand(starts, maps, count, at):
    """Each reading's own columns, one by one."""
    own = [[] for _ in range(count)]
    for start, errors in zip(starts, maps, strict=True):
        for place in [LENGTH - 1] if at == "last" else range(LENGTH):
            own[start + place].append(errors[..., place].mean())
    return np.array([np.mean(v) if v else np.nan for v in own])


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize("gapped", [False, True])
def test_scores_are_those_of_each_readings_own_column_whatever_the_tiles(at, gapped):
    random = np.random.default_rng(0)
    readings = random.normal(size=(90, 11)).astype(np.float32)
    maps, starts = error_maps(readings), np.arange(90 - LENGTH + 1)
    if gapped:  # two runs: no window lies over reading 39 and 40
        keep = (starts + LENGTH <= 40) | (starts >= 40)
        maps, starts = maps[keep], starts[keep]
    whole = from_maps(starts, maps, 90, at)
    np.testing.assert_allclose(whole, by_hand(starts, maps, 90, at), rtol=1e-5)
    assert np.isnan(whole).sum() == ((1 + gapped) * (LENGTH - 1) if at == "last" else 0)
    for size in (1, 7, 64):
        scores = ReadingScores(90, LENGTH, at, channels=11)
        for first in range(0, len(starts), size):
            scores.add(starts[first : first + size], maps[first : first + size])
        assert scores.finish().tobytes() == whole.tobytes()
        np.testing.assert_allclose(scores.channel_errors().mean(1), whole, rtol=1e-5)
    late = ReadingScores(90, LENGTH, at)
    for part in reversed(np.array_split(np.arange(len(starts)), 4)):
        late.add(starts[part], maps[part])
    np.testing.assert_allclose(late.finish(), whole, rtol=1e-6)


def test_sums_over_windows_run_in_their_order_whatever_the_tiles():
    maps = np.random.default_rng(4).uniform(0, 100, (60, LENGTH))
    maps[:, -1] += 1e17  # what is added between the two is rounded: another order gives another sum
    maps[:, 0] -= 1e17
    whole = from_maps(np.arange(60), maps, 60 + LENGTH - 1, "all")
    for size in (1, 5):
        scores = ReadingScores(60 + LENGTH - 1, LENGTH, "all")
        for first in range(0, 60, size):
            scores.add(np.arange(first, first + size), maps[first : first + size])
        assert scores.finish().tobytes() == whole.tobytes()


def test_one_channel_needs_no_axis_and_strides_leave_readings_without_a_score():
    maps = error_maps(np.random.default_rng(1).normal(size=(40, 1)))
    starts = np.arange(0, len(maps), 3)
    scores = from_maps(starts, maps[starts, 0], 40)
    assert scores.tobytes() == from_maps(starts, maps[starts], 40).tobytes()
    assert (np.flatnonzero(~np.isnan(scores)) == starts + LENGTH - 1).all()


def test_last_sees_no_future_and_all_does():
    readings = np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32)

    def scores_of(rows, at="last"):
        return from_maps(np.arange(len(rows) - LENGTH + 1), error_maps(rows), len(rows), at)

    cuts = [LENGTH - 1, 20, 41, 58]
    assert_sees_no_future(scores_of, readings, cuts)
    with pytest.raises(AssertionError, match="depend on later ones"):
        assert_sees_no_future(lambda rows: scores_of(rows, "all"), readings, cuts)


@pytest.mark.parametrize(
    ("starts", "shape", "told"),
    [
        ([0, 1], (3, 2, LENGTH), r"\(3, 2, 8\)"),
        ([0], (1, LENGTH + 1), "L=8"),
        ([2, 2], (2, LENGTH), "2 comes after 2"),
        ([3], (1, LENGTH), "at 3 leaves the 10"),
        ([-1], (1, LENGTH), "at -1 leaves"),
    ],
)
def test_maps_that_do_not_fit_are_refused(starts, shape, told):
    with pytest.raises(RaeflowError, match=told):
        ReadingScores(10, LENGTH).add(starts, np.zeros(shape))


def test_unknown_places_and_unkept_channels_are_refused():
    with pytest.raises(RaeflowError, match="at='first'"):
        ReadingScores(10, LENGTH, "first")
    with pytest.raises(RaeflowError, match="no errors of channels were kept"):
        ReadingScores(10, LENGTH).channel_errors()
    with pytest.raises(RaeflowError, match="C=3 channels"):
        ReadingScores(10, LENGTH, channels=3).add([0], np.zeros((1, LENGTH)))


def seconds(*values):
    return np.datetime64("2024-03-01T00:00:00") + np.array(values) * np.timedelta64(1, "s")


def rows(table):
    return table.select(["series", "start", "end", "peak_score", "readings"]).to_pylist()


def test_events_join_neighbours_and_what_is_close_and_nothing_else():
    time = np.arange(12.0)
    score = np.array([0, 5, 6, 0, 0, 7, 0, 0, 0, 0, 8, np.nan])
    table = find_events(time, score, 1.0)
    assert table.schema == schema(pa.float64())
    assert [(r["start"], r["end"], r["peak_score"], r["readings"]) for r in rows(table)] == [(1, 2, 6, 2), (5, 5, 7, 1), (10, 10, 8, 1)]
    assert table["peak_time"].to_pylist() == [2, 5, 10]
    assert [(r["start"], r["end"], r["readings"]) for r in rows(find_events(time, score, 1.0, joined=3))] == [(1, 5, 3), (10, 10, 1)]
    assert rows(find_events(time, score, 1.0, joined=timedelta(seconds=5))) == rows(find_events(time, score, score > 1, joined=5))
    assert len(find_events(time, score, 1.0, joined=np.timedelta64(5000, "ms"))) == 1
    assert find_events(time, score, 9.0).schema == table.schema
    assert len(find_events(time[:0], score[:0], 1.0)) == 0


def test_series_and_gaps_part_events_and_the_order_of_rows_does_not_matter():
    time = seconds(0, 1, 2, 100, 101, 0, 1, 2, 3, 4)
    series = np.array(["b"] * 5 + ["a"] * 5)
    flags = np.array([0, 1, 1, 1, 0, 1, 1, 0, 1, 1], bool)
    score = np.arange(10.0)
    table = find_events(time, score, flags, series, max_step=5)
    told = [(r["series"], r["start"].second + 60 * r["start"].minute, r["readings"]) for r in rows(table)]
    assert told == [("a", 0, 2), ("b", 1, 2), ("a", 3, 2), ("b", 100, 1)]
    assert len(find_events(time, score, flags, series)) == 3  # without max_step no step is a gap
    mixed = np.random.default_rng(0).permutation(10)
    assert find_events(time[mixed], score[mixed], flags[mixed], series[mixed], max_step=5).equals(table)
    alone = flags.nonzero()[0]
    places = np.concatenate([np.arange(5), np.arange(5)])
    parts = find_events(time[alone], score[alone], flags[alone], series[alone], max_step=5, position=places[alone])
    assert parts.equals(table)


def test_times_keep_their_unit_and_zone():
    zoned = pa.array([datetime(2024, 3, 1, h, tzinfo=UTC) for h in range(4)], pa.timestamp("ms", "Europe/Berlin"))
    table = find_events(zoned, [0, 2, 0, 2], 1.0, pa.array([7, 7, 7, 7]), joined=timedelta(hours=2))
    assert table.schema.field("start").type == pa.timestamp("ms", "Europe/Berlin")
    assert rows(table)[0]["series"] == "7"
    assert (rows(table)[0]["end"] - rows(table)[0]["start"]) == timedelta(hours=2)
    days = np.arange("2024-03-01", "2024-03-05", dtype="datetime64[D]")
    assert find_events(days, [0, 2, 2, 0], 1.0).schema.field("start").type == pa.timestamp("s")
    assert Timeline.of(days).seconds.tolist() == [0, 86400, 172800, 259200]


def test_channels_tell_their_shares_of_what_is_not_usual():
    time, score = np.arange(6), np.array([0, 3.0, 3, 0, 3, 0])
    errors = np.array([[1, 9, 0], [2, 4, 0], [4, 4, 2], [0, 0, 0], [0, np.inf, 1], [0, 0, 0]], float)
    table = find_events(time, score, 1.0, channels=errors, names=["flow", "heat", "current"])
    first, second = table["channels"].to_pylist()
    assert [c["channel"] for c in first] == ["heat", "flow", "current"]
    assert [c["share"] for c in first] == pytest.approx([8 / 16, 6 / 16, 2 / 16])
    assert second == [{"channel": "heat", "share": 1.0}, {"channel": "current", "share": pytest.approx(0)}]
    above = find_events(time, score, 1.0, channels=errors, names=["flow", "heat", "current"], usual=[1, 4, 0], top=1)
    assert above["channels"].to_pylist()[0] == [{"channel": "flow", "share": pytest.approx(4 / 6)}]
    assert find_events(time, score, 1.0)["channels"].to_pylist() == [[], []]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: find_events([0, 1], [1.0, 2.0, 3.0], 0.5), r"score \(3,\)"),
        (lambda: find_events([0, 1], [1.0, np.nan], [0, 1]), "reading 1 raises an alert but has no score"),
        (lambda: find_events(pa.array([0, None]), [1.0, 2.0], 0.5), "reading 1 has no time"),
        (lambda: find_events([0.0, 1, np.nan], [1.0, 2.0, 0], 0.5), "reading 2 has time nan"),
        (lambda: find_events(["a", "b"], [1.0, 2.0], 0.5), "timestamps or numbers, not string"),
        (lambda: find_events([0, 1], [1.0, 2.0], 0.5, ["x"]), "1 names of series for 2"),
        (lambda: find_events([0, 1], [1.0, 2.0], 0.5, joined=-1), "joined=-1"),
        (lambda: find_events([0, 1], [1.0, 2.0], 0.5, channels=np.zeros((3, 2))), r"\(3, 2\)"),
        (lambda: find_events([0, 1], [1.0, 2.0], 0.5, channels=np.zeros((2, 2)), names=["a"]), "1 names for 2 channels"),
    ],
)
def test_what_has_no_events_is_refused(call, told):
    with pytest.raises(RaeflowError, match=told):
        call()
