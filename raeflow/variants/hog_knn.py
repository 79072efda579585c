"""Mean distance to the nearest train rows by histograms of oriented gradients, no network: shapes instead of values.

A digit that is a little thicker, brighter or farther left is far from itself value by value, and near by where its edges run
which way (Dalal & Triggs 2005, as told in `_gradients`). Neighbours as cited in `knn`. For images and signals; tables, whose
columns are nobody's neighbours, are compared as they are, as `knn` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raeflow.variants import _gradients, knn
from raeflow.variants._contract import Shape
from raeflow.variants._oneshot import whole

IMAGE_CELLS, SIGNAL_CELLS = 7, 20


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Hyperparameters of `hog_knn`."""

    k: int = 5
    """Neighbours whose distances are averaged, 1 to 50."""
    bank: int = 8192
    """Train rows that are kept, or all where there are fewer; scoring time grows with it."""
    cells: int = IMAGE_CELLS
    """Cells along the shortest side, at most half as many as values; 7 are of 4 pixels in MNIST's images (8 are usual)."""
    bins: int = 9
    """Directions of an image's gradients over the whole circle, 2 at least; Dalal & Triggs find 9 enough (section 6.3)."""

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("bank", self.k), ("cells", 1), ("bins", 2)):
            whole("hog_knn", name, getattr(self, name), least)


def published(shape: Shape) -> Hyper:
    """Five neighbours as in `knn`, nine bins; the sources' cells are for people in the street, these for rows of any size."""
    return Hyper(cells=SIGNAL_CELLS if len(shape) == 2 else IMAGE_CELLS)


def space(trial: Any, shape: Shape) -> Hyper:
    """Neighbours and cells."""
    k = trial.suggest_int("k", 1, 50, log=True)
    if len(shape) == 1:
        return Hyper(k=k)
    usual = published(shape).cells
    return Hyper(k=k, cells=trial.suggest_int("cells", usual // 2, 2 * usual))


class Model(knn.Model):
    """`knn` of histograms of gradients; shapes as there."""

    names = (*knn.Model.names, "usual")
    usual: Tensor
    """(): votes that a block of a train row has on average."""
    hyper: Hyper

    @property
    def transforms(self) -> bool:
        """Tables have no gradients."""
        return len(self.shape) > 1

    @property
    def width(self) -> int:
        """Distances to the bank, and the votes of a row's places."""
        return super().width + (math.prod(self.shape[1:]) * self.hyper.bins if self.transforms else 0)

    def learn_transform(self, x: Tensor) -> None:
        """The usual votes of a block, from the rows that the bank keeps."""
        kept = x[: self.hyper.bank]
        sums = torch.stack([self._votes(part).sum(2).mean(1).sum() for part in torch.split(kept, knn.BLOCK)])
        self.learn(usual=sums.sum() / len(kept))

    def transformed(self, x: Tensor) -> Tensor:
        """(B, D) rows to their descriptors (B, P V)."""
        return _gradients.described(self._votes(x), self.known(self.usual))

    def _votes(self, x: Tensor) -> Tensor:
        grid = _gradients.cells(self.shape, self.hyper.cells)
        return _gradients.blocks(x.view(-1, *self.shape), grid, self.hyper.bins)
