"""Readings in order of time, whoever they came from and in whatever order they were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raeflow.errors import RaeflowError

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks of a second by their unit, the coarsest first."""
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """Readings put in order: by series, then by time."""

    order: Index
    """(N,) which reading comes at each place."""
    seconds: Floats
    """(N,) since the earliest reading, in order; numbers that are no clock are taken as seconds."""
    series: Index
    """(N,) number of the series, in order."""
    names: tuple[str | None, ...]
    """Of the series; (None,) where there is but one without a name."""
    time: pa.Array
    """(N,) as they were given, not in order."""

    @classmethod
    def of(cls, time: Any, series: Any = None) -> Timeline:
        """`time` (N,): timestamps or numbers, in any order; `series` (N,): whose reading it is.

        Raises RaeflowError on a missing time or series, and where they are not of one length.
        """
        clock = _arrow("time", time)
        if pa.types.is_date(clock.type):
            clock = clock.cast(pa.timestamp("s" if pa.types.is_date32(clock.type) else "ms"))
        if not (pa.types.is_timestamp(clock.type) or pa.types.is_integer(clock.type) or pa.types.is_floating(clock.type)):
            raise RaeflowError(f"time must be timestamps or numbers, not {clock.type}")
        seconds = _seconds(clock)
        codes, names = _series(series, len(clock))
        change = np.diff(codes)
        sorted_already = ((change > 0) | ((change == 0) & (np.diff(seconds) >= 0))).all()
        order = np.arange(len(codes)) if sorted_already else np.lexsort((seconds, codes))
        return cls(order, seconds[order], codes[order], names, clock)

    def follows(self) -> Flags:
        """(N,) whether the reading at each place has one of its own series before it."""
        if not len(self.series):
            return np.empty(0, np.bool_)
        return np.concatenate([[False], self.series[1:] == self.series[:-1]])

    def steps(self) -> Floats:
        """(N,) seconds since the reading before; NaN for the first of each series."""
        return np.where(self.follows(), np.diff(self.seconds, prepend=0.0), np.nan)


def duration(what: str, value: Any) -> float:
    """Seconds of a number, a timedelta or a numpy one; refuses what is negative or no duration."""
    if isinstance(value, np.timedelta64):
        seconds = float(value / np.timedelta64(1, "ns")) / 1e9
    else:
        seconds = float(value.total_seconds()) if hasattr(value, "total_seconds") else float(value)
    if not seconds >= 0:
        raise RaeflowError(f"{what}={value!r} must be a duration of 0 seconds or more")
    return seconds


def _arrow(what: str, values: Any) -> pa.Array:
    found = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    if found.null_count:
        raise RaeflowError(f"reading {found.is_null().index(True).as_py()} has no {what} ({found.null_count} of {len(found)} have none)")
    return found


def _series(series: Any, count: int) -> tuple[Index, tuple[str | None, ...]]:
    if series is None:
        return np.zeros(count, np.int64), (None,)
    ids = _arrow("series", series)
    if len(ids) != count:
        raise RaeflowError(f"{len(ids)} names of series for {count} readings")
    ids = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    return ids.indices.to_numpy(zero_copy_only=False).astype(np.int64), tuple(str(name) for name in ids.dictionary.to_pylist())


def of_length(what: str, values: npt.ArrayLike, count: int) -> Floats:
    """`values` as float64 (count,), or a refusal that calls them `what`."""
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (count,):
        raise RaeflowError(f"{what} {found.shape} must be one value for each, ({count},)")
    return found


def _seconds(clock: pa.Array) -> Floats:
    if pa.types.is_timestamp(clock.type):
        ticks, unit = clock.cast(pa.int64()).to_numpy(zero_copy_only=False), PER_SECOND[clock.type.unit]
    else:
        ticks, unit = clock.to_numpy(zero_copy_only=False), 1
    wrong = ~np.isfinite(ticks)
    if wrong.any():
        raise RaeflowError(f"reading {int(wrong.argmax())} has time {ticks[wrong.argmax()]}")
    return np.asarray((ticks - (ticks.min() if len(ticks) else 0)) / unit, np.float64)
