"""What columns become, against numpy, scikit-learn and Python's calendar."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder

from raeflow.data import load
from raeflow.data.columns import to_table
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Data
from tests.tables import mixed, trained, write

ROWS = 1200


def encoded(splits):
    """(N, F) of train, and for each column the places of its encoded values."""
    owner = splits.encoding.owner.numpy()
    named = {c.name: np.flatnonzero(owner == i) for i, c in enumerate(splits.encoding.columns)}
    return splits.encoding(splits.train.x).numpy().astype(np.float64), named


def column(splits, name):
    values, named = encoded(splits)
    return values[:, named[name]]


def one(splits, name):
    return next(c for c in splits.encoding.columns if c.name == name)


# --- numbers alone -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int64, np.uint8])
@pytest.mark.parametrize("mode", ["auto", "standard", "unit", "global", "none"])
def test_numbers_alone_are_scaled_by_the_very_bits_of_scaling(tmp_path, kind, mode):
    drawn = np.random.default_rng(1)
    columns = {f"c{i}": (drawn.normal(40 + i, 9, ROWS)).clip(0, 255).astype(kind) for i in range(5)}
    columns |= {"two": drawn.integers(0, 2, ROWS).astype(kind)}
    splits = trained(tmp_path, columns, scaling=mode)
    x = splits.train.x
    assert x.dtype == (torch.uint8 if kind is np.uint8 else torch.float32)
    if mode == "unit" and kind is np.uint8:
        x = x.float()  # bytes of a table have ranges of their own, as any numbers have
    expected = fit_scaling(mode, (6,), x.dtype, [x])
    scaled = splits.encoding(splits.train.x)
    if mode == "global":  # one mean of all, from the means of columns: the same but for the order of sums
        torch.testing.assert_close(scaled, expected(x), rtol=1e-6, atol=1e-6)
        return
    assert torch.equal(scaled, expected(x))
    assert torch.equal(splits.encoding.inverse(scaled), expected.inverse(scaled))


@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_a_stream_of_numbers_is_scaled_by_the_very_bits_of_scaling(tmp_path, kind):
    drawn = np.random.default_rng(2)
    files = [write(tmp_path / f"{i}.parquet", {f"c{j}": drawn.normal(60, 9, 700).astype(kind) for j in range(4)}) for i in range(3)]
    names = ("validate", "calibrate", "test")
    held = {n: write(tmp_path / f"{n}.parquet", {f"c{j}": drawn.normal(60, 9, 90).astype(kind) for j in range(4)}) for n in names}
    splits = load(Data(files, **held, memory=12_000 if kind is np.float64 else 4_000))
    assert not hasattr(splits.train, "x"), "streamed"
    x = torch.cat([raw.x for raw in splits.train.batches(100)])
    assert len(x) == 2100
    expected = fit_scaling("auto", (4,), x.dtype, torch.split(x, 700))
    assert torch.equal(splits.encoding(x), expected(x))


# --- roles -------------------------------------------------------------------------------------------------------------------


def test_every_role_is_told(tmp_path):
    splits = trained(tmp_path, mixed())
    assert dict(splits.told()) == {
        "number": "number", "g_number": "number, gaps marked", "tail": "number with a long tail", "flag": "flag",
        "g_flag": "flag, gaps marked", "word": "category of 6 levels, 3 of them rare and taken together",
        "g_word": "category of 3 levels, gaps a level", "moment": "clock: hour, weekday, season",
        "g_moment": "clock: hour, weekday, season, gaps marked", "day": "clock: weekday, season", "time": "clock: hour",
        "still": "constant, watched",
    }  # fmt: skip
    assert splits.spec.shape == splits.encoding.shape == (tuple(splits.encoding(splits.train.x).shape[1:]))
    assert splits.spec.stored == tuple(splits.train.x.shape[1:]) == (14,)


def test_squares_of_each_column_add_up_to_one(tmp_path):
    values, named = encoded(trained(tmp_path, mixed(4000)))
    for name, places in named.items():
        total = float((values[:, places] ** 2).mean(0).sum())
        if name == "still":
            assert not len(places)
        elif name in ("number", "tail", "flag"):
            assert total == pytest.approx(1, abs=1e-4)
        elif name.endswith("word"):
            assert 0.9 < total < 1.0001
        elif name in ("g_number", "g_flag"):
            assert 1.8 < total < 2.0001
        else:  # circles of hour, weekday, season together; and the mark of gaps
            assert total == pytest.approx(1 if name != "g_moment" else 0.9 + 1, abs=0.1)


@pytest.mark.parametrize("share", [0.002, 0.2])
def test_a_long_tail_of_few_rows_weighs_no_more_than_a_rare_level(tmp_path, share):
    drawn = np.random.default_rng(0)
    tail = np.where(drawn.permutation(ROWS) < share * ROWS, 10 ** drawn.uniform(0, 9, ROWS), 0.0)
    splits = trained(tmp_path, {"a": drawn.standard_normal(ROWS), "tail": tail}, scaling="asinh")
    assert dict(splits.told())["tail"] == "number with a long tail"
    total, true = (column(splits, "tail") ** 2).mean(), (tail > 0).mean()
    assert total == pytest.approx(min(1.0, true * (1 - true) / (0.01 * 0.99)), rel=1e-3)


@pytest.mark.parametrize("gaps", [0.0, 0.1])
def test_categories_are_centred_indicators_of_stated_weight(tmp_path, gaps):
    columns = mixed(gaps=gaps)
    splits = trained(tmp_path, columns)
    words = pd.Series(columns["g_word"].to_pylist()).fillna("(gap)")
    order = [
        *words[words != "(gap)"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index,
        *["(gap)"] * bool(gaps),
    ]
    assert one(splits, "g_word").parts == tuple(order)
    hot = OneHotEncoder(categories=[order], sparse_output=False).fit_transform(words.to_frame())
    share = hot.mean(0)
    expected = (hot - share) / np.sqrt(share) / math.sqrt(len(order) - 1)
    np.testing.assert_allclose(column(splits, "g_word"), expected, rtol=1e-5, atol=1e-6)
    assert (expected**2).mean(0).sum() == pytest.approx(1)


@pytest.mark.parametrize("least", [0.0, 0.01, 0.2])
def test_rare_levels_are_taken_together_and_weigh_no_more_than_the_rarest_alone(tmp_path, least):
    columns = mixed()
    splits = trained(tmp_path, columns, min_frequency=least)
    words = pd.Series(columns["word"].to_pylist())
    counts = words.value_counts()
    rare = set(counts[counts < least * ROWS].index)
    pooled = words.where(~words.isin(rare), "(other)")
    order = [*sorted((w for w in counts.index if w not in rare), key=lambda w: (-counts[w], w)), *["(other)"] * bool(rare)]
    assert one(splits, "word").parts == tuple(order)
    hot = OneHotEncoder(categories=[order], sparse_output=False).fit_transform(pooled.to_frame())
    share = hot.mean(0)
    expected = (hot - share) / np.sqrt(np.maximum(share, least)) / math.sqrt(len(order) - 1)
    np.testing.assert_allclose(column(splits, "word"), expected, rtol=1e-5, atol=1e-6)


def test_a_rare_gap_of_a_category_is_taken_with_the_rare_levels(tmp_path):
    drawn = np.random.default_rng(0)
    words = [*np.array(["x", "y"])[drawn.integers(0, 2, ROWS - 3)], None, None, None]
    splits = trained(tmp_path, {"a": drawn.standard_normal(ROWS), "word": pa.array(words)})
    assert one(splits, "word").parts[-1] == "(other)"
    values = column(splits, "word")
    assert values[-1, 2] > 3 > abs(values[0, 2])
    back = to_table(splits.encoding.inverse(splits.encoding(splits.train.x)), splits.spec)
    assert back["word"].to_pylist() == words
    unseen = torch.tensor([[0.0, -1.0]])
    assert torch.equal(splits.encoding(unseen)[0, 1:], splits.encoding(torch.tensor([[0.0, math.nan]]))[0, 1:])


@pytest.mark.parametrize(("values", "share"), [((0, 1), 0.3), ((-7.5, 2.5), 0.001), ((False, True), 0.999), ((1, 255), 0.009)])
def test_numbers_of_two_values_are_flags_of_bounded_weight(tmp_path, values, share):
    drawn = np.random.default_rng(0)
    second = drawn.permutation(ROWS) < share * ROWS
    splits = trained(tmp_path, {"a": drawn.standard_normal(ROWS), "f": np.where(second, values[1], values[0])})
    assert dict(splits.told())["f"] == ("flag" if 0.01 <= share <= 0.99 else "flag, one of its values is rare")
    true = second.mean()
    deviation = math.sqrt(max(true * (1 - true), 0.01 * 0.99))
    np.testing.assert_allclose(column(splits, "f")[:, 0], (second - true) / deviation, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["number", "flag"])
def test_a_gap_is_the_median_and_a_mark(tmp_path, kind):
    columns = mixed()
    splits = trained(tmp_path, columns)
    raw = np.array([math.nan if v is None else float(v) for v in columns[f"g_{kind}"].to_pylist()], np.float32)
    values, gaps = column(splits, f"g_{kind}"), np.isnan(raw)
    median = np.nanquantile(raw, 0.5, method="inverted_cdf")
    filled, std = np.where(gaps, median, raw).astype(np.float64), np.nanstd(raw.astype(np.float64))
    np.testing.assert_allclose(values[:, 0], (filled - np.nanmean(raw.astype(np.float64))) / std, rtol=1e-3, atol=1e-3)
    share = gaps.mean()
    np.testing.assert_allclose(values[:, 1], (gaps - share) / math.sqrt(share * (1 - share)), rtol=1e-4)


def test_a_column_that_is_nearly_always_a_gap_has_a_median_still(tmp_path):
    """A sample of 65,536 rows may hold none of its few values."""
    drawn = np.random.default_rng(0)
    rare = np.full(150_000, np.nan)
    rare[[5, 70_000, 149_000]] = [1, 2, 4]
    splits = trained(tmp_path, {"a": np.where(drawn.random(150_000) < 0.1, np.nan, drawn.standard_normal(150_000)), "b": rare})
    assert bool(splits.encoding(splits.train.x).isfinite().all())
    assert 1 <= float(splits.encoding.fill[1]) <= 4
    assert pytest.approx(float(splits.encoding.fill[0]), abs=0.02) == 0


# --- long tails --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("far", "role"), [(10.0, "number"), (19.0, "number"), (40.0, "long_tail"), (-40.0, "long_tail"), (1e12, "long_tail")]
)
def test_a_value_beyond_twenty_deviations_makes_a_long_tail(tmp_path, far, role):
    normal = np.random.default_rng(0).standard_normal(20_000)
    splits = trained(tmp_path, {"a": np.append(normal, far), "b": np.append(normal[::-1], 0)})
    assert one(splits, "a").role == role
    assert one(splits, "b").role == "number"
    tame = trained(tmp_path / "standard", {"a": np.append(normal, far), "b": np.append(normal[::-1], 0)}, scaling="standard")
    assert one(tame, "a").role == "number"


def test_asinh_is_monotone_smooth_and_never_ends(tmp_path):
    columns = mixed()
    splits = trained(tmp_path, {"tail": columns["tail"], "number": columns["number"]}, scaling="asinh")
    assert [c.role for c in splits.encoding.columns] == ["long_tail", "long_tail"]
    values = column(splits, "tail")[:, 0]
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-4)
    reach = torch.tensor(np.concatenate([-np.logspace(30, -3, 500), [0], np.logspace(-3, 30, 500)]), dtype=torch.float32)
    both = torch.stack([reach, torch.zeros_like(reach)], 1)
    curve = splits.encoding(both)[:, 0].double().numpy()
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] > curve[-100] > values.max(), "still growing beyond the range seen"
    assert np.isfinite(curve).all()
    assert np.abs(np.diff(curve)).max() < 0.5, "no step"


def test_flags_stay_flags_under_asinh(tmp_path):
    columns = {n: mixed()[n] for n in ("number", "flag", "word")}
    assert dict(trained(tmp_path, columns, scaling="asinh").told())["flag"] == "flag"


@pytest.mark.parametrize(
    ("column", "role", "told"),
    [("number", "long_tail", "number with a long tail"), ("tail", "number", "number"), ("flag", "number", "number"),
     ("flag", "category", "category of 2 levels"), ("code", "category", "category of 3 levels"), ("code", "flag", "number")],
)  # fmt: skip
def test_roles_change_what_a_column_is(tmp_path, column, role, told):
    columns = {**mixed(), "code": np.random.default_rng(0).integers(0, 3, ROWS) * 256}
    assert dict(trained(tmp_path, columns, roles={column: role}).told())[column] == told


def test_nothing_to_learn_from_is_refused(tmp_path):
    still = {"a": np.full(ROWS, 2.5), "word": ["x"] * ROWS, "day": pa.array([3] * ROWS, pa.int32()).cast(pa.date32())}
    with pytest.raises(RaeflowError, match=r"'a' \(2.5\).*constant in the train split") as caught:
        trained(tmp_path, still)
    assert "train covers 1 day" in str(caught.value)
