"""The variant's own score: for most the mean squared error of a row, as in the variants' sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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

    said: ClassVar[str] = "score"
    """The field of `Outputs` that is the score already."""

    @property
    def needs(self) -> frozenset[str]:
        """That field."""
        return frozenset({self.said})

    def fit(self, seen: Outputs) -> None:
        """Nothing to learn."""

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        found: Tensor = getattr(seen, self.said)
        return found
