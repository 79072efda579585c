"""Downloads: from a server on this machine that serves the originals' formats, rebuilt from the shared Parquet."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raeflow.data.sets import originals
from raeflow.data.sets.fetch import DOWNLOADS, Download, Remote, fetch
from raeflow.data.sources import named
from raeflow.data.writing import write_all
from raeflow.errors import RaeflowError

DATA = os.environ.get("RAEFLOW_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="RAEFLOW_DATA names no folder of public sets")


class Server:
    """Serves `files` by path; keeps what was asked; can cut answers short or ignore ranges."""

    def __init__(self):
        self.files, self.asked, self.cut, self.ranges = {}, [], {}, True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name, header = self.path.lstrip("/"), self.headers.get("Range")
                outer.asked.append((name, header))
                if name not in outer.files:
                    return self.send_error(404)
                body, start = outer.files[name], 0
                if header and outer.ranges:
                    start = int(header.removeprefix("bytes=").rstrip("-"))
                    if start >= len(body):
                        return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                self.wfile.write(body[start : outer.cut.pop(name, len(body))])
                return None

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def with_sums(name, files):
    """The registry's entry with the checksums of files that were compressed here."""
    remotes = tuple(replace(r, md5=hashlib.md5(files[r.path]).hexdigest()) for r in DOWNLOADS[name].remotes)
    return {name: replace(DOWNLOADS[name], remotes=remotes)}


def shared(name):
    return [pq.read_table(Path(DATA) / file) for file in named()[name].files]


def values(table, column):
    return np.asarray(table[column].combine_chunks().flatten())


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def idx_files(name):
    """IDX files, gzipped, from the shared Parquet of a 28 x 28 set."""
    files = {}
    for table, prefix in zip(shared(name), ("train", "t10k"), strict=True):
        images = struct.pack(">IIII", 2051, table.num_rows, 28, 28) + values(table, "image").tobytes()
        labels = struct.pack(">II", 2049, table.num_rows) + np.asarray(table["label"]).astype(np.uint8).tobytes()
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(images, 1)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(labels, 1)
    return files


@pytest.fixture(scope="module")
def mnist_files():
    if not DATA:
        pytest.skip("RAEFLOW_DATA names no folder of public sets")
    return idx_files("mnist")


def same(written, original, columns):
    for path, expected in zip(written, original, strict=True):
        table = pq.read_table(path)
        assert table.select(columns).equals(expected.select(columns))
        assert table.schema.types == expected.schema.types and table.schema.names == expected.schema.names
        for key in (b"shape", b"classes", b"layout"):
            assert table.schema.metadata.get(key) == expected.schema.metadata.get(key)
        assert table.schema.metadata[b"source"] and table.schema.metadata[b"licence"]
        assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def same_table(written, original):
    """Columns, types, order and values of tables of several columns, and whose they are."""
    for path, expected in zip(written, original, strict=True):
        table = pq.read_table(path)
        assert table.equals(expected.replace_schema_metadata(None))
        assert table.schema.metadata[b"source"] and table.schema.metadata[b"licence"] and b"shape" not in table.schema.metadata


def test_mnist_is_written_as_shared(server, mnist_files, tmp_path):
    server.files = mnist_files
    seen = []
    registry = with_sums("mnist", mnist_files)
    written = fetch("mnist", tmp_path, server.url, lambda *step: seen.append(step), registry)
    same(written, shared("mnist"), ["image", "label", "split"])
    assert everything_below(tmp_path / "mnist") == ["mnist_test.parquet", "mnist_train.parquet"]
    sizes = {name: len(body) for name, body in mnist_files.items()}
    assert {name: done for name, done, _ in seen} == sizes
    assert all(total == sizes[name] for name, _, total in seen)
    asked = len(server.asked)
    assert fetch("mnist", tmp_path, server.url, downloads=registry) == written and len(server.asked) == asked


def test_rebuilt_originals_are_the_published_ones(mnist_files):
    """The sums of the registry are of the gz files; those of what is inside are published beside them."""
    published = ["6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
                 "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"]  # fmt: skip
    assert [hashlib.md5(gzip.decompress(body)).hexdigest() for body in mnist_files.values()] == published


def little_files(count=40):
    rng = np.random.default_rng(0)
    files = {}
    for prefix in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, count, 28, 28) + rng.integers(0, 256, (count, 784), np.uint8).tobytes()
        labels = struct.pack(">II", 2049, count) + rng.integers(0, 10, count, np.uint8).tobytes()
        files |= {f"{prefix}-images-idx3-ubyte.gz": gzip.compress(images), f"{prefix}-labels-idx1-ubyte.gz": gzip.compress(labels)}
    return files


def test_a_corrupted_download_is_refused_and_leaves_nothing(server, tmp_path):
    files = little_files()
    registry = with_sums("mnist", files)
    damaged = bytearray(files["train-images-idx3-ubyte.gz"])
    damaged[len(damaged) // 2] ^= 1
    server.files = files | {"train-images-idx3-ubyte.gz": bytes(damaged)}
    with pytest.raises(RaeflowError, match=r"mnist cannot be fetched.*train-images-idx3-ubyte.gz: md5 is .*, not "):
        fetch("mnist", tmp_path, server.url, downloads=registry)
    assert everything_below(tmp_path) == []


def test_a_wrong_number_of_rows_is_refused_and_leaves_no_set(server, tmp_path):
    files = little_files()
    server.files = files
    with pytest.raises(RaeflowError, match=r"mnist: the download holds 80 rows where the set has 70000"):
        fetch("mnist", tmp_path, server.url, downloads=with_sums("mnist", files))
    assert not (tmp_path / "mnist").exists() and everything_below(tmp_path) == []


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.files = files = little_files()
    registry = with_sums("mnist", files)
    first = "train-images-idx3-ubyte.gz"
    server.cut = {first: 1000}
    with pytest.raises(RaeflowError, match=f"ended after 1000 of {len(files[first])} bytes"):
        fetch("mnist", tmp_path, server.url, downloads=registry)
    assert everything_below(tmp_path) == [".downloads", ".downloads/mnist", f".downloads/mnist/{first}.part"]
    with pytest.raises(RaeflowError, match="80 rows"):  # all four files came and had the right sums
        fetch("mnist", tmp_path, server.url, downloads=registry)
    assert [header for name, header in server.asked if name == first] == [None, "bytes=1000-"]


def test_a_cut_download_without_a_checksum_starts_anew(server, tmp_path):
    server.files = {"ECG5000.zip": bytes(5000)}
    server.cut = {"ECG5000.zip": 1000}
    with pytest.raises(RaeflowError, match="ended after 1000 of 5000 bytes"):
        fetch("ecg5000", tmp_path, server.url)
    assert everything_below(tmp_path) == []


def part_of(tmp_path, body):
    staging = tmp_path / ".downloads" / "mnist"
    staging.mkdir(parents=True)
    (staging / "train-images-idx3-ubyte.gz.part").write_bytes(body)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [500, 10**6])
def test_a_stale_piece_is_thrown_away_not_trusted(server, tmp_path, ranges, length):
    """A piece of other bytes, or a longer one than the file: fetched anew, and the set is then complete."""
    files = little_files()
    server.files, server.ranges = files, ranges
    part_of(tmp_path, bytes(length))
    with pytest.raises(RaeflowError, match="80 rows"):  # all four files came and had the right sums
        fetch("mnist", tmp_path, server.url, downloads=with_sums("mnist", files))
    assert ("t10k-labels-idx1-ubyte.gz", None) in server.asked


def test_the_next_mirror_is_asked(server, tmp_path):
    files = little_files()
    server.files = {f"good/{name}": body for name, body in files.items()}
    entry = replace(with_sums("mnist", files)["mnist"], mirrors=(f"{server.url}/bad/", f"{server.url}/good/"))
    with pytest.raises(RaeflowError, match="80 rows"):
        fetch("mnist", tmp_path, downloads={"mnist": entry})


def test_an_absent_file_and_a_dead_server_are_one_sentence(server, tmp_path):
    with pytest.raises(RaeflowError, match=r"ecg5000 cannot be fetched \(http://127.*ECG5000.zip: Not Found\)"):
        fetch("ecg5000", tmp_path, server.url)
    with pytest.raises(RaeflowError, match="Connection refused"):
        fetch("ecg5000", tmp_path, "http://127.0.0.1:1")
    assert everything_below(tmp_path) == []


def test_a_page_instead_of_an_archive_is_one_sentence(server, tmp_path):
    server.files = {"ECG5000.zip": b"<html>sign in</html>"}
    with pytest.raises(RaeflowError, match=r"ecg5000: what http://127.* sent cannot be read .*not a zip file"):
        fetch("ecg5000", tmp_path, server.url)
    assert everything_below(tmp_path) == []


def test_addresses_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(RaeflowError, match="'file:///etc/'"):
        fetch("ecg5000", tmp_path, "file:///etc/")


def test_unknown_names_and_unwritable_folders(tmp_path):
    with pytest.raises(RaeflowError, match="no named set 'nope'; named sets are digits, "):
        fetch("nope", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RaeflowError, match=r"ecg5000 cannot be stored in .*file"):
        fetch("ecg5000", tmp_path / "file", "http://127.0.0.1:1")


def ecg_zip(suffix):
    """The archive in one of its three formats, from the shared Parquet."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for table, part in zip(shared("ecg5000"), ("TRAIN", "TEST"), strict=True):
            series, kinds = values(table, "signal").reshape(-1, 140), table["ucr_class"].to_pylist()
            cells = [[np.format_float_positional(v, unique=True) for v in row] for row in series]
            if suffix == ".txt":
                lines = ["  ".join([f"{kind:.7e}", *row]) for kind, row in zip(kinds, cells, strict=True)]
            elif suffix == ".ts":
                lines = ["# comment", "@problemName ECG5000", "@data", *(",".join(r) + f":{k}" for k, r in zip(kinds, cells, strict=True))]
            else:
                lines = ["% comment", "@relation ECG5000", "@DATA", *(",".join([*r, str(k)]) for k, r in zip(kinds, cells, strict=True))]
            archive.writestr(f"ECG5000_{part}{suffix}", "\n".join(lines) + "\n")
    return buffer.getvalue()


@needs_data
@pytest.mark.parametrize("suffix", [".txt", ".ts", ".arff"])
def test_ecg5000_is_written_as_shared(server, tmp_path, suffix):
    server.files = {"ECG5000.zip": ecg_zip(suffix)}
    same(fetch("ecg5000", tmp_path, server.url), shared("ecg5000"), ["signal", "label", "split", "ucr_class"])


@needs_data
@pytest.mark.parametrize("name", ["cardio", "satimage_2", "ionosphere"])
def test_adbench_is_written_as_shared(server, tmp_path, name):
    (table,) = shared(f"adbench/{name}")
    buffer = io.BytesIO()
    features = values(table, "features").reshape(table.num_rows, -1).astype(np.float64)
    np.savez(buffer, X=features, y=np.asarray(table["label"], np.int64))
    server.files = {DOWNLOADS[f"adbench/{name}"].remotes[0].path: buffer.getvalue()}
    same(fetch(f"adbench/{name}", tmp_path, server.url), [table], ["features", "label"])


def test_nothing_pickled_is_read(server, tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, X=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    server.files = {"6_cardio.npz": buffer.getvalue()}
    with pytest.raises(RaeflowError, match=r"adbench/cardio: .*allow_pickle"):
        fetch("adbench/cardio", tmp_path, server.url)


@needs_data
def test_a_shorter_adbench_table_is_refused(server, tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, X=np.zeros((5, 21)), y=np.array([0, 0, 0, 0, 1]))
    server.files = {"6_cardio.npz": buffer.getvalue()}
    with pytest.raises(
        RaeflowError, match="holds 5 rows, 21 features, 1 anomalies where the set has 1831 rows, 21 features, 176 anomalies"
    ):
        fetch("adbench/cardio", tmp_path, server.url)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


@needs_data
def test_noisy_office_is_written_as_shared(server, tmp_path):
    (table,) = shared("noisy_office")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for column, part in (("image", "train"), ("image_clean", "train_cleaned")):
            pages = values(table, column).reshape(-1, 258, 540)
            for number, page in zip(table["kaggle_id"].to_pylist(), pages, strict=True):
                archive.writestr(f"Denoising-Documents-1/denoising-dirty-documents/{part}/{number}.png", png(page))
            archive.writestr(f"Denoising-Documents-1/denoising-dirty-documents/{part}/74.png", png(np.zeros((420, 540), np.uint8)))
    server.files = {DOWNLOADS["noisy_office"].remotes[0].path: buffer.getvalue()}
    same(fetch("noisy_office", tmp_path, server.url), [table], table.column_names)


def nsl_kdd_files():
    """The two files as published: flags as 0 and 1, rates with two digits, the attack and its difficulty last."""
    files = {}
    for table, remote in zip(shared("nsl_kdd"), DOWNLOADS["nsl_kdd"].remotes, strict=True):
        rows = zip(*(table[name].to_pylist() for name in table.column_names if name != "anomaly"), strict=True)
        cells = ((f"{v:.2f}" if isinstance(v, float) else v if isinstance(v, str) else str(int(v)) for v in row) for row in rows)
        files[remote.path] = "".join(",".join(row) + "\n" for row in cells).encode()
    return files


@needs_data
def test_nsl_kdd_is_written_as_shared(server, tmp_path):
    """The rebuilt files have the sums of the registry, so they are the published ones, bit for bit."""
    server.files = nsl_kdd_files()
    written = fetch("nsl_kdd", tmp_path, server.url)
    assert everything_below(tmp_path / "nsl_kdd") == ["nsl_kdd_test.parquet", "nsl_kdd_train_20percent.parquet"]
    same_table(written, shared("nsl_kdd"))


def beijing_csv(end="\r\n"):
    (table,) = shared("beijing_air")
    lines = ["No,year,month,day,hour,pm2.5,DEWP,TEMP,PRES,cbwd,Iws,Is,Ir"]
    for n, row in enumerate(table.to_pylist(), 1):
        at = row.pop("time")
        cells = ("NA" if v is None else v if isinstance(v, str) else repr(v).removesuffix(".0") for v in row.values())
        lines.append(",".join([str(n), str(at.year), str(at.month), str(at.day), str(at.hour), *cells]))
    return "".join(line + end for line in lines).encode()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


@needs_data
def test_beijing_air_is_written_as_shared(server, tmp_path):
    """The rebuilt CSV has the published sum, so it is the published one, bit for bit."""
    server.files = {"beijing+pm2+5+data.zip": zipped({"PRSA_data_2010.1.1-2014.12.31.csv": beijing_csv()})}
    same_table(fetch("beijing_air", tmp_path, server.url), shared("beijing_air"))


def test_another_csv_in_the_zip_is_refused_and_leaves_nothing(server, tmp_path):
    server.files = {"beijing+pm2+5+data.zip": zipped({"PRSA_data_2010.1.1-2014.12.31.csv": b"No,year\n1,2010\n"})}
    with pytest.raises(RaeflowError, match=r"beijing_air: the md5 of PRSA_data.* is .*, not 83d51a811a081df89e691643af0edb29"):
        fetch("beijing_air", tmp_path, server.url)
    assert everything_below(tmp_path) == []


def skab_zip():
    """The repository's archive: a CSV for each series, with other files beside them, lines ended in both ways."""
    members = {"SKAB-b2c0/README.md": b"#", "SKAB-b2c0/data/README.md": b"#", "SKAB-b2c0/data/Load data.ipynb": b"{}"}
    for name in ("skab", "skab/anomaly_free"):
        (table,) = shared(name)
        columns = [n for n in table.column_names if n != "series" and (name == "skab" or n not in ("anomaly", "changepoint"))]
        head = ";".join("Volume Flow RateRMS" if n == "Volume_Flow_RateRMS" else n for n in columns)
        lines = {}
        for row in table.to_pylist():
            cells = (f"{row[n]}.0" if isinstance(row[n], int) else str(row[n]) for n in columns)
            lines.setdefault(row["series"], [head]).append(";".join(cells))
        for series, some in lines.items():
            end = "\n" if series == "other/1" else "\r\n"
            members[f"SKAB-b2c0/data/{series}.csv"] = "".join(line + end for line in some).encode()
    return zipped(members), members


@needs_data
def test_skab_is_written_as_shared(server, tmp_path):
    body, members = skab_zip()
    assert hashlib.sha256(members["SKAB-b2c0/data/valve1/1.csv"]).hexdigest().startswith("fe4493bf805baef4e6dfb864094275d8")  # as published
    server.files = {DOWNLOADS["skab"].remotes[0].path: body}
    same_table(fetch("skab", tmp_path, server.url), shared("skab"))
    assert everything_below(tmp_path) == ["skab", "skab/skab_experiments.parquet"]
    same_table(fetch("skab/anomaly-free", tmp_path, server.url), shared("skab/anomaly_free"))


def test_an_archive_without_series_is_refused(server, tmp_path):
    server.files = {DOWNLOADS["skab"].remotes[0].path: zipped({"SKAB-b2c0/README.md": b"#"})}
    with pytest.raises(RaeflowError, match="skab: the archive holds no series below data/"):
        fetch("skab", tmp_path, server.url)
    assert everything_below(tmp_path) == []


def test_a_row_that_is_too_short_is_refused(server, tmp_path):
    files = {remote.path: b"0,tcp,http\n" for remote in DOWNLOADS["nsl_kdd"].remotes}
    server.files = files
    with pytest.raises(RaeflowError, match=r"nsl_kdd: what http.* sent cannot be read .*Expected 43 columns, got 3"):
        fetch("nsl_kdd", tmp_path, server.url, downloads=with_sums("nsl_kdd", files))
    assert everything_below(tmp_path) == []


EFIGI_HEAD = "# PGCname   T T_inf T_sup   Bar_Length Bar_Length_inf   Inclination   Contamination   Multiplicity"


@needs_data
def test_galaxies_are_written_as_shared(tmp_path):
    """From PNGs of 64 x 64, so that pixels can be compared; label and split follow from the attributes alone.

    The first 500 by PGC number: which of them are held out does not hang on those that follow.
    """
    table = shared("galaxies_efigi")[0].slice(0, 500)
    rows = table.drop_columns(["image"]).to_pylist()
    lines = ["# EFIGI_attributes.txt version 1.6.2 :", "#    T_inf         Lower confidence limit in T", EFIGI_HEAD]
    lines += [
        f"{r['name']}  {r['efigi_T']} 0 0  {r['bar_length']:g} 0  {r['inclination']:g}  {r['contamination']:g}  {r['multiplicity']:g}"
        for r in rows
    ]
    images = values(table, "image").reshape(-1, 64, 64, 3)
    pictures = {f"efigi-1.6/png/{r['name']}.png": png(image) for r, image in zip(rows, images, strict=True)}
    (tmp_path / "efigi_tables-1.6.2.tgz").write_bytes(tgz({"a/README": b"", "a/EFIGI_attributes.txt": "\n".join(lines).encode()}))
    (tmp_path / "efigi_png_gri-1.6.tgz").write_bytes(tgz(pictures))
    tables = originals.galaxies_efigi(tmp_path, named()["galaxies_efigi"])
    same(write_all(tables, tmp_path), [table], table.column_names)


def tgz(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def test_large_galaxy_pictures_are_reduced():
    assert originals._image(png(np.full((255, 255, 3), 7, np.uint8)), "RGB", 64).shape == (64, 64, 3)


def test_every_named_set_is_made_here_or_has_a_public_address():
    for name, one in named().items():
        assert one.made != (name in DOWNLOADS)
    for download in DOWNLOADS.values():
        assert isinstance(download, Download) and all(isinstance(r, Remote) for r in download.remotes)
        assert all(m.startswith("http") and m.endswith("/") for m in download.mirrors)


def test_sets_made_here_are_written_where_asked(tmp_path):
    (path,) = fetch("digits", tmp_path)
    assert path == tmp_path / "digits/digits.parquet" and pq.read_metadata(path).num_rows == 1797
