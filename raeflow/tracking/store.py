"""An MLflow store, opened once by the driver: connecting, and writing whole runs in few calls."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raeflow.errors import RaeflowError
from raeflow.study import without_passwords
from raeflow.tracking import provenance

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARAMETER_LIMIT = 500
"""Characters of a parameter that every MLflow server takes; `study.json` among the artifacts holds the whole."""
TAG_LIMIT = 5000
KEY_LIMIT = 250
PARAMETERS_A_BATCH = 100
METRICS_A_BATCH = 1000
PATIENCE_S = 10
"""Seconds to wait for a tracking server before a study starts."""
BARS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

Values = Mapping[str, Any]
History = Sequence[Mapping[str, float]]


class Store:
    """A client of one tracking URI and one experiment.

    home: folder that keeps the artifacts where the store is a database without a server.
    Raises RaeflowError where a server does not answer or refuses; other failures are `store_errors()`.
    """

    def __init__(self, uri: str, experiment: str, home: Path) -> None:
        # Left to MLflow's own values a study would hang for minutes on a server that went away.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        if "://" not in uri and not uri.startswith("databricks"):
            raise RaeflowError(
                f"Study(tracking={uri!r}): MLflow keeps runs in a database or on a server; name one, such as sqlite:///{uri}/mlflow.db"
            )
        self.uri = uri
        if uri.startswith(("http://", "https://")):
            _knock(uri)
        with quiet():
            if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
                _create_database(Path(uri.removeprefix("sqlite:///")))
            self.client: MlflowClient = _client(uri)
            self.experiment = self._experiment(experiment, home)

    def _experiment(self, name: str, home: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            own = self.uri.split(":")[0].split("+")[0] in DATABASES
            return str(self.client.create_experiment(name, artifact_location=(home / "mlartifacts").as_uri() if own else None))
        if found.lifecycle_stage == "deleted":
            raise RaeflowError(
                f"MLflow experiment {name!r} in {without_passwords(self.uri)} was deleted: restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or give the study another name"
            )
        return str(found.experiment_id)

    def child(
        self, parent: str, name: str, params: Values, metrics: Values, history: History, tags: Values, seconds: float, status: str
    ) -> str:
        """Write a whole child run that began `seconds` ago; it is ended last, so one without an end was cut short."""
        start = int((time.time() - seconds) * 1000)
        whole = _texts({**provenance.source(), **tags, "mlflow.parentRunId": parent}, TAG_LIMIT)
        run_id = str(self.client.create_run(self.experiment, start_time=start, run_name=name, tags=whole).info.run_id)
        self.log(run_id, params, metrics, history)
        self.client.set_terminated(run_id, status)
        return run_id

    def children(self, parent: str) -> dict[str, str]:
        """Run ids of the children written whole, by their key; those that a kill cut short are deleted, to be written again."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=1000, page_token=token)
            for run in page:
                key = run.data.tags.get("raeflow.key", "")
                if key and run.info.status == "RUNNING":
                    self.client.delete_run(run.info.run_id)
                elif key:
                    found[key] = str(run.info.run_id)
            token = page.token
            if not token:
                return found

    def log(self, run_id: str, params: Values, metrics: Values, history: History = ()) -> None:
        """Parameters (nested ones flattened, long ones cut) and metrics, in batches; None is left out.

        `history` holds one record per epoch; its `epoch`, else its place, is the step.
        """
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        points = [Metric(k, float(v), now, 0) for k, v in metrics.items() if v is not None]
        for index, record in enumerate(history, 1):
            epoch = int(record.get("epoch", index))
            points += [Metric(k, float(v), now, epoch) for k, v in record.items() if k != "epoch" and v is not None]
        kept = [Param(k, v) for k, v in _texts(flat(params), PARAMETER_LIMIT).items()]
        for start in range(0, len(kept), PARAMETERS_A_BATCH):
            self.client.log_batch(run_id, params=kept[start : start + PARAMETERS_A_BATCH])
        for start in range(0, len(points), METRICS_A_BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + METRICS_A_BATCH])

    def settle(self, run_id: str, params: Values, before: Mapping[str, str]) -> None:
        """Parameters of a run that goes on: MLflow never changes one, so another value than `before` becomes a tag."""
        now = _texts(flat(params), PARAMETER_LIMIT)
        self.log(run_id, {k: v for k, v in now.items() if k not in before}, {})
        self.tag(run_id, {f"raeflow.changed.{k}": v for k, v in now.items() if before.get(k, v) != v})

    def tag(self, run_id: str, tags: Values) -> None:
        """Set tags; None and empty ones are left out."""
        from mlflow.entities import RunTag

        kept = [RunTag(k, v) for k, v in _texts(tags, TAG_LIMIT).items()]
        if kept:
            self.client.log_batch(run_id, tags=kept)

    def upload(self, run_id: str, path: Path) -> None:
        """A file, or a folder under its own name, among the run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), path.name)
        else:
            self.client.log_artifact(run_id, str(path))

    def run(self, run_id: str) -> Any:
        """A run that is still there, else None."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return None
        return run if run.info.lifecycle_stage == "active" else None


def store_errors() -> tuple[type[Exception], ...]:
    """What tracking and artifact stores raise; those of cloud clients only where these were loaded."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    clients = {
        "botocore.exceptions": ("BotoCoreError", "ClientError"),
        "boto3.exceptions": ("Boto3Error",),
        "google.api_core.exceptions": ("GoogleAPIError",),
        "google.auth.exceptions": ("GoogleAuthError",),
        "azure.core.exceptions": ("AzureError",),
    }
    loaded = [getattr(sys.modules[module], name) for module, names in clients.items() if module in sys.modules for name in names]
    return (MlflowException, SQLAlchemyError, OSError, *loaded)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = without_passwords(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's and alembic's notes and progress bars for what takes a moment; warnings stay."""
    import mlflow  # noqa: F401  sets its loggers' levels, so it goes first

    bars = os.environ.get(BARS)
    os.environ[BARS] = "false"
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)
        if bars is None:
            del os.environ[BARS]
        else:
            os.environ[BARS] = bars


def flat(values: Values, path: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys; lists as JSON text."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            out |= flat(value, name)
        else:
            out[name] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return out


def _texts(values: Values, limit: int) -> dict[str, str]:
    """Values as text no longer than `limit`, without None and empty ones; keys of characters that MLflow takes."""
    out: dict[str, str] = {}
    for key, value in values.items():
        text = "" if value is None else str(value)
        if text:
            name = "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in str(key))[:KEY_LIMIT]
            out[name] = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return out


def _create_database(path: Path) -> None:
    """A fresh sqlite store, made aside and moved into place whole.

    MLflow brings it about in some sixty migrations, each synced to disk; in memory that takes a quarter of
    the time, and two studies that start at once in the same home cannot trip over one another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(dir=memory, ignore_cleanup_errors=True) as work:
        made = Path(work) / "mlflow.db"
        _client(f"sqlite:///{made}")
        shutil.copyfile(made, aside)
    try:
        os.link(aside, path)
    except FileExistsError:
        pass  # another study was faster
    except OSError:
        aside.rename(path)  # a file system without links
    finally:
        aside.unlink(missing_ok=True)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except ModuleNotFoundError as error:
        raise RaeflowError(
            f"Study(tracking={without_passwords(uri)!r}): this database needs the Python package {error.name!r}, which is missing"
        ) from error


def _knock(uri: str) -> None:
    """Refuse a tracking server that does not answer, in seconds and before any work is done."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        host = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
        answer = http_request(host, "/health", "GET", max_retries=0, timeout=PATIENCE_S, raise_on_status=False)  # type: ignore[no-untyped-call]
    except store_errors() as error:
        raise RaeflowError(
            f"Study(tracking={without_passwords(uri)!r}): no MLflow server answers there within {PATIENCE_S} s; "
            "start it, or leave tracking unset"
        ) from error
    if answer.status_code in (401, 403):
        raise RaeflowError(
            f"Study(tracking={without_passwords(uri)!r}): the server refuses these credentials (HTTP {answer.status_code}); "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
