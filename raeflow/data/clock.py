"""The clock and the series of every reading, read by themselves: what puts readings in order before any value is read.

R readings in the order of the files. A clock is int64 ticks since 1970 (UTC where it knows its zone), or float64 as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raeflow.data import splits
from raeflow.data.columns import is_text
from raeflow.data.files import named, read_groups
from raeflow.data.reading import Unit
from raeflow.data.types import plain, refuse_nulls, refuse_rows
from raeflow.errors import RaeflowError
from raeflow.timeline import PER_SECOND

Ticks = np.ndarray[Any, Any]
Codes = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Kind:
    """What a clock counts in all files together."""

    unit: str
    """s, ms, us or ns; empty where it is a bare number."""
    zoned: bool = False

    def shown(self, tick: float) -> str:
        """A moment as a person reads it."""
        if not self.unit:
            return f"{tick:g}"
        moment, dot, rest = str(np.int64(tick).view(f"datetime64[{self.unit}]")).replace("T", " ").partition(".")
        return moment + (dot + rest).rstrip(".0") + (" UTC" if self.zoned else "")

    def times(self, ticks: Ticks) -> pa.Array:
        """Moments, or bare numbers, as Arrow has them."""
        values = pa.array(ticks)
        return values.cast(pa.timestamp(self.unit, "UTC" if self.zoned else None)) if self.unit else values

    def lasting(self, ticks: float) -> str:
        """A length of time as a person reads it."""
        return f"{ticks / PER_SECOND[self.unit]:g} s" if self.unit else f"{ticks:g}"


@dataclass(frozen=True)
class Keys:
    """Clock, series and split of every reading, in the order of the files."""

    ticks: Ticks
    """(R,) int64, or float64 of a clock that is a bare number with a fraction."""
    codes: Codes
    """(R,) place of each reading's series among `names`."""
    names: tuple[str, ...]
    """Series in the order of their first reading; one without a name where there is no such column."""
    given: np.ndarray[Any, np.dtype[np.uint8]]
    """(R,) split that a file or a split column names; train where it is yet to be divided."""
    kind: Kind


def kind_of(units: Sequence[Unit], column: str) -> Kind:
    """What the clock counts; refused where it is no clock, and where some files know its time zone and others do not."""
    kinds: dict[pa.DataType, str] = {}
    for uri, unit in {unit.piece.uri: unit for unit in units}.items():
        kind = plain(pq.read_schema(unit.piece.path, filesystem=unit.piece.filesystem).field(column).type)
        if is_text(kind):
            kind = _stamped(read_groups(unit.piece, unit.groups[:1], [column])[column], column, f"{uri}, {named(unit.groups[:1])}, ")
        kinds.setdefault(kind, uri)
    zones = {uri: getattr(kind, "tz", None) is not None for kind, uri in kinds.items() if _moment(kind)}
    numbers = [kind for kind in kinds if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    odd = next((kind for kind in kinds if not _moment(kind) and kind not in numbers), None)
    if odd is not None:
        raise RaeflowError(
            f"{kinds[odd]}: Data(time={column!r}): the column holds {odd}, which is no clock: times, dates or rising numbers are"
        )
    if numbers and zones:
        number, moment = numbers[0], next(iter(zones))
        raise RaeflowError(f"{kinds[number]}: the clock {column!r} holds {number}, but times in {moment}")
    if len(set(zones.values())) > 1:
        known, unknown = (next(uri for uri, zoned in zones.items() if zoned == wanted) for wanted in (True, False))
        raise RaeflowError(
            f"{unknown}: the clock {column!r} names no time zone, but it does in {known}; mixed time zones have no order: write them all "
            "with their zone"
        )
    finest = max((_unit(kind) for kind in kinds if _moment(kind)), key=lambda u: PER_SECOND[u], default="")
    return Kind(finest, any(zones.values()))


def read_keys(units: Sequence[Unit], time: str, series: str | None, split: str | None) -> Keys:
    """The keys of all readings of some units, whose order is that of the files.

    Raises RaeflowError where a time or the name of a series is missing, with its place.
    """
    kind, rows = kind_of(units, time), sum(unit.rows for unit in units)
    ticks: Ticks = np.empty(rows, np.int64)
    codes, given = np.zeros(rows, np.int32), np.full(rows, splits.TRAIN, np.uint8)
    known: dict[str, int] = {}
    at = 0
    for unit in units:
        here = slice(at, at + unit.rows)
        asked = [time, *([series] if series else []), *([split] if split and unit.given is None else [])]
        table = read_groups(unit.piece, unit.groups, list(dict.fromkeys(asked)))
        where = f"{unit.piece.uri}, {named(unit.groups)}, "
        own = _ticks(table[time], time, kind, where)
        if own.dtype != ticks.dtype and ticks.dtype == np.int64:
            ticks = ticks.astype(np.float64)
        ticks[here] = own
        if series is not None:
            codes[here] = _codes(table[series], series, known, where)
        if unit.given is not None:
            given[here] = unit.given
        elif split is not None:
            given[here] = splits.spoken(table[split], split, where)
        at += unit.rows
    pa.default_memory_pool().release_unused()  # the values come next, and want the room
    return Keys(ticks, codes, tuple(known) or ("",), given, kind)


def table_keys(table: pa.Table, time: str, series: str | None, where: str = "") -> Keys:
    """The keys of readings that are at hand as a table.

    Raises RaeflowError, placed by `where`, where a column is not there once or is no clock, or a time or the name of a series is missing.
    """
    for name in (time, *([series] if series else [])):
        count = table.column_names.count(name)
        if count != 1:
            have = ", ".join(map(repr, table.column_names[:20]))
            raise RaeflowError(f"{where}{count or 'no'} column{'s'[:count]} named {name!r}; columns are {have}")
    stored = plain(table.schema.field(time).type)
    if not table.num_rows:
        stored = pa.int64()  # there is no moment whose kind could matter
    elif is_text(stored):
        stored = _stamped(table[time], time, where)
    if not (_moment(stored) or pa.types.is_integer(stored) or pa.types.is_floating(stored)):
        raise RaeflowError(f"{where}clock {time!r}: the column holds {stored}, which is no clock: times, dates or rising numbers are")
    kind = Kind(_unit(stored) if _moment(stored) else "", getattr(stored, "tz", None) is not None)
    known: dict[str, int] = {}
    if not table.num_rows:
        return Keys(np.empty(0, np.int64), np.empty(0, np.int32), ("",), np.empty(0, np.uint8), kind)
    ticks = _ticks(table[time], time, kind, where)
    codes = np.zeros(len(ticks), np.int32) if series is None else _codes(table[series], series, known, where)
    return Keys(ticks, codes, tuple(known) or ("",), np.full(len(ticks), splits.TRAIN, np.uint8), kind)


def _codes(column: pa.ChunkedArray, name: str, known: dict[str, int], where: str) -> Codes:
    kind = plain(column.type)
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise RaeflowError(f"{where}series column {name!r} holds {kind}, not names or whole numbers")
    refuse_nulls(column, name, f"{where}series ", 0)
    words, places = splits.worded(column)
    codes: Codes = np.asarray([known.setdefault(word, len(known)) for word in words], np.int32)[places]
    return codes


def _ticks(column: pa.ChunkedArray, name: str, kind: Kind, where: str) -> Ticks:
    """(n,) ticks of the common unit."""
    refuse_nulls(column, name, f"{where}clock ", 0)
    stored = plain(column.type)
    column = column.cast(stored) if stored != column.type else column
    if _texts(column):
        stored = _stamped(column, name, where)
        column = column.cast(stored)
    if kind.unit and (getattr(stored, "tz", None) is not None) != kind.zoned:
        raise RaeflowError(f"{where}the clock {name!r} {'names no' if kind.zoned else 'names a'} time zone, unlike that of other files")
    if not kind.unit:
        if pa.types.is_integer(stored):
            return np.asarray(column.cast(pa.int64()).to_numpy())
        values = np.asarray(column.cast(pa.float64()).to_numpy())
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            refuse_rows(bad, lambda i: f"the time is {values[bad[i]]}", name, f"{where}clock ", 0)
        return values
    if pa.types.is_date(stored):
        stored = pa.timestamp("s")
        column = column.cast(stored)
    own: Ticks = np.asarray(column.cast(pa.int64()).to_numpy())
    return own * (PER_SECOND[kind.unit] // PER_SECOND[_unit(stored)])


def _texts(column: pa.ChunkedArray) -> bool:
    return is_text(plain(column.type))


def _moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _unit(kind: pa.DataType) -> str:
    return str(kind.unit) if pa.types.is_timestamp(kind) else "s"


def _stamped(column: pa.ChunkedArray, name: str, where: str) -> pa.DataType:
    """The type of the moments that a column of text shows: all with a zone, or all without."""
    words = column.cast(pa.string())
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            words.cast(kind)
        except pa.ArrowException:
            continue
        return kind
    texts = [text for text in words.to_pylist() if text is not None]
    shows = [_shown(text) for text in texts]
    wrong = next((text for text, zoned in zip(texts, shows, strict=True) if zoned is None), None)
    if wrong is not None:
        raise RaeflowError(f"{where}clock {name!r}: {wrong!r} shows no time")
    known, unknown = texts[shows.index(True)], texts[shows.index(False)]
    raise RaeflowError(
        f"{where}clock {name!r}: {known!r} names its time zone and {unknown!r} does not; mixed time zones have no order: write them all "
        "with their zone"
    )


def _shown(text: str) -> bool | None:
    """Whether a text shows a moment with its zone; None where it shows none."""
    for kind, zoned in ((pa.timestamp("us"), False), (pa.timestamp("us", "UTC"), True)):
        try:
            pc.cast(pa.scalar(text), kind)
        except pa.ArrowException:
            continue
        return zoned
    return None
