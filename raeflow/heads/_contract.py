"""The contract every head keeps: from what a model makes of rows to their scores.

A head is a file beside this one that defines three names:

- `Hyper`: frozen dataclass; every field has a default and one line of meaning and source;
- `candidates(shape) -> list[Hyper]`: the settings that are judged for rows of this shape;
- `Head(hyper)`: the `_contract.Head`;

and, where that matters, `unclean(shape, rows) -> list[Hyper]`: the settings where anomalies may be left among so many train rows.

Shapes: B rows of a batch, N train rows, Z codes, P places of a feature map; a row is (F,), (C, L) or (C, H, W), scaled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from raeflow.learned import Learned


@dataclass(frozen=True)
class Outputs:
    """What a model makes of some rows; what nobody asked for is None."""

    x: Tensor
    """(B, *shape): the rows as the model sees them."""
    rebuilt: Tensor | None = None
    """(B, *shape): the model's reconstruction."""
    code: Tensor | None = None
    """(B, Z)."""
    score: Tensor | None = None
    """(B,): the variant's own score."""
    maps: Tensor | None = None
    """(B, D, *places): feature maps of the encoder."""
    features: Tensor | None = None
    """(B, D): features of a game's critic."""
    critic: Tensor | None = None
    """(B,): how strange the critic finds the rows."""

    @property
    def residual(self) -> Tensor:
        """(B, *shape): the rows less their reconstruction."""
        assert self.rebuilt is not None  # noqa: S101 - a head says in `needs` what it reads
        return self.x - self.rebuilt


class Head(Learned, ABC):
    """Turns outputs (of B rows) into scores (B,), higher is stranger; fitted on train rows after the model was trained."""

    name: ClassVar[str] = ""
    """Its file's, set when it is built."""

    def __init__(self, hyper: Any, *names: str) -> None:
        """`names` are the tensors that `fit` learns."""
        super().__init__(*names)
        self.hyper = hyper

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Fields of `Outputs` that it reads, besides `x`."""

    @abstractmethod
    def fit(self, seen: Outputs) -> None:
        """Learn from the outputs of train rows (N, ...); what is drawn at random is drawn by a fixed seed."""

    @abstractmethod
    def forward(self, seen: Outputs) -> Tensor:
        """(B,) scores; a row's score ignores its neighbours."""

    def attribute(self, seen: Outputs) -> Tensor | None:  # noqa: ARG002 - for heads that can tell
        """(B, *shape): how much each value adds to the score; None where it cannot tell, and squared errors are told instead."""
        return None

    @property
    def width(self) -> int:
        """Values that scoring one row takes besides the row's own, so that batches can be sized by it."""
        return 0
