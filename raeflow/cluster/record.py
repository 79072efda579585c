"""The record of a search: an Optuna study in a database, from which a killed search goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from raeflow import checkpoint, space
from raeflow.data.rows import Splits
from raeflow.errors import RaeflowError
from raeflow.selection import Trial
from raeflow.stored import WEIGHTS
from raeflow.study import Study, to_json

_STATUS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_HISTORY = "history.json"
T = TypeVar("T")


class Record:
    """One Optuna study of one raeflow study: asks for trials, is told of their ends, and remembers both."""

    def __init__(self, study: Study, splits: Splits, resume: bool = True) -> None:
        self.study, self.shape = study, splits.spec.shape
        self.folder = (study.folder / "trials").absolute()
        self.url = study.search.storage or f"sqlite:///{(study.folder / 'optuna.db').absolute()}"
        study.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = self._guard(lambda: optuna.storages.RDBStorage(self.url))
        if not resume:
            self._guard(lambda: self._forget(storage))
        self.optuna = self._guard(lambda: self._open(storage, study))
        self._claim(identity(study, splits))
        self.interrupted = [t for t in self._trials() if t.state == TrialState.RUNNING]
        self.open: dict[int, optuna.trial.Trial] = {}

    def ask(self) -> tuple[int, str, dict[str, Any]]:
        """(number, variant, hyperparameters) of the next trial: what a kill interrupted first, then the
        sources' own values, then what the sampler suggests."""
        trial = self._interrupted() or self.optuna.ask()
        variant, hyper = space.ask(self.study, trial, self.shape)
        self.open[trial.number] = trial
        return trial.number, variant, hyper

    def report(self, number: int, report: dict[str, Any]) -> None:
        """Keep a value that a running trial reports; one that is told again, by a trial that started again, is dropped."""
        trial = self.open[number]
        known = self.optuna._storage.get_trial(trial._trial_id).intermediate_values
        if "value" in report and report["epoch"] not in known:
            trial.report(report["value"], report["epoch"])
        if "rung" in report:
            rungs = {**trial.user_attrs.get("rungs", {}), str(report["rung"]): report["value"]}
            trial.set_user_attr("rungs", rungs)

    def end(self, trial: Trial) -> None:
        """Keep the end of a trial: COMPLETE with its value, PRUNED at its last report, or FAIL."""
        asked = self.open.pop(trial.number)
        for name in ("epochs", "seconds", "validation_loss", "message", "head", "heads"):
            asked.set_user_attr(name, getattr(trial, name))
        place = self.folder / str(trial.number)
        place.mkdir(parents=True, exist_ok=True)
        (place / _HISTORY).write_text(json.dumps(list(trial.history)))
        if trial.status == "complete":
            self.optuna.tell(asked, trial.value)
        else:
            self.optuna.tell(asked, state=TrialState.PRUNED if trial.status == "pruned" else TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """The trials that ended, by number."""
        return [self._trial(t) for t in self._trials() if t.state in _STATUS]

    def rungs(self) -> list[tuple[str, int, dict[int, float]]]:
        """(variant, number, value at each rung) of trials that ended, so that new ones are compared with them."""
        ended = [t for t in self._trials() if t.state in _STATUS]
        return [(t.user_attrs["variant"], t.number, {int(k): v for k, v in t.user_attrs.get("rungs", {}).items()}) for t in ended]

    def _trial(self, t: FrozenTrial) -> Trial:
        place = self.folder / str(t.number)
        history = place / _HISTORY
        at = t.user_attrs
        return Trial(
            number=t.number,
            variant=at["variant"],
            hyper=at["hyper"],
            value=t.value,
            validation_loss=at.get("validation_loss"),
            epochs=at.get("epochs", 0),
            seconds=at.get("seconds", 0.0),
            status=_STATUS[t.state],  # type: ignore[arg-type]
            # Another machine's database may be read where its weights are not.
            folder=str(place) if t.state == TrialState.COMPLETE and place.joinpath(WEIGHTS).exists() else None,
            message=at.get("message", ""),
            history=json.loads(history.read_text()) if history.exists() else [],
            head=at.get("head"),
            heads=at.get("heads", {}),
        )

    def _interrupted(self) -> optuna.trial.Trial | None:
        """A trial that was running when an earlier driver died goes on under its number, with its values."""
        return optuna.trial.Trial(self.optuna, self.interrupted.pop(0)._trial_id) if self.interrupted else None

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _open(self, storage: optuna.storages.RDBStorage, study: Study) -> optuna.Study:
        found = optuna.create_study(storage=storage, study_name=study.name, direction="maximize", load_if_exists=True)
        known = len(found.get_trials(deepcopy=False))
        found.sampler = space.sampler(study, known)
        if not known:
            space.enqueue(found, study, self.shape)
        return found

    def _forget(self, storage: optuna.storages.RDBStorage) -> None:
        if self.study.name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=self.study.name, storage=storage)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _claim(self, mine: dict[str, Any]) -> None:
        """Refuse to mix trials of two different questions."""
        theirs = self.optuna.user_attrs.get("raeflow")
        if theirs is None:
            self.optuna.set_user_attr("raeflow", mine)
            return
        changed = sorted(name for name in mine if mine[name] != theirs.get(name))
        if changed:
            name = changed[0]
            raise RaeflowError(
                f"{hidden(self.url)} holds trials of another study {self.study.name!r}: {name} was {theirs.get(name)!r}, "
                f"now it is {mine[name]!r}; choose a new name, or start over with --fresh"
            )

    def _guard(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, RuntimeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise RaeflowError(f"Search(storage={hidden(self.url)!r}): Optuna cannot use this database: {why}") from error


def identity(study: Study, splits: Splits) -> dict[str, Any]:
    """What the trials of a search depend on; more trials or slots may be asked for later."""
    mine: dict[str, Any] = checkpoint.plain({
        "variants": study.variants, "hyper": to_json(study.hyper), "training": to_json(study.training),
        "epochs": study.search.epochs, "selection": study.search.selection, "seed": study.seed,
        "shape": splits.spec.shape, "data": splits.fingerprint, **({} if study.head_names is None else {"heads": study.head_names}),
    })  # fmt: skip
    return mine


def hidden(url: str) -> str:
    """A database's URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
