"""Rows of a split that are at hand: what a reader may ask of them, whatever they are made of.

N rows of a split, B rows of a batch; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from raeflow.data.rows import RowSpec
    from raeflow.data.splits import Keys

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Raw:
    """Rows of one step as they are stored: `x` (B, *stored), and where the data have them `target` and `label` (B,)."""

    x: Tensor
    target: Tensor | None = None
    label: Tensor | None = None


class RowSource(Protocol):
    """What the training loop asks of a split, resident or streamed."""

    def __len__(self) -> int: ...

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1, drop_last: bool = False
    ) -> Iterator[Raw]:
        """Batches of `size` rows over all workers together, of which this worker gets its `size / world`.

        `seed` shuffles, anew each epoch; None keeps the order. With `drop_last`, or with more than one
        worker, an incomplete last batch is left out so that every worker takes the same number of steps.
        """
        ...


class Resident(ABC):
    """Rows that can be asked for by number, at once and again, without reading a file.

    Whoever asks for `values()` of all of them gets a tensor of N rows, which of views on shared values is far more than is
    held: ask for batches, for a part, or for `some`.
    """

    target: Tensor | None
    """(N, *stored) clean rows that a denoiser must return."""
    label: Tensor | None
    """(N,) int64 classes."""
    anomaly: Tensor | None
    """(N,) bool truth for judging; None where nothing is known."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Shape of one row."""

    @abstractmethod
    def values(self, index: Tensor | slice = slice(None)) -> Tensor:
        """(n, *stored) the rows at `index` as they are stored: where they lie for a slice, if they lie side by side."""

    @abstractmethod
    def take(self, index: Tensor | slice) -> Self:
        """The rows at `index`; a slice shares memory."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same rows on a device."""

    @abstractmethod
    def draws(self, spec: RowSpec) -> Keys:
        """(N,) keys, equal where rows were drawn together and count as one, as rows that are equal do."""

    @abstractmethod
    def judged(self, anomaly: Tensor) -> Self:
        """The same rows with this truth (N,)."""

    @abstractmethod
    def begins_with(self, other: Resident) -> bool:
        """Whether the first rows are `other`, in the same memory."""

    def most(self, values: int) -> Self:  # noqa: ARG002 - for those whose values are made when they are asked for
        """Rows of so many values in all at most, where to ask for more would take memory that is not taken yet."""
        return self

    def some(self, count: int, seed: int = 0) -> Self:
        """So many rows, or all where there are fewer, in an order of chance; the same `seed` chooses the same."""
        return self.take(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count])

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1, drop_last: bool = False
    ) -> Iterator[Raw]:
        """See `RowSource.batches`."""
        count = len(self)
        own = size // world
        # Whole global batches only, wherever a short one would leave workers out of step.
        stop = count - count % size if (drop_last or world > 1) and count >= size else count
        order = None
        if seed is not None:
            # Drawn on the CPU so that every device and worker sees the same order.
            drawn = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            small = torch.int32 if count < 2**31 else torch.int64  # the same order in half the memory
            order = torch.randperm(count, generator=drawn, dtype=small).to(self.values(slice(0, 0)).device)
        for start in range(0, stop, size):
            low = start + rank * own
            high = min(start + (rank + 1) * own, stop) if world > 1 else min(start + size, stop)
            part: Tensor | slice = slice(low, high) if order is None else order[low:high]
            yield Raw(self.values(part), _part(self.target, part), _part(self.label, part))


@dataclass(frozen=True)
class Rows(Resident):
    """Resident rows of one split: unscaled tensors that all trials of a node share.

    They may lie in memory that others read too (Arrow's buffers, Ray's object store): nobody writes to them.
    Pickling keeps the values out of band, so that the object store hands them to every process uncopied.
    """

    x: Tensor
    """(N, *stored), uint8 or float32."""
    target: Tensor | None = None
    label: Tensor | None = None
    anomaly: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def __reduce__(self) -> Any:
        return _rows, tuple(as_array(t) for t in (self.x, self.target, self.label, self.anomaly))

    @property
    def shape(self) -> Shape:
        """Shape of one row."""
        return tuple(self.x.shape[1:])

    def values(self, index: Tensor | slice = slice(None)) -> Tensor:
        """See `Resident.values`."""
        part = _part(self.x, index)
        assert part is not None  # noqa: S101 - for the type checker
        return part

    def take(self, index: Tensor | slice) -> Rows:
        """See `Resident.take`."""
        return Rows(self.x[index], *(_part(t, index) for t in (self.target, self.label, self.anomaly)))

    def to(self, device: torch.device | str) -> Rows:
        """See `Resident.to`."""
        others = (None if t is None else t.to(device) for t in (self.target, self.label, self.anomaly))
        return Rows(self.x.to(device), *others)

    def draws(self, spec: RowSpec) -> Keys:
        """Equal where what chose their split is: see `raeflow.data.splits.stored_keys`."""
        from raeflow.data.splits import stored_keys  # which knows rows

        return stored_keys(self.x, spec)

    def judged(self, anomaly: Tensor) -> Rows:
        """See `Resident.judged`."""
        return replace(self, anomaly=anomaly)

    def begins_with(self, other: Resident) -> bool:
        """See `Resident.begins_with`."""
        return isinstance(other, Rows) and self.x.data_ptr() == other.x.data_ptr()


def _part(values: Tensor | None, index: Tensor | slice) -> Tensor | None:
    """Values at `index`; by `index_select` where they are numbered, which is the fastest."""
    if values is None:
        return None
    if isinstance(index, slice) or index.dtype == torch.bool:
        return values[index]
    return values.index_select(0, index.to(values.device))


def as_array(tensor: Tensor | None) -> Any:
    """A tensor as an array that pickles out of band."""
    return None if tensor is None else tensor.cpu().contiguous().numpy()


def as_tensor(array: Any) -> Any:
    """What `as_array` was given, in the same memory."""
    if array is None:
        return None
    with warnings.catch_warnings():
        # Arrays from an object store are read-only, and so are rows by agreement.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)


def _rows(*arrays: Any) -> Rows:
    return Rows(*map(as_tensor, arrays))
