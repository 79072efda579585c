"""Scaling fitted on train alone, stored with the detector and applied inside the model's graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raeflow.errors import RaeflowError

MODES = ("standard", "unit", "signal", "global", "none")
Floats = np.ndarray[Any, np.dtype[np.float64]]
_TINY = 1e-6
_BLOCK = 1 << 15
"""Values looked at in one go: as float64 they stay in the cache."""


class Scaling(nn.Module):
    """x -> (x - shift) / scale, with buffers that broadcast over a row; `signal` takes each signal's own.

    Shapes: x (B, *shape) of any numeric dtype, result float32 (B, *shape).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, mode: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        if mode not in MODES:
            raise RaeflowError(f"scaling {mode!r} is not one of {', '.join(MODES)}")
        self.mode = mode
        each = mode == "standard" or (mode == "unit" and len(shape) == 1)  # a table's features have units of their own
        size = shape if each else (1,) * len(shape)
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Rows (B, *shape) as they come to scaled rows, float32."""
        x = x.to(torch.float32)
        if self.mode == "none":
            return x
        if self.mode == "signal":
            shift, scale = self._own(x)
            return (x - shift) / scale
        return (x - self.shift) / self.scale

    def inverse(self, scaled: Tensor, like: Tensor | None = None) -> Tensor:
        """Scaled rows in the data's own units; `like` are the raw rows, whose moments `signal` needs and no other mode."""
        if self.mode == "none":
            return scaled
        if self.mode != "signal":
            return scaled * self.scale + self.shift
        if like is None:
            raise RaeflowError("rows under scaling='signal' have units of their own only beside the raw rows: pass like=...")
        shift, scale = self._own(like.to(torch.float32))
        return scaled * scale + shift

    @staticmethod
    def _own(x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel of each signal, (B, C, 1)."""
        mean = x.mean(-1, keepdim=True)
        # A flat signal becomes zeros, whatever its level; what varies keeps its own scale, however small.
        return mean, x.std(-1, correction=0, keepdim=True).maximum(_TINY * mean.abs() + 1e-30)


@torch.no_grad()
def scaled_rows(scaling: nn.Module, x: Tensor) -> Tensor:
    """Rows (N, *shape) in scaled space, on the CPU; the caller's scaling stays where it is."""
    scaled: Tensor = copy.deepcopy(scaling).cpu()(x.cpu())
    return scaled


def auto_mode(shape: tuple[int, ...]) -> str:
    """standard for tables, global for signals, unit for images."""
    return {1: "standard", 2: "global", 3: "unit"}[len(shape)]


def fit_scaling(mode: str, shape: tuple[int, ...], dtype: torch.dtype, chunks: Iterable[Tensor]) -> Scaling:
    """Fit on train rows that come in chunks (n, *shape); one pass, float64 sums, so streams fit too.

    A feature that never varies keeps scale 1: a row that departs from it stands out in raw units.
    """
    scaling = Scaling(auto_mode(shape) if mode == "auto" else mode, shape)
    if scaling.mode in ("none", "signal"):
        return scaling
    each = scaling.shift.numel() > 1
    if scaling.mode == "unit" and dtype == torch.uint8:
        low, span = np.zeros(1), np.full(1, _brightest(chunks))
    elif scaling.mode == "unit":
        low, high = _range(chunks, each)
        span = high - low
    else:
        low, span = _moments(chunks, each)
        span = varying(low, span)
    for buffer, values in ((scaling.shift, low), (scaling.scale, np.where(span > 0, span, 1.0))):
        buffer.copy_(torch.from_numpy(np.broadcast_to(values, buffer.numel()).astype(np.float32)).view_as(buffer))
    return scaling


def varying(mean: Floats, std: Floats) -> Floats:
    """Standard deviations, 0 where what is there is rounding."""
    return np.where(std > _TINY * np.abs(mean), std, 0.0)


# numpy below: torch's thread pool is a loss on pieces that fit the cache, and a disaster beside other processes.


def _brightest(chunks: Iterable[Tensor]) -> float:
    """255 for bytes that use their upper half, else the largest there is: 0-16 and 0-1 are scales of their own."""
    high = 0
    for chunk in chunks:
        high = max(high, int(chunk.numpy().max()))
        if high > 127:
            return 255.0
    return float(high)


def _range(chunks: Iterable[Tensor], each: bool) -> tuple[Floats, Floats]:
    """Least and largest value of each feature or of all; pixels in 0-1 or 0-255 keep those scales whole."""
    low, high = np.full(1, np.inf), np.full(1, -np.inf)
    for chunk in chunks:
        values = chunk.numpy()
        axes = (0,) if each else None
        low, high = np.minimum(low, values.min(axes)), np.maximum(high, values.max(axes))
    if not each and low[0] >= 0 and (high[0] <= 1 or 127 < high[0] <= 255):
        return np.zeros(1), np.full(1, 1.0 if high[0] <= 1 else 255.0)
    return low, high


def _moments(chunks: Iterable[Tensor], each: bool) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each feature or of all."""
    moments = Moments()
    for chunk in chunks:
        moments.see(chunk.numpy().reshape((len(chunk), -1) if each else (-1, 1)))
    return moments.mean, moments.std


class Moments:
    """Mean and standard deviation of columns (F,) in float64, merged block by block (Chan et al. 1979): no cancellation.

    A NaN is no value: each column counts its own.
    """

    def __init__(self) -> None:
        self.count: Any = 0
        """Values seen, of each column where one had a NaN."""
        self.mean: Floats = np.zeros(1)
        self._square: Floats = np.zeros(1)

    def see(self, rows: np.ndarray[Any, Any]) -> None:
        """Look at rows (n, F) of numbers."""
        step = max(1, _BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            values = rows[start : start + step].astype(np.float64)
            own: Any = len(values)
            own_mean = values.mean(0)
            if np.isnan(own_mean).any():
                there = ~np.isnan(values)
                own = there.sum(0)
                own_mean = np.where(there, values, 0).sum(0) / np.maximum(own, 1)
                values = np.where(there, values - own_mean, 0)
            else:
                values -= own_mean
            own_square = np.einsum("ij,ij->j", values, values)
            delta, total = own_mean - self.mean, self.count + own
            whole = np.maximum(total, 1)
            self.mean = self.mean + delta * (own / whole)
            self._square = self._square + own_square + delta**2 * (self.count * own / whole)
            self.count = total

    @property
    def std(self) -> Floats:
        """Standard deviation (of the population)."""
        return np.asarray(np.sqrt(self._square / np.maximum(self.count, 1)))
