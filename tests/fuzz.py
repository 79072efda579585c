"""Random tables for `test_fuzz_tables.py`: every Arrow type that tables have, gaps anywhere, odd names and values, many layouts."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa

INTS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal128(12, 3), pa.decimal128(38, 0), pa.decimal256(70, 2)]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
DICTIONARIES = [
    pa.dictionary(index, value, ordered)
    for index, value, ordered in (
        (pa.int8(), pa.string(), False), (pa.int16(), pa.large_string(), True),
        (pa.int32(), pa.int64(), False), (pa.int32(), pa.float64(), False),
    )
]  # fmt: skip
ZONES = [None, "UTC", "Europe/Berlin", "+05:30", "America/New_York"]
CLOCKS = [
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ZONES),
]  # fmt: skip
SPANS = [pa.duration(unit) for unit in ("s", "ms", "us", "ns")]
ODD = [
    pa.null(), pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.struct([("a", pa.int8())]), pa.binary(), pa.binary(4),
    pa.list_(pa.string()), pa.map_(pa.string(), pa.int8()),
]  # fmt: skip
FAMILIES = [(INTS, 5), (FLOATS, 6), (DECIMALS, 1), ([pa.bool_()], 2), (TEXTS, 5), (DICTIONARIES, 3), (CLOCKS, 4), (SPANS, 1), (ODD, 0.4)]
NAMES = [
    "a", "b", "c", "amount", "count", "kind", "place", "when", "flag", "x1", "x2", "x3",
    "label", "id", "split", "anomaly_score", "is_anomaly",
    "order_id", "schlüssel", "日付", "a b", "f.x", "quo'te", 'dou"ble', "Label", "__index_level_0__", "class",
]  # fmt: skip
WORDS = [
    "",
    "a",
    "b",
    "red",
    "green",
    "blue",
    "naïve",
    "日本",
    "a b c",
    "NaN",
    "null",
    "0",
    "(other)",
    "(gap)",
    "x" * 300,
    "\t",
    "e\u0301",
    "🙂",
]
_DAY = 86_400
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def schema(drawn: np.random.Generator) -> pa.Schema:
    """1 to 9 columns; now and then two of one name."""
    weights = np.array([w for _, w in FAMILIES])
    families = drawn.choice(len(FAMILIES), int(one(drawn, [1, 2, 3, 4, 4, 5, 6, 7, 9])), p=weights / weights.sum())
    plain = drawn.random() < 0.25  # a table of numbers alone
    kinds = [one(drawn, FAMILIES[drawn.choice(2) if plain else f][0]) for f in families]
    shares = np.array([1.0] * 12 + [0.06] * (len(NAMES) - 12))
    names = drawn.choice(len(NAMES), len(kinds), replace=False, p=shares / shares.sum())
    if drawn.random() < 0.01:
        names[-1] = names[0]
    return pa.schema([pa.field(NAMES[n], kind) for n, kind in zip(names, kinds, strict=True)])


def table(drawn: np.random.Generator, wanted: pa.Schema, rows: int, strange: float = 0.0) -> pa.Table:
    """Rows of a schema; a share `strange` of the columns have values of another kind than usual ones."""
    return pa.Table.from_arrays([column(drawn, field.type, rows, strange) for field in wanted], schema=wanted)


def column(drawn: np.random.Generator, kind: pa.DataType, rows: int, strange: float = 0.0) -> pa.Array:
    """Values of one type: usual ones, one alone, none at all, or few; a share is null."""
    holes = float(one(drawn, [0, 0, 0, 0, 0.02, 0.3, 1 if drawn.random() < 0.1 else 0]))
    mask = drawn.random(rows) < holes
    if pa.types.is_dictionary(kind):
        return _dictionary(drawn, kind, rows, mask)
    plain = pa.string() if pa.types.is_string_view(kind) else kind  # Arrow cannot take from views
    values = _values(drawn, plain, rows, drawn.random() < strange)
    if drawn.random() < 0.06 and rows:
        values = values.take(pa.array(np.full(rows, int(drawn.integers(rows)))))
    return _with_gaps(values, mask).cast(kind) if plain != kind else _with_gaps(values, mask)


def _with_gaps(values: pa.Array, mask: np.ndarray) -> pa.Array:
    return values.take(pa.array(np.arange(len(values)), mask=mask)) if mask.any() else values


def _values(drawn: np.random.Generator, kind: pa.DataType, rows: int, strange: bool) -> pa.Array:
    types = pa.types
    if types.is_boolean(kind):
        return pa.array(drawn.random(rows) < drawn.random())
    if types.is_integer(kind):
        return pa.array(_whole(drawn, kind, rows, strange).astype(kind.to_pandas_dtype()), kind)
    if types.is_floating(kind):
        return _floats(drawn, kind, rows, strange)
    if types.is_decimal(kind):
        zeros = kind.precision - kind.scale - 3 if strange else 0
        return pa.array([Decimal(int(d)) * 10**zeros for d in drawn.integers(-99, 99, rows)], kind)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.array(_words(drawn, rows, strange), kind)
    if types.is_duration(kind):
        return pa.array(drawn.integers(-(10**9), 10**9, rows) * (10**9 if strange else 1), pa.int64()).cast(kind)
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind):
        return _clock(drawn, kind, rows, strange)
    return _odd(drawn, kind, rows)


def _whole(drawn: np.random.Generator, kind: pa.DataType, rows: int, strange: bool) -> np.ndarray:
    info = np.iinfo(kind.to_pandas_dtype())
    if strange:
        return drawn.integers(info.min, info.max, rows, dtype=info.dtype, endpoint=True)
    way = drawn.integers(5)
    if way == 0:
        return np.arange(rows) % min(info.max, 10**6)
    low = 0 if info.min == 0 else int(one(drawn, [0, -5]))
    high = min(info.max, int(one(drawn, [2, 10, 100, 10**6])))
    return drawn.integers(low, high, rows) if way < 4 else np.minimum(drawn.pareto(1, rows) * 3, high)


def _floats(drawn: np.random.Generator, kind: pa.DataType, rows: int, strange: bool) -> pa.Array:
    scale = float(one(drawn, [1, 1, 1, 100, 1e-6]))
    values = drawn.normal(size=rows) * scale + float(one(drawn, [0, 0, 3]))
    if drawn.random() < 0.1:
        values = drawn.pareto(0.7, rows)
    if drawn.random() < 0.15:
        values[drawn.random(rows) < 0.05] = np.nan
    if strange and rows:
        values[int(drawn.integers(rows))] = one(drawn, [np.inf, -np.inf, 3e38, -3e38, 1e39, 1e300, -0.0, 1e-320])
    with np.errstate(over="ignore"):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind)


def _words(drawn: np.random.Generator, rows: int, strange: bool) -> list[str]:
    if strange or drawn.random() < 0.1:
        return [f"{one(drawn, WORDS)}{i}" for i in range(rows)]
    some = drawn.choice(WORDS, int(drawn.integers(1, 12)))
    return list(some[np.minimum(drawn.geometric(0.4, rows) - 1, len(some) - 1)])


def _dictionary(drawn: np.random.Generator, kind: pa.DataType, rows: int, mask: np.ndarray) -> pa.Array:
    size = int(drawn.integers(1, 8))
    if pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type):
        words = pa.array(drawn.permutation(20)[:size], kind.value_type)
    else:
        words = pa.array(list(drawn.permutation(WORDS)[:size]), kind.value_type)
    if drawn.random() < 0.2:  # an entry that stands for nothing
        words = pa.concat_arrays([words, pa.nulls(1, kind.value_type)])
    indices = pa.array(drawn.integers(0, len(words), rows), kind.index_type, mask=mask)
    return pa.DictionaryArray.from_arrays(indices, words, ordered=kind.ordered)


def _clock(drawn: np.random.Generator, kind: pa.DataType, rows: int, strange: bool) -> pa.Array:
    days = drawn.integers(0, int(one(drawn, [1, 3, 30, 1000, 4000])), rows) + int(one(drawn, [0, 20_000, -3000]))
    seconds = drawn.integers(0, _DAY, rows)
    if pa.types.is_date(kind):
        return pa.array((days * (1000 if strange else 1)).astype(np.int32), pa.int32()).cast(pa.date32()).cast(kind)
    ticks = _TICKS[kind.unit]
    if pa.types.is_time(kind):
        width = pa.int32() if pa.types.is_time32(kind) else pa.int64()
        return pa.array(seconds * ticks, pa.int64()).cast(width).cast(kind)
    moments = (days * _DAY + seconds) * ticks
    if strange:
        moments = drawn.integers(-(2**62), 2**62, rows)
    return pa.array(moments, pa.int64()).cast(kind)


def _odd(drawn: np.random.Generator, kind: pa.DataType, rows: int) -> pa.Array:
    types = pa.types
    if types.is_null(kind):
        return pa.nulls(rows)
    if types.is_fixed_size_list(kind):
        return pa.array(drawn.normal(size=(rows, 3)).tolist(), kind)
    if types.is_map(kind):
        return pa.array([[("k", 1)]] * rows, kind)
    if types.is_list(kind):
        item = "w" if types.is_string(kind.value_type) else 1.5
        return pa.array([[item] * int(n) for n in drawn.integers(0, 4, rows)], kind)
    if types.is_struct(kind):
        return pa.array([{"a": int(a)} for a in drawn.integers(0, 9, rows)], kind)
    return pa.array([drawn.bytes(4) for _ in range(rows)], kind)


def restored(drawn: np.random.Generator, held: pa.Table, share: float = 0.2) -> pa.Table:
    """The same values in other storage, where they fit: what another writer might have made of the column."""
    columns = []
    for name, values in zip(held.column_names, held.columns, strict=True):
        others = _others(values.type) if drawn.random() < share else []
        columns.append((name, _cast(values, one(drawn, others)) if others else values))
    order = drawn.permutation(len(columns))
    return pa.Table.from_arrays([columns[i][1] for i in order], names=[columns[i][0] for i in order])


def _others(kind: pa.DataType) -> list[pa.DataType]:
    types = pa.types
    if types.is_boolean(kind):
        return [pa.int8(), pa.float32(), pa.int64(), pa.string()]
    if types.is_integer(kind):
        return [pa.int64(), pa.int64(), pa.float64(), pa.int32(), pa.int16(), pa.decimal128(20, 1), pa.string(), pa.bool_(), pa.null()]
    if types.is_floating(kind) or types.is_decimal(kind):
        return [pa.float64(), pa.float64(), pa.float32(), pa.float16(), pa.float16(), pa.int32(), pa.string(), pa.null()]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return [*TEXTS, *TEXTS, pa.dictionary(pa.int32(), pa.string()), pa.binary(), pa.null()]
    if types.is_dictionary(kind):
        return [kind.value_type, pa.string(), pa.null()]
    if types.is_timestamp(kind):
        return [
            *(pa.timestamp(unit, zone) for unit in _TICKS for zone in (kind.tz, "UTC")),
            pa.date32(),
            pa.string(),
            pa.int64(),
            pa.null(),
        ]
    return [pa.string(), pa.null(), pa.int64()]


def _cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(values))])
    try:
        return values.cast(kind)
    except pa.ArrowException:
        return values


def one(drawn: np.random.Generator, of: list) -> object:
    """One of them."""
    return of[int(drawn.integers(len(of)))]
