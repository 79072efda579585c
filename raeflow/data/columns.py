"""Columns of a mixed table to stored values and back: numbers, flags, words, clocks.

A stored row is float32 (K,): one value a column, two for a timestamp. NaN is a gap. N rows, K stored values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from raeflow.data.rows import Field, RowSpec
from raeflow.data.types import countable, is_number, plain, refuse_rows
from raeflow.errors import RaeflowError

Floats = np.ndarray[Any, np.dtype[np.float32]]
Words = dict[int, list[str]]
"""Words of the categories of a table by their stored place, while levels are being learnt."""

UNSEEN = -1.0
"""Stored for a level that train did not have."""
DAY = 86_400
_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_TIMES = ("time32", "time64")


def role_of(kind: pa.DataType) -> str | None:
    """number, flag, category or clock; None for types that are no column of a table (lists, structs, bytes)."""
    types = pa.types
    if types.is_dictionary(kind):
        return role_of(kind.value_type)
    if types.is_boolean(kind):
        return "flag"
    if is_number(kind) or types.is_duration(kind):
        return "number"
    if is_text(kind):
        return "category"
    return "clock" if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind) else None


def is_text(kind: pa.DataType) -> bool:
    """Text of any length and layout."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def fits(kind: pa.DataType, field: Field) -> bool:
    """Whether a column of this type can be read as a field: numbers of any width, words of any layout, any clock or text of one."""
    role, stored = role_of(kind), plain(kind)
    if pa.types.is_null(stored):
        return True
    if field.role == "category":
        counted = not field.type.endswith("string") and pa.types.is_floating(stored)  # whole numbers beside gaps, in a data frame
        return role in ("category", "flag") or pa.types.is_integer(stored) or counted
    if role not in {"number": ("number", "flag"), "flag": ("number", "flag"), "clock": ("clock", "category")}[field.role]:
        return False
    return role == "category" or kindred(str(stored), field.type)


def kindred(kind: str, known: str) -> bool:
    """Whether values of a type can stand for those of another of the same role, both by name.

    A time of day is no day, and a duration, which has a unit, is no bare number; a bare number is taken for seconds.
    """
    if kind.startswith("duration"):
        return known.startswith("duration")
    return kind.startswith("timestamp") or kind.startswith(_TIMES) == known.startswith(_TIMES)


def store(columns: Sequence[pa.ChunkedArray], spec: RowSpec, where: str, words: Words | None = None, first: int = 0) -> list[Floats]:
    """K arrays (N,) of stored values from a mixed table's columns.

    With `words`, categories get places among this table's own words, which are put there by stored place; else among the
    levels of the spec. Raises RaeflowError for a column of another type than the spec's, and RowError for rows whose text
    shows no time or whose number is no whole one where it stands for a word; `first` is the number of the first row.
    """
    stored: list[Floats] = []
    for field, place, column in zip(spec.fields, spec.places, columns, strict=True):
        if column.null_count == len(column):  # of whatever type: a data frame gives numbers to a column of words without a word
            stored += [np.full(len(column), np.nan, np.float32)] * field.slots
            if words is not None and field.role == "category":
                words[place] = []
        elif not fits(column.type, field):
            wanted = {"category": "words", "clock": field.type}.get(field.role, "numbers")
            raise RaeflowError(f"{where}column {field.name!r} holds {column.type}, not {wanted}")
        elif field.role == "clock":
            stored += _clock(_decoded(column), field, where, first)
        elif field.role == "category":
            codes, own = _codes(_counted(column, field, where, first) if pa.types.is_floating(plain(column.type)) else column)
            if words is not None:
                words[place] = own
            stored.append(codes if words is not None else named(codes, own, field.levels or ()))
        elif pa.types.is_duration(plain(column.type)):
            stored.append(_seconds(_decoded(column)))
        else:
            stored.append(gapped(column, field.name, where))
    return stored


def gapped(column: pa.ChunkedArray, name: str, where: str) -> Floats:
    """(N,) numbers and flags (0, 1); NaN where there is none."""
    if pa.types.is_null(plain(column.type)):
        return np.full(len(column), np.nan, np.float32)
    column = _decoded(column)
    kind = column.type
    if not is_number(kind):
        raise RaeflowError(f"{where}column {name!r} holds {kind}, not numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused with its place
        return _whole(countable(column)).astype(np.float32, copy=True)


def _seconds(column: pa.ChunkedArray) -> Floats:
    """(N,) seconds of durations; NaN where there is none."""
    ticks = _whole(column.cast(pa.int64())).astype(np.float64)
    return (ticks / _TICKS[column.type.unit]).astype(np.float32)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(plain(column.type)) if pa.types.is_dictionary(column.type) else column


def _whole(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """All values as one array; nulls become NaN."""
    return np.asarray(column.to_numpy())


def _counted(column: pa.ChunkedArray, field: Field, where: str, first: int) -> pa.ChunkedArray:
    """Whole numbers that became floats, as data frames make them where there are gaps, as whole numbers again."""
    column = pc.if_else(pc.is_nan(_decoded(column)), None, _decoded(column))
    try:
        return column.cast(pa.int64())
    except pa.ArrowException:
        values = _whole(column.cast(pa.float64()))
        rows = np.flatnonzero(~np.isnan(values) & (~np.isfinite(values) | (values != np.round(values)) | (np.abs(values) >= 2**63)))
        refuse_rows(rows, lambda i: f"value {values[rows[i]]:g} is no whole number", field.name, where, first)


def _codes(column: pa.ChunkedArray) -> tuple[Floats, list[str]]:
    """Place (N,) of each value among the words that the table has, and these words."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    learnt: dict[str, float] = {}
    parts = []
    for chunk in column.chunks:
        words = chunk.dictionary.cast(pa.string()).to_pylist()
        indices = chunk.indices.cast(pa.int64()).fill_null(len(words)).to_numpy()  # a gap's index may not fit a narrow type
        used = np.bincount(indices, minlength=len(words)) > 0  # a dictionary may list words that no row has
        places = [
            np.nan if word is None or not here else learnt.setdefault(word, float(len(learnt)))
            for word, here in zip(words, used[: len(words)], strict=True)
        ]
        parts.append(np.asarray([*places, np.nan], np.float32)[indices])
    return np.concatenate(parts) if parts else np.empty(0, np.float32), list(learnt)


def named(codes: Floats, words: Sequence[str], levels: Sequence[str]) -> Floats:
    """Places (N,) among a table's own `words` as places among the levels of train, -1 where it has none such."""
    known = {word: float(i) for i, word in enumerate(levels)}
    return recode(codes, np.asarray([known.get(word, UNSEEN) for word in words], np.float32))


def _clock(column: pa.ChunkedArray, field: Field, where: str, first: int) -> list[Floats]:
    """Days since 1970 and seconds of the day, as a clock in the field's time zone shows them, in the column's own if that has none."""
    kind = column.type
    if not (pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind)):
        column, kind = _parsed(column, field, where, first)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        zone = getattr(arrow_type(field.type), "tz", None) or kind.tz
        try:
            column = pc.local_timestamp(column.cast(pa.timestamp(kind.unit, zone)))
        except pa.ArrowException as error:
            raise RaeflowError(f"{where}column {field.name!r}: its time zone {zone!r} is not known here") from error
    gaps = np.asarray(pc.is_null(column).to_numpy(), bool) if column.null_count else None
    if pa.types.is_date(kind):
        days = _ticks(column.cast(pa.date32()).cast(pa.int32()))
        seconds: Any = np.zeros(len(days))
    else:
        ticks = _TICKS[kind.unit]
        values = _ticks(column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()))
        days = values // (DAY * ticks)
        seconds = (values - days * (DAY * ticks)) / ticks
    parts = [seconds] if field.type.startswith(_TIMES) else [days, seconds][: field.slots]
    stored = [part.astype(np.float32) for part in parts]
    for part in stored if gaps is not None else ():
        part[gaps] = np.nan
    return stored


def _ticks(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(pc.fill_null(column, 0).to_numpy()).astype(np.int64, copy=False)


def _parsed(column: pa.ChunkedArray, field: Field, where: str, first: int) -> tuple[pa.ChunkedArray, pa.DataType]:
    """Text that shows a time, as JSON has it, as a type that is read like the column's own."""
    try:
        kind = arrow_type(field.type)
        if pa.types.is_time(kind):  # Arrow reads days with times, but no times alone
            day, nothing = pa.scalar("1970-01-01 ", column.type), pa.scalar("", column.type)
            column, kind = pc.binary_join_element_wise(day, column, nothing), pa.timestamp("us")
        if pa.types.is_timestamp(kind):
            try:
                kind = pa.timestamp("us", kind.tz)  # text may be finer than the column
                return column.cast(kind), kind
            except pa.ArrowInvalid:
                kind = pa.timestamp("ns", kind.tz)
        return column.cast(kind), kind
    except pa.ArrowException as error:
        texts = column.to_pylist()
        rows = [row for row, text in enumerate(texts) if text is not None and not _shows(text, kind)]
        if not rows:
            raise RaeflowError(
                f"{where}column {field.name!r} holds {column.type}, not {field.type} ({str(error).splitlines()[0]})"
            ) from error
        refuse_rows(rows, lambda i: f"{str(texts[rows[i]]).removeprefix('1970-01-01 ')!r} is no {field.type}", field.name, where, first)


def _shows(text: str, kind: pa.DataType) -> bool:
    try:
        pa.scalar(text).cast(kind)
    except pa.ArrowException:
        return False
    return True


def arrow_type(text: str) -> pa.DataType:
    """The Arrow type that a clock's `Field.type` names."""
    name, _, inner = text.partition("[")
    unit, _, zone = inner.rstrip("]").partition(", tz=")
    if name == "timestamp":
        return pa.timestamp(unit, zone or None)
    return {"time32": pa.time32, "time64": pa.time64, "date32": lambda _: pa.date32(), "date64": lambda _: pa.date64()}[name](unit)


def to_table(stored: Tensor, spec: RowSpec) -> pa.Table:
    """Stored rows (N, K) as a table in the user's words and units: numbers and durations (seconds) as float64, flags, words, clocks.

    A level that train did not have is told as null: its word is not stored.
    """
    values = stored.cpu().numpy()
    arrays: dict[str, pa.Array] = {}
    if not spec.fields:
        return pa.table({name: pa.array(values[:, i].astype(np.float64), from_pandas=True) for i, name in enumerate(spec.columns)})
    for field, place in spec.placed:
        own = values[:, place : place + field.slots].astype(np.float64)
        arrays[field.name] = _array(own, field)
    return pa.table(arrays)


def _array(own: np.ndarray[Any, np.dtype[np.float64]], field: Field) -> pa.Array:
    gaps = np.isnan(own).any(1)
    first = np.where(gaps, 0, own[:, 0])
    if field.role == "flag":
        return pa.array(first > 0.5, mask=gaps)
    if field.role == "number":
        return pa.array(own[:, 0], mask=gaps)
    if field.role == "category":
        words = field.levels or ()
        known = ~gaps & (first >= 0) & (first < len(words))
        return pa.array([words[int(code)] if here else None for code, here in zip(first, known, strict=True)], pa.string())
    kind = arrow_type(field.type)
    if pa.types.is_date(kind):
        return pa.array(np.round(first).astype(np.int32), pa.int32(), mask=gaps).cast(pa.date32()).cast(kind)
    ticks = _TICKS[kind.unit]
    within = np.clip(np.where(gaps, 0, own[:, -1]), 0, DAY)
    if field.slots == 1:
        whole = np.clip(np.round(within * ticks), 0, DAY * ticks - 1).astype(np.int64)
        return pa.array(whole, pa.int64(), mask=gaps).cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).cast(kind)
    moments = np.round(first).astype(np.int64) * (DAY * ticks) + np.round(within * ticks).astype(np.int64)
    local = pa.array(moments, pa.int64(), mask=gaps).cast(pa.timestamp(kind.unit))
    if kind.tz is None:
        return local
    return pc.assume_timezone(local, kind.tz, ambiguous="earliest", nonexistent="earliest")


def recode(codes: Floats, places: Floats) -> Floats:
    """Codes (N,), NaN for gaps, each replaced by what `places` has for it."""
    lookup = np.append(places, np.float32(np.nan)).astype(np.float32)
    index = np.where(np.isnan(codes), len(places), codes).astype(np.int64)
    return lookup[index]
