"""Mean distance to the nearest train rows after each feature became a standard normal by its ranks, no network.

The same neighbours as in `knn`, of other distances: units and long tails play no part, and a value counts by how few rows lie
beyond it. It errs elsewhere than `knn` does, and a committee of both is better than either. Ranks made normal: van der Waerden
1952, "Order Tests for the Two-Sample Problem and Their Power"; neighbours as cited in `knn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raeflow.errors import RaeflowError
from raeflow.variants import knn
from raeflow.variants._contract import Shape


@dataclass(frozen=True, kw_only=True)
class Hyper(knn.Hyper):
    """Hyperparameters of `rank_knn`: those of `knn`."""

    transform: str = "quantile"
    """quantile alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform != "quantile":
            raise RaeflowError(f"rank_knn: transform={self.transform!r}: it is quantile; the variant `knn` takes rows as they are")


def published(shape: Shape) -> Hyper:  # noqa: ARG001 - the contract's
    """Five neighbours, as `knn`."""
    return Hyper()


def space(trial: Any, shape: Shape) -> Hyper:  # noqa: ARG001 - the contract's
    """Neighbours."""
    return Hyper(k=trial.suggest_int("k", 1, 50, log=True))


class Model(knn.Model):
    """`knn` of rows whose features are standard normals by rank."""
