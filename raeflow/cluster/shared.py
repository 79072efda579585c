"""Splits and files on their way between the processes of a cluster."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raeflow import checkpoint
from raeflow.data.rows import Rows, Splits
from raeflow.detector import save_fitted
from raeflow.training import Fitted

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Arrays:
    """Rows as numpy arrays: the form in which the object store hands out one copy to all processes of a node."""

    x: Array
    target: Array | None
    label: Array | None
    anomaly: Array | None


def pack(splits: Splits) -> Splits:
    """Splits whose resident rows are arrays; streamed rows stay what they are, paths and row groups."""
    return replace(splits, **{name: _pack(getattr(splits, name)) for name in _ROWS})


def unpack(splits: Splits) -> Splits:
    """The inverse; tensors share the object store's memory, which is read-only."""
    return replace(splits, **{name: _unpack(getattr(splits, name)) for name in _ROWS})


_ROWS = ("train", "validate", "calibrate", "test", "labelled")


def _pack(rows: Any) -> Any:
    if not isinstance(rows, Rows):
        return rows
    return Arrays(*(None if t is None else np.ascontiguousarray(t.cpu().numpy()) for t in _tensors(rows)))


def _unpack(rows: Any) -> Any:
    if not isinstance(rows, Arrays):
        return rows
    return Rows(*(None if a is None else _tensor(a) for a in (rows.x, rows.target, rows.label, rows.anomaly)))


def _tensors(rows: Rows) -> tuple[Tensor | None, ...]:
    return rows.x, rows.target, rows.label, rows.anomaly


def _tensor(array: Array) -> Tensor:
    with warnings.catch_warnings():
        # Rows are only ever read; torch has no read-only tensors and would warn of each.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)


def node() -> str:
    """Id of the node this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def deliver(fitted: Fitted, folder: Path, home: str) -> None:
    """Write a trained model to `folder` on the node `home`, whichever node this is; no shared disk is needed."""
    if node() == home:
        save_fitted(fitted, folder)
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with tempfile.TemporaryDirectory() as temporary:
        place = save_fitted(fitted, Path(temporary) / "model")
        files = {file.name: file.read_bytes() for file in place.iterdir()}
    there = NodeAffinitySchedulingStrategy(home, soft=False)
    ray.get(ray.remote(_write).options(num_cpus=0, scheduling_strategy=there).remote(folder, files))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    def write(temporary: Path) -> None:
        for name, content in files.items():
            (temporary / name).write_bytes(content)

    checkpoint.write_folder(folder, write)
