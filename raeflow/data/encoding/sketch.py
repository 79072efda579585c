"""What one pass over train rows remembers of a table's columns: bounded, and free of the order of files.

n rows of a chunk, K stored values, S columns of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raeflow.data import splits
from raeflow.data.scaling import Moments

Values = np.ndarray[Any, Any]
_MOST, _FEWEST, _VALUES = 1 << 16, 1 << 12, 1 << 22
"""Different rows that a sample keeps, at most and at least, and values of them all."""
_LAST = np.uint64(2**64 - 1)
_CHUNK = 4 << 20
"""Bytes looked at in one go."""


class Sketch:
    """Moments, ranges and gaps of all stored values, which of them take one or two values only, and how often each level comes."""

    def __init__(self, stored: int, numbers: Sequence[int], categories: Sequence[int]) -> None:
        self.stored, self.numbers, self.categories = stored, list(numbers), list(categories)
        self.rows = 0
        self.moments = Moments()
        self.low, self.high = np.full(stored, np.inf), np.full(stored, -np.inf)
        self.gaps = np.zeros(stored, np.int64)
        self.few: list[list[float] | None] = [[] for _ in range(stored)]
        """Up to two values of each number; None where there are more."""
        self.levels = {place: np.zeros(0, np.int64) for place in self.categories}

    def see(self, chunk: Tensor) -> None:
        """Look at train rows (n, K) as they are stored."""
        if not len(chunk):
            return
        rows = chunk.numpy()
        self.rows += len(rows)
        numbers = rows if len(self.numbers) == rows.shape[1] else np.ascontiguousarray(rows[:, self.numbers])
        if self.numbers:
            self.moments.see(numbers)
        low, high = rows.min(0), rows.max(0)  # a NaN comes through, which finds gaps for nothing
        if np.isnan(low).any():
            low, high = np.fmin.reduce(rows, 0), np.fmax.reduce(rows, 0)
            self.gaps += np.isnan(rows).sum(0)
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
        for place in self.numbers:
            self._few(place, rows, low[place], high[place])
        for place in self.categories:
            codes = rows[:, place]
            found = np.bincount(codes[codes >= 0].astype(np.int64), minlength=len(self.levels[place]))
            found[: len(self.levels[place])] += self.levels[place]
            self.levels[place] = found

    def _few(self, place: int, rows: Values, low: float, high: float) -> None:
        """Note the values of a column as long as there are no more than two."""
        known = self.few[place]
        if known is None or low != low:
            return
        both = sorted({*known, float(low), float(high)})
        if len(both) > 2:
            self.few[place] = None
            return
        for part in (rows[:256, place], rows[256:, place]):  # most columns show a third value at once
            if not ((part == low) | (part == high) | (part != part)).all():
                self.few[place] = None
                return
        self.few[place] = both


class Sample:
    """Different rows of lowest second hash, and how often each came: quantiles of what a stream of any length holds."""

    def __init__(self, columns: Sequence[int]) -> None:
        self.columns = list(columns)
        self.most = max(_FEWEST, min(_MOST, _VALUES // max(1, len(self.columns))))
        self.level = 0
        self.rows = np.empty((0, len(self.columns)), np.float32)
        self.keys = np.empty(0, np.uint64)
        self.counts = np.empty(0, np.int64)

    def see(self, chunk: Tensor) -> None:
        """Look at train rows (n, K) as they are stored."""
        if not self.columns or not len(chunk):
            return
        rows = np.ascontiguousarray(chunk.numpy()[:, self.columns], np.float32)
        keys = splits.thinning(splits.row_keys(torch.from_numpy(rows)))
        here = keys <= _LAST >> np.uint64(self.level)
        rows, keys = np.concatenate([self.rows, rows[here]]), np.concatenate([self.keys, keys[here]])
        counts = np.concatenate([self.counts, np.ones(int(here.sum()), np.int64)])
        self.keys, first, place = np.unique(keys, return_index=True, return_inverse=True)
        self.counts = np.bincount(place, counts).astype(np.int64)
        self.rows = rows[first]
        while len(self.keys) > self.most:
            self.level += 1
            kept = self.keys <= _LAST >> np.uint64(self.level)
            self.rows, self.keys, self.counts = self.rows[kept], self.keys[kept], self.counts[kept]

    def values(self, column: int) -> tuple[Values, Values]:
        """Values of a column in order, without gaps, and their counts."""
        values = self.rows[:, self.columns.index(column)].astype(np.float64)
        order = np.argsort(values, kind="stable")
        order = order[~np.isnan(values[order])]
        return values[order], self.counts[order]


def quantile(values: Values, counts: Values, share: float) -> float:
    """The smallest value (of ordered ones with counts) that at least a `share` of them does not exceed."""
    total = np.cumsum(counts)
    at = int(np.searchsorted(total, share * total[-1] - 1e-9))
    return float(values[min(at, len(values) - 1)])


def chunks(x: Tensor) -> Iterator[Tensor]:
    """Resident rows in pieces that are looked at in one go."""
    step = max(1, _CHUNK // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        yield x[start : start + step]
