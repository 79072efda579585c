"""Whether files hold readings in order of time, and which window suits them: what a study's file begins with.

R readings, S series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raeflow.data import order as ordering
from raeflow.data.clock import Keys, Kind
from raeflow.data.columns import is_text
from raeflow.data.files import Piece, expand
from raeflow.data.types import plain
from raeflow.study import Data

MOST = 1 << 20
"""Readings at the beginning of the files that are looked at."""
EVEN = 0.8
"""Share of steps that must be near the usual one: rows of a table that have times come at any."""
LONG = 200
"""Readings of the longest series at least."""
LEAST, HIGHEST, PART = 32, 512, 20
"""A window's readings at least and at most, and its share of the longest series: a block of it must hold two."""
SPAN = 1 << 14
"""Readings in which a period is looked for."""
SHORT = 4
"""Readings of a period at least: what goes up and down from one to the next is noise of a sensor, not a season."""
STRONG = 0.2
"""Autocorrelation at a period, and its rise over what lies before, at least."""


@dataclass(frozen=True)
class Serial:
    """What `Data` is to say of readings in order of time."""

    time: str
    series: str | None
    window: int
    why: str
    """Why this window, in a few words."""


def serial(sources: Sequence[str], columns: Sequence[str], label: str | None) -> Serial | None:
    """The clock, the series and a window, where the files have a clock with even steps and readings beside it; else None.

    A column tells series apart where it is text whose parts have one stretch of time each, or moments in common that come twice
    in no part. Nothing is asked, and files that cannot be read so are taken for a table.
    """
    pieces = expand(list(sources))
    schema = pq.read_schema(pieces[0].path, filesystem=pieces[0].filesystem)
    kinds = {name: plain(schema.field(name).type) for name in schema.names}
    clocks = [name for name, kind in kinds.items() if pa.types.is_timestamp(kind) or pa.types.is_date(kind)]
    numbers = [n for n in columns if n in kinds and n != label and (pa.types.is_integer(kinds[n]) or pa.types.is_floating(kinds[n]))]
    if len(clocks) != 1 or not numbers:
        return None
    time = clocks[0]
    table = _first(pieces, [time, *(name for name, kind in kinds.items() if is_text(kind) and name != label), *numbers])
    if table is None or len(table) < LONG or table[time].null_count:
        return None
    ticks = pc.cast(pc.cast(table[time], pa.timestamp("us"), safe=False), pa.int64()).to_numpy()
    for series in [*(name for name, kind in kinds.items() if is_text(kind) and name != label), None]:
        keys = _keys(ticks, None if series is None else table[series])
        found = None if keys is None else _longest(keys, ticks)
        if found is not None:
            window, why = _window({name: table[name] for name in numbers}, *found)
            return Serial(time, series, window, why)
    return None


def _first(pieces: Sequence[Piece], names: list[str]) -> pa.Table | None:
    """Readings at the beginning of the files; None where these do not go together."""
    parts: list[pa.Table] = []
    for piece in pieces:
        if sum(map(len, parts)) >= MOST:
            break
        with pq.ParquetFile(piece.path, filesystem=piece.filesystem) as file:
            if not set(names) <= set(file.schema_arrow.names):
                return None
            for group in range(file.num_row_groups):
                parts.append(file.read_row_group(group, columns=names))
                if sum(map(len, parts)) >= MOST:
                    break
    if not parts or any(part.schema.types != parts[0].schema.types for part in parts):
        return None
    return pa.Table.from_batches([batch for part in parts for batch in part.to_batches()], parts[0].schema).slice(0, MOST)


def _keys(ticks: Any, series: pa.ChunkedArray | None) -> Keys | None:
    """The readings' keys, where the column may tell series apart and no moment comes twice in one; else None."""
    if series is None:
        codes, names = np.zeros(len(ticks), np.int32), ("",)
    else:
        words = pc.cast(series, pa.string()).combine_chunks().dictionary_encode()
        if words.null_count or not 1 < len(words.dictionary) <= len(ticks) // LEAST:
            return None
        codes, names = words.indices.to_numpy(zero_copy_only=False).astype(np.int32), tuple(words.dictionary.to_pylist())
    order = np.lexsort((ticks, codes))
    same = np.diff(codes[order]) == 0
    if (same & (np.diff(ticks[order]) == 0)).any():
        return None
    if series is not None:
        moments = np.argsort(ticks, kind="stable")
        stretches = int((np.diff(codes[moments]) != 0).sum()) + 1
        shared = len(np.unique(ticks)) < len(ticks)
        if stretches != len(names) and not shared:
            return None  # a word that comes and goes in one series
    return Keys(ticks, codes, names, np.zeros(len(ticks), np.uint8), Kind("us"))


def _longest(keys: Keys, ticks: Any) -> tuple[Any, int] | None:
    """Rows of the longest run without a gap, in order, within the first 60 % of its series, and that series' length.

    None where steps are not even, or no series is long.
    """
    order = ordering.ordered(keys, lambda row: f"row {row}")
    rows = np.arange(len(ticks)) if order.rows is None else order.rows
    steps = np.array([ordering.median_step(order.ticks[a:b]) for a, b in zip(order.bounds, order.bounds[1:], strict=False)])
    sizes = np.diff(order.bounds)
    place = int(sizes.argmax())
    usual = steps[place]
    own = order.ticks[order.bounds[place] : order.bounds[place + 1]]
    moved = np.diff(own)
    if len(own) < LONG or not usual > 0 or (np.abs(moved - usual) <= usual / 2).mean() < EVEN:
        return None
    train = round(Data.fractions[0] * len(own))
    gap = np.flatnonzero(np.append(moved[: train - 1] > Data.max_gap * usual, True)) + 1
    starts = np.concatenate([[0], gap[:-1]])
    best = int((gap - starts).argmax())
    first = int(order.bounds[place])
    return rows[first + starts[best] : first + gap[best]][:SPAN], len(own)


def _window(columns: dict[str, pa.ChunkedArray], rows: Any, count: int) -> tuple[int, str]:
    """A window's readings, and why: multiples of the strongest period of any column, else 64, and no more than fit into a block."""
    most = max(2, min(HIGHEST, count // PART))
    found: tuple[float, int, str] | None = None
    for name, column in columns.items():
        own = strongest(column.to_numpy().astype(np.float64)[rows], most)
        if own is not None and (found is None or own[1] > found[0]):
            found = (own[1], own[0], name)
    if found is None:
        usual = Data.window
        told = "no period was found in train"
        return min(usual, most), told if usual <= most else f"{told}, and the longest series has {count:,} readings"
    strength, period, name = found
    times = max(1, min(-(-LEAST // period), most // period))
    many = "the" if times == 1 else f"{times} times the"
    return times * period, f"{many} strongest period found in train: {period} readings of {name!r} (autocorrelation {strength:.2f})"


def strongest(values: Any, most: int) -> tuple[int, float] | None:
    """The period in readings, at most `most`, of one column (n,) and its autocorrelation; None where there is none.

    A period is where the autocorrelation has risen the most from its lowest value before. A curve through all readings and what
    changes over more than four times `most` of them, as drift does, is taken off first; gaps are filled with the mean.
    """
    there = np.isfinite(values)
    if len(values) < 2 * LEAST or there.mean() < EVEN:
        return None
    x = np.where(there, values, values[there].mean())
    at = np.linspace(-1, 1, len(x))
    x = x - np.polyval(np.polyfit(at, x, 2), at)
    width = min(4 * most, len(x) // 2) | 1
    padded = np.pad(x, width // 2, mode="reflect")
    x = x - np.convolve(padded, np.full(width, 1 / width), "valid")
    size = 1 << (2 * len(x) - 1).bit_length()
    power = np.abs(np.fft.rfft(x - x.mean(), size)) ** 2
    raw = np.fft.irfft(power, size)[: min(most + 2, len(x) // 3)]
    if len(raw) < 4 or raw[0] <= 1e-12 * max(1.0, float(np.square(values[there]).mean())) * len(x):
        return None
    own = raw / raw[0] * (len(x) / (len(x) - np.arange(len(raw))))
    lowest = np.minimum.accumulate(own)
    peaks = np.flatnonzero((own[1:-1] >= own[:-2]) & (own[1:-1] > own[2:])) + 1
    rises = own[peaks] - lowest[peaks]
    strong = (rises >= STRONG) & (own[peaks] >= STRONG)
    if not strong.any():
        return None
    # Multiples of a period are as strong; the first that comes near the highest is the period itself.
    near = np.flatnonzero(strong & (rises >= 0.9 * rises[strong].max()))[0]
    return (int(peaks[near]), float(own[peaks[near]])) if peaks[near] >= SHORT else None
