"""Bad data are refused in one sentence that says where: file, column, row group, row and value."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raeflow.data import expand, inspect, load, to_tensor
from raeflow.data.rows import RowSpec
from raeflow.errors import RaeflowError
from raeflow.study import Data

ROWS = 300


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape or (ROWS,))


def lists(values):
    values = np.asarray(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@pytest.fixture
def rows(tmp_path):
    """Writes rows.parquet, row groups of 100."""

    def write(columns, name="rows.parquet", metadata=None):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=100)
        return path

    return write


def refused(call, *parts, exactly=None):
    """The sentence of a refusal: one line, holding all parts."""
    with pytest.raises(RaeflowError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert str(part) in sentence, sentence
    if exactly:
        assert re.search(exactly, sentence), sentence
    return sentence


def test_a_missing_column(rows):
    path = rows({"a": normal(), "b": normal()})
    refused(lambda: inspect(Data(path, columns=("a", "c"))), path, "no column named 'c'", "'a', 'b'")
    for field in ("label", "target", "split"):
        refused(lambda field=field: inspect(Data(path, columns="a", **{field: "c"})), path, "no column named 'c'")
    refused(lambda: load(Data(path, columns="a", normal=[("c", "==", 1)])), path, "normal", "c")
    refused(lambda: to_tensor(pa.table({"b": [1.0]}), RowSpec(("a",), "columns", (1,), "float32"), "here"), "here, no column named 'a'")


def test_a_column_of_another_type(rows):
    pairs = pa.array([{"low": 1, "high": 2}] * ROWS)
    path = rows({"a": normal(), "word": ["x"] * ROWS, "when": pa.array(range(ROWS), pa.timestamp("s")), "pair": pairs, "x": [[1.0]] * ROWS})
    for column, kind in (("pair", "struct"), ("x", "list")):
        refused(lambda column=column: inspect(Data(path, columns=("a", column))), path, f"{column!r} holds {kind}", "no column of a table")
    refused(lambda: inspect(Data(path, columns="pair")), path, "'pair'", "struct")
    floats = Data(path, columns=("a", "word"), roles={"a": "category"})  # whole numbers may come as floats, these are none
    refused(lambda: load(floats), path, "row group 0", "'a'", "row 0", "is no whole number")
    for column, role in (("word", "number"), ("word", "clock"), ("when", "category"), ("when", "long_tail")):
        asked = Data(path, columns=("a", "word", "when"), roles={column: role})
        refused(lambda asked=asked: inspect(asked), path, f"{{{column!r}: {role!r}}}", f"cannot be a {role}")
    refused(lambda: inspect(Data(path, columns="a", label="when")), path, "'when'", "timestamp", "label")
    refused(lambda: load(Data(path, columns="a", label="word", normal=[("word", ">", 3)])), path, "row group", "normal")
    refused(lambda: load(Data(path, columns="a", label="a")), path, "row group 0", "label", "not whole numbers")
    spec = RowSpec(("a",), "list", (3,), "float32")
    refused(lambda: to_tensor(pa.table({"a": [1.0]}), spec), "'a'", "double", "lists of 3 numbers")
    spec = RowSpec(("a",), "list", (2,), "uint8")
    refused(lambda: to_tensor(pa.table({"a": lists([[1.5, 2.0]])}), spec), "'a'", "whole numbers 0-255", "1.5")
    refused(lambda: to_tensor(pa.table({"a": lists([[1, 256]])}), spec), "'a'", "256")


def test_what_can_only_be_guessed_is_asked_for(rows):
    two = rows({"x": lists(normal(ROWS, 2)), "y": lists(normal(ROWS, 3))})
    refused(lambda: inspect(Data(two)), two, "'x', 'y'", "Data(columns=")
    assert inspect(Data(two, target="y")).columns == ("x",)
    leak = rows({"a": normal(), "b": normal(), "is_anomaly": np.arange(ROWS) % 2}, "leak.parquet")
    refused(lambda: inspect(Data(leak)), leak, "'is_anomaly'", "Data(label='is_anomaly')")
    assert inspect(Data(leak, label="is_anomaly")).columns == ("a", "b")
    words = rows({"word": ["x"] * ROWS}, "words.parquet")
    refused(lambda: load(Data(words)), "no row is left", "1 of them different")
    ids = rows({"word": [f"{i:x}" for i in range(ROWS)], "pair": pa.array([{"low": 1}] * ROWS)}, "ids.parquet")
    refused(lambda: inspect(Data(ids)), ids, "no column of numbers", "word: an id: 300 different values in 300 rows", "pair: struct<low")
    image = rows({"x": lists(normal(ROWS, 60))}, "image.parquet", {"shape": "5,4,3"})
    refused(lambda: inspect(Data(image)), image, "(5, 4, 3)", "Data(layout='HWC')")
    assert inspect(Data(image, layout="HWC")).shape == (3, 5, 4)
    assert inspect(Data(image, layout="CHW")).shape == (5, 4, 3)
    refused(lambda: inspect(Data(image, shape=(5, 4, 3), layout="HWC")), "(5, 4, 3)", "(3, 5, 4)")


def test_what_is_said_of_tables_is_refused_of_other_rows(rows):
    path = rows({"x": lists(normal(ROWS, 6))})
    refused(lambda: inspect(Data(path, scaling="asinh")), "Data(scaling='asinh')", "columns of a table", "(6,)")
    refused(lambda: inspect(Data(path, roles={"x": "category"})), "Data(roles={'x': 'category'})", "columns of a table")
    signal = rows({"a": normal(), "b": normal()}, "signal.parquet")
    refused(lambda: inspect(Data(signal, shape=(1, 2), scaling="asinh")), "Data(scaling='asinh')", "(1, 2)")
    refused(lambda: inspect(Data(signal, shape=(1, 2), roles={"a": "flag"})), "roles={'a': 'flag'}")
    words = rows({"a": normal(), "word": ["x", "y"] * (ROWS // 2)}, "words.parquet")
    refused(lambda: inspect(Data(words, shape=(1, 2))), "Data(shape=(1, 2))", "table of words")
    refused(lambda: inspect(Data(words, scaling="signal")), "Data(scaling='signal')", "no signal")


def test_a_shape_that_does_not_fit(rows):
    path = rows({"x": lists(normal(ROWS, 6)), "a": normal(), "b": normal()})
    refused(lambda: inspect(Data(path, columns="x", shape=(1, 7))), path, "(1, 7)", "7 values", "holds 6")
    refused(lambda: inspect(Data(path, columns=("a", "b"), shape=(3,))), "(3,)", "2 columns")
    table = pa.table({"x": lists(normal(4, 6))})
    refused(lambda: to_tensor(table, RowSpec(("x",), "list", (1, 4), "float32"), "here"), "here, column 'x', row 0", "6 values", "1x4 = 4")


def test_ragged_lists_are_placed(rows):
    ragged = [[1.0, 2.0, 3.0]] * 210 + [[1.0]] + [[1.0, 2.0, 3.0]] * 89
    path = rows({"x": ragged})
    refused(lambda: load(Data(path)), path, "row group 2", "'x'", "row 10", "ragged", "1 values")
    first = rows({"x": [[1.0, 2.0]] * 57 + [[5.0] * 4] + [[1.0, 2.0]] * 200}, "first.parquet")
    refused(lambda: load(Data(first, shape=(2,))), first, "row group 0", "row 57", "ragged", "4 values", "2 in")
    swap = rows({"x": [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]] * 100}, "swap.parquet")  # counts alone do not show it
    refused(lambda: load(Data(swap)), swap, "row group 0", "row 1", "ragged")
    groups = rows({"x": [[1.0, 2.0]] * 100 + [[1.0, 2.0, 3.0]] * 100}, "groups.parquet")
    refused(lambda: load(Data(groups)), groups, "row group 1", "row 0", "3 values")
    nested = rows({"x": [[[1.0, 2.0], [3.0, 4.0]]] * 30 + [[[1.0, 2.0], [3.0]]] + [[[1.0, 2.0], [3.0, 4.0]]] * 30}, "nested.parquet")
    refused(lambda: load(Data(nested)), nested, "row group 0", "row 30", "ragged")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["columns", "list"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_placed(rows, value, kind, dtype):
    values = normal(ROWS, 4).astype(dtype)
    values[150, 2] = value
    path = rows({"x": lists(values)} if kind == "list" else {f"c{i}": values[:, i] for i in range(4)})
    column = "'x'" if kind == "list" else "'c2'"
    if kind == "columns" and np.isnan(value):  # a gap is no mistake in a table
        assert dict(load(Data(path)).told()) == {f"c{i}": "number" + ", gaps marked" * (i == 2) for i in range(4)}
        return
    sentence = refused(lambda: load(Data(path)), path, "row group 1", column, "row 50", str(value), "not finite")
    assert kind == "columns" or "entry 2" in sentence


def test_numbers_beyond_float32_are_placed(rows):
    values = normal()
    values[120] = 1e300
    path = rows({"a": values, "b": normal()})
    refused(lambda: load(Data(path)), path, "row group 1", "'a'", "row 20", "1e+300", "float32")


def test_large_but_finite_numbers_are_no_fault(rows):
    values = np.full((ROWS, 3), 3e38) * np.linspace(0.5, 1, ROWS)[:, None]
    assert len(load(Data(rows({"x": lists(values.astype(np.float32))}), scaling="none")).train) > 100


def test_nulls_are_placed(rows):
    a = pa.array([None if i == 230 else float(i) for i in range(ROWS)])
    path = rows({"a": a, "b": normal(), "flag": pa.array([None if i == 5 else 0 for i in range(ROWS)], pa.int64())})
    gapped = load(Data(path, columns=("a", "b")))
    held = [gapped.train, gapped.validate, gapped.calibrate, gapped.test]
    assert sum(int(r.x[:, 0].isnan().sum()) for r in held) == 1, "a null in a table is a gap"
    refused(lambda: load(Data(path, columns="b", label="flag")), path, "row group 0", "'flag'", "row 5", "null")
    whole = rows({"x": pa.array([[1.0, 2.0], None] * 150, pa.list_(pa.float64(), 2))}, "whole.parquet")
    refused(lambda: load(Data(whole)), whole, "row group 0", "null")
    inner = rows({"x": pa.array([[1.0, 2.0]] * 99 + [[1.0, None]] * 2, pa.list_(pa.float64()))}, "inner.parquet")
    refused(lambda: load(Data(inner)), inner, "row group 0", "'x'", "row 99", "value 1 is null")


def test_a_fault_is_placed_where_small_row_groups_are_read_together(rows):
    values = normal(ROWS, 2)
    values[299, 0] = np.nan
    other = rows({"x": lists(normal(ROWS, 2))}, "a/one.parquet")
    path = rows({"x": lists(values)}, "a/two.parquet")
    refused(lambda: load(Data(other.parent)), path, "row group 2", "row 99")


def test_a_constant_column(rows):
    path = rows({"a": normal(), "b": np.full(ROWS, 3.5), "c": np.zeros(ROWS)})
    assert load(Data(path)).told() == [("a", "number"), ("b", "constant, watched"), ("c", "constant, watched")]
    test = rows({"a": normal(), "b": normal(), "c": normal()}, "test.parquet")
    refused(lambda: load(Data(path, test=test, columns=("b", "c"))), "no row is left for the", "1 of them different")
    parts = {"b": np.full(ROWS, 3.5), "c": np.zeros(ROWS), "part": np.array(["train", "val", "test"] * 100)}
    said = {"columns": ("b", "c"), "split": "part", "fractions": (0.6, 0.2, 0, 0.2)}
    refused(lambda: load(Data(rows(parts, "parts.parquet"), **said)), "'b' (3.5)", "'c' (0)", "constant", "train")
    refused(lambda: load(Data(path, columns="b")), "no row is left", "300 rows in all, 1 of them different", "equal rows together")
    x = normal(ROWS, 4)
    x[:, :2] = 7
    splits = load(Data(rows({"x": lists(x)}, "list.parquet")))  # pixels are often constant
    assert splits.encoding.scale[:2].tolist() == [1, 1]
    same = rows({"x": lists(np.tile(x[:1], (ROWS, 1))), "part": ["train", "val", "test"] * 100}, "same.parquet")
    refused(lambda: load(Data(same, columns="x", split="part", fractions=(0.6, 0.2, 0, 0.2))), "'x'", "the same in every row")


def test_a_column_constant_in_train_alone(rows):
    train = rows({"a": normal(), "b": np.ones(ROWS)}, "train.parquet")
    test = rows({"a": normal(), "b": normal()}, "test.parquet")
    splits = load(Data(train, test=test))
    assert dict(splits.told())["b"] == "constant, watched"
    strange = splits.encoding.strange(splits.test.x)
    assert not strange[:, 0].any()
    assert torch.equal(strange[:, 1], splits.test.x[:, 1] != 1), "what changes in test is seen"


def test_an_empty_split(rows):
    path = rows({"a": np.arange(3.0), "b": np.arange(3.0)})
    refused(lambda: load(Data(path)), path, "no row is left for the", "split", "3 rows")
    many = rows({"a": normal(), "b": normal(), "label": np.ones(ROWS, int)}, "many.parquet")
    refused(lambda: load(Data(many, label="label", normal=[("label", "==", 0)])), many, "no row is left for the train split", "label == 0")
    words = rows({"a": normal(), "part": ["test"] * ROWS}, "words.parquet")
    refused(lambda: load(Data(words, columns="a", split="part")), "'part'", "test", "no row of train")
    other = rows({"a": normal(), "part": ["train"] * 250 + ["holdback"] * 50}, "other.parquet")
    refused(lambda: load(Data(other, columns="a", split="part")), other, "row group 2", "'part'", "row 50", "'holdback'", "train, validate")
    none = rows({"a": np.empty(0), "b": np.empty(0)}, "none.parquet")
    refused(lambda: load(Data(none)), none, "no rows")
    refused(lambda: inspect(Data(path, fractions=(0.9, 0, 0, 0.1))), "validate")


def test_fewer_rows_than_a_batch(rows):
    from raeflow.data import count
    from raeflow.training import check_batch

    data = Data(rows({"a": normal(), "b": normal()}))
    assert count(data) == ROWS  # known before a row is read
    splits = load(data)
    refused(lambda: check_batch(splits.train, 256, 1), "batch_size=256", f"{len(splits.train)} rows")


def test_a_truncated_file(rows):
    path = rows({"a": normal(), "b": normal()})
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 3, 0):
        path.write_bytes(whole[:size])
        refused(lambda size=size: inspect(Data(path)), path, f"{size} bytes", "truncated")
    path.write_bytes(whole[:-60] + b"\xff" * 52 + whole[-8:])
    refused(lambda: inspect(Data(path)), path, "cannot be read as Parquet")
    path.write_bytes(b"a,b\n1,2\n" * 10)
    refused(lambda: inspect(Data(path)), path, "not a whole Parquet file")


def test_a_damaged_page_is_placed(rows):
    path = rows({"a": normal(), "b": normal()})
    column = pq.read_metadata(path).row_group(1).column(0)
    damaged = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    damaged[start : start + 30] = b"\xff" * 30
    path.write_bytes(damaged)
    refused(lambda: load(Data(path)), path, exactly=r"row groups? \d")


def test_two_files_with_different_schemas(rows):
    one = rows({"a": normal(), "b": normal()}, "set/1.parquet")
    two = rows({"a": normal(), "c": normal()}, "set/2.parquet")
    refused(lambda: inspect(Data(one.parent)), two, "no column named 'b'", one)
    rows({"a": normal(), "b": normal().astype(np.float32)}, "set/2.parquet")
    refused(lambda: inspect(Data(one.parent)), two, "'b'", "float", "double", one)
    rows({"a": normal(), "b": normal(), "extra": ["fine"] * ROWS}, "set/2.parquet")
    assert inspect(Data(one.parent)).columns == ("a", "b")
    wide = rows({"x": lists(normal(ROWS, 3))}, "wide/1.parquet")
    wider = rows({"x": lists(normal(ROWS, 4))}, "wide/2.parquet")
    refused(lambda: inspect(Data(wide.parent)), wider, "[4]", "[3]")
    words = rows({"a": normal(), "b": normal(), "kind": ["x"] * ROWS}, "label/1.parquet")
    codes = rows({"a": normal(), "b": normal(), "kind": np.arange(ROWS)}, "label/2.parquet")
    refused(lambda: inspect(Data(words.parent, columns=("a", "b"), label="kind")), codes, "'kind'", "int64", "string")


def test_unreadable_places(tmp_path, rows):
    refused(lambda: expand([str(tmp_path / "nothing.parquet")]), tmp_path / "nothing.parquet", "no such file")
    (tmp_path / "empty").mkdir()
    refused(lambda: expand([str(tmp_path / "empty")]), tmp_path / "empty", "no Parquet file")
    refused(lambda: expand([str(tmp_path / "empty" / "*.parquet")]), "*.parquet", "no file matches")
    refused(lambda: expand([str(tmp_path / "nowhere" / "*.parquet")]), "*.parquet", "no file matches")
    refused(lambda: expand(["foo://bucket/rows.parquet"]), "foo://bucket/rows.parquet", "cannot be read")
    refused(lambda: expand([f"file://{tmp_path}/nothing"]), f"file://{tmp_path}/nothing", "no such file")
    # Nothing listens there.
    uri = "s3://key:secret@bucket/rows.parquet?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    sentence = refused(lambda: expand([uri]), "bucket/rows.parquet", "cannot be read")
    assert "secret" not in sentence


def test_a_file_in_two_splits(rows):
    path = rows({"a": normal(), "b": normal()})
    refused(lambda: inspect(Data(path, test=path.parent)), path, "source", "test")


def png(height=4, width=4):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_that_are_none(rows):
    good = png()
    for name, bad in (("noise", b"no image at all"), ("cut", good[: len(good) // 2]), ("empty", b"")):
        path = rows({"image": [good] * 130 + [bad] + [good] * 20}, f"{name}.parquet")
        refused(lambda path=path: load(Data(path)), path, "row group 1", "'image'", "row 30", f"{len(bad)} bytes", "image")
    path = rows({"image": [b"?", *[good] * 9]}, "first.parquet")
    refused(lambda: inspect(Data(path)), path, "'image'", "row 0", "1 bytes")


def test_images_of_different_size(rows):
    path = rows({"image": [png()] * 120 + [png(5, 4)] + [png()] * 20})
    refused(lambda: load(Data(path)), path, "row group 1", "row 20", "5x4", "4x4", "Data(shape=(C, H, W))")
    refused(lambda: inspect(Data(path, shape=(2, 4, 4))), "(2, 4, 4)", "1, 3 or 4 channels")


def test_images_that_are_elsewhere(rows):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": png(), "path": "a.png"}] * 8 + [{"bytes": None, "path": "b.png"}] * 2
    path = rows({"image": pa.array(cells, kind)})
    refused(lambda: load(Data(path)), path, "row group 0", "row 8", "'b.png'", "embed")


@pytest.mark.parametrize(
    "rule",
    [[("a",)], [("a", "~", 3)], "a > 3", 7, [[("a", "==", 1), "b"]], [("a", "in", 3)]],
    ids=["short", "sign", "text", "number", "mixed", "in"],
)
def test_filters_that_are_none(rows, rule):
    path = rows({"a": normal(), "b": normal()})
    refused(lambda: inspect(Data(path, columns="b", normal=rule)), "Data(normal=")


def test_a_target_unlike_the_row(rows):
    path = rows({"x": lists(normal(ROWS, 3)), "y": normal(), "z": lists(normal(ROWS, 4))})
    refused(lambda: inspect(Data(path, columns="x", target="y")), "'y'", "double", "'x'")
    refused(lambda: load(Data(path, columns="x", target="z")), path, "'z'", "4 values")
