"""Which split each reading belongs to, and where it lies in it: blocks of time, or whole series.

R readings in order (by series, then time), S series.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from raeflow.data import splits
from raeflow.data.order import Bools, Floats, Order, Places, median_step, ranked

Split = np.ndarray[Any, np.dtype[np.uint8]]
NOWHERE = 255
"""Of readings between two blocks, which are in no split."""


def by_time(given: Split, bounds: Places, codes: Sequence[int], ends: Sequence[float], window: int) -> Split:
    """(R,) split of readings in order: of each series the first readings train, later ones validate, calibrate and test.

    Shares are those of `raeflow.data.splits.shares`. The first `window` readings of every block but the first are in no
    split, so that no window of a split touches or nears one of the split before it. What is `given` to another split than
    train stays there.
    """
    split = given.copy()
    for first, end in itertools.pairwise(bounds):
        free = np.flatnonzero(given[first:end] == splits.TRAIN) + first
        cuts = [round(len(free) * share) for share in (0.0, *ends)]
        for code, low, high in zip(codes, cuts, cuts[1:], strict=False):
            split[free[low:high]] = code
            if low:
                split[free[low : min(low + window, high)]] = NOWHERE
    return split


def by_series(given: Split, bounds: Places, names: Sequence[str], codes: Sequence[int], ends: Sequence[float]) -> Split:
    """(R,) split of readings in order: whole series, taken in the order of the hashes of their names.

    Every split that has a share gets one series at least, as long as there are so many.
    """
    split = given.copy()
    free = [s for s in range(len(names)) if (given[bounds[s] : bounds[s + 1]] == splits.TRAIN).any()]
    free.sort(key=lambda s: hashlib.blake2b(names[s].encode(), digest_size=8).digest())
    for s, code in zip(free, _dealt(len(free), codes, ends), strict=True):
        own = split[bounds[s] : bounds[s + 1]]
        own[own == splits.TRAIN] = code
    return split


def _dealt(count: int, codes: Sequence[int], ends: Sequence[float]) -> list[int]:
    """The split of each of so many series."""
    sizes = np.diff([0, *(round(count * end) for end in ends)])
    asked = np.diff([0.0, *ends]) > 0
    while (sizes[asked] == 0).any() and sizes.max() > 1:
        sizes[int(sizes.argmax())] -= 1
        sizes[int(np.flatnonzero(asked & (sizes == 0))[0])] += 1
    return [code for code, size in zip(codes, sizes, strict=True) for _ in range(int(size))]


def steps_of(order: Order, split: Split) -> tuple[Floats, float]:
    """(S,) usual step of each series, in ticks, and that of all train readings: NaN where there are too few readings.

    A series' step is the median over its train readings, so that no later reading has a say; one that has none there is
    measured by the earliest split that it is in.
    """
    steps = np.full(len(order.bounds) - 1, np.nan)
    known: list[tuple[float, int]] = []
    for s, (first, end) in enumerate(itertools.pairwise(order.bounds)):
        own = split[first:end]
        earliest = int(own.min(initial=NOWHERE))
        if earliest == NOWHERE:
            continue
        steps[s] = median_step(order.ticks[first:end] if (own == earliest).all() else order.ticks[first:end][own == earliest])
        if earliest == splits.TRAIN and steps[s] == steps[s]:
            known.append((steps[s], int((own == earliest).sum())))
    if not known:
        return steps, float("nan")
    values, counts = (np.asarray(part) for part in zip(*sorted(known), strict=True))
    middle = np.searchsorted(np.cumsum(counts), counts.sum() / 2)
    usual = float(values[middle])
    return np.where(np.isnan(steps), usual, steps), usual


class Layout:
    """Where readings lie in the tensors of their splits: one after the other, in order."""

    def __init__(self, split: Split, order: Order) -> None:
        self.split = split
        self.counts = np.bincount(split, minlength=256)
        self.firsts = np.concatenate([[0], np.flatnonzero(split[1:] != split[:-1]) + 1]).astype(np.int64)
        """Readings at which a stretch of one split begins."""
        lengths = np.diff(np.append(self.firsts, len(split)))
        self.offsets = np.zeros(len(self.firsts), np.int64)
        for code in np.unique(split):
            here = split[self.firsts] == code
            self.offsets[here] = np.cumsum(lengths[here]) - lengths[here]
        self.ranks = None if order.rows is None else ranked(order.rows)
        """(R,) place in order of each reading in the files; None where the files are in order."""

    def places(self, first: int, count: int) -> tuple[Split, Places]:
        """Splits and places in them of so many readings in the order of the files."""
        at = np.arange(first, first + count) if self.ranks is None else self.ranks[first : first + count]
        stretch = np.searchsorted(self.firsts, at, side="right") - 1
        return self.split[at], self.offsets[stretch] + at - self.firsts[stretch]

    def apart(self, gaps: Bools, code: int) -> Bools:
        """(n,) of the readings of a split whether each does not follow the one before it."""
        alone = gaps.copy()
        alone[self.firsts] = True
        own: Bools = alone[self.split == code]
        return own

    def bounds(self, bounds: Places, code: int) -> Places:
        """(S + 1,) where each series begins among the readings of a split."""
        here = (self.split == code).view(np.uint8)
        return np.concatenate([[0], np.cumsum(np.add.reduceat(here, bounds[:-1], dtype=np.int64))])
