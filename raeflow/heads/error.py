"""The variant's own score: for most the mean squared error of a row, as in the variants' sources."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raeflow.heads._contract import Head as Base
from raeflow.heads._contract import Outputs


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """`error` has nothing to set."""


def candidates(shape: tuple[int, ...]) -> list[Hyper]:  # noqa: ARG001 - the contract's
    """The one there is."""
    return [Hyper()]


class Head(Base):
    """Hands on what `Variant.score` says."""

    @property
    def needs(self) -> frozenset[str]:
        """The model's own score."""
        return frozenset({"score"})

    def fit(self, seen: Outputs) -> None:
        """Nothing to learn."""

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        assert seen.score is not None  # noqa: S101 - asked for in `needs`
        return seen.score
