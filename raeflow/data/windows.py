"""Windows over readings in order, as views: the readings lie in memory once, however many windows hold them.

R readings of a split, C channels, N windows of L readings; a window is (C, L).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raeflow.data.resident import Resident, Shape, as_array, as_tensor
from raeflow.data.rows import RowSpec
from raeflow.data.splits import Keys


@dataclass(frozen=True)
class Readings:
    """Encoded readings of one split, which all its windows share; pickled once, out of band."""

    values: Tensor
    """(R, C) float32, by series, then by time."""
    bounds: Tensor
    """(S + 1,) int64: where each series begins."""

    def __reduce__(self) -> Any:
        return _readings, (as_array(self.values), as_array(self.bounds))

    def to(self, device: torch.device | str) -> Readings:
        """The same readings on a device."""
        return Readings(self.values.to(device), self.bounds.to(device))


@dataclass(frozen=True)
class Windows(Resident):
    """Windows of one split: the number of each one's first reading. A batch is gathered when it is asked for."""

    readings: Readings
    starts: Tensor
    """(N,) int32, or int64 where there are so many readings."""
    length: int
    anomaly: Tensor | None = None
    """(N,) bool: whether some reading of it is an anomaly."""
    target: Tensor | None = None
    """None: no window has a clean one."""
    label: Tensor | None = None
    """None: a window has no class of its own."""

    def __len__(self) -> int:
        return len(self.starts)

    def __reduce__(self) -> Any:
        return _windows, (self.readings, as_array(self.starts), self.length, as_array(self.anomaly))

    @property
    def shape(self) -> Shape:
        """(C, L)."""
        return self.readings.values.shape[1], self.length

    def values(self, index: Tensor | slice = slice(None)) -> Tensor:
        """(n, C, L), always a copy."""
        values, starts = self.readings.values, self.starts[index if isinstance(index, slice) else index.to(self.starts.device)]
        if not len(starts):
            return values.new_empty((0, *self.shape))
        if values.device.type == "cpu":  # numpy gathers views twice as fast as torch
            return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(values.numpy(), self.length, axis=0)[starts.numpy()])
        size = (len(values) - self.length + 1, *self.shape)
        found: Tensor = values.as_strided(size, (values.stride(0), values.stride(1), values.stride(0)))[starts.long()]
        return found

    def take(self, index: Tensor | slice) -> Windows:
        """See `Resident.take`."""
        index = index if isinstance(index, slice) else index.to(self.starts.device)
        return replace(self, starts=self.starts[index], anomaly=None if self.anomaly is None else self.anomaly[index])

    def to(self, device: torch.device | str) -> Windows:
        """See `Resident.to`."""
        anomaly = None if self.anomaly is None else self.anomaly.to(device)
        return replace(self, readings=self.readings.to(device), starts=self.starts.to(device), anomaly=anomaly)

    def most(self, values: int) -> Windows:
        """See `Resident.most`: windows as far apart as need be."""
        count = max(1, values // math.prod(self.shape))
        return self if len(self) <= count else self.take(torch.linspace(0, len(self) - 1, count, dtype=torch.float64).long())

    def draws(self, spec: RowSpec) -> Keys:  # noqa: ARG002 - one rule for all windows
        """Equal for windows of a series that begin within the same L readings: neighbours share most of what they hold."""
        bounds, starts = self.readings.bounds.cpu().numpy(), self.starts.cpu().numpy()
        series = np.searchsorted(bounds, starts, side="right") - 1
        keys: Keys = (series.astype(np.uint64) << np.uint64(40)) + ((starts - bounds[series]) // self.length).astype(np.uint64)
        return keys

    def judged(self, anomaly: Tensor) -> Windows:
        """See `Resident.judged`."""
        return replace(self, anomaly=anomaly)

    def begins_with(self, other: Resident) -> bool:
        """See `Resident.begins_with`."""
        if not isinstance(other, Windows) or other.readings is not self.readings:
            return False
        return torch.equal(other.starts, self.starts[: len(other)])


def _readings(values: Any, bounds: Any) -> Readings:
    return Readings(as_tensor(values), as_tensor(bounds))


def _windows(readings: Readings, starts: Any, length: int, anomaly: Any) -> Windows:
    return Windows(readings, as_tensor(starts), length, as_tensor(anomaly))
