"""One trial of a search: train in this process, judge, report, and leave the weights behind."""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from raeflow import checkpoint
from raeflow.cluster.shared import deliver
from raeflow.cluster.train import Group, deal, dealt, on_device, on_workers, reserved
from raeflow.data.rows import Splits
from raeflow.errors import RaeflowError
from raeflow.health import Gauge, collapse, gauge_of
from raeflow.selection import FAILURES, Generation, Judge, brief, judge, judged
from raeflow.study import Study, Training
from raeflow.training import Run, evaluations

RUNGS = (1 / 4, 1 / 2)
"""Shares of a trial's settled epochs after which the weaker half of its variant's trials is stopped."""
HEARTBEAT = 10.0
"""Seconds after which a trial reports its losses, rung or not."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a search have in common."""

    training: Training
    selection: str
    seed: int
    threads: int
    stop_collapsed: bool
    heads: tuple[str, ...] | None
    """Heads that may be chosen; None: all."""
    folder: Path
    """Where weights go, on the node `home`."""
    home: str


def plan(study: Study, home: str) -> Plan:
    """The plan of a study's trials; `home` is the driver's node."""
    s, epochs = study.search, study.search.epochs or study.training.epochs
    training = dataclasses.replace(reserved(study.training, s.cpus, s.gpus), epochs=epochs)
    folder = (study.folder / "trials").absolute()
    return Plan(training, s.selection, study.seed, training.threads, s.stop_collapsed, study.head_names, folder, home)


class InProcess(tune.Trainable):
    """A trial in a process that goes on to train the next one, with the rows of its node's shared memory."""

    def setup(self, config: dict[str, Any], plan: Plan, splits: Splits) -> None:  # type: ignore[override]
        """Once a process: rows, judge, threads."""
        torch.set_num_threads(plan.threads)
        self.plan, self.splits = plan, splits
        self.judge = judge(plan.selection, splits, plan.seed)
        self.gauge = gauge(plan, splits, self.judge)
        self.begin(config)

    def begin(self, config: dict[str, Any]) -> None:
        """Take up a trial; nothing is built before its first step, so that failing to build fails the trial alone."""
        self.reports = reports(self.plan, self.splits, self.judge, self.gauge, config["number"], config["variant"], config["hyper"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in this process."""
        self.begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next report."""
        report = next(self.reports)
        return {**report, "done": report["last"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep: a trial that is cut short starts again."""


def spread(config: dict[str, Any], plan: Plan, splits: dict[str, Any], group: Group) -> None:
    """A trial that is itself a Ray Train run; `splits` holds a reference, so that no copy passes through here."""
    held = ray.get(splits["ref"])
    datasets, own = deal(held, group.workers)
    ref = splits["ref"] if own is held else ray.put(own)
    try:
        # A name of its own for each attempt: Train would take up what another run of this name left.
        run_name = f"trial-{config['number']}-{uuid.uuid4().hex[:8]}"
        on_workers(_judged, {**config, "plan": plan, "splits": ref}, group, run_name, datasets, [TuneReportCallback()])  # type: ignore[no-untyped-call]
    except RaeflowError as error:
        tune.report({"epoch": 0, "seconds": 0.0, "history": [], "last": True, "message": str(error)})


def _judged(config: dict[str, Any]) -> None:
    """One worker of `spread`."""
    import ray.train

    plan: Plan = config["plan"]
    torch.set_num_threads(plan.threads)
    plan = dataclasses.replace(plan, training=on_device(plan.training, config["gpu"]))
    splits = dealt(config)
    by = judge(plan.selection, splits, plan.seed)
    measured = gauge(plan, splits, by)
    for report in reports(plan, splits, by, measured, config["number"], config["variant"], config["hyper"]):
        ray.train.report(report)


def gauge(plan: Plan, splits: Splits, judge: Judge) -> Gauge | None:
    """What measures the games of a search: the judge's own where it has one, so that features are learned once a process."""
    return judge.gauge if isinstance(judge, Generation) else gauge_of(splits, plan.training, plan.seed)


def reports(
    plan: Plan, splits: Splits, judge: Judge, gauge: Gauge | None, number: int, variant: str, hyper: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Train one trial and yield what Tune and Optuna are told: at each rung, now and then, and last of all.

    A report has `epoch`, `seconds`, `history` (of the epochs since the report before), `last`; `value` where
    validation losses can be compared; `rung` (1, 2) where a weak trial may be stopped; `message` where it failed; the last of a
    trial that did not has `judged`, its head and the value of each head.
    """
    state = _State()
    workers = dist.get_world_size() if dist.is_initialized() else 1
    try:
        run = Run(variant, hyper, splits, plan.training, plan.seed + number, gauge)
        generation = plan.selection == "generation"  # a game can be judged by what it draws before its encoder learns
        rungs = rung_epochs(plan.training.epochs, run.model.drawn_from if generation else run.model.settled_from)
        planned = len(evaluations(plan.training, run.model.game_share))
        for epoch in run.epochs():
            why = collapse(run.history, planned) if epoch.health and plan.stop_collapsed else None
            if why:
                yield {**state.report(run, epoch.number, None, None), "last": True, "message": why}
                return
            if epoch.last:
                break
            # Several workers report together or not at all, and their clocks differ.
            if epoch.number in rungs or (workers == 1 and time.perf_counter() - state.told > HEARTBEAT):
                # Values at rungs alone: where a heartbeat falls depends on the machine.
                at_rung = epoch.number in rungs and (epoch.settled or generation)
                value = judge(run.model, run.encoding) if at_rung else None
                yield state.report(run, epoch.number, value, rungs.get(epoch.number))
        yield finish(plan, run, judge, number, state)
    except FAILURES as error:
        if workers > 1 and not isinstance(error, RaeflowError):
            raise  # this worker's own trouble: the others wait for it, and only Ray Train can end them
        yield {"epoch": state.epochs, "seconds": state.seconds(), "history": [], "last": True, "message": brief(error)}


def finish(plan: Plan, run: Run, judge: Judge, number: int, state: _State) -> dict[str, Any]:
    """Judge the model that a user would get, write its weights, and tell the end of the trial."""
    found = judged(run, judge, plan.heads)
    if run.rank == 0:
        deliver(found.fitted, plan.folder / str(number), plan.home)
    loss = run.history[found.fitted.best_epoch - 1]["validation_loss"]
    # In a list, for Tune flattens dicts.
    told = {"validation_loss": loss, "judged": [found.fitted.head, found.heads]}
    return {**state.report(run, run.done, found.value, None), "last": True, **told}


class _State:
    """What has been told of a trial so far."""

    def __init__(self) -> None:
        self.start = self.told = time.perf_counter()
        self.epochs = 0

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def report(self, run: Run, epoch: int, value: float | None, rung: int | None) -> dict[str, Any]:
        news = checkpoint.plain(run.history[self.epochs :])
        self.told, self.epochs = time.perf_counter(), len(run.history)
        report: dict[str, Any] = {"epoch": epoch, "seconds": self.seconds(), "history": news, "last": False}
        if value is not None and math.isfinite(value):
            report["value"] = value
            news[-1]["value"] = value
            if rung is not None:
                report["rung"] = rung
        return report


def rung_epochs(epochs: int, settled_from: float) -> dict[int, int]:
    """Epoch -> rung (1, 2) at which a trial of so many epochs is compared with others of its variant.

    Rungs divide the epochs from which on validation losses mean something: a GAN whose encoder starts when
    the game is over is compared only then.
    """
    first = max(1, math.ceil(settled_from * epochs - 1e-9))
    span = epochs - first + 1
    places = [first - 1 + math.ceil(share * span) for share in RUNGS]
    return {place: rung for rung, place in reversed(list(enumerate(places, 1))) if first <= place < epochs}
