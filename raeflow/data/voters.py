"""How strange rows look before anything is trained: an isolation forest and the distance to many neighbours vote.

N rows, D values of an encoded row. Both voters are fitted on train rows that may hold anomalies themselves, so both look at
few rows at a time or at many neighbours: a cluster of like anomalies must not make them look usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]

TREES = 100
NEIGHBOURS, NEAR = 50, 0.1
"""Neighbours that are asked, at least, and the share of the bank that they are: the members of a smaller cluster of anomalies
cannot vouch for one another."""
BANK = 4096
"""Train rows among which neighbours are looked for; distances to all of many rows would take hours."""
SAMPLE = 16_384
"""Train rows that the forest (each tree draws 256 of them) and the projection are fitted on."""
WIDE = 256
"""Values of a row beyond which it is projected."""
AXES = 64
_BLOCK = 1024


@dataclass(frozen=True)
class Votes:
    """What the voters say of N rows."""

    forest: Floats
    """(N,) IsolationForest's anomaly score, between 0 and 1 (Liu, Ting & Zhou 2008)."""
    neighbours: Floats
    """(N,) mean distance to the nearest rows of the bank, in encoded units (Angiulli & Pizzuti 2002)."""
    strangeness: Floats
    """(N,) mean of the two votes' ranks among train rows, 0 to 1; what decides."""


class Voters:
    """An isolation forest and a bank of neighbours of encoded train rows (S, D), in an order that no file decides."""

    def __init__(self, sample: Tensor, seed: int = 0) -> None:
        from sklearn.ensemble import IsolationForest

        flat = sample.reshape(len(sample), -1)
        self.axes = _Axes(flat, seed) if flat.shape[1] > WIDE else None
        rows = self._seen(flat)
        self.forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(rows.numpy())
        drawn = np.random.default_rng(seed).permutation(len(rows))[:BANK]
        self.own = torch.from_numpy(np.sort(drawn))
        """(K,) which of the sample are in the bank."""
        self.bank = rows[self.own]
        self.count = max(1, min(max(NEIGHBOURS, int(NEAR * len(self.bank))), len(self.bank) - 1))
        self.ranks: tuple[Floats, Floats] | None = None

    def _seen(self, rows: Tensor) -> Tensor:
        # Far beyond float32's squares a row is as strange as can be.
        flat = torch.nan_to_num(rows.reshape(len(rows), -1).float(), posinf=1e15, neginf=-1e15).clamp(-1e15, 1e15)
        return flat if self.axes is None else self.axes(flat)

    def ask(self, rows: Tensor, own: Tensor) -> tuple[Floats, Floats]:
        """Both votes of encoded rows (n, D); `own` (n,) says which of them are in the bank: nobody is a neighbour of itself."""
        seen = self._seen(rows)
        forest = np.asarray(-self.forest.score_samples(seen.numpy()), np.float32)
        near = [self._near(part, mine) for part, mine in zip(torch.split(seen, _BLOCK), torch.split(own, _BLOCK), strict=True)]
        return forest, np.concatenate(near) if near else np.empty(0, np.float32)

    def _near(self, rows: Tensor, own: Tensor) -> Floats:
        """(n,) mean distance to the nearest `count` rows of the bank; of one more, itself does not count, else the farthest."""
        apart = torch.cdist(rows, self.bank).numpy()
        last = min(self.count, len(self.bank) - 1)
        apart.partition(last, axis=1)
        least = apart[:, : last + 1].astype(np.float64)
        left_out = np.where(own.numpy(), least.min(1), least[:, last])
        return np.asarray((least.sum(1) - left_out) / max(1, last), np.float32)

    def rank(self, train: tuple[Floats, Floats]) -> None:
        """Take the votes of all train rows as what others are compared with."""
        self.ranks = (np.sort(train[0]), np.sort(train[1]))

    def judge(self, votes: tuple[Floats, Floats]) -> Votes:
        """Votes with the strangeness that follows from their ranks."""
        if self.ranks is None:
            raise ValueError("votes are ranked among those of train rows, which come first")
        shares = [np.searchsorted(known, own, "right") / len(known) for known, own in zip(self.ranks, votes, strict=True)]
        return Votes(votes[0], votes[1], np.asarray((shares[0] + shares[1]) / 2, np.float32))


class _Axes:
    """Wide rows as their first principal axes and the length of what these leave out, where odd rows often differ."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        from sklearn.decomposition import PCA

        count = max(1, min(AXES, len(rows) - 1))
        fitted: Any = PCA(count, svd_solver="randomized", random_state=seed).fit(rows.numpy())
        self.mean = torch.from_numpy(np.asarray(fitted.mean_, np.float32))
        self.turn = torch.from_numpy(np.asarray(fitted.components_, np.float32))

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, axes + 1)."""
        centred = rows - self.mean
        along = centred @ self.turn.T
        rest = (centred.square().sum(1) - along.square().sum(1)).clamp_min(0).sqrt()
        return torch.cat([along, rest[:, None]], 1)


def blocks(count: int, size: int = 8192) -> Iterator[slice]:
    """Slices of at most `size` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
