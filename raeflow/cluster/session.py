"""Starting or joining Ray: the edge where the environment is read and set."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

from raeflow.errors import RaeflowError

_ALWAYS = {
    # Progress lines are ours; the older output of Tune is the one that can be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials and workers keep the directory they were started in, so that relative paths mean the same everywhere.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Workers wait in `ray.train.report` until the controller polls: 2 s by default, each epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Optuna's database is the record of a search: Tune's own logs and snapshots would only cost time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A trial reports no value before its validation losses can be compared.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_ALONE = {
    # Nothing preempts the only node, and nobody scrapes its metrics; together they cost seconds a run.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
_JOINED = {
    # An autoscaler needs minutes to bring a GPU node; Train gives up after one.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}
_LOOPBACK = "127.0.0.1"
_SOCKET_ROOM = 40  # a socket's path holds 107 characters, and Ray adds up to 66 to its temporary folder


def connect(gpus: bool = False) -> None:
    """Join the cluster this process belongs to, or start one on this machine; called again it does nothing.

    `RAY_ADDRESS`, which a submitted job has too, names a cluster to join. Otherwise a cluster starts here
    that listens on the loopback interface alone, with token authentication. What the environment sets
    explicitly is left as it is. With `gpus`, a machine that has none is refused.
    """
    import ray

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        quiet()
        if address and address != "local":
            _join(address)
        else:
            _start()
    if gpus and alone() and not ray.cluster_resources().get("GPU"):  # type: ignore[no-untyped-call]
        raise RaeflowError("a GPU is asked for, but this machine has none that Ray can see")


def quiet() -> None:
    """Ray's settings for quick, quiet runs; to be called before Ray is imported for work, harmless later."""
    _default(_ALWAYS)
    address = os.environ.get("RAY_ADDRESS", "")
    _default(_JOINED if address and address != "local" else _ALONE)
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is told in a sentence of ours


def alone() -> bool:
    """Whether the cluster is one node that nothing will enlarge: what does not fit now never will."""
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    return (not address or address == "local") and len(ray.nodes()) == 1  # type: ignore[no-untyped-call]


def check_fits(what: str, cpus: float, gpus: float, count: int = 1) -> None:
    """Refuse what can never run on the only node, rather than wait for it for ever.

    `what` names the setting, as in `Search(cpus=4)`.
    """
    import ray

    if not alone():
        return
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, need in (("CPU", cpus * count), ("GPU", gpus * count)):
        if need > there.get(name, 0):
            raise RaeflowError(f"{what} needs {need:g} {name}s, and this machine has {there.get(name, 0):g}")


def _default(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _join(address: str) -> None:
    """Join a running cluster; workers get this package where they could not have it from a job's working directory."""
    import ray

    if "://" in address:
        raise RaeflowError(
            f"RAY_ADDRESS={address!r} can only be submitted to: run `ray job submit --working-dir . -- python -m jobs.study NAME`, "
            "or unset RAY_ADDRESS to work on this machine"
        )
    _knock(address)
    # A job's working directory holds the package already; a bare driver hands its own to every node.
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    runtime_env: dict[str, Any] = {} if in_job else {"py_modules": [str(Path(__file__).parents[1])]}
    try:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise RaeflowError(f"RAY_ADDRESS={address!r}: no Ray cluster answers there ({_first_line(error)})") from error
    except ray.exceptions.AuthenticationError as error:
        raise RaeflowError(f"RAY_ADDRESS={address!r}: the cluster wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN") from error


def _knock(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise RaeflowError(f"RAY_ADDRESS={address!r}: no Ray cluster answers there ({error})") from error


def _start() -> None:
    """Start a cluster of this machine, reachable from this machine alone."""
    import ray

    _ensure_token()
    ray.init(
        address="local",
        dashboard_host=_LOOPBACK,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=_short_folder(),
    )


def _ensure_token() -> None:
    """Ray writes a new token under the home folder; where it cannot, this process and its children share one of their own."""
    if any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        token = Path.home() / ".ray" / "auth_token"
        if token.is_file() and os.access(token, os.R_OK):
            return
        token.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=token.parent):
            return
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _short_folder() -> str | None:
    """None leaves the choice to Ray; a long TMPDIR would make its sockets' paths too long."""
    chosen = os.environ.get("TMPDIR", "")
    too_long = len(chosen) > _SOCKET_ROOM and not os.environ.get("RAY_TMPDIR")
    return "/tmp/ray" if too_long else None  # noqa: S108 (Ray's own choice where TMPDIR is not set)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
