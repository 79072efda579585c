"""Which columns tell something, and why the others stay out."""

import importlib.util

import numpy as np
import pyarrow as pa
import pytest

from raeflow import cli
from raeflow.data import inspect, load, preview
from raeflow.errors import RaeflowError
from raeflow.study import Data
from tests.tables import mixed, write

ROWS = 1200
DRAWN = np.random.default_rng(0)
LABEL = (DRAWN.random(ROWS) < 0.2).astype(np.int64)
WORDS = np.array(["x", "y", "z"])[DRAWN.integers(0, 3, ROWS)]
TEXT = [" ".join(np.array(["the", "pump", "was", "hot", "again"])[DRAWN.permutation(5)]) + f" at {i}" for i in range(ROWS)]


def survey(tmp_path, columns, **said):
    """What is said of each column but the two that are always there."""
    path = write(tmp_path / "rows.parquet", {"a": DRAWN.standard_normal(ROWS), **columns, "label": LABEL})
    told = dict(load(Data(path, **{"label": "label", **said})).told())
    assert told.pop("a") == "number"
    assert told.pop("label") == "left out: Data(label='label')"
    return told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([f"{i:06x}" for i in range(ROWS)], f"left out: an id: {ROWS:,} different values in {ROWS:,} rows"),
        (TEXT, f"left out: free text: {len(set(TEXT)):,} different values in {ROWS:,} rows"),
        (pa.array([f"u{i % 700}" for i in range(ROWS)]).dictionary_encode(), "left out: an id: 700 different values in 1,200 rows"),
        (pa.array([f"u{i % 500}" for i in range(ROWS)]), "not used: none of its levels has 1.00% of the train rows"),
        (np.arange(ROWS) + 10**6, "left out: a counter of rows: all of 1,200 values differ"),
        (np.arange(ROWS) * 10, "number"),
        (np.arange(ROWS)[::-1].copy(), "number"),
        (WORDS, "category of 3 levels"),
        (pa.nulls(ROWS), "left out: it has no values"),
        (pa.array([{"low": 1}] * ROWS), "left out: struct<low: int64> is no column of a table"),
        (LABEL * 3 - 1, "left out: it gives the label away: 100.0% of 1,200 labels follow from it"),
        (np.array(["fine", "bad"])[LABEL], "left out: it gives the label away: 100.0% of 1,200 labels follow from it"),
        (LABEL == 0, "left out: it gives the label away: 100.0% of 1,200 labels follow from it"),
        (np.where(DRAWN.random(ROWS) < 0.05, 1 - LABEL, LABEL), "flag"),
    ],
    ids=["id", "text", "dictionary_id", "many_words", "counter", "tens", "falling", "words", "null", "struct", "leak",
         "leak_words", "leak_flag", "hint"],
)  # fmt: skip
def test_a_column_enters_or_it_is_said_why_not(tmp_path, values, told):
    assert survey(tmp_path, {"c": values})["c"] == told


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("row_id", DRAWN.permutation(ROWS), "left out: an id: 1,200 different values in 1,200 rows"),
        ("reading", DRAWN.permutation(ROWS), "number"),
        ("device_id", DRAWN.integers(0, 5, ROWS), "number"),
        ("outlier", WORDS, "left out: it is named like a label: say Data(label='outlier') if it is one"),
        ("split", WORDS, "left out: it is named like a label: say Data(label='split') if it is one"),
        ("attack_cat", WORDS, "left out: its name says that it tells of the label"),
        ("__index_level_0__", DRAWN.standard_normal(ROWS), "left out: the index of a data frame"),
    ],
)
def test_names_tell(tmp_path, name, values, told):
    assert survey(tmp_path, {name: values})[name] == told


def test_without_a_label_its_companions_are_columns_as_any(tmp_path):
    path = write(tmp_path / "rows.parquet", {"a": DRAWN.standard_normal(ROWS), "severity": WORDS})
    assert dict(load(Data(path)).told())["severity"] == "category of 3 levels"


def test_a_number_named_like_a_label_is_asked_about(tmp_path):
    path = write(tmp_path / "rows.parquet", {"a": DRAWN.standard_normal(ROWS), "word": WORDS, "is_anomaly": LABEL})
    with pytest.raises(RaeflowError, match=r"is column 'is_anomaly' part of the row\?.*Data\(label='is_anomaly'\)"):
        inspect(Data(path))
    assert inspect(Data(path, roles={"is_anomaly": "flag"})).columns == ("a", "word", "is_anomaly")
    assert inspect(Data(path, roles={"is_anomaly": "out"})).columns == ("a", "word")


def test_the_user_decides(tmp_path):
    columns = {"id": [f"{i % 700:06x}" for i in range(ROWS)], "count": np.arange(ROWS), "severity": WORDS, "word": WORDS}
    said = {"roles": {"count": "number", "severity": "category", "word": "out"}}
    told = survey(tmp_path, columns, **said)
    assert told["count"] == "number"
    assert told["severity"] == "category of 3 levels"
    assert told["word"] == "left out: Data(roles=...) says so"
    assert told["id"].startswith("left out: an id")
    path = tmp_path / "rows.parquet"
    assert inspect(Data(path, columns=["id", "count"])).columns == ("id", "count"), "named columns are taken as they are"
    with pytest.raises(RaeflowError, match=r"Data\(columns=...\) names 'word', but Data\(roles=\{'word': 'out'\}\) leaves it out"):
        inspect(Data(path, columns=["a", "word"], roles={"word": "out"}))
    with pytest.raises(RaeflowError, match=r"Data\(roles=\{'nothing': 'flag'\}\): the row has no such column"):
        inspect(Data(path, label="label", roles={"nothing": "flag"}))
    with pytest.raises(RaeflowError, match="a column's role is one of"):
        Data(path, roles={"word": "string"})


def test_few_rows_conclude_nothing(tmp_path):
    path = write(tmp_path / "rows.parquet", {"a": np.arange(40.0), "id": [f"{i}" for i in range(40)], "count": np.arange(40)})
    assert inspect(Data(path)).columns == ("a", "id", "count")


def test_rows_are_looked_at_all_over_the_files(tmp_path):
    """An id that begins as one word is still an id."""
    for i in range(4):
        ids = ["none"] * 2000 if i == 0 else [f"{i}-{j}" for j in range(2000)]
        write(tmp_path / "lake" / f"{i}.parquet", {"a": DRAWN.standard_normal(2000), "id": ids}, group=500)
    spec, told = preview(Data(tmp_path / "lake"))
    assert spec.columns == ("a",)
    assert dict(told)["id"] == "left out: an id: 6,001 different values in 8,000 rows"


def test_a_look_passes_over_bad_rows_that_load_tells_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sound, bad = DRAWN.standard_normal(ROWS), DRAWN.standard_normal(ROWS)
    bad[7] = np.inf
    for name, values in (("a", sound), ("b", bad)):
        write(tmp_path / "lake" / f"{name}.parquet", {"a": values, "word": WORDS})
    _, told = preview(Data("lake"))
    assert dict(told) == {"a": "number", "word": "category of 3 levels"}
    assert cli.main(["init", "lake"]) == 0
    with pytest.raises(RaeflowError, match=r"lake/b\.parquet, row group 0, column 'a', row 7: value inf is not finite"):
        load(Data("lake"))


def test_no_study_file_is_written_for_no_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.parquet", {"a": pa.array([], pa.float64()), "word": pa.array([], pa.string())})
    assert cli.main(["init", "rows.parquet"]) == 1
    assert capsys.readouterr().err == "raeflow: rows.parquet: there are no rows\n"
    assert not (tmp_path / "rows.py").exists()


def test_a_column_of_lists_that_is_out_leaves_a_table(tmp_path):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(DRAWN.standard_normal(4 * ROWS)), 4)
    path = write(tmp_path / "rows.parquet", {"a": DRAWN.standard_normal(ROWS), "word": WORDS, "code": lists})
    assert inspect(Data(path)).columns == ("code",)
    assert inspect(Data(path, roles={"code": "out"})).columns == ("a", "word")
    assert dict(preview(Data(path, roles={"code": "out"}))[1])["code"] == "left out: Data(roles=...) says so"


def test_an_id_that_hardly_repeats_is_counted(tmp_path):
    numbers = DRAWN.permutation(ROWS)
    numbers[:6] = numbers[6]
    assert survey(tmp_path, {"pump_id": numbers})["pump_id"] == "left out: an id: 1,194 different values in 1,200 rows"


def test_a_study_file_says_how_each_column_enters_and_builds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    extra = {"id": [f"{i:06x}" for i in range(ROWS)], "label": LABEL, "quote's": WORDS, "empty": pa.nulls(ROWS)}
    path = write(tmp_path / "rows.parquet", {**mixed(), **extra})
    assert cli.main(["init", str(path)]) == 0
    text = (tmp_path / "rows.py").read_text()
    spec, told = preview(Data(path, label="label"))
    assert spec.columns == (*mixed(), "quote's")
    for name, what in told:
        if name != "label":
            assert f"{name!r},  # {what}" in text if name in spec.columns else f"# {name!r} {what}" in text
    loaded = importlib.util.spec_from_file_location("rows_study", tmp_path / "rows.py")
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    assert module.STUDY.data.columns == spec.columns
    assert module.STUDY.data.label == "label"
    capsys.readouterr()
    assert cli.main(["data", "show", str(path), "--label", "label"]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for name, what in load(Data(path, label="label")).told():
        assert f"{name} {what}" in printed


def test_bytes_that_are_no_images_leave_a_table(tmp_path):
    told = survey(tmp_path, {"hash": pa.array([bytes(8)] * ROWS), "b": DRAWN.standard_normal(ROWS)})
    assert told == {"hash": "left out: bytes that are no images", "b": "number"}
