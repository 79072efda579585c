"""Clocks against Python's calendar, encodings taken back, and what train never had."""

import json
import math
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from raeflow.data.columns import to_table
from raeflow.data.encoding import Encoded, TableEncoding
from raeflow.data.schema import to_tensor
from tests.tables import DAY_US, mixed, trained

YEAR = 365.2425
START = datetime(2020, 1, 6, 0, 0)
"""A Monday."""


def circles(splits, name):
    owner, at = splits.encoding.owner.numpy(), [c.name for c in splits.encoding.columns].index(name)
    return splits.encoding(splits.train.x).numpy()[:, owner == at]


def turned(turns):
    angles = 2 * math.pi * np.asarray(turns, np.float64)
    return np.stack([np.sin(angles), np.cos(angles)], 1)


# --- clocks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_clocks_lie_on_the_circles_of_hour_weekday_and_season(tmp_path, zone):
    drawn = np.random.default_rng(0)
    kind = pa.timestamp("us", zone)
    values = pa.array(drawn.integers(0, 800 * DAY_US, 500) + int(START.timestamp()) * 1_000_000, pa.timestamp("us", zone and "UTC")).cast(
        kind
    )
    splits = trained(tmp_path, {"when": values, "a": drawn.standard_normal(500)})
    clocks = [v.replace(tzinfo=None) for v in values.to_pylist()]  # what a clock on that wall showed
    hours = [(c - datetime(c.year, c.month, c.day)) / timedelta(days=1) for c in clocks]
    weekdays = [c.weekday() / 7 for c in clocks]
    seasons = [(c.date() - date(1970, 1, 1)).days / YEAR for c in clocks]
    expected = np.concatenate([turned(hours), turned(weekdays), turned(seasons)], 1)
    np.testing.assert_allclose(circles(splits, "when"), expected / math.sqrt(expected.shape[1] / 2), atol=2e-4)


@pytest.mark.parametrize(
    ("days", "kind", "parts"),
    [
        (1, "timestamp", None), (2, "timestamp", ("hour",)), (13, "timestamp", ("hour",)), (14, "timestamp", ("hour", "weekday")),
        (729, "timestamp", ("hour", "weekday")), (730, "timestamp", ("hour", "weekday", "season")), (13, "date", None),
        (14, "date", ("weekday",)), (730, "date", ("weekday", "season")), (1, "time", ("hour",)),
    ],
)  # fmt: skip
def test_a_clock_tells_what_train_is_long_enough_for(tmp_path, days, kind, parts):
    drawn = np.random.default_rng(0)
    day = np.append(drawn.integers(0, days, 398), [0, days - 1]) + 18_000
    second = drawn.integers(0, 86_400, 400)
    values = {
        "timestamp": lambda: pa.array(day * 86_400 + second, pa.timestamp("s")),
        "date": lambda: pa.array(day, pa.int32()).cast(pa.date32()),
        "time": lambda: pa.array(second, pa.int32()).cast(pa.time32("s")),
    }[kind]()  # fmt: skip
    splits = trained(tmp_path, {"when": values, "a": drawn.standard_normal(400)})
    record = splits.encoding.columns[0]
    assert record.parts == (parts or ())
    assert dict(splits.told())["when"] == (f"clock: {', '.join(parts)}" if parts else f"not used: {record.why}")
    assert parts or f"train covers {days} day" in record.why


def test_midnight_and_sunday_are_next_to_what_follows(tmp_path):
    days = np.arange(800)
    stamps = np.append(days * 86_400, days * 86_400 + 86_399)
    splits = trained(tmp_path, {"when": pa.array(stamps, pa.timestamp("s")), "a": np.random.default_rng(0).standard_normal(1600)})
    points = circles(splits, "when")
    assert np.abs(points[0, :2] - points[800, :2]).max() < 1e-3
    weekday = points[:7, 2:4]
    steps = np.linalg.norm(weekday - np.roll(weekday, 1, 0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


def test_a_gap_of_a_clock_is_the_middle_of_its_circles(tmp_path):
    splits = trained(tmp_path, mixed())
    gaps = splits.train.x.isnan()
    at = next(place for f, place in splits.spec.placed if f.name == "g_moment")
    points = circles(splits, "g_moment")
    assert (points[gaps[:, at].numpy(), 1:] == 0).all(), "the first value is the mark of gaps"
    np.testing.assert_allclose((points[~gaps[:, at].numpy(), 1:] ** 2).sum(1), 1, rtol=1e-5)


# --- back --------------------------------------------------------------------------------------------------------------------


def test_every_role_is_given_back(tmp_path):
    columns = mixed()
    splits = trained(tmp_path, columns)
    back = to_table(splits.encoding.inverse(splits.encoding(splits.train.x), splits.train.x), splits.spec)
    rare = [word for word in columns["word"].to_pylist() if word in "abc"]
    first = min(set(rare), key=lambda word: (-rare.count(word), word))
    for name, expected in columns.items():
        pairs = [(was, now) for was, now in zip(expected.to_pylist(), back[name].to_pylist(), strict=True) if was is not None]
        if name in ("number", "g_number", "still"):
            np.testing.assert_allclose([now for _, now in pairs], [was for was, _ in pairs], rtol=1e-5, atol=1e-5)
        elif name == "tail":
            np.testing.assert_allclose([now for _, now in pairs], [was for was, _ in pairs], rtol=1e-4)
        elif "moment" in name or name == "time":
            assert all(seconds(was, now) < 0.1 for was, now in pairs)
        elif name == "word":
            assert all(now == (first if was in rare else was) for was, now in pairs), "rare levels come back as the commonest of them"
        else:
            assert all(was == now for was, now in pairs)
    gone = [now for was, now in zip(columns["g_word"].to_pylist(), back["g_word"].to_pylist(), strict=True) if was is None]
    assert gone and set(gone) == {None}, "the gap of a category is a level of its own"


def seconds(was, now):
    """Distance of two moments, or of two times on the day's circle."""
    if isinstance(was, datetime):
        return abs((was - now).total_seconds())
    apart = abs((was.hour - now.hour) * 3600 + (was.minute - now.minute) * 60 + was.second - now.second + (now.microsecond) * -1e-6)
    return min(apart, 86_400 - apart)


def test_the_expected_clock_is_the_nearest_of_its_weekday_and_season(tmp_path):
    """A day is moved by at most three days for its weekday, and to the season asked for."""
    splits = trained(tmp_path, {n: mixed()[n] for n in ("day", "number")})
    encoding, x = splits.encoding, splits.train.x
    own, others = encoding(x), encoding(x.flip(0))
    asked = own.clone()
    asked[:, 1:3] = others[:, 1:3]  # number, then weekday and season
    back = to_table(encoding.inverse(asked, x), splits.spec)["day"].to_pylist()
    days, wanted = mixed()["day"].to_pylist(), mixed()["day"].to_pylist()[::-1]
    for day, other, now in zip(days, wanted, back, strict=True):
        assert now.weekday() == other.weekday()
        assert abs((now - day).days) <= 3
    asked = own.clone()
    asked[:, 3:5] = others[:, 3:5]
    for day, other, now in zip(days, wanted, to_table(encoding.inverse(asked, x), splits.spec)["day"].to_pylist(), strict=True):
        assert now.weekday() == day.weekday()
        apart = ((now - other).days / YEAR + 0.5) % 1 - 0.5
        assert abs(apart) * YEAR <= 4.5
        assert abs((now - day).days) <= YEAR / 2 + 4


def test_without_rows_beside_them_clocks_lie_near_the_middle_of_train(tmp_path):
    splits = trained(tmp_path, mixed())
    back = to_table(splits.encoding.inverse(splits.encoding(splits.train.x)), splits.spec)
    middle = date(1970, 1, 1) + timedelta(days=17_750)
    for was, now in zip(mixed()["day"].to_pylist(), back["day"].to_pylist(), strict=True):
        assert abs((now - middle).days) <= YEAR / 2 + 4
        assert now.weekday() == was.weekday()


# --- what train never had ----------------------------------------------------------------------------------------------------


def test_only_what_train_never_had_is_strange(tmp_path):
    columns = mixed()
    splits = trained(tmp_path, columns)
    names = list(splits.spec.columns)
    assert not splits.encoding.strange(splits.train.x).any()
    plain = pa.table({name: values[:1] for name, values in columns.items()})

    def strange(**changed):
        table = plain
        for name, value in changed.items():
            array = pa.array([value], plain[name].type)
            table = table.set_column(names.index(name), name, array)
        found = splits.encoding.strange(to_tensor(table, splits.spec))[0]
        return {name for name, odd in zip(names, found.tolist(), strict=True) if odd}

    assert strange() == set()
    for name in names:
        assert strange(**{name: None}) == (set() if name.startswith("g_") else {name}), f"a gap in {name}"
    assert strange(word="new", g_word="new") == {"word", "g_word"}
    assert strange(still=7.5) == {"still"}
    far = {"number": 1e30, "g_number": -1e30, "tail": 1e30, "moment": datetime(2100, 1, 1), "day": date(1800, 1, 1)}
    assert strange(**far) == set(), "far out is for the model to tell"


def test_a_constant_gap_and_a_constant_word_are_watched(tmp_path):
    drawn = np.random.default_rng(0)
    columns = {
        "a": drawn.standard_normal(400),
        "never": pa.nulls(400, pa.float64()),
        "same": pa.array(["x"] * 400),
        "no": pa.nulls(400, pa.string()),
    }
    splits = trained(tmp_path, columns)
    assert dict(splits.told()) == {"a": "number", "never": "constant, watched", "same": "constant, watched", "no": "constant, watched"}
    odd = pa.table({"a": [0.0] * 4, "never": [None, 3.0, None, None], "same": ["x", "x", "y", None], "no": [None, None, None, "z"]})
    found = splits.encoding.strange(to_tensor(odd, splits.spec)).int()
    assert found.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert splits.encoding.novelties(to_tensor(odd, splits.spec)).tolist() == [0, 1, 1, 2]


def test_a_column_of_one_value_and_gaps_is_watched(tmp_path):
    drawn = np.random.default_rng(0)
    splits = trained(tmp_path, {"a": drawn.standard_normal(400), "seven": pa.array([7.0, None] * 200)})
    assert dict(splits.told())["seven"] == "number, of one value, watched, gaps marked"
    odd = pa.table({"a": [0.0] * 3, "seven": [7.0, None, 7.001]})
    assert splits.encoding.novelties(to_tensor(odd, splits.spec)).tolist() == [0, 0, 1]


def test_what_is_ignored_is_never_strange(tmp_path):
    drawn = np.random.default_rng(0)
    ids = pa.array([f"id{i % 4500}" for i in range(5000)])
    splits = trained(tmp_path, {"a": drawn.standard_normal(5000), "id": ids})
    assert dict(splits.told())["id"].startswith("not used: more than 4,096 different words")
    assert splits.spec.shape == (1,)
    odd = to_tensor(pa.table({"a": [0.0, 0.0], "id": ["new", None]}), splits.spec)
    assert not splits.encoding.strange(odd).any()


def test_errors_are_added_up_by_column(tmp_path):
    splits = trained(tmp_path, mixed())
    encoding, rows = splits.encoding, splits.encoding(splits.train.x)
    by_column, owner = encoding.by_column(rows.square()), encoding.owner
    assert by_column.shape == (len(rows), 12)
    for i in range(12):
        torch.testing.assert_close(by_column[:, i], rows.square()[:, owner == i].sum(1))


def test_records_travel_as_json(tmp_path):
    splits = trained(tmp_path, mixed())
    records = [Encoded.from_json(json.loads(json.dumps(c.to_json()))) for c in splits.encoding.columns]
    assert tuple(records) == splits.encoding.columns
    again = TableEncoding(records, splits.spec.stored[0], splits.encoding.mode)
    again.load_state_dict(splits.encoding.state_dict())
    assert torch.equal(again(splits.train.x), splits.encoding(splits.train.x))
