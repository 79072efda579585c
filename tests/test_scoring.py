"""Batch scoring: every row once, whole files only, the input's columns and types kept, mistakes refused before a byte is written."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring import STAMP, fragment, plan, planning, prepare, score, score_fragment
from raeflow.study import Calibration
from raeflow.training import Fitted

F = 6


def make_detector(spec=None, seed=0, k=1.0):
    spec = spec or RowSpec(("x",), "list", (F,), "float32")
    train = torch.randn(256, *spec.shape, generator=torch.Generator().manual_seed(1))
    if spec.dtype == "uint8":
        train = (train * 40 + 128).clamp(0, 255).to(torch.uint8)
    torch.manual_seed(seed)
    hyper = dataclasses.asdict(variants.get("autoencoder").published(spec.shape))
    fitted = Fitted("autoencoder", hyper, spec.shape, variants.build("autoencoder", spec.shape, hyper).state_dict())
    rows = Rows(train)
    splits = Splits(spec, fit_scaling("auto", spec.shape, train.dtype, [train]), rows, rows, rows, None)
    return Detector.assemble([fitted], splits, Calibration(k=k))


def table(count, start=0, seed=0):
    values = np.random.default_rng(seed + start).normal(size=(count, F)).astype(np.float32)
    x = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), F)
    names = pa.array([f"row {i % 7}" for i in range(count)]).dictionary_encode()
    ids = pa.array(range(start, start + count))
    return pa.table({"id": ids, "x": x, "name": names}).replace_schema_metadata({"shape": str(F), "who": "me"})


def write(path, count=1000, start=0, groups=250, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(count, start), path, row_group_size=groups, **how)
    return str(path)


def read(out, columns=None):
    return ds.dataset(out, format="parquet").to_table(columns=columns).sort_by("id")


def values(column):
    return np.stack(column.to_numpy(zero_copy_only=False))


@pytest.fixture
def small_fragments(monkeypatch):
    monkeypatch.setattr(planning, "FRAGMENT_ROWS", 500)
    monkeypatch.setattr(planning, "CHUNK_ROWS", 128)


@pytest.mark.parametrize("threads", [1, 3])
def test_scores_are_those_of_the_detector_and_all_columns_stay(tmp_path, small_fragments, threads):
    sources = [write(tmp_path / "in" / "a.parquet", 1000), write(tmp_path / "in" / "b.parquet", 777, start=1000)]
    detector, lines = make_detector(), []
    summary = score(detector, [str(tmp_path / "in")], tmp_path / "out", progress=lines.append, threads=threads)
    out, original = read(tmp_path / "out"), pa.concat_tables([pq.read_table(s) for s in sources])
    assert out["id"].to_pylist() == list(range(1777))
    assert out.select(original.column_names).cast(original.schema).equals(original)
    expected = detector.score(values(original["x"]))
    assert out["anomaly_score"].to_numpy() == pytest.approx(expected, rel=1e-5)
    assert out["is_anomaly"].to_pylist() == [bool(s > detector.threshold.value) for s in out["anomaly_score"].to_pylist()]
    assert set(out["threshold"].to_pylist()) == {detector.threshold.value} and set(out["detector"].to_pylist()) == {detector.id}
    assert (summary.rows, summary.fragments, summary.skipped) == (1777, 4, 0)
    assert summary.alerts == sum(out["is_anomaly"].to_pylist()) and summary.rate > 0
    assert "1,777 rows in 4 fragments" in lines[0] and "scored 1,777 of 1,777 rows, 4 of 4 fragments" in lines[-1]


def test_schema_types_metadata_and_codecs_are_those_of_the_input(tmp_path):
    source = write(tmp_path / "in" / "a.parquet", compression={"id": "gzip", "x.list.element": "zstd", "name": "none"})
    score(make_detector(), [source], tmp_path / "out")
    (out,) = (tmp_path / "out").iterdir()
    before, after = pq.read_schema(source), pq.read_schema(out)
    assert [after.field(n).type for n in before.names] == before.types
    assert {k: after.metadata[k] for k in before.metadata} == before.metadata
    assert after.names[3:] == ["anomaly_score", "is_anomaly", "threshold", "detector", "problem"]
    assert after.types[3:] == [pa.float32(), pa.bool_(), pa.float64(), pa.string(), pa.string()]
    group = pq.read_metadata(out).row_group(0)
    assert [group.column(i).compression for i in range(3)] == ["GZIP", "ZSTD", "UNCOMPRESSED"]
    assert group.column(0).statistics.max == 999 and group.column(3).statistics.has_min_max


def test_types_that_parquet_alone_does_not_know_survive(tmp_path):
    count = 50
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).normal(size=count * F).astype(np.float32)), F)
    tensor = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (F,)), storage)
    when = pa.array(range(count), pa.timestamp("us", tz="Europe/Athens"))
    nested = pa.array([{"a": [1, 2], "b": {"c": "d"}}] * count)
    pairs = pa.array([[("k", i)] for i in range(count)], pa.map_("string", "int64"))
    source = pa.table({"x": tensor, "when": when, "nested": nested, "map": pairs})
    pq.write_table(source, tmp_path / "a.parquet")
    score(make_detector(), [str(tmp_path / "a.parquet")], tmp_path / "out")
    out = ds.dataset(tmp_path / "out").to_table()
    assert out.select(source.column_names).equals(source)


def test_a_dictionary_is_written_only_where_it_paid(tmp_path):
    count, rng = 5000, np.random.default_rng(0)
    columns = {"few": np.arange(count, dtype=np.float64) % 3, "many": rng.normal(size=count)}
    source = pa.table({"x": table(count)["x"], **columns, "split": rng.normal(size=count)})
    pq.write_table(source, tmp_path / "a.parquet", use_dictionary=["few", "many"], column_encoding={"split": "BYTE_STREAM_SPLIT"})
    score(make_detector(), [str(tmp_path / "a.parquet")], tmp_path / "out")
    group = pq.read_metadata(next((tmp_path / "out").iterdir())).row_group(0)
    at = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert at["few"].has_dictionary_page and not at["many"].has_dictionary_page and at["detector"].has_dictionary_page
    assert "BYTE_STREAM_SPLIT" in at["split"].encodings


def test_chosen_columns_alone_are_kept(tmp_path):
    source = write(tmp_path / "a.parquet")
    score(make_detector(), [source], tmp_path / "out", columns=["name", "id"])
    out = read(tmp_path / "out")
    assert out.column_names == ["id", "name", "anomaly_score", "is_anomaly", "threshold", "detector", "problem"]
    assert out["anomaly_score"].to_numpy() == pytest.approx(make_detector().score(values(pq.read_table(source)["x"])), rel=1e-5)
    score(make_detector(), [source], tmp_path / "bare", columns=[])
    assert ds.dataset(tmp_path / "bare").schema.names == ["anomaly_score", "is_anomaly", "threshold", "detector", "problem"]


@pytest.mark.parametrize("kind", ["columns", "image", "uint8"])
def test_rows_of_every_kind_are_read(kind, tmp_path):
    rng = np.random.default_rng(0)
    if kind == "columns":
        spec = RowSpec(("b", "a"), "columns", (2,), "float32")
        source = pa.table({"a": rng.normal(size=40), "a.b": ["x"] * 40, "b": rng.integers(0, 9, 40)})
        x = np.stack([source["b"].to_numpy(), source["a"].to_numpy()], 1).astype(np.float32)
    elif kind == "uint8":
        spec, x = RowSpec(("x",), "list", (1, 8, 8), "uint8"), rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
        source = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 64)})
    else:
        from io import BytesIO

        from PIL import Image

        spec, x = RowSpec(("img",), "image", (1, 8, 8), "uint8"), rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
        files = []
        for picture in x:
            files.append(BytesIO())
            Image.fromarray(picture[0]).save(files[-1], "PNG")
        source = pa.table({"img": [{"bytes": f.getvalue(), "path": "p.png"} for f in files]})
    pq.write_table(source, tmp_path / "a.parquet", row_group_size=16)
    detector = make_detector(spec)
    score(detector, [str(tmp_path / "a.parquet")], tmp_path / "out")
    out = ds.dataset(tmp_path / "out").to_table()
    assert out["anomaly_score"].to_numpy() == pytest.approx(detector.score(x), rel=1e-4)
    assert out.select(source.column_names).equals(source)


def test_namesakes_in_different_folders_do_not_collide(tmp_path):
    for number, day in enumerate(("mon", "tue")):
        write(tmp_path / "in" / day / "part-0.parquet", 300, start=300 * number)
    score(make_detector(), [str(tmp_path / "in" / d) for d in ("mon", "tue")], tmp_path / "out")
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(600))


def test_partition_folders_are_kept(tmp_path):
    for year in (2025, 2026):
        write(tmp_path / "in" / f"year={year}" / "a.parquet", 100, start=year)
    for _ in range(2):
        summary = score(make_detector(), [str(tmp_path / "in")], tmp_path / "k=v" / "out")
    assert summary.skipped == 2
    out = ds.dataset(tmp_path / "k=v" / "out", partitioning=ds.partitioning(pa.schema([("year", pa.int32())]), flavor="hive"))
    assert set(out.to_table()["year"].to_pylist()) == {2025, 2026}


def test_large_row_groups_are_cut_into_chunks_and_small_ones_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "FRAGMENT_ROWS", 300)
    monkeypatch.setattr(planning, "CHUNK_ROWS", 90)
    detector = make_detector()
    sources = [write(tmp_path / "small.parquet", 1000, groups=100), write(tmp_path / "large.parquet", 1000, start=1000, groups=1000)]
    fragments = plan(detector, sources, tmp_path / "out")
    assert [(f.groups, f.first, f.rows, f.chunk) for f in fragments] == [
        ((0, 1, 2), 0, 300, 75), ((3, 4, 5), 300, 300, 75), ((6, 7, 8), 600, 300, 75), ((9,), 900, 100, 50), ((0,), 0, 1000, 84)
    ]  # fmt: skip
    score(detector, sources, tmp_path / "out")
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(2000))


# --- running again -----------------------------------------------------------------------------------------------------------


def tree(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_run_repeats_nothing(tmp_path, small_fragments):
    source, detector = write(tmp_path / "a.parquet"), make_detector()
    first = score(detector, [source], tmp_path / "out")
    before = tree(tmp_path / "out")
    again = score(detector, [source], tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert (again.rows, again.alerts, again.skipped, again.rate) == (first.rows, first.alerts, 2, 0.0)


def test_what_is_missing_broken_or_left_over_is_mended(tmp_path, small_fragments):
    source, detector, out = write(tmp_path / "a.parquet", 2000), make_detector(), tmp_path / "out"
    score(detector, [source], out)
    names = sorted(p.name for p in out.iterdir())
    (out / names[0]).unlink()
    whole = (out / names[1]).read_bytes()
    (out / names[1]).write_bytes(whole[: len(whole) // 2])
    (out / names[2]).write_bytes(b"")
    (out / f".{names[3]}.0123abcd.tmp").write_bytes(b"half")
    (out / "notes.txt").write_text("mine")
    kept = (out / names[3]).stat().st_mtime_ns
    summary = score(detector, [source], out)
    assert summary.skipped == 1 and (out / names[3]).stat().st_mtime_ns == kept
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "notes.txt"])
    (out / "notes.txt").unlink()
    assert read(out)["id"].to_pylist() == list(range(2000))


def test_outputs_of_another_detector_are_replaced(tmp_path, small_fragments):
    source, out = write(tmp_path / "a.parquet"), tmp_path / "out"
    score(make_detector(), [source], out)
    other = make_detector(k=3.0)
    assert score(other, [source], out).skipped == 0
    assert set(read(out)["detector"].to_pylist()) == {other.id} and len(read(out)) == 1000


def test_a_changed_input_is_scored_anew_and_its_old_fragments_go(tmp_path, small_fragments):
    source, out, detector = write(tmp_path / "a.parquet", 2000), tmp_path / "out", make_detector()
    beside = write(tmp_path / "b.parquet", 500, start=5000)
    score(detector, [source, beside], out)
    write(tmp_path / "a.parquet", 700, start=100, groups=700)
    summary = score(detector, [source, beside], out)
    assert summary.skipped == 1
    assert read(out)["id"].to_pylist() == [*range(100, 800), *range(5000, 5500)]


def test_an_input_rewritten_to_the_same_size_is_seen_by_its_date(tmp_path):
    how = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    source, out, detector = tmp_path / "a.parquet", tmp_path / "out", make_detector()
    pq.write_table(table(100).select(["id", "x"]), source, **how)
    score(detector, [str(source)], out)
    size, date = source.stat().st_size, source.stat().st_mtime_ns
    pq.write_table(table(100, seed=5).select(["id", "x"]), source, **how)
    os.utime(source, ns=(date + 1000, date + 1000))
    assert source.stat().st_size == size
    assert score(detector, [str(source)], out).skipped == 0


def test_other_columns_are_another_result(tmp_path):
    source, detector = write(tmp_path / "a.parquet"), make_detector()
    score(detector, [source], tmp_path / "out")
    assert score(detector, [source], tmp_path / "out", columns=["id"]).skipped == 0
    assert "x" not in read(tmp_path / "out").column_names


def test_results_of_other_inputs_are_left_alone(tmp_path):
    detector = make_detector()
    score(detector, [write(tmp_path / "mon.parquet", 100)], tmp_path / "out")
    score(detector, [write(tmp_path / "tue.parquet", 100, start=100)], tmp_path / "out")
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(200))


KILLED = """
import os, signal, sys
import torch
from raeflow.detector import Detector
from raeflow.scoring import fragment, planning, score

torch.set_num_threads(1)
planning.FRAGMENT_ROWS, planning.CHUNK_ROWS = 2000, 250
source, folder, out, written, threads = sys.argv[1:]
detector, write = Detector.load(folder), fragment.pq.ParquetWriter.write_table
count = 0

def fatal(self, *chunk, **more):
    global count
    count += 1
    if count > int(written):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, *chunk, **more)

fragment.pq.ParquetWriter.write_table = fatal
score(detector, [source], out, threads=int(threads))
"""


@pytest.mark.parametrize(("written", "threads"), [(0, 1), (13, 1), (21, 2)])
def test_after_a_kill_every_row_is_there_exactly_once(tmp_path, monkeypatch, written, threads):
    source, out = write(tmp_path / "a.parquet", 10_000, groups=500), tmp_path / "out"
    folder = make_detector().save(tmp_path / "detector")
    command = [sys.executable, "-c", KILLED, source, str(folder), str(out), str(written), str(threads)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any(p.name.endswith(".tmp") for p in out.iterdir()), "the kill came in the middle of a fragment"
    committed = [p for p in out.iterdir() if not p.name.startswith(".")]
    assert all(STAMP in pq.read_metadata(p).metadata for p in committed)
    monkeypatch.setattr(planning, "FRAGMENT_ROWS", 2000)
    summary = score(Detector.load(folder, "cpu"), [source], out)
    assert summary.skipped == len(committed) and (len(committed) > 0) == (written > 8)
    assert read(out)["id"].to_pylist() == list(range(10_000))
    assert all(p.suffix == ".parquet" for p in out.iterdir())


def test_a_fragment_that_is_stopped_commits_nothing(tmp_path):
    detector = make_detector()
    (only,) = plan(detector, [write(tmp_path / "a.parquet")], tmp_path / "out")
    with pytest.raises(fragment.Stopped):
        score_fragment(detector, only, lambda: True)
    assert list((tmp_path / "out").iterdir()) == []


def test_torch_keeps_its_threads(tmp_path, small_fragments):
    before = torch.get_num_threads()
    score(make_detector(), [write(tmp_path / "a.parquet")], tmp_path / "out", threads=2)
    assert torch.get_num_threads() == before


# --- other filesystems -------------------------------------------------------------------------------------------------------


def test_outputs_go_to_a_uri(tmp_path, small_fragments):
    source, detector = write(tmp_path / "a.parquet"), make_detector()
    uri = (tmp_path / "out dir").as_uri()
    score(detector, [source], uri)
    assert score(detector, [source], uri).skipped == 2
    assert read(tmp_path / "out dir")["id"].to_pylist() == list(range(1000))


def test_a_filesystem_that_is_not_local_is_read_and_written(tmp_path, small_fragments, monkeypatch):
    store = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())
    monkeypatch.setattr(planning, "place", lambda out: planning.Piece("bucket/out", store, "s3://bucket/out"))
    write(tmp_path / "store" / "bucket" / "in" / "a.parquet")
    piece = planning.Piece("bucket/in/a.parquet", store, "s3://bucket/in/a.parquet")
    monkeypatch.setattr(planning, "expand", lambda sources: [piece])
    for skipped in (0, 2):
        assert score(make_detector(), ["s3://bucket/in/a.parquet"], "s3://bucket/out").skipped == skipped
    assert read(tmp_path / "store" / "bucket" / "out")["id"].to_pylist() == list(range(1000))
    with pytest.raises(RaeflowError, match="lies in the input s3://bucket"):
        score(make_detector(), ["s3://bucket"], "s3://bucket/out")


# --- refused before anything is written --------------------------------------------------------------------------------------


def refuse(tmp_path, sources, says, detector=None, columns=None, out=None, **how):
    target = out or tmp_path / "out"
    with pytest.raises(RaeflowError, match=says) as caught:
        score(detector or make_detector(), sources, target, columns, **how)
    assert "\n" not in str(caught.value)
    assert out is not None or not target.exists()


def test_a_missing_column(tmp_path):
    pq.write_table(table(10).rename_columns(["id", "y", "name"]), tmp_path / "a.parquet")
    sources = [write(tmp_path / "0.parquet"), str(tmp_path / "a.parquet")]
    refuse(tmp_path, sources, r"a\.parquet: no column named 'x'; columns are 'id', 'y', 'name'")
    refuse(tmp_path, [write(tmp_path / "b.parquet")], r"b\.parquet: no column named 'label'", columns=["id", "label"])


def test_a_wrong_type(tmp_path):
    pq.write_table(pa.table({"x": ["a", "b"]}), tmp_path / "a.parquet")
    refuse(tmp_path, [str(tmp_path / "a.parquet")], r"a\.parquet: column 'x' holds string, this detector takes lists of 6 numbers")
    spec = RowSpec(("x",), "image", (1, 8, 8), "uint8")
    refuse(tmp_path, [write(tmp_path / "b.parquet")], "this detector takes encoded images", make_detector(spec))
    spec = RowSpec(("id", "name"), "columns", (2,), "float32")
    refuse(tmp_path, [str(tmp_path / "b.parquet")], "column 'name' holds dictionary.*this detector takes numbers", make_detector(spec))


def test_another_length_or_nulls_that_the_footer_tells_of(tmp_path):
    pq.write_table(pa.table({"x": [[1.0] * F] * 9 + [[1.0]]}), tmp_path / "a.parquet", row_group_size=5)
    says = r"a\.parquet, row group 1: column 'x' holds 25 values in 5 rows, this detector takes 6 a row"
    refuse(tmp_path, [str(tmp_path / "a.parquet")], says, bad_rows="refuse")
    pq.write_table(pa.table({"p": [b"", None]}), tmp_path / "b.parquet")
    spec = RowSpec(("p",), "image", (1, 8, 8), "uint8")
    refuse(
        tmp_path,
        [str(tmp_path / "b.parquet")],
        r"b\.parquet, row group 0: column 'p' holds 1 nulls",
        make_detector(spec),
        bad_rows="refuse",
    )
    pq.write_table(pa.table({"x": pa.array([[1.0] * 5] * 9, pa.list_(pa.float32(), 5))}), tmp_path / "c.parquet")
    refuse(tmp_path, [str(tmp_path / "c.parquet")], r"c\.parquet: column 'x' holds fixed_size_list.*\[5\], this detector takes lists of 6")


def test_columns_that_scoring_adds_are_not_overwritten(tmp_path):
    detector = make_detector()
    score(detector, [write(tmp_path / "a.parquet")], tmp_path / "once")
    once = str(next((tmp_path / "once").iterdir()))
    refuse(tmp_path, [once], r"'anomaly_score' already \(the file was scored before\).*columns=\[\.\.\.\], or --columns", detector)
    score(detector, [once], tmp_path / "twice", columns=["id", "x"])
    assert len(read(tmp_path / "twice")) == 1000
    pq.write_table(table(10).append_column("threshold", pa.array(range(10))), tmp_path / "b.parquet")
    refuse(tmp_path, [str(tmp_path / "b.parquet")], "column 'threshold' already, which", detector)


def test_columns_of_one_name(tmp_path):
    pq.write_table(pa.table([table(5)["x"], pa.array(range(5)), pa.array(range(5))], names=["x", "i", "i"]), tmp_path / "a.parquet")
    refuse(tmp_path, [str(tmp_path / "a.parquet")], "2 columns named 'i'")
    score(make_detector(), [str(tmp_path / "a.parquet")], tmp_path / "out", columns=["x"])


def test_an_output_folder_among_the_inputs(tmp_path, monkeypatch):
    source = write(tmp_path / "in" / "a.parquet")
    inside = tmp_path / "in" / "scored"
    for pattern in ("in", "in/**", "*/scored", "in/*", "in/**/*.parquet"):
        given = tmp_path / pattern
        if given.name == "scored":
            inside.mkdir()
            write(tmp_path / "other" / "scored" / "b.parquet")
        refuse(tmp_path, [str(given)], f"the output folder {inside} lies in the input", out=inside)
    refuse(tmp_path, [source], f"the output folder {tmp_path / 'in'} holds the input", out=tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    refuse(tmp_path, ["."], "lies in the input", out="scored")
    assert score(make_detector(), ["*.parquet"], "scored").rows == 1000
    assert score(make_detector(), [str(tmp_path / "in" / "*.parquet")], inside).skipped == 1


def test_nothing_to_score(tmp_path):
    pq.write_table(table(0), tmp_path / "a.parquet")
    refuse(tmp_path, [str(tmp_path / "a.parquet")], "there are no rows to score")
    refuse(tmp_path, [str(tmp_path / "none.parquet")], "none.parquet")
    write(tmp_path / "b.parquet", 10)
    assert score(make_detector(), [str(tmp_path / "*.parquet")], tmp_path / "out").rows == 10


def test_a_truncated_input(tmp_path):
    source = Path(write(tmp_path / "a.parquet"))
    source.write_bytes(source.read_bytes()[:-100])
    refuse(tmp_path, [str(source)], r"a\.parquet: not a whole Parquet file")


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refuse(tmp_path, [write(tmp_path / "a.parquet")], "cannot be", out=tmp_path / "file" / "out")
    refuse(tmp_path, [str(tmp_path / "a.parquet")], "nosuch://x", out="nosuch://x")


def test_a_plan_reads_no_rows_and_prepare_tells_what_is_done(tmp_path, small_fragments):
    source, detector = write(tmp_path / "a.parquet"), make_detector()
    fragments = plan(detector, [source], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    score_fragment(detector, fragments[1])
    done, todo = prepare(fragments)
    assert [d["rows"] for d in done] == [500] and todo == fragments[:1]
    assert json.loads(fragments[0].stamp)["detector"] == detector.id


MEMORY = """
import sys
from pathlib import Path
import torch
from raeflow.detector import Detector
from raeflow.scoring import planning, score

torch.set_num_threads(1)
planning.CHUNK_BYTES = 4 << 20
detector, out = Detector.load(sys.argv[1], "cpu"), sys.argv[2]
for source in sys.argv[3:]:
    score(detector, [source], out, threads=1)
    # Not getrusage: a process inherits its peak from the one that started it.
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_rows_stream_in_flat_memory_whatever_the_row_groups(tmp_path):
    """A file of twenty times the chunk, in one row group, takes no more memory than one of four times the chunk."""
    spec = RowSpec(("x",), "list", (64,), "float32")
    folder, paths = make_detector(spec).save(tmp_path / "detector"), []
    for name, chunks, groups in (("warm", 4, 1), ("small", 4, 1), ("large", 20, 1), ("many", 20, 10)):
        rows = chunks * (4 << 20) // 256
        x = np.random.default_rng(0).normal(size=(rows // chunks, 64)).astype(np.float32)
        part = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 64)})
        paths.append(str(tmp_path / f"{name}.parquet"))
        pq.write_table(pa.concat_tables([part] * chunks), paths[-1], row_group_size=rows // groups, use_dictionary=False)
    command = [sys.executable, "-c", MEMORY, str(folder), str(tmp_path / "out"), *paths]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    _, small, large, many = map(int, printed)
    assert many - small < 40 and large - small < 40, f"{printed} MiB, where the large files hold 80 decoded"
