"""Splits of tables follow what a row says, whatever it is stored in; a stream learns what rows in memory teach."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from raeflow.data import load, plan, splits
from raeflow.data.columns import to_table
from raeflow.data.encoding import lexicon, sketch
from raeflow.errors import RaeflowError
from raeflow.study import Data
from tests.tables import mixed, write

ROWS = 1600
PARTS = ("train", "validate", "calibrate", "test")


def table(rows=ROWS, seed=0):
    """Every role, and a number that tells rows apart."""
    return {"key": pa.array(np.random.default_rng(seed).permutation(rows).astype(np.float64)), **mixed(rows, seed)}


def homes(splits_):
    """The split of each row by its key."""
    found = {}
    for name in PARTS:
        rows = getattr(splits_, name)
        x = rows.x if hasattr(rows, "x") else torch.cat([raw.x for raw in rows.batches(500)])
        found |= dict.fromkeys(x[:, 0].tolist(), name)
    return found


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Where each row of `table()` belongs."""
    found = homes(load(Data(write(tmp_path_factory.mktemp("known") / "rows.parquet", table()))))
    assert len(found) == ROWS
    shares = [sum(home == name for home in found.values()) / ROWS for name in PARTS]
    assert shares == pytest.approx([0.6, 0.1, 0.1, 0.2], abs=0.04)
    return found


def test_neither_order_nor_number_of_files_moves_a_row(tmp_path, known):
    columns = pa.table(table()).take(np.random.default_rng(1).permutation(ROWS))
    for i, start in enumerate(range(0, ROWS, 350)):
        part = columns.slice(start, 350)
        write(tmp_path / f"{9 - i}.parquet", {name: part[name] for name in part.column_names}, group=100 + i)
    assert homes(load(Data(tmp_path))) == known


def recast(columns, name, kind):
    array = columns[name]
    return {**columns, name: array.dictionary_encode() if kind == "dictionary" else array.cast(kind, safe=False)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("word", "dictionary"), ("g_word", "dictionary"), ("word", pa.large_string()), ("g_word", pa.string_view()), ("key", pa.int32()),
     ("key", pa.int64()), ("key", pa.float32()), ("key", pa.uint16()), ("still", pa.int8()), ("still", pa.decimal128(9, 2)),
     ("g_number", pa.float32())],
    ids=str,
)  # fmt: skip
def test_storage_does_not_move_a_row(tmp_path, known, name, kind):
    """A key may look like a counter of rows once it is a whole number, so the columns are named."""
    path = write(tmp_path / "rows.parquet", recast(table(), name, kind))
    assert homes(load(Data(path, columns=list(table())))) == known


def test_numbers_alone_are_divided_alike_whatever_their_type(tmp_path):
    whole = {f"c{i}": np.random.default_rng(i).integers(0, 3000, ROWS) for i in range(3)}
    found = []
    for kind in (np.int32, np.int64, np.float32, np.float64, np.uint16):
        path = write(tmp_path / f"{np.dtype(kind)}.parquet", {name: values.astype(kind) for name, values in whole.items()})
        one = load(Data(path, columns=list(whole)))
        found.append({name: sorted(map(tuple, getattr(one, name).x.tolist())) for name in PARTS})
    assert all(other == found[0] for other in found)


def test_clocks_do_not_count(tmp_path, known):
    columns = table()
    for name in ("moment", "g_moment", "day", "time"):
        columns[name] = columns[name].take(pa.array(np.random.default_rng(3).permutation(ROWS)))
    assert homes(load(Data(write(tmp_path / "rows.parquet", columns)))) == known


def test_an_empty_split_counts_rows_that_differ_in_time_alone_once(tmp_path):
    columns = {"word": ["x", "y"] * 50, "moment": pa.array(range(100), pa.timestamp("s"))}
    with pytest.raises(RaeflowError, match=r"no row is left for the \w+ split \(100 rows in all, 2 of them different"):
        load(Data(write(tmp_path / "rows.parquet", columns), columns=["word", "moment"]))


def test_of_clocks_alone_the_clocks_count(tmp_path):
    columns = {"moment": mixed(ROWS)["moment"]}
    found = load(Data(write(tmp_path / "rows.parquet", columns)))
    assert 0.5 < len(found.train) / ROWS < 0.7


@pytest.mark.parametrize("name", ["word", "g_word", "number", "flag"])
def test_every_other_column_counts(tmp_path, known, name):
    columns = table()
    columns[name] = columns[name].take(pa.array(np.random.default_rng(3).permutation(ROWS)))
    moved = homes(load(Data(write(tmp_path / "rows.parquet", columns))))
    assert sum(moved[key] != home for key, home in known.items()) > 0.1 * ROWS


def test_equal_rows_stay_together(tmp_path):
    columns = pa.table({"a": pa.array([1.0, None, 3.0, 4.0, 5.0] * 80), "word": ["x", "y", None, "z", "x"] * 80, "n": [*range(20)] * 20})
    when = pa.array(np.arange(400) * 1000, pa.timestamp("s"))
    found = load(Data(write(tmp_path / "rows.parquet", {**{n: columns[n] for n in columns.column_names}, "when": when})))
    where = {}
    for name in PARTS:
        for row in to_table(getattr(found, name).x, found.spec).drop(["when"]).to_pylist():
            where.setdefault((row["a"], row["n"]), set()).add(name)
    assert len(where) == 20
    assert all(len(names) == 1 for names in where.values()), where


# --- streams -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Resident and streamed splits of the same files, with words that few rows have."""
    monkeypatch.setattr(plan, "_UNIT", 1000)
    rows = 6000
    words = pa.array(np.where(np.random.default_rng(5).random(rows) < 0.02, [f"rare{i}" for i in range(rows)], "common"))
    columns = {**table(rows), "word": words}
    files = [write(tmp_path / f"{i}.parquet", {n: a.slice(i * 2000, 2000) for n, a in columns.items()}, group=150) for i in range(3)]
    memory = int(rows * 15 * 4 * 0.95)
    return load(Data(files)), load(Data(files, memory=memory)), columns


def test_a_stream_teaches_what_rows_in_memory_teach(both):
    resident, streamed, _ = both
    assert not hasattr(streamed.train, "x")
    assert streamed.spec == resident.spec
    assert streamed.encoding.columns == resident.encoding.columns
    assert streamed.told() == resident.told()
    for (name, mine), theirs in zip(streamed.encoding.state_dict().items(), resident.encoding.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7, msg=name)
    rows = torch.cat([raw.x for raw in streamed.train.batches(333)])
    torch.testing.assert_close(rows, resident.train.x, rtol=0, atol=0, equal_nan=True)
    for name in PARTS[1:]:
        torch.testing.assert_close(getattr(streamed, name).x, getattr(resident, name).x, rtol=0, atol=0, equal_nan=True)
    mixed_up = torch.cat([raw.x for raw in streamed.train.batches(333, seed=1)])
    assert sorted(mixed_up[:, 0].tolist()) == sorted(rows[:, 0].tolist())


def test_beyond_what_a_sample_keeps_a_stream_still_teaches_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_UNIT", 1000)
    monkeypatch.setattr(sketch, "_MOST", 600)
    monkeypatch.setattr(sketch, "_FEWEST", 100)
    files = [write(tmp_path / f"{i}.parquet", mixed(3000, i)) for i in range(3)]
    resident, streamed = load(Data(files)), load(Data(files, memory=int(9000 * 14 * 4 * 0.95)))
    assert not hasattr(streamed.train, "x")
    for (name, mine), theirs in zip(streamed.encoding.state_dict().items(), resident.encoding.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("which", [0, 1])
def test_words_of_held_out_rows_alone_are_no_levels(both, which):
    loaded, columns = both[which], both[2]
    field, place = next((f, p) for f, p in loaded.spec.placed if f.name == "word")
    words = dict(zip(columns["key"].to_pylist(), columns["word"].to_pylist(), strict=True))
    seen = {name: [words[key] for key, home in homes(loaded).items() if home == name] for name in PARTS}
    counts = {word: seen["train"].count(word) for word in set(seen["train"])}
    assert field.levels == tuple(sorted(counts, key=lambda word: (-counts[word], word)))
    unseen = 0
    for name in PARTS[1:]:
        x = getattr(loaded, name).x
        for row in x:
            word = words[float(row[0])]
            assert row[place] == (field.levels.index(word) if word in counts else -1)
            unseen += word not in counts
    assert unseen > 20
    assert int(loaded.encoding.strange(loaded.test.x)[:, loaded.spec.columns.index("word")].sum()) == sum(
        w not in counts for w in seen["test"]
    )


def test_words_of_rows_that_are_not_normal_are_no_levels(tmp_path):
    columns = {**table(), "bad": np.arange(ROWS) % 10 == 0}
    columns["word"] = pa.array(np.where(columns["bad"], "bad", np.where(np.arange(ROWS) % 2, "x", "y")))
    loaded = load(Data(write(tmp_path / "rows.parquet", columns), label="bad", normal=[("bad", "==", False)], roles={"word": "category"}))
    field, place = next((f, p) for f, p in loaded.spec.placed if f.name == "word")
    assert set(field.levels) == {"x", "y"}
    assert torch.equal(loaded.test.x[:, place] == -1, loaded.test.anomaly)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_too_many_words_are_told_whatever_their_order(tmp_path, monkeypatch, streamed, backwards):
    """Of 60 words some come in held-out rows alone; which words come first must not decide."""
    monkeypatch.setattr(lexicon, "MOST_LEVELS", 55)
    monkeypatch.setattr(plan, "_UNIT", 500)
    words = np.array([f"w{i:02d}" for i in range(60)])[np.minimum(np.random.default_rng(0).integers(0, 2000, ROWS) // 30, 59)]
    order = slice(None, None, -1) if backwards else slice(None)
    path = write(tmp_path / "rows.parquet", {"a": np.random.default_rng(1).standard_normal(ROWS)[order], "word": words[order]}, group=100)
    loaded = load(Data(path, memory=int(ROWS * 8 * 0.95) if streamed else 1 << 30))
    assert loaded.spec.shape == (1,)
    assert dict(loaded.told())["word"].startswith("not used: more than")
    assert loaded.spec.fields[1].levels == ()
    assert not loaded.encoding.strange(loaded.test.x).any()


def test_words_that_a_dictionary_lists_but_no_row_has_do_not_count(tmp_path):
    listed = pa.array([f"unused{i}" for i in range(5000)] + ["x", "y"])
    array = pa.DictionaryArray.from_arrays(pa.array(np.random.default_rng(0).integers(5000, 5002, ROWS), pa.int32()), listed)
    loaded = load(Data(write(tmp_path / "rows.parquet", {"a": np.random.default_rng(1).standard_normal(ROWS), "word": array})))
    assert dict(loaded.told())["word"] == "category of 2 levels"


def test_memory_of_the_pass_is_bounded(monkeypatch):
    monkeypatch.setattr(sketch, "_MOST", 500)
    monkeypatch.setattr(sketch, "_FEWEST", 100)
    drawn, one = np.random.default_rng(0), sketch.Sample([0])
    seen = sketch.Sketch(2, [0], [1])
    for _ in range(40):
        values = drawn.lognormal(0, 1, 1000).astype(np.float32)
        chunk = torch.from_numpy(np.stack([values, drawn.integers(0, 4096, 1000)], 1).astype(np.float32))
        one.see(chunk)
        seen.see(chunk)
        assert len(one.keys) == len(one.rows) == len(one.counts) <= 500
        assert len(seen.levels[1]) <= 4097
    assert len(one.keys) > 200
    values, counts = one.values(0)
    assert sketch.quantile(values, counts, 0.5) == pytest.approx(1.0, abs=0.2), "what is kept is a fair sample"
    assert seen.rows == 40_000


def test_a_thinned_sample_does_not_depend_on_the_order_of_rows(monkeypatch):
    monkeypatch.setattr(sketch, "_MOST", 500)
    monkeypatch.setattr(sketch, "_FEWEST", 100)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 5000, (8000, 1)).astype(np.float32))
    first, second = sketch.Sample([0]), sketch.Sample([0])
    for part in torch.split(x, 700):
        first.see(part)
    for part in torch.split(x.flip(0), 900):
        second.see(part)
    for mine, theirs in zip(first.values(0), second.values(0), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    shares = dict(zip(*np.unique(x.numpy(), return_counts=True), strict=True))
    values, counts = first.values(0)
    assert [shares[v] for v in values.astype(np.float32)] == counts.tolist(), "what is kept has all its rows"


def test_keys_of_different_rows_differ():
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (5000, 3)).astype(np.float32))
    assert len(np.unique(splits.row_keys(rows))) == len(np.unique(rows.numpy(), axis=0)) == 64
