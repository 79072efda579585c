"""The command line: answers at once, one sentence for a mistake, a study file for a user's own rows."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raeflow import RaeflowError, Study, cli, variants

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rows(tmp_path):
    """120 rows of three numeric columns and a label."""
    drawn = np.random.default_rng(0).normal(size=(120, 3)).astype("float32")
    table = pa.table({"a": drawn[:, 0], "b": drawn[:, 1], "c": drawn[:, 2], "label": np.arange(120) % 2})
    path = tmp_path / "readings.parquet"
    pq.write_table(table, path)
    return path


def study_file(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return path


def refused(capsys, *arguments):
    """The one line a refused command prints."""
    assert cli.main([str(a) for a in arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("raeflow: ")
    assert "Traceback" not in told
    return told.strip().splitlines()[-1]


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from raeflow import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "VERB" in printed
    assert printed.strip().endswith("[]")


def test_unknown_study_names_the_known_ones(capsys):
    assert "quickstart" in refused(capsys, "study", "nothing")
    assert "no study file" in refused(capsys, "study", "nothing.py")


def test_a_broken_study_file_is_told_with_its_line(capsys, tmp_path):
    assert "line 2" in refused(capsys, "study", study_file(tmp_path, "x = 1\ny = x / 0\n"))
    assert "line 2" in refused(capsys, "study", study_file(tmp_path, "x = 1\ny = = 0\n"))
    assert "defines no STUDY" in refused(capsys, "study", study_file(tmp_path, "x = 1\n"))
    told = refused(capsys, "study", study_file(tmp_path, "from raeflow import *\nSTUDY = Study(name='a b', data=Data('x'))\n"))
    assert "name='a b'" in told


def test_missing_rows_are_refused_before_anything_is_written(capsys, tmp_path):
    home = str(tmp_path / "runs")
    text = f"from raeflow import Data, Study\nSTUDY = Study(name='mine', home={home!r}, data=Data('/no/such/rows.parquet'))\n"
    assert "/no/such/rows.parquet" in refused(capsys, "study", study_file(tmp_path, text))
    assert not (tmp_path / "runs").exists()


def test_set_changes_fields_and_refuses_what_is_not_there(tmp_path):
    study, _ = cli.load_study(str(study_file(tmp_path, "from raeflow import Data, Study\nSTUDY = Study(name='mine', data=Data('x'))\n")))
    changed = cli.override(study, ["search.trials=3", "seed=7", "variants=('vae',)", "training.device=cpu"])
    assert (changed.search.trials, changed.seed, changed.variants, changed.training.device) == (3, 7, ("vae",), "cpu")
    for change, said in [
        ("trials=3", "'trials'"),
        ("search.trials", "FIELD=VALUE"),
        ("name.x=1", "no fields"),
        ("search.trials=-1", "trials=-1"),
    ]:
        with pytest.raises(RaeflowError, match="(?s).*" + said):
            cli.override(study, [change])


def test_a_study_may_have_a_full_form(capsys, tmp_path):
    text = "from raeflow import Data, Study\nSTUDY = Study(name='mine', data=Data('x'))\n"
    assert "defines no FULL" in refused(capsys, "study", study_file(tmp_path, text), "--full")
    both = study_file(tmp_path, text + "FULL = STUDY.but(name='mine_full', data=Data('/no/such/rows.parquet'))\n")
    assert cli.load_study(str(both))[0].name == "mine"
    assert cli.load_study(str(both), "FULL")[0].name == "mine_full"
    assert "/no/such/rows.parquet" in refused(capsys, "study", both, "--full")


def test_a_bug_is_one_plain_line_and_a_log(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run", lambda _arguments: 1 / 0)
    told = refused(capsys, "variants")
    assert "a bug of raeflow stopped this: ZeroDivisionError: division by zero (the traceback is in" in told
    assert "unexpected" not in told
    assert "ZeroDivisionError" in (tmp_path / "raeflow-error.log").read_text()


def test_variants_are_listed_with_their_hyperparameters(capsys):
    assert cli.main(["variants"]) == 0
    printed = capsys.readouterr().out
    for name in variants.names():
        assert name in printed
        assert cli.main(["variants", name]) == 0
        told = capsys.readouterr().out
        assert all(field.name in told for field in dataclasses.fields(variants.get(name).Hyper))


def test_init_writes_a_study_that_builds(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", str(rows), "--label", "label"]) == 0
    assert "raeflow study readings.py" in capsys.readouterr().out
    study, _ = cli.load_study("readings.py")
    assert isinstance(study, Study)
    assert study.data.columns == ("a", "b", "c")
    assert study.data.label == "label"
    assert "already there" in refused(capsys, "init", rows)
    assert "Study(name='a\"b'): a name is made of letters" in refused(capsys, "init", rows, "--name", 'a"b', "--out", "other.py")
    assert not (tmp_path / "other.py").exists()
    assert cli.main(["init", str(rows), "--out", "again.py"]) == 0, "a column called label is taken for the label"
    assert cli.load_study("again.py")[0].data.label == "label"


def test_data_show_tells_what_is_seen(rows, capsys):
    assert cli.main(["data", "show", str(rows), "--label", "label"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split() == ["row", "3", "columns,", "3", "values", "for", "the", "model,", "scaling", "standard"]
    assert [line.split() for line in lines[1:4]] == [["a", "number"], ["b", "number"], ["c", "number"]]
    assert any("left out: Data(label='label')" in line for line in lines)
    assert "train" in printed


def test_the_command_is_installed():
    command = Path(sys.executable).parent / "raeflow"
    printed = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, env={**os.environ}).stdout
    assert printed.startswith("raeflow ")
