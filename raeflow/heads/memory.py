"""Mean distance to the nearest train rows, in what the model makes of them: [code, residual] or [row, residual].

The k nearest neighbours of Ramaswamy, Rastogi & Shim 2000 and Angiulli & Pizzuti 2002 (mean in place of the k-th distance)
in a model's own terms. The bank is a sample of train rows: chosen at random, or by the greedy k-centre algorithm of
PatchCore (Roth, Pemula, Zepeda, Scholkopf, Brox & Gehler 2022, "Towards Total Recall in Industrial Anomaly Detection",
arXiv:2106.08265), for clean rows alone, since it keeps just the lonely ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raeflow import neighbours
from raeflow.errors import RaeflowError
from raeflow.heads._blocks import OfParts, check_parts
from raeflow.heads._contract import Outputs

CHOICES = ("random", "k_center")
OF = ("code+residual", "row+residual", "features")
SHARE = 0.01
"""Neighbours that are asked where anomalies may be left, at least, as a share of the bank: a few that are alike cannot vouch for
one another (as in `raeflow.data.voters`)."""


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Settings of `memory`."""

    of: str = "row+residual"
    """What is compared: `row`, `code`, `residual`, `features` (of a game's critic), or several joined by `+`."""
    k: int = 5
    """Neighbours whose distances are averaged, 1 to 100: few where train rows are clean, tens where anomalies may hide among them."""
    bank: int = 4096
    """Train rows that are kept, or all where there are fewer."""
    choice: str = "random"
    """How they are chosen: random, or k_center, for train rows that are known to be clean."""

    def __post_init__(self) -> None:
        check_parts("memory", self.of)
        if self.k < 1 or self.bank < self.k:
            raise RaeflowError(f"memory: k={self.k!r} neighbours of a bank={self.bank!r}: both at least 1, and k no more than bank")
        if self.choice not in CHOICES:
            raise RaeflowError(f"memory: choice={self.choice!r} is none of {', '.join(CHOICES)}")


def candidates(shape: tuple[int, ...]) -> list[Hyper]:  # noqa: ARG001 - the contract's
    """Code and residual, row and residual, and a game's features, by the nearest row and by the five nearest."""
    return [Hyper(of=of, k=k) for of in OF for k in (1, 5)]


def unclean(shape: tuple[int, ...], rows: int) -> list[Hyper]:  # noqa: ARG001 - the contract's
    """The same by at least a `SHARE` of the bank, which is the one way where that is five or more."""
    least = int(SHARE * min(rows, Hyper.bank))
    return [Hyper(of=of, k=k) for of in OF for k in sorted({max(1, least), max(5, least)})]


class Head(OfParts):
    """Mean Euclidean distance to the `k` nearest rows of the bank."""

    bank: Tensor
    lengths: Tensor

    def __init__(self, hyper: Hyper) -> None:
        super().__init__(hyper, "bank", "lengths")

    def fit(self, seen: Outputs) -> None:
        """Keep a sample of the train rows; they come in an order of chance."""
        self.blocks.fit(seen)
        values = self.blocks(seen)
        chosen = values[: self.hyper.bank]
        if self.hyper.choice == "k_center" and len(values) > self.hyper.bank:
            chosen = values[neighbours.spread_out(values, self.hyper.bank)]
        bank, lengths = neighbours.kept(chosen, self.hyper.k)
        self.learn(bank=bank, lengths=lengths)

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        return neighbours.distances(self.blocks(seen), self.bank, self.lengths, self.hyper.k).mean(1)

    def attribute(self, seen: Outputs) -> Tensor | None:
        """(B, *shape): squared differences from the neighbours, mean over them."""
        apart = neighbours.differences(self.blocks(seen), self.bank, self.lengths, self.hyper.k)
        return self.blocks.by_value(apart.square().mean(1), seen)

    @property
    def width(self) -> int:
        """Distances to all rows of the bank."""
        return len(self.bank)
