"""Bad rows: told from sound ones, flagged or refused when they are scored, refused or skipped when a study reads them."""

import io
import time

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raeflow import Data, RaeflowError, Study, cli, pipeline
from raeflow.data import inspect, load, plan
from raeflow.data.faults import sift
from raeflow.data.rows import RowSpec
from raeflow.data.stream import StreamedRows
from raeflow.scoring import planning, score
from tests.test_scoring import F, make_detector, table, write

NAN, INF = float("nan"), float("inf")
GOOD = [1.0, 2.0, 3.0, 4.0]
LISTS = RowSpec(("x",), "list", (4,), "float32")


def png(size=8, seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def problems(cells, spec=LISTS, kind=None):
    """Problems by row, after a check that all other rows come out as they are read without the bad ones."""
    told = sift(pa.table({"x": pa.array(cells, kind)}), spec, "here")
    sound = [i for i in range(len(cells)) if i not in told.problems]
    alone = sift(pa.table({"x": pa.array([cells[i] for i in sound], kind)}), spec, "here")
    assert alone.good is None
    assert told.rows.equal(alone.rows)
    assert told.good is None if not told.problems else told.good.tolist() == sound
    return told.problems


# --- telling them apart ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float32())])
def test_every_fault_of_a_list_is_named_with_its_row_and_value(kind):
    cells = [
        GOOD,
        None,
        [1.0, 2.0, NAN, 4.0],
        GOOD,
        [1.0, None, 3.0, 4.0],
        [],
        [1.0] * 5,
        [-INF, 0.0, NAN, None],
        GOOD,
        [INF, 0.0, 0.0, 0.0],
    ]
    assert problems(cells, kind=kind) == {
        1: "column 'x': the value is null",
        2: "column 'x': value 2 is nan",
        4: "column 'x': value 1 is null",
        5: "column 'x': ragged lists: 0 values here, 4 in a sound row",
        6: "column 'x': ragged lists: 5 values here, 4 in a sound row",
        7: "column 'x': value 3 is null",
        9: "column 'x': value 0 is inf",
    }


def test_a_first_row_of_another_length_is_the_bad_one():
    assert list(problems([[1.0], *[GOOD] * 5])) == [0]
    assert list(problems([[1.0, 2.0]] * 3)) == [0, 1, 2], "all lists of one wrong length"


def test_signals_name_channel_and_sample():
    spec = RowSpec(("x",), "list", (2, 2), "float32")
    assert problems([GOOD, [1.0, 2.0, 3.0, NAN]], spec) == {1: "column 'x': value (1, 1) is nan"}


def test_nested_lists():
    cells = [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], None], [[1.0, 2.0], [3.0]], [[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]]
    told = problems(cells)
    assert told[1] == "column 'x': an inner list is null"
    assert list(told) == [1, 2, 3] and all("ragged" in told[row] for row in (2, 3))
    fixed = pa.list_(pa.list_(pa.float32(), 2))
    assert problems(cells[:2], kind=fixed) == {1: "column 'x': an inner list is null"}


def test_fixed_size_lists_and_tensors():
    cells = [GOOD, None, [1.0, NAN, 3.0, 4.0], [1.0, 2.0, 3.0, None]]
    kind = pa.list_(pa.float32(), 4)
    expected = {1: "column 'x': the value is null", 2: "column 'x': value 1 is nan", 3: "column 'x': value 3 is null"}
    assert problems(cells, kind=kind) == expected
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 2)), pa.array(cells, kind))
    told = sift(pa.table({"x": tensors}), LISTS)
    assert told.problems == expected
    assert told.rows.tolist() == [GOOD]


def test_bytes_that_are_none():
    spec = RowSpec(("x",), "list", (4,), "uint8")
    told = problems([[1.0, 2.0, 3.0, 255.0], [1.0, 2.5, 3.0, 4.0], [1.0, 2.0, 3.0, 256.0], [NAN] * 4], spec)
    assert told[1] == "column 'x': value 2.5 is none of the whole numbers 0-255"
    assert list(told) == [1, 2, 3]


def test_tables_with_infinity():
    spec = RowSpec(("b", "a"), "columns", (2,), "float32")
    rows = pa.table({"a": [1.0, INF, 3.0, 1e300], "b": [1, 2, 3, 4]})
    told = sift(pa.concat_tables([rows, rows]), spec)
    one = {1: "column 'a': value inf is not finite", 3: "column 'a': value 1e+300 does not fit into float32"}
    assert told.problems == one | {4 + row: problem for row, problem in one.items()}
    assert told.rows.tolist() == [[1, 1], [3, 3]] * 2


def test_images():
    spec = RowSpec(("x",), "image", (1, 8, 8), "uint8")
    good = png()
    told = problems([good, b"no image", good[: len(good) // 2], None, png(9), b"", good] + [good] * 70, spec)
    assert list(told) == [1, 2, 3, 4, 5]
    assert told[1].startswith("column 'x': 8 bytes that are no whole image (cannot identify image file")
    assert "0x" not in told[1], "an address would be another in every run"
    assert told[4] == "column 'x': an image of 9x9 pixels among images of 8x8"
    apart = pa.array(
        [{"bytes": good, "path": "a"}, {"bytes": None, "path": "b"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    assert sift(pa.table({"x": apart}), spec).problems == {1: "column 'x': no bytes, only the path 'b'", 2: "column 'x': the value is null"}


def test_what_is_wrong_with_the_whole_table_stays_a_refusal():
    for column in ({"y": [GOOD]}, {"x": [1.0]}, {"x": [["a"] * 4]}):
        with pytest.raises(RaeflowError, match=r"^here, "):
            sift(pa.table(column), LISTS, "here")


def test_rows_that_are_all_bad_take_no_minutes():
    start = time.process_time()
    told = sift(pa.table({"x": pa.array([[1.0, NAN, 3.0, 4.0], [1.0]] * 30_000)}), LISTS)
    assert (len(told.problems), len(told.rows)) == (60_000, 0)
    assert time.process_time() - start < 10


# --- flagged when they are scored --------------------------------------------------------------------------------------------


@pytest.fixture
def small_fragments(monkeypatch):
    monkeypatch.setattr(planning, "FRAGMENT_ROWS", 500)
    monkeypatch.setattr(planning, "CHUNK_ROWS", 128)


def spoilt(path, bad, count=1500, start=1000, size=None):
    """A file like those of `write`, whose rows `bad` (row: list of values or None) are replaced; `size` fixes the lists' length."""
    rows = table(count, start)
    cells = rows["x"].to_pylist()
    for row, value in bad.items():
        cells[row] = value
    column = pa.array(cells, pa.list_(pa.float32(), size) if size else pa.list_(pa.float32()))
    pq.write_table(rows.set_column(1, "x", column), path, row_group_size=250)
    return str(path)


BAD = {3: None, 1234: [0.0, 0.0, NAN, 0.0, 0.0, 0.0], 1235: [1.0], 1499: [INF] * F}


def read(out):
    return ds.dataset(out, format="parquet").to_table().sort_by("id")


@pytest.mark.parametrize("threads", [1, 3])
def test_bad_rows_keep_their_place_and_say_what_is_wrong(tmp_path, small_fragments, threads):
    sources, lines = [spoilt(tmp_path / "a.parquet", {}, 1000, 0), spoilt(tmp_path / "b.parquet", BAD)], []
    detector = make_detector()
    summary = score(detector, sources, tmp_path / "out", threads=threads, progress=lines.append)
    out = read(tmp_path / "out")
    assert out["id"].to_pylist() == list(range(2500))
    told = {i: problem for i, problem in enumerate(out["problem"].to_pylist()) if problem is not None}
    assert told == {
        1003: "column 'x': the value is null",
        2234: "column 'x': value 2 is nan",
        2235: "column 'x': ragged lists: 1 values here, 6 in a sound row",
        2499: "column 'x': value 0 is inf",
    }
    for name in ("anomaly_score", "is_anomaly"):
        assert [i for i, value in enumerate(out[name].to_pylist()) if value is None] == list(told)
    sound = [i for i in range(2500) if i not in told]
    expected = detector.score(np.stack([np.float32(x) for x in out["x"].take(sound).to_pylist()]))
    assert out["anomaly_score"].take(sound).to_numpy() == pytest.approx(expected, rel=1e-4)
    assert out["detector"].null_count == out["threshold"].null_count == 0
    assert (summary.rows, summary.bad, summary.alerts) == (2500, 4, sum(filter(None, out["is_anomaly"].to_pylist())))
    again = score(detector, sources, tmp_path / "out")
    assert (again.skipped, again.bad, again.alerts) == (5, 4, summary.alerts), "counts are kept in the outputs"


@pytest.mark.parametrize("bad", [[3, 700], [1499]])
def test_a_fixed_size_list_that_is_null_can_be_read_and_the_output_too(tmp_path, small_fragments, bad):
    """Arrow writes such a list but cannot read it (apache/arrow#35692)."""
    source = spoilt(tmp_path / "b.parquet", dict.fromkeys(bad), start=0, size=F)
    with pytest.raises(pa.ArrowInvalid, match="Expected all lists to be of size"):
        pq.read_table(source)
    score(make_detector(), [source], tmp_path / "out")
    out = read(tmp_path / "out")
    assert out["id"].to_pylist() == list(range(1500))
    assert [i for i, x in enumerate(out["x"].to_pylist()) if x is None] == bad
    assert [i for i, problem in enumerate(out["problem"].to_pylist()) if problem] == bad
    names = [pq.read_schema(path).field("name").type for path in (tmp_path / "out").iterdir()]
    assert names == [pa.dictionary(pa.int32(), pa.string())] * 3, "other columns keep their types"
    kept = score(make_detector(), [source], tmp_path / "few", columns=["id"])
    assert kept.bad == len(bad)


def test_tensors_that_are_null_keep_their_axes(tmp_path):
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(40, 8, 8, 2)).astype(np.float32)
    kind = pa.fixed_shape_tensor(pa.float32(), (8, 8, 2), dim_names=["H", "W", "C"])
    cells = [None if i == 7 else row.reshape(-1).tolist() for i, row in enumerate(stored)]
    column = pa.ExtensionArray.from_storage(kind, pa.array(cells, pa.list_(pa.float32(), 128)))
    pq.write_table(pa.table({"id": range(40), "x": column}), tmp_path / "a.parquet")
    detector = make_detector(RowSpec(("x",), "list", (2, 8, 8), "float32"))
    score(detector, [str(tmp_path / "a.parquet")], tmp_path / "out")
    sound = [i for i in range(40) if i != 7]
    expected = detector.score(np.ascontiguousarray(stored[sound].transpose(0, 3, 1, 2)))
    assert read(tmp_path / "out")["anomaly_score"].take(sound).to_numpy() == pytest.approx(expected, rel=1e-4)


def test_tables_and_images_are_flagged_too(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(size=40)
    a[17] = INF
    pq.write_table(pa.table({"id": range(40), "a": a, "b": rng.normal(size=40)}), tmp_path / "a.parquet")
    score(make_detector(RowSpec(("a", "b"), "columns", (2,), "float32")), [str(tmp_path / "a.parquet")], tmp_path / "table")
    assert read(tmp_path / "table")["problem"].to_pylist()[16:18] == [None, "column 'a': value inf is not finite"]
    cells = [png(seed=i) for i in range(40)]
    cells[5], cells[6] = None, b"broken"
    pq.write_table(pa.table({"id": range(40), "img": cells}), tmp_path / "b.parquet")
    score(make_detector(RowSpec(("img",), "image", (1, 8, 8), "uint8")), [str(tmp_path / "b.parquet")], tmp_path / "images")
    out = read(tmp_path / "images")
    assert [i for i, score in enumerate(out["anomaly_score"].to_pylist()) if score is None] == [5, 6]
    assert out["problem"].to_pylist()[5] == "column 'img': the value is null"


def test_too_many_bad_rows_fail_after_the_run_and_the_outputs_stay(tmp_path, small_fragments):
    source = spoilt(tmp_path / "b.parquet", dict.fromkeys(range(600, 760), None), start=0)
    for _ in range(2):  # the second time from what is there
        with pytest.raises(RaeflowError) as caught:
            score(make_detector(), [source], tmp_path / "out")
        assert str(caught.value) == (
            f"160 of 1,500 rows are bad (10.67%), more than most_bad=0.1 (--most-bad) lets pass, the first of them {source}, row 600: "
            f"column 'x': the value is null; all rows are in {tmp_path / 'out'} nonetheless, the bad ones with their problem"
        )
    assert len(read(tmp_path / "out")) == 1500
    assert score(make_detector(), [source], tmp_path / "out", most_bad=0.11).bad == 160
    with pytest.raises(RaeflowError, match=r"most_bad=0"):
        score(make_detector(), [spoilt(tmp_path / "c.parquet", {7: None})], tmp_path / "none", most_bad=0)


def test_what_the_rules_cannot_be(tmp_path):
    source = write(tmp_path / "a.parquet", 10)
    with pytest.raises(RaeflowError, match="bad_rows='drop': bad_rows must be one of 'flag', 'refuse'"):
        score(make_detector(), [source], tmp_path / "out", bad_rows="drop")
    for share in (-0.1, 1.5, NAN):
        with pytest.raises(RaeflowError, match="a share of rows lies between 0 and 1"):
            score(make_detector(), [source], tmp_path / "out", most_bad=share)
    assert not (tmp_path / "out").exists()


# --- refused when they are scored --------------------------------------------------------------------------------------------

SEEN = {row: value for row, value in BAD.items() if row not in (3, 1235)}
"""Bad rows that no footer tells of."""


@pytest.mark.parametrize("threads", [1, 2])
def test_refused_rows_keep_their_fragments_out_and_no_other(tmp_path, small_fragments, threads):
    many = {row: [NAN] * F for row in range(20, 30)}
    sources = [spoilt(tmp_path / "a.parquet", SEEN), write(tmp_path / "b.parquet"), spoilt(tmp_path / "c.parquet", many, 500, 9000)]
    with pytest.raises(RaeflowError) as caught:
        score(make_detector(), sources, tmp_path / "out", threads=threads, bad_rows="refuse")
    told = str(caught.value)
    assert told.startswith(f"12 bad rows, which --bad-rows flag would keep: {sources[0]}, row 1234: column 'x': value 2 is nan; ")
    assert f"{sources[0]}, row 1499: column 'x': value 0 is inf; {sources[2]}, row 20: column 'x': value 0 is nan; " in told
    assert told.endswith(f"; and 7 more; the other 4 fragments are in {tmp_path / 'out'}, and a run again does only what is missing")
    ids = list(range(1000))
    assert read(tmp_path / "out")["id"].to_pylist() == sorted([*ids, *range(1000, 2000)])
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    summary = score(make_detector(), sources, tmp_path / "out")
    assert (summary.skipped, summary.bad, summary.fragments) == (4, 12, 6)


def test_what_was_flagged_before_is_not_kept_where_bad_rows_are_refused(tmp_path, small_fragments):
    source = spoilt(tmp_path / "a.parquet", SEEN, start=0)
    score(make_detector(), [source], tmp_path / "out")
    with pytest.raises(RaeflowError, match="2 bad rows"):
        score(make_detector(), [source], tmp_path / "out", bad_rows="refuse")
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(1000))


# --- fragments that cannot be read -------------------------------------------------------------------------------------------


def damaged(path, group):
    """A file in which the pages of one row group are broken."""
    source = write(path, 1500, start=1000, groups=250, use_dictionary=False, compression="zstd")
    column = pq.read_metadata(source).row_group(group).column(1)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    return source


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_page_stops_no_other_fragment(tmp_path, small_fragments, threads):
    sources = [damaged(tmp_path / "a.parquet", 2), write(tmp_path / "b.parquet")]
    with pytest.raises(
        RaeflowError, match=rf"a\.parquet, row groups 2-3: cannot be scored.*; the other 4 fragments are in {tmp_path}"
    ) as caught:
        score(make_detector(), sources, tmp_path / "out", threads=threads)
    assert "\n" not in str(caught.value)
    assert read(tmp_path / "out")["id"].to_pylist() == [*range(1500), *range(2000, 2500)]
    write(tmp_path / "a.parquet", 1500, start=1000)
    assert score(make_detector(), sources[1:], tmp_path / "out").skipped == 2
    summary = score(make_detector(), sources, tmp_path / "out")
    assert (summary.skipped, summary.rows) == (2, 2500)


def test_several_failures_are_listed_in_one_sentence(tmp_path, small_fragments):
    sources = [damaged(tmp_path / f"{name}.parquet", 0) for name in "abcdefg"]
    sources.append(spoilt(tmp_path / "x.parquet", {5: [NAN] * F}, 500))
    with pytest.raises(RaeflowError) as caught:
        score(make_detector(), sources, tmp_path / "out", bad_rows="refuse")
    told = str(caught.value)
    assert told.startswith(f"7 fragments that cannot be scored: {sources[0]}, row groups 0-1: ")
    assert "; and 2 more; " in told
    assert f"; {sources[7]}, row 5: column 'x': value 0 is nan; the other 14 fragments" in told


# --- the command line and the study ------------------------------------------------------------------------------------------


def test_the_command_line_counts_flags_and_refuses(tmp_path, capsys):
    folder, source = str(make_detector().save(tmp_path / "detector")), spoilt(tmp_path / "a.parquet", SEEN)
    assert cli.main(["score", folder, source, "--out", str(tmp_path / "out")]) == 0
    assert ", 2 bad rows\n" in capsys.readouterr().out
    assert cli.main(["score", folder, source, "--out", str(tmp_path / "out"), "--most-bad", "0.001"]) == 1
    assert "more than most_bad=0.001" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["score", folder, source, "--out", str(tmp_path / "no"), "--bad-rows", "refuse"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("raeflow: 2 bad rows") and told.endswith(f"nothing was committed to {tmp_path / 'no'}")


def rows_file(path, bad, count=600, groups=100, **more):
    """Lists of four numbers with a label, a split column and, with `more`, others; `bad` replaces rows."""
    cells = [row.tolist() for row in np.random.default_rng(0).normal(size=(count, 4))]
    for row, value in bad.items():
        cells[row] = value
    kinds = {"x": pa.array(cells, pa.list_(pa.float64())), "label": np.arange(count) % 3}
    kinds["part"] = ["train", "validate", "calibrate", "test"] * (count // 4)
    pq.write_table(pa.table({**kinds, **more}), path, row_group_size=groups)
    return str(path), cells


SPOILT = {0: None, 131: [1.0], 132: [1.0, NAN, 3.0, 4.0], 599: [INF] * 4}


@pytest.mark.parametrize("memory", [1 << 30, 4000])
@pytest.mark.parametrize("split", ["part", "hash"])
def test_skipped_rows_are_in_no_split_and_all_else_stays_aligned(tmp_path, memory, split):
    path, cells = rows_file(tmp_path / "rows.parquet", SPOILT)
    data = Data(path, columns="x", label="label", split=split, normal=[("label", "!=", 2)], memory=memory)
    with pytest.raises(RaeflowError, match=r"rows\.parquet"):
        load(data)
    splits = load(Data(path, columns="x", label="label", split=split, normal=[("label", "!=", 2)], memory=memory, bad_rows="skip"))
    assert splits.skipped.rows == 4 and splits.skipped.of == 600
    assert splits.skipped.first == f"{path}, row group 0, row 0: column 'x': the value is null"
    assert isinstance(splits.train, StreamedRows) == (memory == 4000)
    label_of = {np.float32(cell[0]).item(): i % 3 for i, cell in enumerate(cells) if i not in SPOILT}
    count = 0
    train = [(row, label) for raw in splits.train.batches(64) for row, label in zip(raw.x, raw.label, strict=True)]
    held = [
        (row, label) for part in (splits.labelled, splits.calibrate, splits.test) for row, label in zip(part.x, part.label, strict=True)
    ]
    for row, label in [*train, *held]:
        assert label_of[row[0].item()] == int(label)
        count += 1
    if split == "part" and memory > 4000:  # all but what is not normal in train and calibrate
        assert count == sum(i not in SPOILT and not (i % 3 == 2 and i % 4 in (0, 2)) for i in range(600))
    if memory > 4000:
        again = load(Data(path, columns="x", label="label", split=split, normal=[("label", "!=", 2)], bad_rows="skip"))
        assert again.fingerprint == splits.fingerprint


@pytest.mark.parametrize("memory", [1 << 30, 4000])
def test_mixed_tables_skip_infinity_and_keep_gaps_and_words(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(plan, "_UNIT", 100)  # a unit for each row group, one of which is bad from end to end
    rng = np.random.default_rng(0)
    a, words = rng.normal(size=1200), np.array(["red", "green", "blue"])[rng.integers(0, 3, 1200)]
    a[[7, *range(500, 550)]] = INF
    a[8] = NAN
    rows = pa.table({"a": a, "b": rng.normal(size=1200), "word": words})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=50)
    splits = load(Data(tmp_path / "rows.parquet", bad_rows="skip", memory=memory))
    assert splits.skipped.rows == 51
    assert splits.skipped.first == f"{tmp_path / 'rows.parquet'}, row group 0, row 7: column 'a': value inf is not finite"
    known = {np.float32(value).item(): word for value, word in zip(rows["b"].to_pylist(), words, strict=True)}
    at = {f.name: place for f, place in splits.spec.placed}
    levels = next(f.levels for f in splits.spec.fields if f.name == "word")
    count = 0
    for batch in splits.train.batches(64):
        for row in batch.x:
            assert levels[int(row[at["word"]])] == known[row[at["b"]].item()]
            count += 1
    assert count == len(splits.train) > 500


def test_the_first_skipped_row_is_placed_in_its_row_group(tmp_path):
    path, _ = rows_file(tmp_path / "rows.parquet", {250: None, 310: None})
    assert load(Data(path, columns="x", bad_rows="skip")).skipped.first == f"{path}, row group 2, row 50: column 'x': the value is null"
    assert load(Data(rows_file(tmp_path / "good.parquet", {})[0], columns="x", bad_rows="skip")).skipped is None


def test_a_bad_target_takes_its_row_along(tmp_path):
    clean = [row.tolist() for row in np.random.default_rng(0).normal(size=(600, 4))]
    clean[17] = [NAN] * 4
    path, cells = rows_file(tmp_path / "rows.parquet", {40: None}, clean=pa.array(clean))
    splits = load(Data(path, columns="x", target="clean", bad_rows="skip"))
    assert splits.skipped.rows == 2 and splits.skipped.first.endswith("row 17: column 'clean': value 0 is nan")
    for part in (splits.train, splits.validate, splits.test):
        assert part.x.equal(part.target), "the noisy and the clean rows are drawn alike"
    assert cells[17][0] not in splits.train.x[:, 0].tolist()


def test_images_are_skipped_even_where_the_first_is_broken(tmp_path):
    cells = [png(seed=i) for i in range(200)]
    cells[0], cells[150] = b"broken", None
    pq.write_table(pa.table({"image": cells}), tmp_path / "rows.parquet")
    with pytest.raises(RaeflowError, match="row 0, column 'image': 6 bytes that are no image"):
        inspect(Data(tmp_path / "rows.parquet"))
    splits = load(Data(tmp_path / "rows.parquet", bad_rows="skip"))
    assert splits.skipped.rows == 2 and "row 0: column 'image': 6 bytes that are no whole image" in splits.skipped.first


def test_fixed_size_lists_that_are_null_are_skipped(tmp_path):
    cells = [row.tolist() for row in np.random.default_rng(0).normal(size=(200, 4))]
    cells[150] = None
    pq.write_table(pa.table({"x": pa.array(cells, pa.list_(pa.float32(), 4))}), tmp_path / "rows.parquet", row_group_size=100)
    assert load(Data(tmp_path / "rows.parquet", bad_rows="skip")).skipped.rows == 1


def test_more_than_a_tenth_is_refused_after_all(tmp_path):
    path, _ = rows_file(tmp_path / "rows.parquet", dict.fromkeys(range(100, 161), [NAN] * 4))
    for memory in (1 << 30, 4000):
        with pytest.raises(RaeflowError, match=r"61 of 600 rows are bad, more than 10%.*row group 1, row 0: column 'x': value 0 is nan"):
            load(Data(path, columns="x", bad_rows="skip", memory=memory))


def test_what_is_no_fault_of_a_row_is_refused_where_rows_are_skipped(tmp_path):
    label = pa.array([None if i == 100 else i % 3 for i in range(600)])
    path, _ = rows_file(tmp_path / "rows.parquet", {131: None}, flag=label)
    with pytest.raises(RaeflowError, match="row group 1 without its 1 bad rows, label column 'flag', row 0: the value is null"):
        load(Data(path, columns="x", label="flag", bad_rows="skip"))
    with pytest.raises(RaeflowError, match=r"Data\(bad_rows='drop'\)"):
        Data(path, bad_rows="drop")


def test_fingerprints_of_old_studies_stand_and_skipping_has_its_own(tmp_path):
    path, _ = rows_file(tmp_path / "rows.parquet", {})
    assert load(Data(path, columns="x")).fingerprint == load(Data(path, columns="x", bad_rows="refuse")).fingerprint
    assert load(Data(path, columns="x")).fingerprint != load(Data(path, columns="x", bad_rows="skip")).fingerprint


def test_a_session_tells_what_it_skipped_and_counts_what_it_flagged(tmp_path, monkeypatch):
    path, _ = rows_file(tmp_path / "rows.parquet", SPOILT)
    lines = []
    study = Study(name="odd", data=Data(path, columns="x", bad_rows="skip"), variants=("autoencoder",), home=str(tmp_path / "runs"))
    session = pipeline.Session(study, say=lines.append)
    assert f"skipped 4 of 600 rows: {path}, row group 0, row 0: column 'x': the value is null" in lines
    detector, steps = make_detector(session.splits.spec), []
    detector.save(session.folder / "detector")
    monkeypatch.setattr(session.tracker, "step", lambda *step: steps.append(step))
    assert session.score(detector).bad == 4
    session.tracker.finish("FINISHED")
    assert steps[0][0] == "score" and steps[0][2]["bad_rows"] == 4.0
