"""The worst place of a row: what images and signals with small defects need, where a mean over the row drowns them.

The errors of a row are squared, averaged over channels and over a window, and the worst of them, or the mean of the worst
few, is the score. By default each value's error is first measured against what is usual for that value in train rows
(`standardised`), or the edges that a model always blurs would be the worst place of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from raeflow.errors import RaeflowError
from raeflow.heads import standardised
from raeflow.heads._contract import Outputs


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Settings of `peak`."""

    smooth: int = 1
    """Side of the window over which errors are averaged, from 1, which is none; about the size of the defects. Tables have none."""
    share: float = 0.0
    """The worst share of all places whose mean is the score, 0 to 1; 0 takes the single worst place."""
    standardised: bool = True
    """Whether the error of each value is divided by its variance in train rows, as in the head `standardised`."""

    def __post_init__(self) -> None:
        if not isinstance(self.smooth, int) or self.smooth < 1:
            raise RaeflowError(f"peak: smooth={self.smooth!r}: the side of a window is a whole number from 1")
        if not 0 <= self.share <= 1:
            raise RaeflowError(f"peak: share={self.share!r} is a share of the places, 0 to 1")


def candidates(shape: tuple[int, ...]) -> list[Hyper]:
    """Single readings and windows of signals and images; of tables the worst value."""
    if len(shape) == 1:
        return [Hyper()]
    side = 3 if len(shape) == 2 else 5
    return [Hyper(smooth=smooth, share=share, standardised=usual) for usual in (True, False) for smooth, share in ((1, 0.0), (side, 0.003))]


class Head(standardised.Head):
    """The mean of the worst places of the smoothed map of errors."""

    def fit(self, seen: Outputs) -> None:
        """What is usual for each value, where errors are measured against it."""
        if self.hyper.standardised:
            super().fit(seen)

    def forward(self, seen: Outputs) -> Tensor:
        """(B,)."""
        places = self._map(seen).flatten(1)
        worst = places.topk(max(1, round(self.hyper.share * places.shape[1])), sorted=False).values
        return worst.mean(1)

    def attribute(self, seen: Outputs) -> Tensor:
        """(B, *shape): the smoothed map, the same for all channels."""
        return self._map(seen).expand_as(seen.x)

    def _map(self, seen: Outputs) -> Tensor:
        """(B, 1, *places); of tables (B, F)."""
        squares = self._values(seen) if self.hyper.standardised else seen.residual.square()
        return squares if squares.dim() == 2 else smoothed(squares.mean(1, keepdim=True), self.hyper.smooth)


def smoothed(maps: Tensor, side: int) -> Tensor:
    """(B, D, *places) -> the same: means over a window of this side about each place; beyond its edges a map goes on as it ends."""
    if side == 1:
        return maps
    before = (side - 1) // 2
    wide = functional.pad(maps, (before, side - 1 - before) * (maps.dim() - 2), mode="replicate")
    pooled: Tensor = functional.avg_pool1d(wide, side, 1) if maps.dim() == 3 else functional.avg_pool2d(wide, side, 1)
    return pooled
