"""What is printed runs as pasted, in a shell that knows nothing of the environment and in one that does."""

from __future__ import annotations

import html
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raeflow import cli, commands

BIN = Path(sys.executable).parent
BARE = os.pathsep.join(p for p in os.defpath.split(os.pathsep) if p and not Path(p, "raeflow").exists())
"""A PATH that leads to no environment."""


def pasted(command: str, folder: Path) -> str:
    """Output of a command in the shell of somebody who has not activated the environment."""
    done = subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": BARE}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def after(word: str, printed: str) -> list[str]:
    """The commands that stand after a word, one a line."""
    found = re.search(rf"^{word} +(.+(?:\n {{10}}.+)*)", printed, re.MULTILINE)
    assert found, printed
    return [line.strip() for line in found[1].splitlines()]


def environment(folder: Path, *names: str) -> Path:
    """A folder of programs, each of which says its name."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {name}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_program_is_named_as_the_shell_finds_it(tmp_path, monkeypatch):
    own = environment(tmp_path / ".venv" / "bin", "python", "raeflow", "mlflow", "uvicorn")
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", BARE)
    assert commands.program("raeflow") == ".venv/bin/raeflow"
    assert commands.program("python") == ".venv/bin/python"
    assert commands.finding("uvicorn") == f'PATH={own}:"$PATH" '
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{BARE}")
    assert [commands.program(name) for name in ("raeflow", "mlflow", "python")] == ["raeflow", "mlflow", "python"]
    assert commands.finding("uvicorn") == ""
    monkeypatch.setenv("PATH", f"{environment(tmp_path / 'other', 'raeflow', 'python')}{os.pathsep}{BARE}")
    assert commands.program("raeflow") == ".venv/bin/raeflow", "another environment's raeflow is not this one's"
    monkeypatch.chdir(own)
    assert commands.program("raeflow") == "./raeflow"
    (tmp_path / "a b" / "c" / "d" / "e" / "f").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a b" / "c" / "d" / "e" / "f")
    assert commands.program("raeflow") in (str(own / "raeflow"), "../../../../../.venv/bin/raeflow")
    assert len(commands.program("raeflow")) <= len(str(own / "raeflow"))


def test_a_link_on_path_is_the_program_itself_but_a_linked_python_is_another_environments(tmp_path, monkeypatch):
    own = environment(tmp_path / "tools" / "bin", "python", "raeflow")
    links = tmp_path / "links"
    links.mkdir()
    for name in ("python", "raeflow"):
        (links / name).symlink_to(own / name)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{links}{os.pathsep}{BARE}")
    assert commands.program("raeflow") == "raeflow"
    assert commands.program("python") == "tools/bin/python"


def test_a_program_that_was_never_installed_is_run_as_a_module(tmp_path, monkeypatch):
    own = environment(tmp_path / "my env" / "bin", "python")
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setattr(commands.sysconfig, "get_path", lambda _: str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", BARE)
    assert commands.program("raeflow") == "'my env/bin/python' -m raeflow.cli"
    assert commands.finding("uvicorn") == "", "there is none to lead to"


def test_the_next_verb_keeps_the_options_that_make_the_study(monkeypatch):
    from raeflow import verbs

    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{BARE}")
    words = ["search", "my study.py", "--home", "a b", "--set", "search.trials=3", "--set", "variants=('vae',)"]
    told = verbs._next("train", cli.parser().parse_args(words))
    assert told == "raeflow train 'my study.py' --home 'a b' --set search.trials=3 --set 'variants=('\"'\"'vae'\"'\"',)'"
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {told}"], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    assert vars(cli.parser().parse_args(split[1:]))["set"] == words[5::2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which a small study was made and run as the screen said, the command that ran it, and what it printed."""
    folder = tmp_path_factory.mktemp("user")
    drawn = np.random.default_rng(0).normal(size=(600, 3)).astype("float32")
    table = pa.table(dict(zip("abc", drawn.T, strict=True)))
    pq.write_table(table, folder / "my rows.parquet")
    pq.write_table(table, folder / "NEW.parquet")
    (study,) = after("next", pasted(f"{sys.executable} -m raeflow.cli init 'my rows.parquet' --out 'my study.py'", folder))
    with (folder / "my study.py").open("a") as file:
        file.write(
            "STUDY = STUDY.but(variants=('vae',), search=Search(trials=1, epochs=1), training=Training(epochs=1),\n"
            "                  calibration=Calibration())\n"
        )
    return folder, study, pasted(study, folder)


def on_page(folder: Path) -> str:
    return html.unescape((folder / "runs" / "my_rows" / "report.html").read_text())


@pytest.mark.ray
def test_every_command_that_is_printed_runs_as_pasted(finished):
    folder, study, printed = finished
    (ui,) = after("lineage", printed)
    assert "--backend-store-uri" in pasted(f"{ui.split(' ui ')[0]} ui --help", folder)
    (score,) = after("next", printed)
    assert "600 rows" in pasted(score, folder)
    assert score in on_page(folder)

    (train,) = after("next", pasted(study.replace(" study ", " search "), folder))
    (calibrate,) = after("next", pasted(train, folder))
    report, again = after("next", pasted(calibrate, folder))
    assert "report.html" in pasted(report, folder)
    assert again == score


@pytest.mark.ray
def test_the_pages_line_of_python_runs_as_pasted(finished):
    folder, _, _ = finished
    (line,) = re.findall(r"^.*python -c .*$", on_page(folder), re.MULTILINE)
    assert "Threshold(value=" in pasted(line, folder)


@pytest.mark.slow
@pytest.mark.ray
def test_the_pages_serving_command_answers_as_pasted(finished):
    from tests.test_tracking import free_port, post

    folder, _, _ = finished
    (command,) = re.findall(r"^.*MLFLOW_TRACKING_URI=.*\n.*models serve.*$", on_page(folder), re.MULTILINE)
    port = free_port()
    command = re.sub(r"--port 5001", f"--port {port}", re.sub("<.*?>", "", command))
    with (folder / "served.log").open("wb") as log:
        server = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": BARE}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        pause = threading.Event()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "served.log").read_text()
                pause.wait(0.5)
        body = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.0, 0.0, 0.0], [99.0, 99.0, 99.0]]}}
        answer = post(f"http://127.0.0.1:{port}/invocations", body)["predictions"]
        assert [a["is_anomaly"] for a in answer] == [False, True]
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
