"""Synthetic anomalies of tables are rows that a file could hold: each column changes as its kind can."""

import numpy as np
import pytest
import torch

from raeflow import selection, synthetic, synthetic_tables
from raeflow.errors import RaeflowError
from raeflow.selection import judge
from tests.tables import mixed, trained

COUNT = 400
NUMBERS = ("stretched", "beyond", "between", "local")
KINDS = (*NUMBERS, "altered")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("synthetic"), mixed())


@pytest.fixture(scope="module")
def rows(loaded):
    return loaded.encoding(loaded.train.x)


@pytest.fixture(scope="module")
def made(loaded, rows):
    return synthetic_tables.make(rows, loaded.encoding, COUNT, seed=3)


def block(loaded, name, values):
    """The encoded values of one column."""
    at = [c.name for c in loaded.encoding.columns].index(name)
    return values[:, loaded.encoding.owner == at]


def among(values, known):
    """(n,) whether each row of `values` is one of the rows of `known`."""
    return (torch.cdist(values.double(), torch.unique(known, dim=0).double()) < 1e-4).any(1)


def test_all_kinds_are_made_and_are_finite(made):
    assert tuple(made) == KINDS
    for changed in made.values():
        assert 0.8 * COUNT < len(changed) <= COUNT  # two rows that differ in nothing that moves give none
        assert bool(changed.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["word", "g_word"])
def test_categories_stay_patterns_of_one_level(loaded, rows, made, kind, name):
    assert bool(among(block(loaded, name, made[kind]), block(loaded, name, rows)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_flags_take_one_of_their_two_values(loaded, rows, made, kind):
    for name in ("flag", "g_flag"):
        legal = block(loaded, name, rows)[:, :1]
        assert len(torch.unique(legal)) == 2 + (name == "g_flag") * (len(torch.unique(legal)) > 2)
        assert bool(among(block(loaded, name, made[kind])[:, :1], legal).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["moment", "g_moment", "day", "time"])
def test_clocks_stay_on_their_circles(loaded, made, kind, name):
    points = block(loaded, name, made[kind])
    gap = torch.zeros(len(points), dtype=torch.bool)
    if name.startswith("g_"):
        gap, points = points[:, 0] > 0, points[:, 1:]
    squares = points.square().reshape(len(points), -1, 2).sum(2)
    expected = torch.full_like(squares[~gap], 1 / squares.shape[1])  # together the circles weigh what one number does
    torch.testing.assert_close(squares[~gap], expected, rtol=1e-4, atol=1e-4)
    assert bool((squares[gap] == 0).all()), "a gap is the middle of all its circles"


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_are_whole_and_only_where_train_had_gaps(loaded, rows, made, kind):
    for name in ("g_number", "g_flag", "g_moment"):
        where = -1 if name != "g_moment" else 0
        marks = block(loaded, name, rows)[:, where]
        values = block(loaded, name, made[kind])
        assert bool(among(values[:, [where]], marks[:, None]).all())
        lost = values[:, where] > 0
        empty = block(loaded, name, rows)[marks > 0][:1]
        torch.testing.assert_close(values[lost], empty.expand(int(lost.sum()), -1), rtol=1e-4, atol=1e-4)
    back = loaded.encoding.inverse(made[kind])
    ungapped = [p for f, p in loaded.spec.placed if not f.name.startswith("g_")]
    assert not back[:, ungapped].isnan().any()


def test_what_is_no_number_is_altered_now_and_then_and_numbers_are_not(loaded, rows):
    blocks = synthetic_tables._Blocks(loaded.encoding, rows)
    changed = blocks.altered(rows, rows, torch.Generator().manual_seed(0))
    by_column = loaded.encoding.by_column((changed - rows).square()) > 1e-6
    for i, column in enumerate(loaded.encoding.columns):
        share = float(by_column[:, i].float().mean())
        if column.name in ("still", "number", "tail"):
            assert share == 0, column.name
        else:
            assert (0.01 if column.name == "g_number" else 0.1) < share < 0.8, column.name


@pytest.mark.parametrize("kind", ["stretched", "beyond", "local"])
def test_rows_are_moved_by_their_numbers_alone(loaded, rows, kind):
    blocks = synthetic_tables._Blocks(loaded.encoding, rows)
    changed = getattr(blocks, kind)(rows, rows, torch.Generator().manual_seed(0))
    numbers = [i for i, c in enumerate(loaded.encoding.columns) if c.name in ("number", "g_number", "tail")]
    moved = torch.isin(loaded.encoding.owner, torch.tensor(numbers)) & (torch.arange(rows.shape[1]) < loaded.encoding.sizes[0])
    assert torch.equal(changed[:, ~moved], rows[:, ~moved])
    assert bool((changed[:, moved] != rows[:, moved]).any(0).all())


def test_between_rows_lies_what_both_have(loaded, rows):
    changed = synthetic_tables._Blocks(loaded.encoding, rows).between(rows, rows, torch.Generator().manual_seed(0))
    numbers = loaded.encoding.sizes[0]
    assert bool((changed[:, :numbers] <= rows[:, :numbers].amax(0) + 1e-5).all())
    assert bool((changed[:, :numbers] >= rows[:, :numbers].amin(0) - 1e-5).all())


def test_the_same_seed_makes_the_same_rows(loaded, rows, made):
    again = synthetic_tables.make(rows, loaded.encoding, COUNT, seed=3)
    other = synthetic_tables.make(rows, loaded.encoding, COUNT, seed=4)
    for kind in KINDS:
        assert torch.equal(again[kind], made[kind])
        assert not torch.equal(other[kind][:50], made[kind][:50])


def test_numbers_alone_are_changed_as_ever(tmp_path):
    drawn = np.random.default_rng(0)
    columns = {"a": drawn.standard_normal(500), "b": drawn.standard_normal(500), "f": drawn.integers(0, 2, 500)}
    loaded = trained(tmp_path, columns)
    assert not synthetic_tables.typed(loaded.encoding)
    assert synthetic_tables.typed(trained(tmp_path / "gaps", {**columns, "c": np.where(columns["f"] == 1, np.nan, columns["b"])}).encoding)
    ours = judge("synthetic", loaded, seed=5).anomalies
    scaled = loaded.encoding(loaded.validate.x)
    assert len(scaled) <= selection.NORMAL
    expected = synthetic.make(scaled, max(selection.FEWEST, min(selection.MOST, 2 * len(scaled))), seed=5)
    assert tuple(ours) == tuple(expected) == NUMBERS
    for kind in NUMBERS:
        assert torch.equal(ours[kind], expected[kind])


def test_a_search_judges_typed_rows_by_typed_anomalies(loaded):
    ours = judge("synthetic", loaded, seed=5).anomalies
    legal = block(loaded, "word", loaded.encoding(loaded.train.x))
    assert all(bool(among(block(loaded, "word", changed), legal).all()) for changed in ours.values())


def test_rows_that_are_all_alike_are_refused(loaded, rows):
    still = rows[:1].expand(50, -1)
    assert set(synthetic_tables.make(still, loaded.encoding, 50, 0)) == {"altered"}, "one row alone can only be changed by its kinds"
    with pytest.raises(RaeflowError, match="all the same constant"):
        synthetic.make(torch.ones(50, 3), 50, 0)


COUNTED = ("bytes", "rate", "retries", "tank")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Rows as logs have them: most counts are zero, rates end in 0 and 1, a few whole numbers, and one number that is free."""
    drawn = np.random.default_rng(0)
    columns = {
        "bytes": np.where(drawn.random(3000) < 0.6, 0, drawn.gamma(2.0, 40.0, 3000)),
        "rate": np.clip(drawn.normal(0.5, 0.6, 3000), 0, 1).round(2),
        "retries": drawn.poisson(3, 3000).astype(float),
        "tank": np.minimum(drawn.gamma(8.0, 8.0, 3000), 70.0),
        "free": drawn.standard_normal(3000),
        "word": drawn.choice(["a", "b", "c"], 3000),
    }
    loaded = trained(tmp_path_factory.mktemp("log"), columns)
    rows = loaded.encoding(loaded.train.x)
    return loaded, rows, synthetic_tables.make(rows, loaded.encoding, COUNT, seed=0)


@pytest.mark.parametrize("kind", NUMBERS)
def test_no_number_passes_an_end_that_many_rows_share(log, kind):
    loaded, rows, made = log
    for name, low, high in (("bytes", True, False), ("rate", True, True), ("tank", False, True)):
        known, values = block(loaded, name, rows), block(loaded, name, made[kind])
        assert not low or bool((values >= known.min()).all()), name
        assert not high or bool((values <= known.max()).all()), name
    far = block(loaded, "free", made[kind])
    assert kind == "between" or bool((far < block(loaded, "free", rows).min()).any()), "an end of one row is no bound"


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_few_values_take_one_of_these_between_their_ends(log, kind):
    loaded, rows, made = log
    for name in ("rate", "retries"):
        known, values = block(loaded, name, rows), block(loaded, name, made[kind])
        inside = ((values >= known.min()) & (values <= known.max())).squeeze(1)
        assert bool(among(values[inside], known).all()), name
        assert len(torch.unique(values[inside])) > 5


def test_between_two_rows_a_value_that_many_share_is_no_way_but_a_case(log):
    loaded, rows, _ = log
    drawn = torch.Generator().manual_seed(0)
    changed = synthetic_tables._Blocks(loaded.encoding, rows).between(rows, rows, drawn)
    before, after, free = (block(loaded, "bytes", rows), block(loaded, "bytes", changed), block(loaded, "free", changed))
    idle = before.min()
    assert bool(among(after[before == idle][:, None], before).all()), "beside no bytes there is no half of what another row has"
    moved = (before > idle) & ~among(after, before)[:, None]
    assert 0.2 < float(moved.sum() / (before > idle).sum()) < 0.6, "two rows with bytes have something between them"
    assert not bool(among(free, block(loaded, "free", rows)).all())
