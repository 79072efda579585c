"""`raeflow data convert`: text and folders of images to Parquet, whole or not at all."""

import bz2
import csv
import datetime
import gzip
import io
import random
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raeflow import cli
from raeflow.data import inspect, load
from raeflow.data.convert import Options, convert, parquet, tables
from raeflow.data.convert.tables import widest
from raeflow.errors import RaeflowError
from raeflow.init import study_text
from raeflow.study import Data


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name, text, encoding="utf-8"):
    with open(name, "w", encoding=encoding, newline="") as file:
        file.write(text)
    return name


def converted(*sources, **options):
    """The written table, and what was told."""
    told = []
    done = convert([str(s) for s in sources], None, Options(**options), told.append)
    table = pq.read_table(done.path)
    assert done.rows == table.num_rows and done.schema.names == table.column_names
    return table, told


def refused(*sources, out=None, **options):
    """The one sentence of a refusal, which leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(RaeflowError) as refusal:
        convert([str(s) for s in sources], out, Options(**options))
    assert sorted(Path().rglob("*")) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# --- text --------------------------------------------------------------------------------------------------------------------


def test_types_rows_and_gaps():
    put(
        "a.csv",
        "at,day,n,x,ok,word\n2020-01-01 10:00:00,2020-01-01,1,1.5,true,north\n,,,,,\n2020-01-01 10:00:01,2020-01-02,NA,-2,false,NA\n",
    )
    table, told = converted("a.csv")
    kinds = [pa.timestamp("s"), pa.date32(), pa.int64(), pa.float64(), pa.bool_(), pa.string()]
    assert told == [] and [f.type if "time" not in str(f.type) else pa.timestamp("s") for f in table.schema] == kinds
    assert table.to_pylist()[1] == dict.fromkeys(table.column_names)
    last = table.to_pylist()[2]
    assert (last["n"], last["x"], last["ok"], last["word"]) == (None, -2.0, False, "NA")
    assert last["at"] == datetime.datetime(2020, 1, 1, 10, 0, 1)


def test_quoted_lines_bom_and_blanks_around_names():
    put("a.csv", '\ufeffname, size\n"two\nlines",1\n"say ""so""",2\n\n', "utf-8")
    table, _ = converted("a.csv")
    assert table.to_pydict() == {"name": ["two\nlines", 'say "so"'], "size": [1, 2]}


@pytest.mark.parametrize(("sign", "word", "name"), [(";", "semicolons", "a.csv"), ("\t", "tabs", "a.tsv"), ("|", "bars", "a.txt")])
def test_other_signs_are_found_and_told(sign, word, name):
    put(name, f"a{sign}b\n1{sign}x, y\n2{sign}z\n")
    table, told = converted(name)
    assert table.to_pydict() == {"a": [1, 2], "b": ["x, y", "z"]} and len(told) == 1 and f"divided by {word}" in told[0]


def test_decimal_commas():
    put("a.csv", "a;b\n1,5;7\n-0,25;8\n")
    table, told = converted("a.csv")
    assert table.to_pydict() == {"a": [1.5, -0.25], "b": [7, 8]} and "decimal commas" in told[0]


@pytest.mark.parametrize(("name", "pack"), [("a.csv.gz", gzip.compress), ("a.tsv.bz2", bz2.compress)])
def test_packed_files(here, name, pack):
    sign = "\t" if "tsv" in name else ","
    (here / name).write_bytes(pack(f"a{sign}b\n1{sign}2\n".encode()))
    table, _ = converted(name)
    assert table.to_pydict() == {"a": [1], "b": [2]} and (here / "a.parquet").is_file()


def test_encodings():
    put("latin.csv", "wörd,n\nä,1\n", "latin-1")
    assert "latin.csv: not text in utf-8" in refused("latin.csv") and "--encoding latin-1" in refused("latin.csv")
    assert converted("latin.csv", encoding="latin-1")[0].to_pydict() == {"wörd": ["ä"], "n": [1]}
    put("wide.csv", "a,b\nä,1\n", "utf-16")
    table, told = converted("wide.csv")
    assert table.to_pydict() == {"a": ["ä"], "b": [1]} and "utf-16" in told[0]
    assert "there is no such encoding" in refused("wide.csv", out="b.parquet", encoding="klingon")


def test_bytes_that_are_no_text_far_below_are_refused(monkeypatch, here):
    monkeypatch.setattr(tables, "_BLOCK", 1 << 10)
    monkeypatch.setattr("raeflow.data.convert.dialect._HEAD", 1 << 10)
    (here / "a.csv").write_bytes(b"a,b\n" + b"1,x\n" * 2000 + b"2,\xe9\n")
    assert "a.csv: not text in utf-8" in refused("a.csv")


WIDER = [
    (["1"] * 900, ["2.5"], pa.float64()),
    (["1"] * 900, ["x"], pa.string()),
    (["true"] * 900, ["7"], pa.string()),
    (["2020-01-01"] * 900, ["2020-01-01 10:00:00"], pa.timestamp("s")),
    (["2020-01-01 10:00:00"] * 900, ["2020-01-01 10:00:00.25"], pa.timestamp("ns")),
    (["2020-01-01 10:00:00"] * 900, ["late"], pa.string()),
    ([""] * 900, ["3"], pa.int64()),
    (["1"] * 900, ["", "99999999999999999999"], pa.float64()),
]


@pytest.mark.parametrize(("early", "late", "kind"), WIDER)
def test_a_later_block_widens_a_column(monkeypatch, early, late, kind):
    monkeypatch.setattr(tables, "_BLOCK", 1 << 10)
    put("a.csv", "n,c\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(early + late)))
    table, told = converted("a.csv")
    stored = pa.timestamp("ms") if kind == pa.timestamp("s") else kind
    assert table.schema.field("c").type in (kind, stored) and table.schema.field("n").type == pa.int64()
    assert table.num_rows == len(early + late) and table["n"].to_pylist() == list(range(len(early + late)))
    want = pa.array([None if cell == "" else cell for cell in early + late]).cast(kind)
    assert table["c"].combine_chunks().cast(kind).equals(want)
    assert [("'c'" in line, str(kind) in line) for line in told] == ([(True, True)] if early[0] else [])


def test_widest_holds_both():
    s, ns, utc = pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")
    cases = [(pa.null(), pa.bool_(), pa.bool_()), (pa.int64(), pa.float64(), pa.float64()), (pa.date32(), s, s), (s, ns, ns),
             (ns, utc, pa.string()), (pa.date32(), utc, pa.string()), (pa.bool_(), pa.int64(), pa.string()),
             (pa.date32(), pa.int64(), pa.string()), (pa.time32("s"), s, pa.string()), (pa.null(), pa.null(), pa.null())]  # fmt: skip
    for one, other, want in cases:
        assert widest(one, other) == widest(other, one) == want


def test_what_is_unusual_of_many_files_is_told_once():
    for n in range(3):
        put(f"{n}.csv", "a;b\n1;2\n")
    told = converted("0.csv", "1.csv", "2.csv")[1]
    assert len(told) == 1 and told[0].endswith("0.csv and 2 more: values divided by semicolons")


def test_several_files_share_one_schema():
    put("a.csv", "a,b\n1,2020-01-01\n")
    put("b.csv", "b;a\n2020-01-02;2.5\n")
    table, told = converted("a.csv", "b.csv")
    assert table.column_names == ["a", "b"] and table["a"].to_pylist() == [1.0, 2.5] and table.schema.field("b").type == pa.date32()
    assert any("column 'a': int64" in line for line in told)
    put("c.csv", "a,c\n1,2\n")
    assert "c.csv: its header is not that of" in refused("b.csv", "c.csv") and "no column 'b'" in refused("b.csv", "c.csv")
    put("d.csv", "a,b,c\n1,2,3\n")
    assert "a column 'c' more" in refused("b.csv", "d.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,a\n1,2\n", "columns 1 and 2 are both named 'a'; --no-header says"), ("a,,b\n1,2,3\n", "column 2 of 3 has no name in the header"),
     ("", "the file is empty"), ("\n\n", "the file is empty"), ("a,b\n", "no rows below the header"),
     ("a,b\n1,2\n3,4,5\n", "a.csv, line 3: 3 values where the first line has 2"),
     ('a,b\n1,"x\ny"\n\n3\n', "a.csv, line 5: 1 value where the first line has 2"),
     ('a,b\n1,"x\ny\n1,2\n', "a quote is opened and never closed"),
     ('a,b\n"x,1\n2,3\n', "line 2: 1 value where the first line has 2 (is a quote never closed?)"),
     ("1,2.5\n3,4\n", "the first line holds numbers (1, 2.5)"), ("a,b\n1,\0\n", "bytes that are no text")],
)  # fmt: skip
def test_what_is_refused(text, words):
    put("a.csv", text)
    assert words in refused("a.csv")


def test_a_ragged_row_far_below_is_found_by_its_line(monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK", 1 << 10)
    put("a.csv", 'a,b\n"two\nlines",1\n' + "1,2\n" * 2000 + "1\n" + "1,2\n" * 10)
    assert "a.csv, line 2004: 1 value where" in refused("a.csv")


def test_a_row_longer_than_a_block_is_refused(monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK", 1 << 10)
    put("a.csv", "a,b\n1,2\n1," + "x" * 5000 + "\n" + "1,2\n" * 999)
    assert "a row is longer than" in refused("a.csv")


def test_files_without_a_header():
    put("a.csv", "1,2.5\n3,4\n")
    table, told = converted("a.csv", header=False)
    assert table.to_pydict() == {"f0": [1, 3], "f1": [2.5, 4.0]} and "columns are called f0 to f1" in told[0]
    put("b.csv", "400,410\n0.5,0.25\n")
    assert converted("b.csv", header=True)[0].to_pydict() == {"400": [0.5], "410": [0.25]}


def test_a_single_column_keeps_its_gaps():
    put("a.csv", "a\n1\n\n3\n")
    assert converted("a.csv")[0].to_pydict() == {"a": [1, None, 3]}


def test_what_is_there_is_not_overwritten(here):
    put("a.csv", "a,b\n1,2\n")
    converted("a.csv")
    assert "a.parquet is already there: name another file with --out" in refused("a.csv")
    assert "must end in .parquet" in refused("a.csv", out="rows.csv")
    assert "is named as Parquet is" in refused("a.parquet", out="b.parquet")
    (here / "file").write_text("")
    assert "cannot be written" in refused("a.csv", out="file/a.parquet")


def test_globs_and_folders_of_text(here):
    (here / "lake").mkdir()
    for n in range(3):
        put(f"lake/{n}.csv", f"a,b\n{n},x\n")
    assert convert(["lake"]).rows == 3 and (here / "lake.parquet").is_file()
    assert convert(["lake/[01].csv"], "two.parquet").rows == 2
    assert "say with --out" in refused("lake/*.csv")


def test_memory_is_bounded_and_row_groups_are_sensible(monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK", 1 << 12)
    monkeypatch.setattr(parquet, "_ROWS", 1000)
    put("a.csv", "a,b\n" + "".join(f"{n},word{n}\n" for n in range(20_000)))
    done = convert(["a.csv"])
    metadata = pq.read_metadata(done.path)
    sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    assert sum(sizes) == 20_000 and 1000 <= sizes[0] < 2000 and metadata.row_group(0).column(0).compression == "ZSTD"


WORDS = ["", "north", "süd", 'a "quoted" word', "two\nlines", "semi;colon", "comma, comma", " blanks ", "NA", "0x1f", "1e", "-", "true?"]


def some_column(rng, rows):
    """A random column as its cells of text and the values that must come back."""
    kind = rng.choice(["int", "float", "word", "bool", "date", "time", "mixed"])
    day = datetime.datetime(2020, 1, 1)
    make = {
        "int": lambda: rng.randrange(-(2**40), 2**40),
        "float": lambda: rng.choice([rng.gauss(0, 1), rng.gauss(0, 1) * 10.0 ** rng.randrange(-30, 30), 0.1]),
        "word": lambda: rng.choice(WORDS),
        "bool": lambda: rng.random() < 0.5,
        "date": lambda: (day + datetime.timedelta(days=rng.randrange(4000))).date(),
        "time": lambda: day + datetime.timedelta(seconds=rng.randrange(10**8)),
    }
    make["mixed"] = lambda: str(make[rng.choice(["int", "word", "bool"])]())
    values = [None if rng.random() < 0.1 else make[kind]() for _ in range(rows)]
    values[0] = values[0] if values[0] not in (None, "") else make["int"]() if kind == "int" else values[0]
    if kind in ("word", "mixed"):
        values = [v or None for v in values] + ["north"]  # a word in it, so that it is no column of other things
    else:
        values.append(make[kind]())
    cells = ["" if v is None else str(v).lower() if isinstance(v, bool) else repr(v) if isinstance(v, float) else str(v) for v in values]
    return cells, values


@pytest.mark.parametrize("seed", range(25))
def test_random_tables_come_back_equal(monkeypatch, seed):
    rng = random.Random(seed)
    monkeypatch.setattr(tables, "_BLOCK", rng.choice([1 << 10, 1 << 12, 1 << 20]))
    rows, columns = rng.randrange(1, 600), rng.randrange(2, 7)
    made = [some_column(rng, rows) for _ in range(columns)]
    made.append(([str(n) for n in range(rows + 1)], list(range(rows + 1))))
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow([f"c{n}" for n in range(len(made))])
    writer.writerows(zip(*(cells for cells, _ in made), strict=True))
    put("a.csv", sink.getvalue())
    table, _ = converted("a.csv")
    for n, (_, values) in enumerate(made):
        got = table[f"c{n}"].to_pylist()
        got = [v.to_pydatetime() if hasattr(v, "to_pydatetime") else v for v in got]
        assert got == values, (f"c{n}", table.schema.field(f"c{n}").type)


# --- images ------------------------------------------------------------------------------------------------------------------


def picture(path, size=(12, 10), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "I;16": ()}.get(mode, (len(mode),))
    seed = zlib.crc32(f"{path.parent.name}/{path.name}".encode())  # the rest of the path differs from run to run
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    Image.fromarray(pixels.astype(np.uint16) * 200 if mode == "I;16" else pixels).save(path, **options)
    return path


KINDS = ["png", "jpg", "jpeg", "bmp", "tif", "webp", "gif", "PNG"]


def test_a_folder_of_images_with_folders_as_labels(here):
    for label in ("cat", "dog/small"):
        for n, kind in enumerate(KINDS):
            picture(here / "photos" / label / f"{n}.{kind}")
    (here / "photos/.hidden").mkdir()
    (here / "photos/.hidden/x.png").write_bytes(b"")
    done = convert(["photos/"])
    table = pq.read_table(done.path)
    assert done.path == Path("photos.parquet") and table.column_names == ["image", "path", "label"]
    assert table["label"].to_pylist() == ["cat"] * 8 + ["dog/small"] * 8 and table["path"][0].as_py() == "cat/0.png"
    for row in table.to_pylist():
        assert row["image"] == {"bytes": (here / "photos" / row["path"]).read_bytes(), "path": row["path"]}
    splits = load(Data("photos.parquet", label="label", fractions=(0.5, 0.1, 0.1, 0.3)))
    assert splits.spec.shape == (3, 10, 12) and splits.spec.columns == ("image",)
    assert 'Data("' in done.notes[0] and "shape" not in done.notes[0]
    assert "columns='image'" in study_text(["photos.parquet"], "photos", None)


def test_images_in_one_folder_have_no_label(here):
    for n in range(3):
        picture(here / "flat" / f"{n}.png")
    assert pq.read_schema(convert(["flat"]).path).names == ["image", "path"]


def test_images_of_different_sizes_say_what_to_write(here):
    for n in range(60):
        picture(here / "mixed" / f"{n}.png", size=(10 + n % 20, 12), mode="L" if n % 3 else "RGB")
    done = convert(["mixed"])
    assert "shape=(3, 64, 64)" in done.notes[0] and "other shapes" in done.notes[0]
    assert inspect(Data("mixed.parquet")).kind == "image"
    splits = load(Data("mixed.parquet", columns="image", shape=(3, 64, 64)))
    assert splits.train.x.shape[1:] == (3, 64, 64)


def test_a_moving_image_counts_by_its_first_picture(here):
    first = Image.fromarray(np.full((8, 8), 200, np.uint8))
    (here / "moving").mkdir()
    first.save(here / "moving/a.gif", save_all=True, append_images=[Image.fromarray(np.zeros((8, 8), np.uint8))])
    for n in range(10):
        picture(here / f"moving/{n}.gif", size=(8, 8), mode="L")
    convert(["moving"])
    assert inspect(Data("moving.parquet")).shape[1:] == (8, 8)


def test_files_that_are_no_images_are_refused_by_name_or_left_out(here):
    for n in range(4):
        picture(here / "photos" / f"{n}.png")
    whole = (here / "photos/3.png").read_bytes()
    (here / "photos/3.png").write_bytes(whole[: len(whole) // 2])
    (here / "photos/notes.txt").write_text("hello")
    told = refused("photos")
    assert "photos/3.png" in told and "no whole image" in told and "--skip-bad leaves such files out" in told
    table, told = converted("photos", skip_bad=True)
    assert table["path"].to_pylist() == ["0.png", "1.png", "2.png"]
    assert len(told) == 2 and all(line.startswith("left out: photos/") for line in told)
    picture(here / "deep" / "a.png", mode="I;16")
    picture(here / "deep" / "b.png", mode="L")
    assert any("8 bits and of more are mixed" in note for note in convert(["deep"]).notes)
    (here / "none").mkdir()
    (here / "none/a.png").write_bytes(b"no")
    with pytest.raises(RaeflowError, match="none of its 1 files is an image"):
        convert(["none"], None, Options(skip_bad=True))
    assert "one folder of images at a time" in refused("photos", "deep", out="x.parquet")
    (here / "bare").mkdir()
    assert "holds no .csv, .tsv, .tab, .txt file" in refused("bare")


# --- the command line, and where such sources are refused --------------------------------------------------------------------


def test_the_verb_prints_columns_rows_and_what_comes_next(capsys):
    put("my rows.csv", "a;b\n1;x\n2;y\n")
    assert cli.main(["data", "convert", "my rows.csv", "--out", "lake/rows.parquet"]) == 0
    printed = capsys.readouterr().out
    for words in ("divided by semicolons", "a                        int64", "b                        string",
                  "wrote     lake/rows.parquet  (2 rows, 2 columns)", "next      raeflow init lake/rows.parquet"):  # fmt: skip
        assert words in printed
    assert cli.main(["data", "convert", "my rows.csv", "--out", "lake/rows.parquet"]) == 1
    assert "is already there" in capsys.readouterr().err


def test_converted_text_can_be_trained_on(capsys):
    rng = np.random.default_rng(0)
    put("readings.csv", "x,y\n" + "".join(f"{a:.4f},{b:.4f}\n" for a, b in rng.normal(size=(200, 2))))
    assert cli.main(["init", "readings.csv"]) == 1
    assert capsys.readouterr().err == "raeflow: readings.csv: text, not Parquet; run `raeflow data convert readings.csv`\n"
    assert cli.main(["data", "convert", "readings.csv"]) == 0 and cli.main(["init", "readings.parquet"]) == 0
    assert cli.main(["data", "show", "readings.parquet"]) == 0 and "row       2 columns" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["init"], ["data", "show"]])
def test_text_and_images_are_refused_with_the_command_that_converts_them(here, capsys, verb):
    put("my rows.csv", "a,b\n1,2\n")
    picture(here / "photos" / "a.jpg")
    (here / "texts").mkdir()
    put("texts/a.csv", "a,b\n1,2\n")
    for source, words in (("my rows.csv", "text, not Parquet; run `raeflow data convert 'my rows.csv'`"),
                          ("photos/", "the folder holds images, not Parquet; run `raeflow data convert photos/`"),
                          ("texts", "the folder holds text, not Parquet; run `raeflow data convert texts`"),
                          ("*.csv", "run `raeflow data convert '*.csv'`")):  # fmt: skip
        assert cli.main([*verb, source]) == 1
        told = capsys.readouterr().err
        assert words in told and "Traceback" not in told and "a bug of raeflow" not in told
    with pytest.raises(RaeflowError, match=r"run `raeflow data convert photos`"):
        load(Data("photos"))
    with pytest.raises(RaeflowError, match=r"text, not Parquet; run `raeflow data convert 'my rows.csv' texts/a.csv`"):
        load(Data(["my rows.csv", "texts/a.csv"]))


def test_parquet_under_another_name_is_read(here):
    pq.write_table(pa.table({"x": np.arange(100.0), "y": np.arange(100.0)}), here / "rows.txt")
    assert inspect(Data("rows.txt")).shape == (2,)
