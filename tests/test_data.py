"""Parquet of every kind comes in as the right tensors, in the right splits, with the right truth and scaling."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raeflow.data import count, expand, inspect, load, to_tensor
from raeflow.data.rows import Rows, RowSpec
from raeflow.data.scaling import Scaling, fit_scaling
from raeflow.data.splits import assign, row_keys, shares, uniform
from raeflow.data.views import VIEWS, views
from raeflow.errors import RaeflowError
from raeflow.study import Data

DRAWN = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _same_draws():
    """Each test draws the same numbers, whichever tests ran before."""
    DRAWN.bit_generator.state = np.random.default_rng(7).bit_generator.state


def lists(values, kind="fixed"):
    """(N, D) values as a column of lists."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    cls, integer = (pa.ListArray, np.int32) if kind == "list" else (pa.LargeListArray, np.int64)
    return cls.from_arrays(np.arange(0, values.size + 1, values.shape[1], dtype=integer), flat)


def write(path, columns, metadata=None, group=100, **options):
    table = pa.table(columns).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group, **options)
    return path


def everything(splits):
    """All rows of all splits, sorted, so that two ways of dividing can be compared."""
    held = [splits.train, splits.validate if splits.labelled is None else splits.labelled, splits.calibrate, splits.test]
    x = np.concatenate([r.x.numpy().reshape(len(r), -1) for r in held if r is not None])
    return x[np.lexsort(x.T[::-1])]


def sort(values):
    return values[np.lexsort(values.T[::-1])]


# --- what a row is -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, np.int64, np.uint16, np.bool_, np.uint8])
def test_numeric_columns_become_a_table_whatever_their_type(tmp_path, dtype):
    values = DRAWN.integers(0, 2 if dtype is np.bool_ else 100, (500, 12)).astype(dtype)
    names = tuple(f"c{i:02d}" for i in range(12))
    path = write(tmp_path / "rows.parquet", {name: values[:, i] for i, name in enumerate(names)})
    splits = load(Data(path))
    assert splits.spec == RowSpec(names, "columns", (12,), "uint8" if dtype is np.uint8 else "float32", held=(12,))
    assert splits.train.x.dtype == (torch.uint8 if dtype is np.uint8 else torch.float32)
    np.testing.assert_array_equal(everything(splits), sort(values.astype(np.float32)))


def test_columns_of_mixed_types_decimals_and_dictionaries_make_one_row(tmp_path):
    a, b, c = DRAWN.integers(0, 9, 300), DRAWN.standard_normal(300), DRAWN.integers(0, 5, 300).astype(np.int32)
    columns = {"a": a, "b": pa.array(b), "c": pa.array(c).dictionary_encode(), "d": pa.array(a).cast(pa.decimal128(21, 2))}
    splits = load(Data(write(tmp_path / "rows.parquet", columns), columns=("d", "b", "c", "a")))
    expected = np.stack([a, b, c, a], 1).astype(np.float32)
    np.testing.assert_array_equal(everything(splits), sort(expected))


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int16])
def test_a_list_column_is_a_row_of_its_length(tmp_path, kind, dtype):
    values = DRAWN.integers(0, 200, (400, 6)).astype(dtype)
    splits = load(Data(write(tmp_path / "rows.parquet", {"x": lists(values, kind), "when": DRAWN.standard_normal(400)})))
    assert (splits.spec.kind, splits.spec.columns, splits.spec.shape) == ("list", ("x",), (6,))
    assert splits.spec.dtype == ("uint8" if dtype is np.uint8 else "float32")
    np.testing.assert_array_equal(everything(splits), sort(values.astype(np.float32)))


def test_nested_lists_keep_their_shape(tmp_path):
    values = DRAWN.standard_normal((60, 2, 5)).astype(np.float32)
    path = write(tmp_path / "rows.parquet", {"x": pa.array(values.tolist(), pa.list_(pa.list_(pa.float32())))})
    splits = load(Data(path))
    assert splits.spec.shape == (2, 5)
    np.testing.assert_array_equal(everything(splits), sort(values.reshape(60, 10)))


def pictures(n=50, height=4, width=5, channels=3):
    return DRAWN.integers(0, 256, (n, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("how", ["metadata", "data", "field", "channels first"])
def test_images_in_lists_come_out_channels_first(tmp_path, how):
    images = pictures()
    first = images.transpose(0, 3, 1, 2)
    stored = lists((first if how == "channels first" else images).reshape(len(images), -1))
    metadata, data = None, {}
    field = pa.field("x", stored.type)
    if how == "metadata":
        metadata = {"shape": "4,5,3", "layout": "HWC row-major uint8"}
    elif how == "field":
        field = field.with_metadata({"shape": "(4, 5, 3)", "layout": "HWC"})
    elif how == "data":
        data = {"shape": (3, 4, 5), "layout": "HWC"}
    else:
        metadata = {"shape": "3,4,5", "layout": "CHW"}
    table = pa.Table.from_arrays([stored], schema=pa.schema([field], metadata))
    pq.write_table(table, tmp_path / "rows.parquet")
    splits = load(Data(tmp_path / "rows.parquet", **data))
    assert splits.spec.shape == (3, 4, 5)
    np.testing.assert_array_equal(everything(splits), sort(first.reshape(len(first), -1)))
    np.testing.assert_array_equal(to_tensor(table, splits.spec).numpy(), first)


def test_one_channel_images_and_signals_are_never_copied_about(tmp_path):
    values = DRAWN.integers(0, 256, (40, 12), dtype=np.uint8)
    path = write(tmp_path / "rows.parquet", {"x": lists(values)}, {"shape": "3,4,1", "layout": "HWC"})
    spec = inspect(Data(path))
    assert spec.shape == (1, 3, 4)
    table = pq.read_table(path)
    tensor = to_tensor(table, spec)
    assert tensor.data_ptr() == table["x"].chunk(0).flatten().buffers()[1].address
    assert inspect(Data(path, shape=(1, 12), layout="CHW")).shape == (1, 12)


@pytest.mark.parametrize(
    ("shape", "names", "permutation", "axes"),
    [
        ([3, 4, 5], None, None, (0, 1, 2)),
        ([4, 5, 3], ["H", "W", "C"], None, (2, 0, 1)),
        ([4, 5, 3], ["height", "width", "channels"], None, (2, 0, 1)),
        ([4, 3, 5], None, [1, 0, 2], (1, 0, 2)),
    ],
)
def test_a_tensor_column_says_its_own_shape(tmp_path, shape, names, permutation, axes):
    kind = pa.fixed_shape_tensor(pa.float32(), shape, dim_names=names, permutation=permutation)
    values = DRAWN.standard_normal((30, *shape)).astype(np.float32)
    column = pa.ExtensionArray.from_storage(kind, lists(values.reshape(30, -1)))
    path = write(tmp_path / "rows.parquet", {"x": column})
    splits = load(Data(path))
    expected = values.transpose(0, *(1 + a for a in axes))
    assert splits.spec.shape == (3, 4, 5)
    np.testing.assert_array_equal(to_tensor(pq.read_table(path), splits.spec).numpy(), expected)
    np.testing.assert_array_equal(to_tensor(pq.read_table(path).slice(7, 9), splits.spec).numpy(), expected[7:16])


def encoded(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("hub", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_images_are_decoded(tmp_path, hub, channels):
    images = pictures(80, 6, 7, channels)
    cells = [encoded(image) for image in images]
    column = pa.array([{"bytes": c, "path": None} for c in cells], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    path = write(tmp_path / "rows.parquet", {"image": column if hub else pa.array(cells), "label": np.arange(80) % 2})
    splits = load(Data(path, label="label"))
    assert splits.spec == RowSpec(("image",), "image", (channels, 6, 7), "uint8")
    np.testing.assert_array_equal(everything(splits), sort(images.transpose(0, 3, 1, 2).reshape(80, -1)))


def test_images_of_any_size_and_mode_are_made_one_shape_where_it_is_asked_for(tmp_path):
    cells = [encoded(DRAWN.integers(0, 256, (5 + i, 9, 3), dtype=np.uint8)) for i in range(20)]
    cells += [encoded(DRAWN.integers(0, 256, (8, 8, 1), dtype=np.uint8)) for _ in range(20)]
    splits = load(Data(write(tmp_path / "rows.parquet", {"image": cells}), shape=(3, 8, 8)))
    assert splits.spec.resize
    assert splits.train.shape == (3, 8, 8)
    assert len(everything(splits)) == 40
    same = to_tensor(pa.table({"image": [cells[-1]]}), splits.spec)[0]
    assert torch.equal(same[0], same[1])  # grey stays grey


def test_sixteen_bit_images_keep_their_depth(tmp_path):
    deep = DRAWN.integers(0, 65536, (30, 4, 4)).astype(np.uint16)
    splits = load(Data(write(tmp_path / "rows.parquet", {"image": [encoded(d) for d in deep]})))
    assert splits.spec.dtype == "float32"
    np.testing.assert_array_equal(everything(splits), sort(deep.reshape(30, 16).astype(np.float32)))


# --- label, target, filters, truth -------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    values = DRAWN.standard_normal((600, 4)).astype(np.float32)
    kind = np.repeat(np.array(["good", "worn", "broken"]), 200)[DRAWN.permutation(600)]
    for i in range(3):  # no file holds every word: the second has one only
        part = slice(200 * i, 200 * (i + 1))
        words = np.full(200, "worn") if i == 1 else kind[part]
        write(tmp_path / f"part{i}.parquet", {"x": lists(values[part]), "kind": words, "y": lists(values[part] * 2)})
        kind[part] = words
    return tmp_path, values, kind


@pytest.mark.parametrize(
    "normal",
    [
        [("kind", "==", "good")],
        ("kind", "==", "good"),
        [[("kind", "in", ["good"])], [("kind", "==", "excellent")]],
        pc.field("kind") == "good",
    ],
)
def test_normal_rows_alone_are_trained_on_and_truth_is_what_is_not_normal(labelled, normal):
    folder, values, kind = labelled
    splits = load(Data(folder, columns="x", label="kind", normal=normal))
    classes = ["broken", "good", "worn"]
    assert set(splits.train.label.tolist()) == set(splits.validate.label.tolist()) == set(splits.calibrate.label.tolist()) == {1}
    assert len(splits.test) > splits.test.anomaly.sum() > 0
    for rows in (splits.test, splits.labelled):
        truth = {v.tobytes(): k for v, k in zip(values, kind, strict=True)}
        words = np.array([truth[x.tobytes()] for x in rows.x.numpy()])
        assert [classes[i] for i in rows.label] == words.tolist()
        np.testing.assert_array_equal(rows.anomaly.numpy(), words != "good")
    total = (kind == "good").sum()
    assert len(splits.train) + len(splits.validate) + len(splits.calibrate) + int((~splits.test.anomaly).sum()) == total


def test_validation_rows_are_a_slice_of_the_labelled_ones(labelled):
    splits = load(Data(labelled[0], columns="x", label="kind", normal=[("kind", "==", "good")]))
    assert len(splits.validate) < len(splits.labelled)
    assert splits.validate.x.data_ptr() == splits.labelled.x.data_ptr()
    assert not splits.validate.anomaly.any()
    assert splits.labelled.anomaly[len(splits.validate) :].all()


def test_the_target_goes_with_its_row(labelled):
    splits = load(Data(labelled[0], columns="x", label="kind", target="y", anomaly=[("kind", "!=", "good")]))
    for rows in (splits.train, splits.validate, splits.calibrate, splits.test):
        assert torch.equal(rows.target, rows.x * 2)
    batch = next(splits.train.batches(16, seed=1))
    assert torch.equal(batch.target, batch.x * 2)


@pytest.mark.parametrize(
    ("fields", "truth"),
    [
        ({}, None),
        ({"label": "flag"}, None),  # classes: which of them are anomalies is not known
        ({"label": "word"}, None),
        ({"label": "bad"}, lambda flag, size: flag == 0),
        ({"label": "flag", "normal": [("flag", "!=", 2)]}, lambda flag, size: flag == 2),
        ({"normal": [("size", "<", 5)]}, lambda flag, size: size >= 5),
        ({"label": "flag", "anomaly": [("size", ">", 8), ("flag", "==", 1)]}, lambda flag, size: (size > 8) & (flag == 1)),
    ],
)
def test_truth_comes_from_anomaly_else_normal_else_label(tmp_path, fields, truth):
    flag, size, key = DRAWN.integers(0, 3, 500), DRAWN.uniform(0, 10, 500), np.arange(500.0)
    columns = {"a": key, "b": DRAWN.standard_normal(500), "flag": flag, "size": size}
    columns |= {"bad": flag == 0, "word": np.array(["x", "y", "z"])[flag]}
    splits = load(Data(write(tmp_path / "rows.parquet", columns), columns=("a", "b"), **fields))
    assert (splits.labelled is None) == (truth is None)
    if truth is None:
        assert splits.test.anomaly is None
    else:
        at = splits.test.x[:, 0].long().numpy()
        np.testing.assert_array_equal(splits.test.anomaly.numpy(), truth(flag[at], size[at]))


def test_filters_and_labels_are_never_taken_for_features(tmp_path):
    columns = {"a": DRAWN.standard_normal(300), "b": DRAWN.standard_normal(300), "kind": DRAWN.integers(0, 2, 300), "unit": np.arange(300)}
    path = write(tmp_path / "rows.parquet", columns)
    assert inspect(Data(path, label="kind", normal=pc.field("unit") > 5)).columns == ("a", "b")
    assert inspect(Data(path, label="kind", normal=[("unit", ">", 5)])).columns == ("a", "b")
    assert inspect(Data(path)).columns == ("a", "b", "kind")
    assert dict(load(Data(path)).left_out) == {"unit": "a counter of rows: all of 300 values differ"}
    assert inspect(Data(path, columns=("a", "b", "kind", "unit"))).columns == ("a", "b", "kind", "unit")


def test_training_files_may_lack_the_label(tmp_path):
    a, b = DRAWN.standard_normal((300, 2)), DRAWN.standard_normal((100, 2))
    train = write(tmp_path / "train.parquet", {"x": lists(a)})
    test = write(tmp_path / "test.parquet", {"x": lists(b), "bad": np.arange(100) < 9})
    splits = load(Data(train, test=test, label="bad"))
    assert splits.train.label is None
    assert splits.labelled is None
    assert int(splits.test.anomaly.sum()) == 9


# --- splits ------------------------------------------------------------------------------------------------------------------


def homes(splits):
    """Which split each row fell into, by its bytes."""
    named = (("train", splits.train), ("validate", splits.validate), ("calibrate", splits.calibrate), ("test", splits.test))
    return {x.tobytes(): name for name, rows in named for x in rows.x.numpy()}


def test_a_row_falls_in_the_same_split_in_whatever_order_file_or_type_it_comes(tmp_path):
    values = DRAWN.integers(-50, 50, (1000, 3)).astype(np.float32)
    one = homes(load(Data(write(tmp_path / "one.parquet", {"x": lists(values)}))))
    shuffled = values[DRAWN.permutation(1000)]
    for i, part in enumerate(np.array_split(shuffled, 7)):
        write(tmp_path / "many" / f"{i}.parquet", {"x": lists(part, "list")}, group=13)
    assert homes(load(Data(tmp_path / "many"))) == one
    columns = {f"c{i}": shuffled[:, i].astype(np.int16) for i in range(3)}
    assert homes(load(Data(write(tmp_path / "columns.parquet", columns, group=77)))) == one


def test_the_hash_is_pinned():
    # A change of these numbers would move rows of every study made so far to other splits.
    floats = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    assert [f"{k:016x}" for k in row_keys(floats)] == ["dfe98e309b4b1737", "f8a3229d8b58f0fb", "a32eb0a83ab48d5c"]
    pixels = torch.arange(15, dtype=torch.uint8).reshape(3, 5)
    assert [f"{k:016x}" for k in row_keys(pixels)] == ["e3c6aca526298207", "5eda16cb414211f6", "179daa7f23ed0aa5"]


def test_zero_has_one_key_and_other_rows_have_others():
    zeros = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]])
    keys = row_keys(zeros)
    assert keys[0] == keys[1] != keys[2]
    # Signs alone: a weak multilinear hash loses them in the top bits.
    signs = torch.tensor(DRAWN.choice([-1.0, 1.0], (4000, 24)), dtype=torch.float32)
    different = len(np.unique(signs.numpy(), axis=0))
    assert len(np.unique(row_keys(signs))) == different


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 784, 100_003])
def test_keys_depend_on_every_value_and_not_on_the_neighbours(width):
    rows = torch.from_numpy(DRAWN.integers(0, 256, (6, width), dtype=np.uint8))
    rows = torch.unique(rows, dim=0)
    keys = row_keys(rows)
    assert len(np.unique(keys)) == len(rows)
    np.testing.assert_array_equal(np.concatenate([row_keys(r[None]) for r in rows]), keys)
    changed = rows.clone()
    changed[0, -1] ^= 1
    assert row_keys(changed)[0] != keys[0]


def test_shares_are_as_asked():
    rows = torch.arange(200_000, dtype=torch.float32)[:, None]
    codes, ends = shares((0.6, 0.1, 0.1, 0.2), [])
    found = np.bincount(assign(row_keys(rows), codes, ends), minlength=4) / len(rows)
    np.testing.assert_allclose(found, (0.6, 0.1, 0.1, 0.2), atol=0.004)
    low, high = np.quantile(uniform(row_keys(rows)), [0.01, 0.99])
    assert abs(low - 0.01) < 0.002
    assert abs(high - 0.99) < 0.002


def test_what_a_split_column_does_not_name_is_hashed_from_train(tmp_path):
    words = np.array(["train", "test"])[(np.arange(2000) % 4 == 0).astype(int)]
    path = write(tmp_path / "rows.parquet", {"a": np.arange(2000.0), "b": DRAWN.standard_normal(2000), "part": words})
    splits = load(Data(path, columns=("a", "b"), split="part"))
    assert sorted(splits.test.x[:, 0].tolist()) == list(range(0, 2000, 4))
    for rows, share in ((splits.train, 0.75), (splits.validate, 0.125), (splits.calibrate, 0.125)):
        assert abs(len(rows) / 1500 - share) < 0.04


def test_a_split_column_may_use_the_usual_words(tmp_path):
    words = np.array(["Training", "val", "cal", "TEST", "train"])[np.arange(500) % 5]
    path = write(tmp_path / "rows.parquet", {"a": np.arange(500.0), "b": DRAWN.standard_normal(500), "part": words})
    splits = load(Data(path, split="part"))
    assert [len(r) for r in (splits.train, splits.validate, splits.calibrate, splits.test)] == [200, 100, 100, 100]
    hashed = load(Data(path, split="hash", columns=("a", "b")))
    assert len(hashed.test) < 150


def test_separate_files_are_splits(tmp_path):
    parts = {name: DRAWN.standard_normal((n, 3)) for name, n in (("train", 300), ("validate", 40), ("test", 50))}
    paths = {name: write(tmp_path / f"{name}.parquet", {"x": lists(values)}) for name, values in parts.items()}
    splits = load(Data(paths["train"], validate=paths["validate"], test=paths["test"]))
    np.testing.assert_array_equal(splits.validate.x, parts["validate"].astype(np.float32))
    np.testing.assert_array_equal(splits.test.x, parts["test"].astype(np.float32))
    assert len(splits.train) + len(splits.calibrate) == 300
    assert 20 < len(splits.calibrate) < 70  # 0.1 of 0.6 + 0.1


def test_a_split_without_a_share_is_none(tmp_path):
    path = write(tmp_path / "rows.parquet", {"x": lists(DRAWN.standard_normal((300, 3)))})
    splits = load(Data(path, fractions=(0.8, 0.2, 0, 0)))
    assert splits.calibrate is None
    assert splits.test is None
    assert len(splits.train) + len(splits.validate) == 300


# --- files -------------------------------------------------------------------------------------------------------------------


def test_paths_folders_globs_and_uris_name_the_same_files(tmp_path):
    values = DRAWN.standard_normal((30, 2))
    for name in ("a/1.parquet", "a/2.parquet", "a/deep/3.parquet", "a/_temporary/4.parquet", "a/.hidden.parquet"):
        write(tmp_path / name, {"x": lists(values)})
    (tmp_path / "a" / "README.md").write_text("not Parquet")

    def found(*sources):
        return [p.path.removeprefix(f"{tmp_path}/a/") for p in expand([str(s) for s in sources])]

    assert found(tmp_path / "a") == ["1.parquet", "2.parquet", "deep/3.parquet"]
    assert found(f"file://{tmp_path}/a") == found(tmp_path / "a")
    assert found(tmp_path / "a" / "*") == ["1.parquet", "2.parquet", "deep/3.parquet"]
    assert found(tmp_path / "a" / "*.parquet") == found(f"file://{tmp_path}/a/*.parquet") == ["1.parquet", "2.parquet"]
    assert found(tmp_path / "a" / "**" / "*.parquet") == ["1.parquet", "2.parquet", "deep/3.parquet"]
    assert found(tmp_path / "a" / "[2-9].parquet", tmp_path / "a" / "?.parquet") == ["2.parquet", "1.parquet"]
    assert found(tmp_path / "a" / "[!1].parquet") == ["2.parquet"]
    assert count(Data([tmp_path / "a" / "1.parquet", tmp_path / "a" / "deep"])) == 60


def test_a_relative_path_is_found_from_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "rows.parquet", {"x": lists(DRAWN.standard_normal((30, 2)))})
    monkeypatch.chdir(tmp_path)
    (piece,) = expand(["rows.parquet"])
    monkeypatch.chdir("/")
    assert expand([piece.uri])[0].path == piece.path


def test_the_fingerprint_knows_content_and_rule_but_not_place(tmp_path):
    values = DRAWN.standard_normal((300, 3))
    one = write(tmp_path / "one.parquet", {"x": lists(values)})
    two = write(tmp_path / "elsewhere" / "two.parquet", {"x": lists(values)})
    other = write(tmp_path / "other.parquet", {"x": lists(values + 1)})
    first = load(Data(one)).fingerprint
    assert first == load(Data(two)).fingerprint
    assert len({first, load(Data(other)).fingerprint, load(Data(one, fractions=(0.5, 0.2, 0.1, 0.2))).fingerprint}) == 3


def test_only_the_columns_that_matter_are_read(tmp_path):
    path = write(tmp_path / "rows.parquet", {"x": lists(DRAWN.standard_normal((300, 3))), "junk": ["?"] * 300})
    whole = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(1)
    assert column.path_in_schema == "junk"
    whole[column.dictionary_page_offset : column.dictionary_page_offset + 8] = b"\xff" * 8
    path.write_bytes(whole)
    with pytest.raises(OSError, match=r"deserialize|Invalid|header"):
        pq.read_table(path)
    assert len(everything(load(Data(path, columns="x")))) == 300


# --- tensors, batches, memory ------------------------------------------------------------------------------------------------


def test_to_tensor_takes_slices_chunks_batches_and_no_rows():
    values = DRAWN.standard_normal((50, 4)).astype(np.float32)
    spec = RowSpec(("x",), "list", (4,), "float32")
    table = pa.table({"x": lists(values)})
    for one, expected in (
        (table, values),
        (table.slice(11, 20), values[11:31]),
        (pa.concat_tables([table.slice(40), table.slice(0, 3)]), np.concatenate([values[40:], values[:3]])),
        (table.to_batches()[0].slice(5), values[5:]),
        (table.slice(0, 0), values[:0]),
    ):
        np.testing.assert_array_equal(to_tensor(one, spec).numpy(), expected)
    columns = pa.table({f"c{i}": values[:, i] for i in range(4)})
    spec = RowSpec(tuple(f"c{i}" for i in range(4)), "columns", (4,), "float32")
    for one in (columns, pa.concat_tables([columns.slice(0, 7), columns.slice(7)])):
        np.testing.assert_array_equal(to_tensor(one.slice(3), spec).numpy(), values[3:])


def test_pixels_stored_wider_still_fit_a_detector_of_bytes():
    spec = RowSpec(("x",), "list", (4,), "uint8")
    values = DRAWN.integers(0, 256, (20, 4))
    assert to_tensor(pa.table({"x": lists(values)}), spec).dtype == torch.uint8
    np.testing.assert_array_equal(to_tensor(pa.table({"x": lists(values.astype(np.float64))}), spec).numpy(), values)


def test_splits_travel_without_a_second_copy(labelled):
    splits = load(Data(labelled[0], columns="x", label="kind", target="y", normal=[("kind", "==", "good")]))
    buffers = []
    sent = pickle.dumps(splits, protocol=5, buffer_callback=buffers.append)
    assert len(sent) < 20_000
    back = pickle.loads(sent, buffers=[bytes(b) for b in buffers])
    assert back.validate.x.data_ptr() == back.labelled.x.data_ptr()
    assert back.spec == splits.spec
    for name in ("train", "validate", "calibrate", "test", "labelled"):
        for field in ("x", "target", "label"):
            assert torch.equal(getattr(getattr(back, name), field), getattr(getattr(splits, name), field))
    held = sum(r.x.nbytes + r.target.nbytes + r.label.nbytes for r in (splits.train, splits.labelled, splits.calibrate, splits.test))
    assert sum(b.raw().nbytes for b in buffers) < held * 1.1


def test_batches_of_workers_are_parts_of_one_batch():
    rows = Rows(torch.arange(103)[:, None].float())
    whole = [b.x for b in rows.batches(20, seed=3, epoch=5, drop_last=True)]
    parts = [[b.x for b in rows.batches(20, seed=3, epoch=5, rank=r, world=4)] for r in range(4)]
    assert [len(p) for p in parts] == [5] * 4
    for step, batch in enumerate(whole):
        assert torch.equal(batch, torch.cat([p[step] for p in parts]))
    assert sum(len(b.x) for b in rows.batches(20, seed=3)) == 103
    assert not torch.equal(whole[0], next(rows.batches(20, seed=3, epoch=6)).x)


# --- scaling -----------------------------------------------------------------------------------------------------------------


def chunks(values, size=37):
    tensor = torch.from_numpy(values)
    return (tensor[i : i + size] for i in range(0, len(tensor), size))


def test_standard_scaling_has_numpys_moments_far_from_zero_too():
    values = (DRAWN.standard_normal((4000, 5)) * [1e-3, 1, 10, 1e4, 1] + [1, 1e3, 0, -1e5, 7]).astype(np.float32)
    values[:, 4] = 7
    scaling = fit_scaling("auto", (5,), torch.float32, chunks(values))
    wide = values.astype(np.float64)
    assert scaling.mode == "standard"
    np.testing.assert_allclose(scaling.shift, wide.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scaling.scale[:4], wide.std(0)[:4], rtol=1e-5)
    assert scaling.scale[4] == 1  # nothing to divide by
    scaled = scaling(torch.from_numpy(values))
    np.testing.assert_allclose(scaled[:, 1:3].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled[:, :4].std(0, correction=0), 1, rtol=1e-3)


def test_small_units_are_scaled_like_large_ones():
    values = (DRAWN.standard_normal((500, 2)) * 1e-12).astype(np.float32)
    scaling = fit_scaling("standard", (2,), torch.float32, chunks(values))
    np.testing.assert_allclose(scaling(torch.from_numpy(values)).std(0, correction=0), 1, rtol=1e-4)


def test_global_scaling_has_one_mean_and_std_for_all():
    values = (DRAWN.standard_normal((300, 2, 40)) * 3 + 5).astype(np.float32)
    scaling = fit_scaling("auto", (2, 40), torch.float32, chunks(values))
    assert scaling.mode == "global"
    assert scaling.shift.shape == scaling.scale.shape == (1, 1)
    np.testing.assert_allclose([scaling.shift.item(), scaling.scale.item()], [values.mean(), values.std()], rtol=1e-5)


def test_signal_scaling_gives_each_channel_of_each_signal_its_own():
    spreads, levels = DRAWN.uniform(0.1, 100, (20, 2, 1)), DRAWN.uniform(-9, 9, (20, 2, 1))
    values = (DRAWN.standard_normal((20, 2, 60)) * spreads + levels).astype(np.float32)
    values[4, 0] = values[4, 0] * np.float32(1e-12)  # volts, say
    values[3, 1] = 0.1  # flat
    scaling = fit_scaling("signal", (2, 60), torch.float32, chunks(values))
    scaled = scaling(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(scaled.mean(-1), 0, atol=2e-2)
    spread = scaled.std(-1)
    assert spread[3, 1] < 0.1
    spread[3, 1] = 1
    np.testing.assert_allclose(spread, 1, rtol=2e-2)


@pytest.mark.parametrize(
    ("values", "shift", "scale"),
    [
        (np.array([0, 3, 255], np.uint8), 0, 255),
        (np.array([0, 3, 16], np.uint8), 0, 16),
        (np.array([0, 0, 1], np.uint8), 0, 1),
        (np.array([0.1, 0.9, 0.5], np.float32), 0, 1),
        (np.array([0, 201.5, 3], np.float32), 0, 255),
        (np.array([-2, 6, 0], np.float32), -2, 8),
    ],
)
def test_images_are_scaled_to_unit_range_by_the_scale_they_are_on(values, shift, scale):
    rows = np.resize(values, (6, 1, 2, 3))
    scaling = fit_scaling("auto", (1, 2, 3), torch.from_numpy(rows).dtype, chunks(rows, 2))
    assert scaling.mode == "unit"
    assert (scaling.shift.item(), scaling.scale.item()) == (shift, scale)
    scaled = scaling(torch.from_numpy(rows))
    assert scaled.dtype == torch.float32
    assert 0 <= scaled.min() <= scaled.max() <= 1


def test_unit_scaling_of_a_table_is_by_feature():
    values = np.array([[0, -10], [2, 30], [4, 10]], np.float32)
    scaling = fit_scaling("unit", (2,), torch.float32, chunks(values))
    np.testing.assert_allclose(scaling(torch.from_numpy(values)), [[0, 0], [0.5, 1], [1, 0.5]])


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("standard", (6,)), ("unit", (6,)), ("signal", (2, 3)), ("global", (2, 3)), ("unit", (1, 2, 3)), ("none", (6,))],
)
def test_inverse_undoes_scaling(mode, shape):
    values = (DRAWN.standard_normal((50, *shape)) * 20 + 3).astype(np.float32)
    rows = torch.from_numpy(values)
    scaling = fit_scaling(mode, shape, torch.float32, chunks(values))
    torch.testing.assert_close(scaling.inverse(scaling(rows), rows), rows, rtol=1e-4, atol=1e-4)
    again = Scaling(mode, shape)
    again.load_state_dict(scaling.state_dict())
    torch.testing.assert_close(again(rows), scaling(rows))


def test_scaling_sees_train_alone(tmp_path):
    values = DRAWN.standard_normal((200, 2)).astype(np.float32)
    train = write(tmp_path / "train.parquet", {"x": lists(values)})
    far = write(tmp_path / "far.parquet", {"x": lists(values + 1000)})
    for name in ("far2", "far3"):
        write(tmp_path / f"{name}.parquet", {"x": lists(values + 1000)})
    splits = load(Data(train, validate=far, calibrate=tmp_path / "far2.parquet", test=tmp_path / "far3.parquet"))
    np.testing.assert_allclose(splits.encoding.shift, values.mean(0), atol=1e-5)
    np.testing.assert_allclose(splits.encoding.scale, values.std(0), rtol=1e-5)


# --- real files --------------------------------------------------------------------------------------------------------------


def test_mnist_as_it_lies(real_data):
    splits = load(Data(real_data / "mnist", label="label", split="split", normal=[("label", "!=", 3)]))
    assert splits.spec == RowSpec(("image",), "list", (1, 28, 28), "uint8", "HWC")
    assert len(splits.test) == 10_000
    assert int(splits.test.anomaly.sum()) == 1010
    assert len(splits.train) + len(splits.labelled) + len(splits.calibrate) > 53_000
    table = pq.read_table(real_data / "mnist" / "mnist_test.parquet", columns=["image", "label"])
    np.testing.assert_array_equal(splits.test.x.numpy().reshape(10_000, -1), np.stack(table["image"].to_numpy()))
    np.testing.assert_array_equal(splits.test.label.numpy(), table["label"].to_numpy())


def test_one_class_alone_is_normal_and_the_others_are_anomalies(labelled):
    splits = load(Data(labelled[0], columns="x", label="kind"))
    one = splits.of_class(2)
    assert set(one.train.label.tolist()) == set(one.validate.label.tolist()) == {2}
    assert len(one.train) == int((splits.train.label == 2).sum())
    assert torch.equal(one.test.x, splits.test.x)
    assert torch.equal(one.test.anomaly, splits.test.label != 2)
    assert one.encoding is splits.encoding
    assert one.fingerprint != splits.of_class(1).fingerprint
    with pytest.raises(RaeflowError, match="class 77"):
        splits.of_class(77)
    with pytest.raises(RaeflowError, match=r"Data\(label"):
        replace(splits, train=Rows(splits.train.x)).of_class(2)


def test_the_eight_views_are_those_of_a_square():
    rows = torch.rand(3, 2, 5, 5)
    seen = views(rows).view(VIEWS, *rows.shape)
    assert torch.equal(seen[0], rows)
    assert len({view.numpy().tobytes() for view in seen}) == VIEWS
    again = views(seen[5]).view(VIEWS, *rows.shape)
    assert {view.numpy().tobytes() for view in again} == {view.numpy().tobytes() for view in seen}
