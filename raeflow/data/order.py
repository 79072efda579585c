"""Readings in order: which comes after which, where a series begins, what its usual step is, and where it has a gap.

R readings, S series. "In order" is by series, then by time; the files may have them in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raeflow.data.clock import Keys, Kind, Ticks
from raeflow.errors import RaeflowError

Places = np.ndarray[Any, np.dtype[np.int64]]
Starts = np.ndarray[Any, np.dtype[np.int32]] | np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Where = Callable[[int], str]
"""Place of a reading by its number in the order of the files: file and row, in words."""


@dataclass(frozen=True)
class Order:
    """Readings by series, then by time."""

    ticks: Ticks
    """(R,) in order."""
    bounds: Places
    """(S + 1,) reading, in order, at which each series begins; the last is R."""
    rows: Places | None
    """(R,) number in the files of each reading in order; None where the files have them in order."""


def ranked(rows: Places) -> Places:
    """(R,) place in order of each reading in the files, from `Order.rows`."""
    ranks = np.empty(len(rows), np.int64)
    ranks[rows] = np.arange(len(rows))
    return ranks


def ordered(keys: Keys, where: Where) -> Order:
    """Put readings in order; files that have them so are not copied.

    Raises RaeflowError where a series has two readings of one moment, with the place of the second.
    """
    ticks, codes, rows = keys.ticks, keys.codes, None
    changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    sound = len(changes) == len(keys.names) - 1
    if sound:
        firsts = np.concatenate([[0], changes])
        falls = np.flatnonzero(ticks[1:] <= ticks[:-1]) + 1
        falls = falls[~np.isin(falls, firsts)]
        sound = not len(falls)
    if not sound:
        rows = np.lexsort((ticks, codes))
        ticks = ticks[rows]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(keys.names)))]).astype(np.int64)
    if rows is not None:
        twice = np.flatnonzero(ticks[1:] == ticks[:-1]) + 1
        twice = twice[~np.isin(twice, bounds)]
        if len(twice):
            at = int(rows[twice[0]])
            more = f", and {len(twice) - 1:,} more such pairs" if len(twice) > 1 else ""
            hint = ", or name the column that tells machines apart in Data(series=...)" if keys.names == ("",) else ""
            who, moment = _named(keys.names[int(codes[at])]), keys.kind.shown(ticks[twice[0]])
            raise RaeflowError(f"{where(at)}: {who} has two readings at {moment}{more}; keep one of them{hint}")
    return Order(ticks, bounds, rows)


def median_step(ticks: Ticks) -> float:
    """The (lower) median of the steps between moments in order; NaN where there is none."""
    if len(ticks) < 2:
        return float("nan")
    steps = np.diff(ticks)
    middle = (len(steps) - 1) // 2
    steps.partition(middle)
    return float(steps[middle])


def gaps(ticks: Ticks, bounds: Places, steps: Floats, max_gap: float) -> Bools:
    """(R,) whether a reading in order does not follow the one before it: it is its series' first, or comes after a gap.

    `steps` (S,) are the usual steps of the series, in ticks.
    """
    apart = np.zeros(len(ticks), np.bool_)
    for series, (first, end) in enumerate(itertools.pairwise(bounds)):
        if end > first:
            apart[first + 1 : end] = np.diff(ticks[first:end]) > max_gap * steps[series]
            apart[first] = True
    return apart


def refuse_changes(order: Order, keys: Keys, steps: Floats, max_gap: float, window: int) -> None:
    """Refuse a series whose step changes for good: a window's length of steps on end that are all gaps, or as much too short."""
    for series, (first, end) in enumerate(itertools.pairwise(order.bounds)):
        own = np.diff(order.ticks[first:end])
        usual = steps[series]
        for odd in (own > max_gap * usual, own * max_gap < usual):
            at = _first_run(odd, window)
            if at is None:
                continue
            since, other = order.ticks[first + at], median_step(order.ticks[first + at : first + at + window + 1])
            raise RaeflowError(
                f"{_named(keys.names[series])}: its usual step is {keys.kind.lasting(usual)}, but from {keys.kind.shown(since)} on it has "
                f"{window} steps or more of about {keys.kind.lasting(other)}; bring it to one step, or make series of its parts"
            )


def _first_run(odd: Bools, least: int) -> int | None:
    """Where the first run of at least so many true values begins; None where there is none."""
    if odd.sum() < least:
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], odd, [False]]).astype(np.int8)))
    long = np.flatnonzero(edges[1::2] - edges[::2] >= least)
    return int(edges[::2][long[0]]) if len(long) else None


def starts(apart: Bools, window: int, stride: int) -> Starts:
    """First readings of the windows of readings that lie side by side: none goes over one that does not follow the one before it.

    `apart` (n,) as `gaps` gives it for readings in order; within each run windows begin every `stride` readings.
    """
    firsts = np.flatnonzero(apart)
    lengths = np.diff(np.append(firsts, len(apart)))
    counts = np.maximum((lengths - window) // stride + 1, 0)
    small: Any = np.int32 if stride * len(apart) < 2**31 else np.int64  # windows may be as many as readings
    found: Any = np.arange(0, stride * int(counts.sum()), stride, dtype=small)
    found += np.repeat((firsts - stride * (np.cumsum(counts) - counts)).astype(small), counts)
    return found  # type: ignore[no-any-return]


def _named(name: str) -> str:
    return f"series {name!r}" if name else "the series"


__all__ = ["Kind", "Order", "Where", "gaps", "median_step", "ordered", "refuse_changes", "starts"]
