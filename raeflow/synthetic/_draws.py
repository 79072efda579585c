"""Draws that several kinds of synthetic anomalies share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Maker = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(base rows to change, all normal rows, generator) -> changed base rows."""


def log_uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Numbers between bounds, each octave as likely."""
    low, high = bounds
    return low * (high / low) ** torch.rand(shape, generator=generator)


def either(shape: tuple[int, ...], first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """One of two, by chance, for each of the shape."""
    return torch.where(torch.rand(shape, generator=generator) < 0.5, first, second)


def other(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """(N, *): another row for each of x, by chance."""
    return rows[torch.randint(len(rows), (len(x),), generator=generator)]
