"""A study as a submitted job: a head node with its dashboard, `ray job submit`, and the job's own result."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
VERBS = ("study", "search", "train", "calibrate", "score", "report")


def free_ports(count):
    """Ports that nobody listens on; all are held until the last is found, so that no two are the same."""
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_a_job(verb):
    printed = subprocess.run([sys.executable, "-m", f"jobs.{verb}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert verb in printed.stdout


@pytest.fixture
def head(tmp_path):
    """Environment of a client of a head node on loopback, with a token of its own; the node ends with the test."""
    port, dashboard, agent, client = free_ports(4)
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="rf", dir="/tmp") as short:
        env = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }  # fmt: skip
        env.pop("RAY_ADDRESS", None)
        command = [
            BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}", f"--temp-dir={short}", "--num-cpus=2",
            "--disable-usage-stats",
        ]  # fmt: skip
        with (tmp_path / "head.log").open("w") as log:
            node = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path)
            try:
                wait_for_dashboard(env, node)
                yield env
            finally:
                node.terminate()
                try:
                    node.wait(30)
                except subprocess.TimeoutExpired:
                    node.kill()


def wait_for_dashboard(env, node):
    request = urllib.request.Request(
        f"{env['RAY_API_SERVER_ADDRESS']}/api/jobs/", headers={"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"}
    )
    for _ in range(240):
        assert node.poll() is None, "the head node ended before its dashboard answered"
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("the dashboard never answered")


@pytest.mark.ray
def test_a_submitted_study_runs_to_its_report(head, tmp_path):
    home = tmp_path / "runs"
    job = [
        "python", "-m", "jobs.study", "quickstart", "--home", str(home), "--set", "search.trials=3", "--set", "search.epochs=2",
        "--set", "training.epochs=3", "--set", "cluster.scorers=1",
    ]  # fmt: skip
    runtime = json.dumps({"env_vars": {k: head[k] for k in ("RAEFLOW_CACHE", "MLFLOW_DISABLE_TELEMETRY", "OMP_NUM_THREADS")}})
    submit = [BIN / "ray", "job", "submit", "--working-dir", ".", "--runtime-env-json", runtime, "--", *job]
    for _ in range(60):
        done = subprocess.run(submit, cwd=ROOT, env=head, capture_output=True, text=True)
        told = done.stdout + done.stderr
        if "No available agent" not in told:  # the dashboard answers before the node's agent does
            break
        time.sleep(1)
    assert done.returncode == 0, told[-4000:]
    assert "succeeded" in told
    assert "raeflow score" in told, "the job's log ends with the next command"
    study = home / "quickstart"
    assert len(json.loads((study / "trials.json").read_text())) == 3
    assert (study / "report.html").stat().st_size > 10_000
    assert list((study / "scored").rglob("*.parquet"))

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head['RAY_API_SERVER_ADDRESS']}/api/jobs/", timeout=5)
    assert refused.value.code == 401, "the dashboard asks for a token"
