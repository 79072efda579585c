"""Mahalanobis' distance of a row's residual, or of its code and residual, from those of train rows.

Mahalanobis 1936; the covariance is shrunk towards a multiple of the identity as in Ledoit & Wolf 2004, "A
Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", J. Multivariate Analysis 88(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raeflow.heads._blocks import OfParts, check_parts
from raeflow.heads._contract import Outputs

MOST = 1024
"""Values of a residual whose covariance is kept; beyond, codes alone are taken."""


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Settings of `mahalanobis`."""

    of: str = "residual"
    """What is looked at: `row`, `code`, `residual`, `features` (of a game's critic), or several joined by `+`."""

    def __post_init__(self) -> None:
        check_parts("mahalanobis", self.of)


def candidates(shape: tuple[int, ...]) -> list[Hyper]:
    """Residual, and code and residual; of large rows the code."""
    if math.prod(shape) > MOST:
        return [Hyper(of="code"), Hyper(of="features")]
    return [Hyper(of="residual"), Hyper(of="code+residual"), Hyper(of="features")]


class Head(OfParts):
    """Squared distance over the number of values, so that an average train row has 1."""

    mean: Tensor
    whiten: Tensor
    """(D, D): distances after it are Mahalanobis'."""

    def __init__(self, hyper: Hyper) -> None:
        super().__init__(hyper, "mean", "whiten")

    def fit(self, seen: Outputs) -> None:
        """Mean and shrunk covariance of the train rows."""
        self.blocks.fit(seen)
        values = self.blocks(seen).double()
        covariance = ledoit_wolf(values)
        variances, axes = torch.linalg.eigh(covariance)
        variances = variances.clamp_min(1e-9 * float(variances.amax().clamp_min(1e-30)))
        self.learn(mean=values.mean(0).float(), whiten=(axes / variances.sqrt()).float())

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        score: Tensor = ((self.blocks(seen) - self.mean) @ self.whiten).square().mean(1)
        return score

    def attribute(self, seen: Outputs) -> Tensor | None:
        """(B, *shape): each value times what it adds to the distance; they sum up to it, and may be below 0."""
        apart = self.blocks(seen) - self.mean
        added = apart * ((apart @ self.whiten) @ self.whiten.T)
        return self.blocks.by_value(added, seen)

    @property
    def width(self) -> int:
        """Values that are whitened."""
        return len(self.mean)


def ledoit_wolf(values: Tensor) -> Tensor:
    """(D, D): covariance of rows (N, D), shrunk towards mu I by as much as makes it nearest in the mean (Ledoit & Wolf 2004).

    Their equations with a known mean of the rows' own: mu = tr(S) / D, d^2 = |S - mu I|^2, b^2 = min(d^2, 1/N^2 sum_n
    |x_n x_n' - S|^2), the shrunk one b^2/d^2 mu I + (1 - b^2/d^2) S, all norms over D.
    """
    count, width = values.shape
    centred = values - values.mean(0)
    sample = centred.T @ centred / count
    mu = sample.diagonal().mean()
    off = (sample.square().sum() - width * mu.square()).clamp_min(0)  # |S - mu I|^2
    fourth = centred.square().sum(1).square().sum() / count  # mean of |x x'|^2
    noise = ((fourth - sample.square().sum()) / count).clamp_min(0)
    share = float(noise.minimum(off) / off) if float(off) > 0 else 1.0
    identity = torch.eye(width, dtype=values.dtype, device=values.device)
    return (1 - share) * sample + share * mu * identity
