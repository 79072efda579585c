"""Train rows beyond memory under Ray: Ray Data reads and shuffles units of row groups, each worker takes its share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from raeflow.data.rows import Raw, Shape
from raeflow.data.stream import StreamedRows

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset


def dataset(rows: StreamedRows, spare: float) -> Dataset:
    """A Ray dataset of the train rows: fixed-size lists `x` and `target`, int64 `label`; units in a new order each epoch.

    Args:
        spare: cores that no training worker holds. Readers take them; where there are none, two readers share
            the workers' cores, for they would wait for a core of their own for ever.
    """
    import ray

    units: Any = ray.data.from_items([{"unit": i} for i in range(len(rows.units))], override_num_blocks=len(rows.units))
    readers = ray.data.TaskPoolStrategy(size=max(2, int(spare)))
    read: Dataset = units.randomize_block_order().map_batches(
        _read, batch_size=1, batch_format="pyarrow", fn_kwargs={"rows": rows}, num_cpus=1 if spare >= 2 else 0, compute=readers
    )
    return read


@dataclass(frozen=True)
class ShardRows:
    """A worker's shard of `dataset` as what the training loop asks for.

    Rows come in an order of Ray's, not of `seed`: the same rows each epoch, each once, but for fewer than a
    batch at the end. All workers take the same number of steps.
    """

    shard: DataIterator
    count: int
    """Train rows of all workers together."""
    shape: Shape
    window: int
    """Rows of all workers together among which rows are shuffled."""

    def __len__(self) -> int:
        return self.count

    def batches(
        self,
        size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        rank: int = 0,  # noqa: ARG002
        world: int = 1,
        drop_last: bool = False,
    ) -> Iterator[Raw]:
        """See `RowSource.batches`; the shard knows its `rank`."""
        own = size // world
        for batch in self.shard.iter_torch_batches(
            batch_size=own,
            drop_last=drop_last or world > 1,
            collate_fn=Collate(self.shape),
            local_shuffle_buffer_size=None if seed is None else max(own, self.window // world),
            local_shuffle_seed=None if seed is None else seed * 1_000_003 + epoch,
            prefetch_batches=2,
        ):
            yield Raw(batch["x"], batch.get("target"), batch.get("label"))


class Collate(ArrowBatchCollateFn):
    """Arrow table of n rows -> tensors: `x`, `target` (n, *shape), `label` (n,)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def __call__(self, batch: pa.Table) -> Any:
        """Tensors by column."""
        return {name: self._tensor(batch[name]) for name in batch.column_names}

    def _tensor(self, column: pa.ChunkedArray) -> Tensor:
        array = column.combine_chunks()
        if pa.types.is_fixed_size_list(array.type):
            return torch.tensor(array.flatten().to_numpy(zero_copy_only=False)).reshape(-1, *self.shape)
        return torch.tensor(array.to_numpy(zero_copy_only=False))


def _read(batch: pa.Table, rows: StreamedRows) -> pa.Table:
    """Train rows of the units named in `batch`."""
    tables = [_table(rows, unit) for unit in batch["unit"].to_pylist()]
    return pa.concat_tables(tables)


def _table(rows: StreamedRows, unit: int) -> pa.Table:
    part = rows.reader.read(rows.units[unit]).train()
    columns: dict[str, Any] = {"x": _lists(part.x)}
    if part.target is not None:
        columns["target"] = _lists(part.target)
    if part.label is not None:
        columns["label"] = pa.array(part.label.numpy())
    return pa.table(columns)


def _lists(x: Tensor) -> pa.FixedSizeListArray:
    flat = np.ascontiguousarray(x.numpy()).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), int(np.prod(x.shape[1:])))
