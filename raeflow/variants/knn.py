"""Mean distance to the nearest train rows, no network.

The k nearest neighbours of Ramaswamy, Rastogi & Shim 2000, "Efficient Algorithms for Mining Outliers from Large Data Sets",
SIGMOD, with the mean of their distances in place of the k-th, as in Angiulli & Pizzuti 2002, "Fast Outlier Detection in
High Dimensional Spaces", PKDD. Train rows beyond `bank` are left out by chance.

Shapes: B rows, N rows of the bank, D values of a row, K neighbours, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raeflow import neighbours
from raeflow.errors import RaeflowError
from raeflow.variants._contract import Shape
from raeflow.variants._oneshot import Fitted, whole

QUANTILES = 256
"""Quantiles that are kept of a feature, at most."""
BLOCK = 512
"""Rows of the bank that are transformed at a time."""
TRANSFORMS = ("none", "quantile")


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """Hyperparameters of `knn`."""

    k: int = 5
    """Neighbours whose distances are averaged, 1 to 50: few where train rows are clean (Ramaswamy et al. and Angiulli & Pizzuti
    vary it from 1 to hundreds)."""
    bank: int = 8192
    """Train rows that are kept, or all where there are fewer; scoring time grows with it."""
    transform: str = "none"
    """none: distances of scaled rows; quantile: each value of a row is first made a standard normal by its quantiles in train."""

    def __post_init__(self) -> None:
        whole("knn", "k", self.k, 1)
        whole("knn", "bank", self.bank, self.k)
        if self.transform not in TRANSFORMS:
            raise RaeflowError(f"knn: transform={self.transform!r} is none of {', '.join(TRANSFORMS)}")


def published(shape: Shape) -> Hyper:  # noqa: ARG001 - the contract's
    """Five neighbours, scikit-learn's and PyOD's number; the sources name no single one."""
    return Hyper()


def space(trial: Any, shape: Shape) -> Hyper:  # noqa: ARG001 - the contract's
    """Neighbours; `rank_knn` has the other transform."""
    return Hyper(k=trial.suggest_int("k", 1, 50, log=True))


class Model(Fitted):
    """A bank of train rows; score (B,) is the mean Euclidean distance to the `k` nearest, as the transform sees them."""

    centre: Tensor
    """(D,): mean of the train rows where there is no transform: products of rows far from zero would lose small distances."""
    rows: Tensor
    """(N, D): the bank as scaled, less the centre if there is one."""
    bank: Tensor
    """(N, D): the same after the transform; empty where there is none."""
    lengths: Tensor
    """(N,): squared lengths after the transform, infinite where a row only fills up a group."""
    quantiles: Tensor
    """(D, Q)."""
    levels: Tensor
    """(Q,): the shares of train rows below them, in 0-1."""

    names: tuple[str, ...] = ("centre", "rows", "bank", "lengths", "quantiles", "levels")
    hyper: Any

    def __init__(self, shape: Shape, hyper: Any) -> None:
        super().__init__(*self.names)
        self.hyper, self.shape = hyper, shape

    @property
    def transforms(self) -> bool:
        """Whether rows are compared as something else than they are."""
        return bool(self.hyper.transform != "none")

    def fit_rows(self, x: Tensor, seed: int) -> None:  # noqa: ARG002 - rows come in an order of chance
        """Keep the first `bank` rows; quantiles are taken of all of them."""
        x = x.flatten(1).float()
        if not self.transforms:
            self.learn(centre=x.mean(0))
            rows, lengths = neighbours.kept(x[: self.hyper.bank] - self.centre, self.hyper.k)
            self.learn(rows=rows, lengths=lengths)
            return
        rows, _ = neighbours.kept(x[: self.hyper.bank], self.hyper.k)
        self.learn(rows=rows)
        self.learn_transform(x)
        seen = [self.transformed(part) for part in torch.split(x[: self.hyper.bank], BLOCK)]
        bank, lengths = neighbours.kept(torch.cat(seen), self.hyper.k)
        self.learn(bank=bank, lengths=lengths)

    def learn_transform(self, x: Tensor) -> None:
        """What the transform must know of train rows (N, D)."""
        count = min(QUANTILES, len(x))
        levels = (torch.arange(count, device=x.device, dtype=torch.float64) + 0.5) / count
        self.learn(quantiles=quantiles(x, levels), levels=levels.float())

    def transformed(self, x: Tensor) -> Tensor:
        """(B, D) rows as the transform sees them, (B, *)."""
        return to_normal(x, self.known(self.quantiles), self.levels)

    def score(self, x: Tensor) -> Tensor:
        """(B,)."""
        seen = self._seen(x)
        return neighbours.distances(seen, self._bank, self.lengths, self.hyper.k).mean(1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of a row's nearest rows: what is expected of a row like it."""
        seen = self._seen(x)
        found: Tensor = self.rows[neighbours.nearest(seen, self._bank, self.lengths, self.hyper.k)]
        expected = found.mean(1) if self.transforms else found.mean(1) + self.centre
        return expected.view(-1, *self.shape)

    @property
    def width(self) -> int:
        """Distances to all rows of the bank."""
        return len(self.lengths)

    @property
    def _bank(self) -> Tensor:
        return self.known(self.bank if self.transforms else self.rows)

    def _seen(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).float()
        return self.transformed(flat) if self.transforms else flat - self.known(self.centre)


def quantiles(x: Tensor, levels: Tensor) -> Tensor:
    """(D, Q) quantiles of rows (N, D) at levels (Q,) in 0-1, between the middles of the ordered rows (Hazen 1914)."""
    ordered = x.T.contiguous().sort(1).values.double()
    places = (levels * len(x) - 0.5).clamp(0, len(x) - 1)
    low = places.floor().long()
    share = places - low
    found = ordered[:, low] * (1 - share) + ordered[:, (low + 1).clamp(max=len(x) - 1)] * share
    return found.float().cummax(1).values


def to_normal(x: Tensor, known: Tensor, levels: Tensor) -> Tensor:
    """(B, D) rows to standard normals by the quantiles (D, Q) of each value at levels (Q,).

    Among quantiles that are equal a value has the middle of their levels. A value beyond the first or last of them goes on
    from there in its own units, so that what lies far out stays far out.
    """
    values = x.T.contiguous()  # (D, B)
    inside = values.maximum(known[:, :1]).minimum(known[:, -1:])
    last = known.shape[1] - 1
    if last == 0:  # of a single row
        return x - known[:, 0]
    sides = []
    for right in (False, True):
        above = torch.searchsorted(known, inside, right=right).clamp(1, last)
        low, high = known.gather(1, above - 1), known.gather(1, above)
        share = torch.where(high > low, (inside - low) / (high - low).clamp_min(1e-38), float(right))
        sides.append(torch.lerp(levels[above - 1], levels[above], share))
    found: Tensor = torch.special.ndtri((sides[0] + sides[1]) / 2) + (values - inside)
    return found.T.contiguous()
