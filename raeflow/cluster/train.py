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
from raeflow.cluster.shared import pack, unpack
from raeflow.data.rows import Rows, Splits
from raeflow.errors import RaeflowError
from raeflow.study import Cluster, Study, Training, to_json
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
    place = cluster.storage or str((study.folder / "training").absolute())
    if not cluster.workers:
        return _alone(task, splits, Path(study.folder, "training", name(task, splits)).absolute())
    session.connect(gpus=cluster.gpu)
    each = {"GPU": 1.0} if cluster.gpu else {"CPU": 1.0}
    session.check_fits(f"Cluster(workers={cluster.workers})", each.get("CPU", 0), each.get("GPU", 0), cluster.workers)
    return on_workers(task, splits, cluster, place)


def name(task: Task, splits: Splits) -> str:
    """Name of a run, made of all that its result depends on: only the same run goes on from a checkpoint."""
    what = json.dumps([to_json(task), splits.fingerprint], sort_keys=True)
    return f"{task.variant}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def on_workers(
    task: Task, splits: Splits, cluster: Cluster, place: str, run_name: str = "", callbacks: list[Any] | None = None,
    loop: Callable[[dict[str, Any]], Any] | None = None, extra: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Run `loop` (`work` unless told otherwise) on `cluster.workers` workers; returns what rank 0 returned."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    datasets, splits = _datasets(splits, cluster.workers)
    config = {"task": task, "splits": ray.put(pack(splits)), "gpu": cluster.gpu, **(extra or {})}
    trainer = TorchTrainer(
        loop or work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=cluster.workers, use_gpu=cluster.gpu),
        run_config=RunConfig(
            name=run_name or name(task, splits),
            storage_path=place,
            failure_config=FailureConfig(max_failures=cluster.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=callbacks,
        ),
        datasets=datasets,
    )
    result = _fit(trainer, cluster)
    returned = result.return_value
    if isinstance(returned, str):
        raise RaeflowError(returned)
    result.filesystem.delete_dir(result.path)
    return returned


def _fit(trainer: Any, cluster: Cluster) -> Any:
    from ray.train import ControllerError, WorkerGroupError

    try:
        return trainer.fit()
    except WorkerGroupError as error:
        first = next(iter(error.worker_failures.values()), error)
        why = (str(first).strip().splitlines() or [type(first).__name__])[-1]
        raise RaeflowError(f"training on {cluster.workers} workers failed {cluster.max_failures + 1} times, at last with: {why}") from error
    except ControllerError as error:
        why = (str(error.controller_failure).splitlines() or [""])[0]
        raise RaeflowError(f"Ray Train could not start Cluster(workers={cluster.workers}): {why}") from error


def _datasets(splits: Splits, workers: int) -> tuple[dict[str, Any], Splits]:
    """Streamed rows go through Ray Data, which reads each once and deals them out; resident ones are shared whole."""
    import ray

    from raeflow.data.stream import StreamedRows

    train = splits.train
    if workers == 1 or not isinstance(train, StreamedRows):
        return {}, splits
    from raeflow.cluster.stream import ShardRows, dataset

    spare = ray.cluster_resources().get("CPU", 0) - workers
    empty: Any = None  # a worker puts its shard there
    share = ShardRows(empty, len(train), train.shape, train.window)
    return {"train": dataset(train, 1 if spare >= 1 else 0)}, dataclasses.replace(splits, train=share)


def _alone(task: Task, splits: Splits, folder: Path) -> Fitted:
    """Train in this process."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    config = {"task": task, "splits": splits, "folder": folder}
    fitted: Fitted = TorchTrainer(_work_alone, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit().return_value
    shutil.rmtree(folder, ignore_errors=True)
    return fitted


def _work_alone(config: dict[str, Any]) -> Fitted:
    """The loop in this process, with a checkpoint now and then."""
    task, folder = config["task"], config["folder"]
    run = Run(task.variant, task.hyper, config["splits"], task.training, task.seed)
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
    import ray
    import ray.train
    from ray.train.torch import get_device

    task: Task = config["task"]
    device = str(get_device()) if config["gpu"] else "cpu" if task.training.device == "auto" else task.training.device
    splits = unpack(ray.get(config["splits"]))
    if not isinstance(splits.train, Rows) and dataclasses.is_dataclass(splits.train) and hasattr(splits.train, "shard"):
        splits = dataclasses.replace(splits, train=dataclasses.replace(splits.train, shard=ray.train.get_dataset_shard("train")))
    run = Run(task.variant, task.hyper, splits, dataclasses.replace(task.training, device=device), task.seed)
    latest = ray.train.get_checkpoint()
    if latest is not None:
        with latest.as_directory() as folder:
            run.resume(Path(folder) / "run")
    return run


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
