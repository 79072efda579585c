"""Scaling fitted on train alone, stored with the detector and applied inside the model's graph."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raeflow.errors import RaeflowError

MODES = ("standard", "unit", "signal", "global", "none")
_TINY = 1e-6


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
        size = shape if mode == "standard" else (1,) * len(shape)
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        if self.mode == "none":
            return x
        if self.mode == "signal":
            shift, scale = self._own(x)
            return (x - shift) / scale
        return (x - self.shift) / self.scale

    def inverse(self, scaled: Tensor, like: Tensor) -> Tensor:
        """Scaled rows in the data's own units; `like` are the raw rows, whose moments `signal` needs."""
        if self.mode == "none":
            return scaled
        shift, scale = self._own(like.to(torch.float32)) if self.mode == "signal" else (self.shift, self.scale)
        return scaled * scale + shift

    @staticmethod
    def _own(x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel of each signal, (B, C, 1)."""
        return x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True).clamp_min(_TINY)


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
    if scaling.mode == "unit":
        low, high = (0.0, 255.0) if dtype == torch.uint8 else _range(chunks)
        scaling.shift.fill_(low)
        scaling.scale.fill_(max(high - low, _TINY))
        return scaling
    axes: tuple[int, ...] = (0,) if scaling.mode == "standard" else tuple(range(len(shape) + 1))
    mean, spread = _moments(chunks, axes)
    scaling.shift.copy_(mean.reshape(scaling.shift.shape))
    scaling.scale.copy_(torch.where(spread > _TINY * mean.abs().clamp_min(1.0), spread, torch.ones_like(spread)).reshape(scaling.scale.shape))
    return scaling


def _range(chunks: Iterable[Tensor]) -> tuple[float, float]:
    low, high = float("inf"), float("-inf")
    for chunk in chunks:
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    # Pixels stored as floats are nearly always 0-1 or 0-255 already: keep those scales whole.
    if 0 <= low and high <= 1:
        return 0.0, 1.0
    return low, high


def _moments(chunks: Iterable[Tensor], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over `axes`, merged chunk by chunk (Chan et al. 1979): no cancellation."""
    count, mean, square = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        values = chunk.to(torch.float64)
        own = values.numel() // max(values.mean(axes).numel(), 1)
        own_mean, own_square = values.mean(axes), values.var(axes, correction=0) * own
        delta, total = own_mean - mean, count + own
        mean = mean + delta * (own / total)
        square = square + own_square + delta**2 * (count * own / total)
        count = total
    return mean, (square / max(count, 1)).sqrt()
