"""The squared error of each value over what is usual for that value, mean over the row.

A value that the model rebuilds badly in normal rows too says little where it is badly rebuilt again; a value that it always
rebuilds well says much. The spread of a value's error is estimated on train rows, and shrunk towards the mean spread of all
values by as much as one half of the rows needs to foretell the errors of the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raeflow.heads._contract import Head as Base
from raeflow.heads._contract import Outputs

SHARES = (0.001, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
"""Weights of the mean spread that are tried; 1 makes it the mean squared error."""


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """`standardised` has nothing to set."""


def candidates(shape: tuple[int, ...]) -> list[Hyper]:  # noqa: ARG001 - the contract's
    """The one there is."""
    return [Hyper()]


class Head(Base):
    """Mean over the row of squared errors, each over its variance in train."""

    centre: Tensor
    weight: Tensor

    def __init__(self, hyper: Any) -> None:
        super().__init__(hyper, "centre", "weight")

    @property
    def needs(self) -> frozenset[str]:
        """The reconstruction."""
        return frozenset({"rebuilt"})

    def fit(self, seen: Outputs) -> None:
        """Mean and variance of each value's error, the variance shrunk as the halves ask."""
        centre, weight = usual(seen.residual)
        self.learn(centre=centre, weight=weight)

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        return self._values(seen).flatten(1).mean(1)

    def attribute(self, seen: Outputs) -> Tensor:
        """(B, *shape)."""
        return self._values(seen)

    def _values(self, seen: Outputs) -> Tensor:
        return (seen.residual - self.centre).square() * self.weight


def usual(residual: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each value's error over rows (N, *shape), and one over its variance, shrunk as the halves ask: each (*shape)."""
    share = min(SHARES, key=lambda share: _surprise(residual, share))
    return residual.mean(0), 1 / shrunk(residual, share)


def shrunk(values: Tensor, share: float) -> Tensor:
    """(*shape): variance of each value over rows (N, *shape), drawn by this share towards the mean variance; above 0."""
    variance = values.var(0, correction=0)
    mean = variance.mean()
    return ((1 - share) * variance + share * mean).clamp_min(max(1e-12, 1e-6 * float(mean)))


def _surprise(residual: Tensor, share: float) -> float:
    """Minus the Gaussian log-likelihood of each half of the rows (N, *shape) under the other's means and variances."""
    halves = residual[::2], residual[1::2]
    if not len(halves[1]):
        return -share  # a single row tells nothing of spreads: all alike
    total = 0.0
    for known, other in (halves, halves[::-1]):
        variance = shrunk(known, share)
        total += float(((other - known.mean(0)).square() / variance + variance.log()).double().mean())
    return total if math.isfinite(total) else math.inf


def scale(values: Tensor, share: float = 0.01) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each value over rows (N, D), no deviation far below the others'."""
    return values.mean(0), torch.sqrt(shrunk(values, share))
