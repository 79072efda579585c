"""A parent run per study, a child run for every trial and step, the detector as a registered model.

Only the driver writes: trials and workers hand their results to it, so parallel trials never meet at a
locked database. The store is a sqlite file in the study's `home` unless `Study.tracking` names a
tracking server or another database.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from raeflow.commands import program
from raeflow.errors import RaeflowError
from raeflow.heads import title
from raeflow.study import Study, to_json, without_passwords
from raeflow.tracking import provenance
from raeflow.tracking.store import Store, first_line, store_errors

if TYPE_CHECKING:
    from raeflow.detector import Detector
    from raeflow.selection import Trial

ALIAS = "champion"
GIVE_UP_AFTER = 3
"""Failures in a row after which a study goes on untracked."""

T = TypeVar("T")


class Tracker:
    """Writes one study to MLflow; made once, in the driver, before work starts.

    A study that is run again in the same folder goes on with its parent run. Once the study is under
    way nothing here raises: a store that fails is warned about, and after `GIVE_UP_AFTER` failures in a
    row it is left alone.

    uri: MLflow tracking URI; None takes `study.tracking`, else a sqlite file in `study.home`.
    fingerprint: hash of the data read, `Splits.fingerprint`.

    Raises RaeflowError where the store cannot be reached or written.
    """

    def __init__(self, study: Study, uri: str | None = None, *, fingerprint: str = "") -> None:
        home = Path(study.home).resolve()
        self.study = study
        self.uri = uri or study.tracking or f"sqlite:///{home / 'mlflow.db'}"
        self._failures = 0
        try:
            self._store = Store(self.uri, study.name, home)
            self.parent_run_id: str = self._open_parent(fingerprint)
            self._children = self._store.children(self.parent_run_id)
        except store_errors() as error:
            raise RaeflowError(f"MLflow store {without_passwords(self.uri)} cannot be used: {first_line(error)}") from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    @property
    def where(self) -> str:
        """The page of the parent run on a tracking server, else the command that shows the store."""
        if self.uri.startswith("http"):
            return f"{without_passwords(self.uri).rstrip('/')}/#/experiments/{self._store.experiment}/runs/{self.parent_run_id}"
        return f"{program('mlflow')} ui --backend-store-uri {shlex.quote(without_passwords(self.uri))}"

    def trial(self, trial: Trial) -> None:
        """A child run with the trial's parameters, its metrics by epoch and its outcome; a trial logged before is left alone."""
        key = f"trial {trial.number}"
        if key not in self._children:
            self._attempt(key, lambda: self._write_trial(key, trial))

    def step(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        history: Sequence[Mapping[str, float]] = (),
        artifacts: Sequence[str | Path] = (),
    ) -> str:
        """A child run for one step of the study (training, calibration, scoring, report); its run id, empty where tracking failed.

        `history` holds one record per epoch, with its `epoch`; `metrics["seconds"]`, where given, is how long
        the step took. A metric that is also a curve of `history` becomes `best_<metric>`. Metrics also go
        to the parent, as `<name>.<metric>`, so that studies compare. The same step with the same outcome,
        run again, only renews its artifacts.
        """
        params, metrics = dict(params or {}), dict(metrics or {})
        outcome = {k: v for k, v in metrics.items() if k != "seconds"}
        digest = hashlib.sha256(json.dumps([name, params, outcome], sort_keys=True, default=str).encode()).hexdigest()[:16]
        key = f"{name} {digest}"
        if key not in self._children:
            self._attempt(f"step {name!r}", lambda: self._write_step(key, name, params, metrics, history))
        run_id = self._children.get(key, "")
        for artifact in artifacts if run_id else ():
            self._attempt(f"{artifact}", partial(self._store.upload, run_id, Path(artifact)))
        return run_id

    def artifact(self, path: str | Path) -> None:
        """Upload a file to the study's run."""
        self._attempt(f"{path}", partial(self._store.upload, self.parent_run_id, Path(path)))

    def detector(self, detector: Detector, folder: str | Path, example: Any) -> str:
        """Log a saved detector as a model, register it under the study's name and call it `champion`.

        `folder` is where `Detector.save` put it; `example` holds raw rows (n, *shape), numpy or torch, of
        which two are kept. Returns `models:/<study>@champion`, empty where tracking failed. The same
        detector is registered once.
        """
        return self._attempt("the detector", lambda: self._write_detector(detector, Path(folder), example)) or ""

    def finish(self, status: str = "FINISHED") -> None:
        """Close the parent run as FINISHED, FAILED or KILLED; tried once even where tracking was given up."""
        self._failures = min(self._failures, GIVE_UP_AFTER - 1)
        self._attempt("the end of the study", lambda: self._store.client.set_terminated(self.parent_run_id, status))

    def _open_parent(self, fingerprint: str) -> str:
        """The parent run: the one this folder knows, else a new one."""
        note = self.study.folder / "tracking.json"
        own = {"uri": without_passwords(self.uri), "experiment": self._store.experiment}
        kept = json.loads(note.read_text()) if note.exists() else {}
        run = self._store.run(kept["run"]) if own.items() <= kept.items() else None
        client = self._store.client
        if run is None:
            tags = {**provenance.source(), "raeflow.kind": "study"}
            run = client.create_run(self._store.experiment, run_name=self.study.name, tags=tags)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({**own, "run": run.info.run_id}, indent=1))
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        self._best: float | None = run.data.metrics.get("best_selection_score")
        self._describe(run, fingerprint)
        return str(run.info.run_id)

    def _describe(self, run: Any, fingerprint: str) -> None:
        """Parameters, data, code and environment of the whole study, on its parent run."""
        from mlflow.entities import Dataset, DatasetInput

        run_id, environment = str(run.info.run_id), provenance.environment()
        values = json.loads(without_passwords(json.dumps(to_json(self.study))))
        self._store.settle(run_id, values, run.data.params)
        tags = {f"raeflow.{k}": v for k, v in environment.items() if k != "packages"}
        self._store.tag(run_id, {**tags, **provenance.git(), "raeflow.fingerprint": fingerprint})
        self._store.client.log_dict(run_id, values, "study.json")
        self._store.client.log_dict(run_id, environment, "environment.json")
        if fingerprint and not (run.inputs and run.inputs.dataset_inputs):
            data = Dataset(self.study.name, fingerprint[:36], "parquet", json.dumps(values["data"]["source"]))
            self._store.client.log_inputs(run_id, [DatasetInput(data)])

    def _write_trial(self, key: str, trial: Trial) -> None:
        metrics = {"selection_score": trial.value, "best_validation_loss": trial.validation_loss, "epochs": trial.epochs}
        tags = {"raeflow.key": key, "raeflow.kind": "trial", "raeflow.status": trial.status, "raeflow.message": trial.message}
        name, params = f"{key} {trial.variant}", {"variant": trial.variant, "head": title(trial.head), **trial.hyper}
        status = "FAILED" if trial.status == "failed" else "FINISHED"
        self._children[key] = self._store.child(
            self.parent_run_id, name, params, {**metrics, "seconds": trial.seconds}, trial.history, tags, trial.seconds, status
        )
        if trial.status == "complete" and trial.value is not None and (self._best is None or trial.value > self._best):
            self._best = trial.value
            self._store.client.log_metric(self.parent_run_id, "best_selection_score", trial.value, step=trial.number)

    def _write_step(
        self, key: str, name: str, params: Mapping[str, Any], metrics: Mapping[str, float | None], history: Sequence[Mapping[str, float]]
    ) -> None:
        seconds = float(metrics.get("seconds") or 0.0)
        tags = {"raeflow.key": key, "raeflow.kind": "step"}
        curves = {k for record in history for k in record}
        own = {f"best_{k}" if k in curves else k: v for k, v in metrics.items()}
        self._children[key] = self._store.child(self.parent_run_id, name, params, own, history, tags, seconds, "FINISHED")
        self._store.log(self.parent_run_id, {}, {f"{name}.{k}": v for k, v in metrics.items()})

    def _write_detector(self, detector: Detector, folder: Path, example: Any) -> str:
        from raeflow.tracking import served

        name = self.study.name
        version = served.register(self._store, self.parent_run_id, name, detector, folder, example)
        self._store.client.set_registered_model_alias(name, ALIAS, version)
        self._store.tag(self.parent_run_id, {"raeflow.detector": detector.id, "raeflow.model": f"models:/{name}/{version}"})
        return f"models:/{name}@{ALIAS}"

    def _attempt(self, what: str, write: Callable[[], T]) -> T | None:
        """Store failures become warnings: a study's work is worth more than its record."""
        if self._failures >= GIVE_UP_AFTER:
            return None
        try:
            result = write()
        except store_errors() as error:
            self._failures += 1
            end = "; the study goes on untracked" if self._failures >= GIVE_UP_AFTER else ""
            warnings.warn(
                f"MLflow at {without_passwords(self.uri)} did not take {what}: {first_line(error)}{end}", RuntimeWarning, stacklevel=4
            )
            return None
        self._failures = 0
        return result
