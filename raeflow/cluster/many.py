"""Many independent trainings at a time, each in a process of Ray's that goes on to the next one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray

from raeflow.cluster import session
from raeflow.cluster.train import Task, reserved
from raeflow.data.rows import Splits
from raeflow.errors import RaeflowError
from raeflow.health import gauge_of
from raeflow.selection import FAILURES, brief
from raeflow.training import Fitted, fit


@dataclass(frozen=True)
class Done:
    """One training that has ended."""

    fitted: Fitted
    seconds: float
    """Wall seconds of the training itself."""


def fit_many(
    tasks: Sequence[tuple[Task, Splits]], *, cpus: float = 1, gpus: float = 0, ended: Callable[[int, Done], None] | None = None
) -> list[Done]:
    """Train every task on its splits, as many at a time as the machine or cluster holds; results keep the order.

    Splits travel without their calibrate and test rows, once for all tasks that share the same object. A training
    has the same result here as in `raeflow.training.fit` on such a processor.

    Args:
        tasks: what to train, and on which rows.
        cpus: cores, and torch threads, of one training.
        gpus: GPUs of one training; 0 trains on the CPU.
        ended: hears of each result as it comes, with its place among the tasks.

    Raises:
        RaeflowError: a training cannot fit this machine, or the first one that failed did so with this sentence.
    """
    session.connect(gpus=gpus > 0)
    session.check_fits(f"fit_many(cpus={cpus:g}, gpus={gpus:g})", cpus, gpus)
    shared: dict[int, ray.ObjectRef[Splits]] = {}
    for _, splits in tasks:
        if id(splits) not in shared:
            shared[id(splits)] = ray.put(splits.for_search())
    remote = ray.remote(_fit).options(num_cpus=cpus, num_gpus=gpus)
    waiting = {}
    for place, (task, splits) in enumerate(tasks):
        placed = dataclasses.replace(task, training=reserved(task.training, cpus, gpus))
        waiting[remote.remote(placed, shared[id(splits)])] = place
    found: dict[int, Done] = {}
    try:
        while waiting:
            (ready,), _ = ray.wait(list(waiting))
            place = waiting.pop(ready)
            answer: Done | str = ray.get(ready)
            if isinstance(answer, str):
                raise RaeflowError(f"training {place + 1} of {len(tasks)}: {answer}")
            found[place] = answer
            if ended is not None:
                ended(place, answer)
    finally:
        for reference in waiting:  # only where something went wrong
            ray.cancel(reference, force=True)
    return [found[place] for place in range(len(tasks))]


def _fit(task: Task, splits: Splits) -> Done | str:
    """In a process of Ray's: the trained model, or the sentence that says why there is none."""
    start = time.perf_counter()
    try:
        fitted = fit(task.variant, task.hyper, splits, task.training, task.seed, gauge_of(splits, task.training, task.seed))
    except FAILURES as error:
        return brief(error)
    return Done(fitted, time.perf_counter() - start)
