"""Training on any number of workers: Ray Train starts them, the loop of `raeflow.training` runs in each.

Gradients are averaged in that loop; here are only the workers' rows, checkpoints and restarts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raeflow import checkpoint
from raeflow.cluster import session
from raeflow.data.rows import Resident, Splits
from raeflow.errors import RaeflowError
from raeflow.health import gauge_of
from raeflow.study import Study, Training, to_json
from raeflow.training import Fitted, Run, check_batch

ALONE_EVERY = 30.0
"""Seconds between checkpoints of a run in this process."""
WORKERS_EVERY = 1.0
"""Seconds between checkpoints of a run on workers; the first epoch always leaves one."""


@dataclass(frozen=True)
class Task:
    """One training run."""

    variant: str
    hyper: dict[str, Any]
    training: Training
    seed: int


@dataclass(frozen=True)
class Group:
    """Workers of one run."""

    workers: int
    cpus: float
    """Cores of each."""
    gpus: float
    """GPUs of each; 0 trains on the CPU."""
    max_failures: int
    place: str
    """Folder or URI that all nodes reach, for checkpoints."""


def train(study: Study, variant: str, hyper: dict[str, Any], splits: Splits, seed: int) -> Fitted:
    """Train one variant in full on `Cluster.workers` workers; 0 trains here, in Ray Train's local mode.

    A run that was killed goes on from its last checkpoint when it is asked for again. Checkpoints lie in
    `Cluster.storage`, else in the study's folder, and go when the run is done.

    Raises:
        RaeflowError: the workers can never fit this machine or cannot share a batch, training diverged, or
            workers died more often than `Cluster.max_failures` allows.
    """
    cluster = study.cluster
    check_batch(splits.train, study.training.batch_size, max(1, cluster.workers))
    task = Task(variant, checkpoint.plain(hyper), study.training, seed)
    if not cluster.workers:
        return _alone(task, splits, Path(place(study), name(task, splits)))
    import ray

    session.connect(gpus=cluster.gpu)
    group = Group(cluster.workers, 1, float(cluster.gpu), cluster.max_failures, place(study))
    session.check_fits(f"Cluster(workers={cluster.workers})", group.cpus, group.gpus, group.workers)
    datasets, splits = deal(splits, group.workers)
    fitted: Fitted = on_workers(work, {"task": task, "splits": ray.put(splits)}, group, name(task, splits), datasets)
    return fitted


def place(study: Study) -> str:
    """Where the checkpoints of a study's workers lie."""
    return study.cluster.storage or str((study.folder / "training").absolute())


def name(task: Task, splits: Splits) -> str:
    """Name of a run, made of all that its result depends on: only the same run goes on from a checkpoint."""
    what = json.dumps([to_json(task), splits.fingerprint], sort_keys=True)
    return f"{task.variant}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def on_workers(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    group: Group,
    run_name: str,
    datasets: dict[str, Any] | None = None,
    callbacks: list[Any] | None = None,
) -> Any:
    """Run `loop(config)` on each worker of a group; returns what rank 0 returned, and leaves no checkpoint behind.

    A loop that returns a string says why there is no result; it becomes a RaeflowError.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    failures: Any = FailureConfig  # Train's own knows one field more than the one its types name
    each = {"CPU": group.cpus, **({"GPU": group.gpus} if group.gpus else {})}
    trainer = TorchTrainer(
        loop,
        train_loop_config={**config, "gpu": group.gpus > 0},
        scaling_config=ScalingConfig(num_workers=group.workers, use_gpu=group.gpus > 0, resources_per_worker=each),
        run_config=RunConfig(
            name=run_name,
            storage_path=group.place,
            failure_config=failures(max_failures=group.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=callbacks,
        ),
        datasets=datasets,
    )
    result = _fit(trainer, group)
    if isinstance(result.return_value, str):
        raise RaeflowError(result.return_value)
    result.filesystem.delete_dir(result.path)
    return result.return_value


def _fit(trainer: Any, group: Group) -> Any:
    from ray.train import ControllerError, WorkerGroupError

    try:
        return trainer.fit()
    except WorkerGroupError as error:
        first = next(iter(error.worker_failures.values()), error)
        why = (str(first).strip().splitlines() or [type(first).__name__])[-1]
        raise RaeflowError(f"training on {group.workers} workers failed {group.max_failures + 1} times, at last with: {why}") from error
    except ControllerError as error:
        why = (str(error.controller_failure).splitlines() or [""])[0]
        raise RaeflowError(f"Ray Train could not start {group.workers} workers: {why}") from error


def deal(splits: Splits, workers: int) -> tuple[dict[str, Any], Splits]:
    """Streamed rows go through Ray Data, which reads each once and deals them out; resident ones are shared whole."""
    import ray

    from raeflow.data.stream import StreamedRows

    train = splits.train
    if workers == 1 or not isinstance(train, StreamedRows):
        return {}, splits
    from raeflow.cluster.stream import ShardRows, dataset

    spare = ray.cluster_resources().get("CPU", 0) - workers  # type: ignore[no-untyped-call]
    empty: Any = None  # a worker puts its shard there
    share = ShardRows(empty, len(train), train.shape, train.window)
    return {"train": dataset(train, spare)}, dataclasses.replace(splits, train=share)


def _alone(task: Task, splits: Splits, folder: Path) -> Fitted:
    """Train in this process."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    session.quiet()
    config = {"task": task, "splits": splits, "folder": folder}
    loop: Any = _work_alone
    result: Any = TorchTrainer(loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
    fitted: Fitted = result.return_value
    shutil.rmtree(folder, ignore_errors=True)
    return fitted


def _work_alone(config: dict[str, Any]) -> Fitted:
    """The loop in this process, with a checkpoint now and then."""
    task, folder = config["task"], config["folder"]
    splits = config["splits"]
    run = Run(task.variant, task.hyper, splits, task.training, task.seed, gauge_of(splits, task.training, task.seed))
    if folder.exists():
        run.resume(folder)
    kept = time.monotonic()
    for epoch in run.epochs():
        if not epoch.last and time.monotonic() - kept > ALONE_EVERY:
            run.save(folder)
            kept = time.monotonic()
    return run.fitted()


def work(config: dict[str, Any]) -> Fitted | str | None:
    """The loop in one worker: rank 0 returns the model, or the sentence that says why there is none."""
    try:
        run = start(config)
        told = 0.0
        for epoch in run.epochs():
            if agreed(run, time.monotonic() - told > WORKERS_EVERY or epoch.last):
                report(run, {"epoch": epoch.number, "validation_loss": epoch.validation_loss})
                told = time.monotonic()
        return run.fitted() if run.rank == 0 else None
    except RaeflowError as error:  # the same on every worker: another attempt would end alike
        return str(error)


def start(config: dict[str, Any]) -> Run:
    """This worker's run, taken up from the last checkpoint if there is one."""
    import ray.train

    task: Task = config["task"]
    splits = dealt(config)
    gauge = gauge_of(splits, task.training, task.seed)
    run = Run(task.variant, task.hyper, splits, on_device(task.training, config["gpu"]), task.seed, gauge)
    latest = ray.train.get_checkpoint()
    if latest is not None:
        with latest.as_directory() as folder:
            run.resume(Path(folder) / "run")
    return run


def dealt(config: dict[str, Any]) -> Splits:
    """The splits of this worker: resident rows in its node's shared memory, streamed ones as its shard."""
    import ray
    import ray.train

    splits: Splits = ray.get(config["splits"])
    if isinstance(splits.train, Resident) or not hasattr(splits.train, "shard"):
        return splits
    share: Any = splits.train
    return dataclasses.replace(splits, train=dataclasses.replace(share, shard=ray.train.get_dataset_shard("train")))


def on_device(training: Training, gpu: bool) -> Training:
    """Training on the GPU that Ray gave this worker; without one, auto is the CPU."""
    from ray.train.torch import get_device

    auto = str(get_device()) if gpu else "cpu"
    return dataclasses.replace(training, device=auto if gpu or training.device == "auto" else training.device)


def reserved(training: Training, cpus: float, gpus: float) -> Training:
    """Training on what Ray reserves for it: its cores as torch threads, and `auto` takes no GPU that nobody reserved."""
    device = "cpu" if training.device == "auto" and not gpus else training.device
    return dataclasses.replace(training, device=device, threads=max(1, int(cpus)))


def agreed(run: Run, mine: bool) -> bool:
    """Rank 0's answer, on every rank: clocks differ, and a report waits for all workers."""
    if run.world == 1:
        return mine
    answer = torch.tensor([float(mine)], device=run.device)
    dist.broadcast(answer, 0)
    return bool(answer.item())


def report(run: Run, metrics: dict[str, Any]) -> None:
    """Report to Ray Train, with a checkpoint from rank 0."""
    import ray.train

    if run.rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as temporary:
        run.save(Path(temporary) / "run")
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(temporary))
