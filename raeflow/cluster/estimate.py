"""How long a search may take, told before it starts: a few steps of each variant's published model, timed in this process."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from raeflow import space, variants
from raeflow.cluster.train import reserved
from raeflow.cluster.trial import RUNGS
from raeflow.data.rows import Raw, Resident, Splits
from raeflow.devices import threads
from raeflow.heads import ERROR
from raeflow.selection import FAILURES, headed, judge
from raeflow.study import Study
from raeflow.training import Run, step_count, validation
from raeflow.variants._contract import OneShot

SECONDS = 1.5
"""Wall time that the timing of steps may take, about; on few rows, less: no more steps than an epoch has."""
PLACES = (1 / 8, 3 / 8, 5 / 8, 7 / 8)
"""Progress at which steps are timed: the phases of a game, and of a network that grows, cost differently."""
VALIDATED = 1024
"""Validation rows that are timed, at most."""
Clock = Callable[[], float]


@dataclass(frozen=True)
class Cost:
    """What one variant's training costs, in seconds."""

    step: float
    """Mean of a training step over the course of training; 0 where there are none."""
    row: float
    """Validating one row."""
    judgement: float
    """One call of the judge; 0 where it was not timed."""
    once: float | None = None
    """Fitting a model that is no network, whose one epoch this is; None of a network."""
    heads: float = 0.0
    """Fitting and judging all heads."""

    def trial(self, steps: int, rows: int, epochs: int) -> float:
        """A trial of so many epochs of so many steps and validation rows, judged at its rungs and its end."""
        if self.once is not None:
            return self.once + rows * self.row + self.judgement
        return epochs * (steps * self.step + rows * self.row) + (len(RUNGS) + 1) * self.judgement + self.heads


def expectation(study: Study, splits: Splits, trials: int, clock: Clock = time.perf_counter) -> str:
    """`expect up to about 6 min: 24 trials of up to 20 epochs, 2 at a time`; empty where nothing could be timed.

    Assumes that variants are tried equally often and that no trial is stopped early. The start of Ray and of its
    processes is not in it. Leaves the dice of this process as they are.
    """
    s, epochs = study.search, study.search.epochs or study.training.epochs
    costs = timed(study, splits, clock)
    if not costs:
        return ""
    steps = max(1, step_count(len(splits.train), study.training.batch_size, s.workers))
    each = sum(cost.trial(steps, -(-len(splits.validate) // s.workers), epochs) for cost in costs) / len(costs)
    slots = local_slots(study)
    seconds = math.ceil(trials / min(slots or 1, trials)) * each
    one = "1 trial" if trials == 1 else f"{trials} trials"
    what = f"{one} of up to {epochs} epochs, {f'{min(slots, trials)} at a time' if slots else 'shared by the slots of the cluster'}"
    if s.minutes is not None and 60 * s.minutes < seconds:
        return f"expect about {told(60 * s.minutes)} and the end of what runs then: all {what}, would take up to about {told(seconds)}"
    return f"expect up to about {told(seconds)}: {what}"


def timed(study: Study, splits: Splits, clock: Clock = time.perf_counter) -> list[Cost]:
    """The cost of each variant that can be timed here; none where trials take a GPU that this process has not."""
    s = study.search
    training = reserved(study.training, s.cpus, s.gpus)
    if s.gpus and training.device == "auto" and not torch.cuda.is_available():
        return []
    share = max(1, training.batch_size // s.workers)
    training = dataclasses.replace(training, batch_size=share, health=0)
    few = sample(splits, 4 * share)
    most = -(-max(1, step_count(len(splits.train), study.training.batch_size, s.workers)) // len(PLACES))
    costs = []
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    for variant in study.variants:
        with torch.random.fork_rng(devices=cuda), threads(training.threads):
            try:
                hyper, shape = space.published(study, variant, splits.spec.shape), splits.spec.shape
                whole = isinstance(variants.build(variant, shape, hyper), OneShot)  # fitted to all rows at once: few tell nothing
                seen = dataclasses.replace(few, train=splits.train, sampled=splits.sampled) if whole else few
                run = Run(variant, hyper, seen, training, study.seed, alone=True)
                cost = _cost(study, run, SECONDS / len(study.variants), most, clock)
                costs.append(dataclasses.replace(cost, heads=_heads(study, run, splits, clock)))
            except FAILURES:
                continue  # the search itself says what is wrong
    return costs


def sample(splits: Splits, count: int) -> Splits:
    """So many train rows, and some validation rows; a stream's are stood in for by validation rows, which are at hand."""
    source = splits.train if isinstance(splits.train, Resident) else splits.validate
    train = source.take(torch.arange(count) % len(source))
    return dataclasses.replace(splits, train=train, validate=splits.validate.take(slice(0, VALIDATED)), calibrate=None, test=None)


def local_slots(study: Study) -> int | None:
    """Trials at a time on this machine; None where a cluster will say."""
    s, address = study.search, os.environ.get("RAY_ADDRESS", "")
    if s.slots:
        return s.slots
    if address and address != "local":
        return None
    fit = len(os.sched_getaffinity(0)) / (s.cpus * s.workers)
    if s.gpus:
        fit = min(fit, torch.cuda.device_count() / (s.gpus * s.workers))
    return max(1, int(fit + 1e-9))


def told(seconds: float) -> str:
    """A length of time, rounded as it deserves: 8 s, 6 min, 2.5 h."""
    if seconds < 55:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 99 * 60 else f"{seconds / 3600:.1f} h"


def _cost(study: Study, run: Run, budget: float, most: int, clock: Clock) -> Cost:
    """Time a run's steps at several places of its course, `most` at each and for about `budget` seconds, its validation and judge."""
    start = clock()
    if isinstance(run.model, OneShot):
        run.fit_rows()
        once = clock() - start
        return Cost(0.0, _validated(run, clock), _judgement(study, run, clock), once)
    batches = _batches(run)
    _step(run, next(batches), 0.0)  # the first step of a model prepares what later ones find
    means: list[float] = []
    for number, progress in enumerate(PLACES, 1):
        begun, steps = clock(), 0
        while not steps or (steps < most and clock() - start < budget * number / len(PLACES)):
            _step(run, next(batches), progress)
            steps += 1
            _wait(run)
        means.append((clock() - begun) / steps)
        if clock() - start > budget:
            break  # a model this slow is known well enough
    return Cost(sum(means) / len(means), _validated(run, clock), _judgement(study, run, clock))


def _validated(run: Run, clock: Clock) -> float:
    """Seconds of validating one row."""
    begun = clock()
    float(validation(run.model, run.encoding, run.validate).sum())
    return (clock() - begun) / len(run.validate)


def _heads(study: Study, run: Run, splits: Splits, clock: Clock) -> float:
    """Seconds of fitting and judging all heads, once a trial."""
    if study.search.selection not in ("synthetic", "labels") or study.head_names == (ERROR,):
        return 0.0
    judged = judge(study.search.selection, run.splits, study.seed)
    seen = dataclasses.replace(run.splits, train=splits.train, sampled=splits.sampled)
    begun = clock()
    headed(run.fitted(), run.model, seen, judged, study.head_names)
    return clock() - begun


def _judgement(study: Study, run: Run, clock: Clock) -> float:
    """Seconds of one call of the judge; what draws rows first learns features, for longer than timing may take."""
    if study.search.selection == "generation":
        return 0.0
    judged = judge(study.search.selection, run.splits, study.seed)
    begun = clock()
    judged(run.model, run.encoding)
    return clock() - begun


def _batches(run: Run) -> Iterator[Raw]:
    epoch = 0
    while True:
        yield from run.train.batches(run.size, seed=run.seed, epoch=epoch)
        epoch += 1


def _step(run: Run, raw: Raw, progress: float) -> None:
    run.model.train()
    for _ in run.step(raw, progress):
        pass


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
