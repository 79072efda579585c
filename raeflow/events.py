"""From windows back to readings: a score for every reading, and alerts that lie close together as one event.

N readings, W windows of length L over C channels. A map holds a window's errors, one value for each of its readings, so a
reading's score comes from its own column of the maps and not from its neighbours'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raeflow.errors import RaeflowError
from raeflow.timeline import Flags, Floats, Index, Timeline, duration, of_length

Values = npt.NDArray[Any]

AT = ("last", "all")


class ReadingScores:
    """Scores of readings from error maps that come tile by tile; no map is kept.

    at="last": a reading's score is its own column of the window that ends with it, so nothing later is seen. at="all": the mean
    of its own columns in all windows that hold it, for looking back. Either way sums run in the order of the windows, so the tiles'
    borders change no bit as long as tiles come in order; out of order, at="all" changes by rounding alone.

    Memory: 4 bytes a reading for "last", 12 for "all", and as much again for each channel with `channels`.
    """

    def __init__(self, count: int, length: int, at: str = "last", channels: int | None = None) -> None:
        """`count` readings, windows of `length`; `channels` also keeps each channel's errors, for `channel_errors`."""
        if at not in AT:
            raise RaeflowError(f"at={at!r} must be 'last' (no reading after the scored one is seen) or 'all'")
        if length < 1 or count < 0:
            raise RaeflowError(f"scores of {count} readings from windows of {length}: both must be whole numbers, the length above 0")
        self.count, self.length, self.at, self.channels = count, length, at, channels
        shape = (count,) if channels is None else (count, 1 + channels)  # column 0 is the score, then the channels
        self._sums = np.full(shape, np.nan, np.float32) if at == "last" else np.zeros(shape, np.float64)
        self._windows = None if at == "last" else np.zeros(count, np.int32)

    def add(self, starts: npt.ArrayLike, maps: npt.ArrayLike) -> None:
        """Maps (W, C, L) or (W, L) of the windows that begin at readings `starts` (W,), which must rise.

        Raises RaeflowError where shapes do not fit, a window leaves the readings, or starts do not rise.
        """
        first, found = np.asarray(starts, dtype=np.int64), np.asarray(maps)
        self._check(first, found)
        if not len(first):
            return
        if self._windows is None:
            self._sums[first + self.length - 1] = self._kept(found[..., -1:])[0]
            return
        kept_L = self._kept(found)
        step = int(first[-1] - first[0]) == len(first) - 1
        for column in range(self.length - 1, -1, -1):  # from the last column: each reading then meets its windows in order
            own: Any = slice(int(first[0]) + column, int(first[0]) + column + len(first)) if step else first + column
            self._sums[own] += kept_L[column]
            self._windows[own] += 1

    def finish(self) -> npt.NDArray[np.float32]:
        """Scores (N,), float32; NaN for a reading without a score, as the leading ones of a run have no full window behind them."""
        return self._mean(self._sums if self.channels is None else self._sums[:, 0])

    def channel_errors(self) -> npt.NDArray[np.float32]:
        """Errors (N, C) of each channel, whose mean over channels is the score; only where `channels` was asked for."""
        if self.channels is None:
            raise RaeflowError("no errors of channels were kept; ReadingScores(channels=C) keeps them")
        return self._mean(self._sums[:, 1:])

    def _mean(self, sums: Values) -> npt.NDArray[np.float32]:
        if self._windows is None:
            return np.array(sums, np.float32)
        windows = self._windows if sums.ndim == 1 else self._windows[:, None]
        means: Floats = np.divide(sums, windows, out=np.full(sums.shape, np.nan), where=windows > 0)
        return means.astype(np.float32)

    def _kept(self, errors: Values) -> Values:
        """Of columns (W, C, K) or (W, K) what is kept, column by column: scores (K, W), or (K, W, 1 + C) with the channels behind them."""
        score = errors if errors.ndim == 2 else _over_channels(errors)
        if self.channels is None:
            return np.ascontiguousarray(score.T)
        return np.concatenate([score[:, None], errors], axis=1).transpose(2, 0, 1)

    def _check(self, starts: Index, maps: Values) -> None:
        shape = maps.shape
        if maps.ndim not in (2, 3) or shape[0] != len(starts) or shape[-1] != self.length or starts.ndim != 1:
            raise RaeflowError(
                f"error maps {shape} of {starts.size} windows must be (W, C, L) or (W, L) with W={starts.size} and L={self.length}"
            )
        if self.channels is not None and (maps.ndim != 3 or shape[1] != self.channels):
            raise RaeflowError(f"error maps {shape} must have C={self.channels} channels, (W, C, L), where errors of channels are kept")
        if not len(starts):
            return
        if (np.diff(starts) <= 0).any():
            place = int((np.diff(starts) <= 0).argmax())
            raise RaeflowError(f"starts of windows must rise, but {starts[place + 1]} comes after {starts[place]}")
        if starts[0] < 0 or starts[-1] + self.length > self.count:
            wrong = starts[0] if starts[0] < 0 else starts[-1]
            raise RaeflowError(f"a window of {self.length} readings at {wrong} leaves the {self.count} readings")


def from_maps(starts: npt.ArrayLike, maps: npt.ArrayLike, count: int, at: str = "last") -> npt.NDArray[np.float32]:
    """Scores (count,) of readings from all maps (W, C, L) or (W, L) at once; see `ReadingScores`."""
    found = np.asarray(maps)
    scores = ReadingScores(count, found.shape[-1] if found.ndim else 0, at)
    scores.add(starts, found)
    return scores.finish()


def _over_channels(errors_WCK: Values) -> Floats:
    # One channel after the other: numpy's own mean may add in another order for one window than for many.
    total: Floats = np.zeros((len(errors_WCK), errors_WCK.shape[2]))
    for channel in range(errors_WCK.shape[1]):
        total += errors_WCK[:, channel]
    total /= max(errors_WCK.shape[1], 1)
    return total


def schema(clock: pa.DataType | None = None) -> pa.Schema:
    """Columns of a table of events; `clock` is the type of the readings' time."""
    kind = pa.timestamp("us") if clock is None else clock
    cause = pa.struct([pa.field("channel", pa.string()), pa.field("share", pa.float32())])
    return pa.schema([
        ("series", pa.string()), ("start", kind), ("end", kind), ("peak_time", kind), ("peak_score", pa.float32()),
        ("readings", pa.int64()), ("channels", pa.list_(cause)),
    ])  # fmt: skip


def find_events(
    time: Any, score: npt.ArrayLike, alerts: float | npt.ArrayLike, series: Any = None, joined: Any = 0, *,
    max_step: Any = None, position: npt.ArrayLike | None = None,
    channels: npt.ArrayLike | None = None, names: Sequence[str] | None = None, usual: npt.ArrayLike | None = None, top: int = 5,
) -> pa.Table:  # fmt: skip
    """Readings that raise an alert to events, with `schema(type of time)`, in order of start.

    Flagged readings of a series are one event where they are neighbours or at most `joined` apart. `end` is the time of the last
    flagged reading, `readings` how many are flagged, `peak_time` that of the first of the highest scores.

    Args:
        time: (N,) timestamps or numbers, in any order.
        score: (N,), NaN where a reading has none, which raises no alert.
        alerts: a threshold, which the scores of alerts exceed, or (N,) flags.
        series: (N,) whose reading it is; None: all are of one series.
        joined: seconds, or a timedelta: alerts no further apart than this are one event.
        max_step: seconds, or a timedelta: neighbours further apart have a gap between them and are not joined; None: no step is a gap.
        position: (N,) each reading's place in its series; then readings that raise no alert may be left out, as after scoring in fragments.
        channels: (N, C) errors of each channel, from which an event's shares are told, the largest first.
        names: of the C channels.
        usual: (C,) mean errors of normal readings: then only what lies above them counts as a cause.
        top: most channels that an event names; those without a share are left out.

    Raises RaeflowError where shapes do not fit or a flagged reading has no score.
    """
    line = Timeline.of(time, series)
    scores = of_length("score", score, len(line.order))
    if np.ndim(alerts) == 0:
        flags: Flags = scores > np.asarray(alerts, np.float64)
    else:
        flags = of_length("alerts", alerts, len(scores)).astype(np.bool_)
    if (flags & np.isnan(scores)).any():
        raise RaeflowError(f"reading {int((flags & np.isnan(scores)).argmax())} raises an alert but has no score")
    places, firsts = group_alerts(line, flags, joined, max_step, position)
    rows = line.order[places]
    own = schema(line.time.type)
    if not len(rows):
        return own.empty_table()
    sizes = np.diff(np.append(firsts, len(rows)))
    peaks = np.maximum.reduceat(scores[rows], firsts)
    at_peak = np.where(scores[rows] == np.repeat(peaks, sizes), np.arange(len(rows)), len(rows))
    columns = [
        pa.array([line.names[code] for code in line.series[places[firsts]]], pa.string()),
        line.time.take(pa.array(rows[firsts])),
        line.time.take(pa.array(rows[firsts + sizes - 1])),
        line.time.take(pa.array(rows[np.minimum.reduceat(at_peak, firsts)])),
        pa.array(peaks.astype(np.float32)),
        pa.array(sizes),
        _causes(channels, names, usual, rows, firsts, len(scores), top, own.field("channels").type),
    ]
    return pa.Table.from_arrays(columns, schema=own).sort_by([("start", "ascending"), ("series", "ascending")])


def group_alerts(
    line: Timeline, flags: Flags, joined: Any = 0, max_step: Any = None, position: npt.ArrayLike | None = None
) -> tuple[Index, Index]:
    """Places in `line` of the flagged readings, and which of these begin an event; see `find_events`.

    `flags` (N,) and `position` (N,) are in the order in which the readings were given.
    """
    places = np.flatnonzero(flags[line.order])
    if not len(places):
        return places, places
    nth = np.arange(len(flags)) if position is None else of_length("position", position, len(flags))[line.order]
    apart = np.diff(line.seconds[places])
    neighbours = np.diff(nth[places]) == 1
    if max_step is not None:
        neighbours &= apart <= duration("max_step", max_step)
    together = (np.diff(line.series[places]) == 0) & (neighbours | (apart <= duration("joined", joined)))
    return places, np.flatnonzero(np.concatenate([[True], ~together]))


def _causes(
    channels: npt.ArrayLike | None, names: Sequence[str] | None, usual: npt.ArrayLike | None,
    rows: Index, firsts: Index, count: int, top: int, kind: pa.DataType,
) -> pa.Array:  # fmt: skip
    """Of each event the channels with the largest shares of its errors."""
    if channels is None:
        return pa.array([[]] * len(firsts), kind)
    errors = np.asarray(channels)
    if errors.ndim != 2 or len(errors) != count:
        raise RaeflowError(f"errors of channels {errors.shape} must be (N, C) with N={count} readings")
    told = [str(i) for i in range(errors.shape[1])] if names is None else list(names)
    if len(told) != errors.shape[1]:
        raise RaeflowError(f"{len(told)} names for {errors.shape[1]} channels")
    above = errors[rows].astype(np.float64)
    if usual is not None:
        above -= of_length("usual", usual, errors.shape[1])
    # An infinite error is a very large one: shares must add up.
    above = np.nan_to_num(np.clip(above, 0, 1e100), nan=0.0)
    sums = np.add.reduceat(above, firsts, axis=0)
    shares = sums / np.maximum(sums.sum(1, keepdims=True), 1e-300)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    kept = np.take_along_axis(shares, best, 1)
    counted = kept > 0
    causes = pa.StructArray.from_arrays(
        [pa.array(np.array(told, object)[best[counted]], pa.string()), pa.array(kept[counted], pa.float32())], fields=list(kind.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], counted.sum(1).cumsum()]), pa.int32()), causes, type=kind)
