"""The record of a search: an Optuna study in a database, from which a killed search goes on."""

from __future__ import annotations

import json
import shutil
import statistics
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
_STATE = {status: state for state, status in _STATUS.items()}
_ENDED = "ended"
_HISTORY = "history.json"
T = TypeVar("T")


class Record:
    """One Optuna study of one raeflow study: asks for trials, is told of their ends, and remembers both.

    Trial n is suggested from the trials up to n - `lag`, all of which have ended, and to the sampler those between
    are running ones even where they have ended too. So what it knows depends on numbers alone, not on speed.
    """

    lag = 1

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
        begun = [t for t in self._trials() if t.state == TrialState.RUNNING]
        self.interrupted = [t for t in begun if _ENDED not in t.user_attrs]
        self.open: dict[int, optuna.trial.Trial] = {}
        self.untold = {t.number: self._taken_up(t) for t in begun if _ENDED in t.user_attrs}
        self.tell()
        self.next = sum(t.state != TrialState.WAITING for t in self._trials())

    def ask(self) -> tuple[int, str, dict[str, Any]] | None:
        """(number, variant, hyperparameters) of the next trial: what a kill interrupted first, then the
        sources' own values, then what the sampler suggests. None where an earlier trial must end first."""
        known = self._known()
        if any(n <= known for n in self.open):
            return None
        self.tell(known)
        if self.interrupted:
            trial = self._taken_up(self.interrupted.pop(0))
        else:
            trial = self.optuna.ask()
            self.next = trial.number + 1
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
        """Keep the end of a trial; the sampler hears of it as soon as it may."""
        asked = self.open[trial.number]
        for name in ("epochs", "seconds", "validation_loss", "message", "head", "heads"):
            asked.set_user_attr(name, getattr(trial, name))
        place = self.folder / str(trial.number)
        place.mkdir(parents=True, exist_ok=True)
        (place / _HISTORY).write_text(json.dumps(list(trial.history)))
        asked.set_user_attr(_ENDED, {"status": trial.status, "value": trial.value})  # last of all: from here on it is not run again
        self.untold[trial.number] = self.open.pop(trial.number)
        self.tell(self._known())

    def tell(self, last: int | None = None) -> None:
        """Tell the sampler of trials that ended, up to number `last`, by number: COMPLETE with the value, PRUNED at the
        last report, or FAIL."""
        for number in sorted(n for n in self.untold if last is None or n <= last):
            trial = self.untold.pop(number)
            end = trial.user_attrs[_ENDED]
            self.optuna.tell(trial, end["value"] if end["status"] == "complete" else None, _STATE[end["status"]])

    def trials(self) -> list[Trial]:
        """The trials that the sampler was told of, by number."""
        return [self._trial(t) for t in self._trials() if t.state in _STATUS]

    def medians(self, variant: str) -> dict[int, float]:
        """Median value at each rung of the variant's trials that the sampler was told of; a rung that none reached is not there."""
        told = [t for t in self._trials() if t.state in _STATUS and t.user_attrs["variant"] == variant]
        values: dict[int, list[float]] = {}
        for trial in told:
            for rung, value in trial.user_attrs.get("rungs", {}).items():
                values.setdefault(int(rung), []).append(value)
        return {rung: statistics.median(found) for rung, found in values.items()}

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

    def _known(self) -> int:
        """The last trial by which the next one is chosen."""
        return (self.interrupted[0].number if self.interrupted else self.next) - self.lag

    def _taken_up(self, trial: FrozenTrial) -> optuna.trial.Trial:
        """A trial of an earlier driver that died, which goes on under its number, with its values."""
        return optuna.trial.Trial(self.optuna, trial._trial_id)

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
        changed = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
        if changed:
            name = changed[0]
            raise RaeflowError(
                f"{hidden(self.url)} holds trials of another study {self.study.name!r}: {name} was {theirs.get(name)!r}, "
                f"now it is {mine.get(name)!r}; choose a new name, or start over with --fresh"
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
