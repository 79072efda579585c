"""Search: Ray Tune runs the trials, Optuna says which, ASHA stops the weak ones, a database remembers.

Splits, once in shared memory -> trials in reused processes -> reports -> Trial, best first
"""

from __future__ import annotations

import collections
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raeflow.cluster import session
from raeflow.cluster.estimate import expectation
from raeflow.cluster.record import Record
from raeflow.cluster.shared import node
from raeflow.cluster.train import Group, place
from raeflow.cluster.trial import InProcess, plan, spread
from raeflow.data.rows import Splits
from raeflow.errors import RaeflowError
from raeflow.selection import Trial
from raeflow.study import Study

Say = Callable[[str], None]
Ended = Callable[[Trial], None]


def search(study: Study, splits: Splits, on_trial: Ended | None = None, progress: Say | None = None, resume: bool = True) -> list[Trial]:
    """Search the study's variants and their hyperparameters on train and validation rows alone.

    Trials that an earlier run of the same study ended are taken from the database and not repeated;
    `on_trial` hears of new ones only. Weights lie in `<study folder>/trials/<number>`. With `Search.minutes`
    there may be fewer trials than `Search.trials`; called again, the search goes on for as long again.

    Args:
        resume: False forgets what the database has of this study.

    Returns:
        All trials, best first: complete ones, then pruned ones, then failed ones.

    Raises:
        RaeflowError: the database holds another study or cannot be used, a trial can never fit this
            machine, or no trial gave a model.
    """
    record = Record(study, splits, resume)
    log = Log(study, record, on_trial, progress)
    missing = study.search.trials - len(log.trials)
    if missing > 0:
        expected = expectation(study, splits, missing) if progress else ""
        if progress and expected:
            progress(expected)
        session.connect(gpus=study.search.gpus > 0)
        s = study.search
        session.check_fits(f"Search(cpus={s.cpus:g}, gpus={s.gpus:g}, workers={s.workers})", s.cpus, s.gpus, s.workers)
        _run(study, splits.for_search(), log, missing)
    if len(log.trials) < study.search.trials:
        if not log.expired or log.running:
            raise KeyboardInterrupt  # Tune swallows the first one to stop its trials
        if progress:
            said = f"{study.search.minutes:g} min are over: {len(log.trials)} of {study.search.trials} trials have ended"
            progress(f"{said}; search again to go on")
    if not any(t.status != "failed" for t in log.trials):
        ((message, count),) = collections.Counter(t.message for t in log.trials).most_common(1)
        raise RaeflowError(f"all {len(log.trials)} trials failed, {count} of them with: {message}")
    return ranked(log.trials)


def ranked(trials: list[Trial]) -> list[Trial]:
    """Best first: complete, pruned, failed; then by value; equal ones by number."""
    order = ("complete", "pruned", "failed")
    return sorted(trials, key=lambda t: (order.index(t.status), -(t.value or 0.0), t.number))


def slots(study: Study) -> int:
    """Trials at a time: what the study says, or as many as the cluster's cores and GPUs hold now."""
    s, there = study.search, ray.cluster_resources()  # type: ignore[no-untyped-call]
    fit = there.get("CPU", 1) / (s.cpus * s.workers)
    if s.gpus:
        fit = min(fit, there.get("GPU", 0) / (s.gpus * s.workers))
    return s.slots or max(1, int(fit + 1e-9))


def lag(slots: int) -> int:
    """How many numbers back the trials lie that a new one is chosen by and compared with.

    A search must not depend on which trial is faster, so number n waits for all numbers up to n - lag and knows
    no others. With a lag of `slots`, a slot stands idle whenever a later trial ends before an earlier one. As
    many numbers more as there are other slots leave room for that; one slot knows all that came before.
    """
    return 2 * slots - 1


def _run(study: Study, splits: Splits, log: Log, missing: int) -> None:
    """Run the missing trials; Tune's own files are scrap, for the database has all that matters."""
    trainable, resources = _trainable(study, splits)
    at_a_time = slots(study)
    log.record.lag = lag(at_a_time)
    with tempfile.TemporaryDirectory(prefix="raeflow-") as scrap:
        tune.run(
            trainable,
            name=study.name,
            storage_path=scrap,
            num_samples=missing,
            search_alg=OptunaSearcher(log),
            scheduler=Halving(log, at_a_time) if study.search.stop_early else Watching(log, at_a_time),
            max_concurrent_trials=min(at_a_time, missing),
            resources_per_trial=resources,
            reuse_actors=study.search.workers == 1,
            max_failures=study.cluster.max_failures,
            raise_on_failed_trial=False,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            verbose=0,
        )
    log.record.tell()


def _trainable(study: Study, splits: Splits) -> tuple[Any, Any]:
    """What a trial runs, and what it holds: its cores, or next to nothing where its workers hold them."""
    s, ours = study.search, plan(study, node())
    if s.workers == 1:
        return tune.with_parameters(InProcess, plan=ours, splits=splits), {"cpu": s.cpus, "gpu": s.gpus}
    group = Group(s.workers, s.cpus, s.gpus, study.cluster.max_failures, place(study))
    trainable = tune.with_parameters(spread, plan=ours, splits={"ref": ray.put(splits)}, group=group)
    # A driver that held a core could leave its own workers none.
    return tune.with_resources(trainable, {"node:__internal_head__": 0.01}), None


def _name(trial: TuneTrial) -> str:
    return str(trial.config["number"])


@dataclass
class _Running:
    """What is known of a trial that has not ended."""

    number: int
    variant: str
    hyper: dict[str, Any]
    history: dict[int, dict[str, float]]
    """By epoch, so that a trial that started again tells nothing twice."""
    medians: dict[int, float]
    """By rung: the values below which it is stopped, known before it starts."""
    error: str = "its process died (killed, or out of memory)"


class Log:
    """Trials of a search as they run and end, for the database, the caller and the eyes."""

    def __init__(self, study: Study, record: Record, on_trial: Ended | None, progress: Say | None) -> None:
        self.study, self.record, self.on_trial, self.progress = study, record, on_trial, progress
        self.trials = record.trials()
        self.running: dict[str, _Running] = {}
        self.early: dict[int, Trial] = {}
        """Trials that ended before one of a lower number, which is to be told first."""
        self.start = time.monotonic()
        self.begun, self.expired = 0, False

    def time_is_up(self) -> bool:
        """Whether no trial shall start any more; the first one always does."""
        minutes = self.study.search.minutes
        self.expired = minutes is not None and self.begun > 0 and time.monotonic() - self.start > 60 * minutes
        return self.expired

    def begin(self, trial_id: str) -> dict[str, Any] | None:
        """What the next trial shall be; None where others must end first."""
        asked = self.record.ask()
        if asked is None:
            return None
        self.begun += 1
        number, variant, hyper = asked
        self.running[trial_id] = _Running(number, variant, hyper, {}, self.record.medians(variant))
        return {"number": number, "variant": variant, "hyper": hyper}

    def hear(self, trial_id: str, report: dict[str, Any]) -> None:
        """A trial goes on."""
        at = self.running[trial_id]
        at.history.update({int(e["epoch"]): e for e in report.get("history", ())})
        self.record.report(at.number, report)

    def end(self, trial_id: str, report: dict[str, Any], died: bool) -> None:
        """The last report of a trial says how it ended: to its last epoch, stopped before it, or not at all."""
        at = self.running.pop(trial_id)
        at.history.update({int(e["epoch"]): e for e in report.get("history", ())})
        message = at.error if died else report.get("message", "")
        status = "failed" if message else "complete" if report.get("last") else "pruned"
        if status == "pruned":
            self.record.report(at.number, report)
        history = [at.history[e] for e in sorted(at.history)]
        head, heads = report.get("judged") or (None, {})
        loss = report.get("validation_loss", history[-1]["validation_loss"] if history else None)
        trial = Trial(
            number=at.number,
            variant=at.variant,
            hyper=at.hyper,
            value=None if status == "failed" else report.get("value"),
            validation_loss=None if status == "failed" else loss,
            epochs=len(history),
            seconds=report.get("seconds", 0.0),
            status=status,  # type: ignore[arg-type]
            folder=str(self.record.folder / str(at.number)) if status == "complete" else None,
            message=message,
            history=history,
            head=head,
            heads=heads,
        )
        self.record.end(trial)
        if self.on_trial:
            self.on_trial(trial)
        self.early[trial.number] = trial
        first = min((r.number for r in self.running.values()), default=math.inf)
        for number in sorted(n for n in self.early if n < first):
            self.trials.append(self.early.pop(number))
            if self.progress:
                self.progress(self.line(self.trials[-1]))

    def weak(self, trial_id: str, report: dict[str, Any]) -> bool:
        """Whether a trial at a rung lies below the median of its variant."""
        medians = self.running[trial_id].medians
        return report.get("rung") in medians and report["value"] < medians[report["rung"]]

    def line(self, trial: Trial) -> str:
        """trial 3/24 vae 0.9810 best 0.9840 12.1 s"""
        values = [t.value for t in self.trials if t.status == "complete" and t.value is not None]
        best = f"best {max(values):.4f} " if values else ""
        said = f"failed: {trial.message}; " if trial.status == "failed" else f"{trial.value:.4f} "
        stopped = f"stopped at epoch {trial.epochs} " if trial.status == "pruned" else ""
        return f"trial {len(self.trials)}/{self.study.search.trials} {trial.variant} {said}{stopped}{best}{trial.seconds:.1f} s"


class OptunaSearcher(Searcher):
    """Optuna's ask and tell as Tune's searcher.

    Unlike Tune's own, it tells trials that ASHA stopped as PRUNED at their last value rather than as
    COMPLETE, failed ones as FAIL, all by number, and goes on from its database rather than from a pickled copy
    of itself.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(metric="value", mode="max")
        self.log = log

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's number, variant and hyperparameters; FINISHED where the time is up; None where an earlier
        trial must end first: Tune asks again after the next report of any trial, or in a tenth of a second."""
        if self.log.time_is_up():
            return Searcher.FINISHED
        return self.log.begin(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of a trial that goes on."""
        self.log.hear(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The last report of a trial, which the scheduler may have stopped."""
        if trial_id in self.log.running:
            self.log.end(trial_id, result or {}, error)

    def save(self, checkpoint_path: str) -> None:
        """The database is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """The database is the record."""


class Watching(FIFOScheduler):
    """First come, first served; and hears why a trial's process died, which Tune does not tell its searcher."""

    def __init__(self, log: Log, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log, self.slots = log, slots

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Keep a process for each slot, though all but one may wait for a trial; Tune itself would keep one and start the others anew."""
        cache = getattr(getattr(tune_controller, "_tune_controller", None), "_actor_cache", None)
        if cache is not None and self.slots:
            cache.increase_max(trial.placement_group_factory, self.slots)
            self.slots = 0

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:  # noqa: ARG002
        """Keep the error for the searcher, which hears of the end next."""
        file = trial.error_file
        at = self.log.running.get(trial.trial_id)
        if at is None or not file or not Path(file).exists():
            return
        text = Path(file).read_text().strip()
        if "ray::" in text:  # a traceback of the trial's own, rather than Ray's report of a death
            at.error = text.splitlines()[-1]


class Halving(Watching):
    """Asynchronous halving (ASHA, Li et al. 2020, arXiv:1810.05934) with factor 2, among the trials of each variant by themselves.

    Curves of different variants cross: a GAN's encoder starts when an autoencoder is nearly done. So trials
    are compared with those of their own variant at the same share of their settled epochs, and it is the
    sampler that moves trials from weak variants to strong ones. Unlike ASHA's, a verdict does not ask who came
    first: trial n is compared with the numbers up to n - lag, which had all ended when it was asked for.
    """

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """STOP or CONTINUE; only rungs are compared."""
        return str(TrialScheduler.STOP if self.log.weak(trial.trial_id, result) else TrialScheduler.CONTINUE)
