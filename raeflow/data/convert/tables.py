"""Tables of text (CSV and its kin) to Parquet, in bounded memory."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from raeflow.data.convert.dialect import Dialect, opened, ragged, refuse_open_quote, sniff
from raeflow.data.convert.parquet import Converted, Options, write
from raeflow.data.files import ARROW_ERRORS, Piece, reason
from raeflow.errors import RaeflowError

Kinds = dict[str, pa.DataType]
_BLOCK = 8 << 20
"""Bytes of text that are parsed at a time; no row may be longer."""


class _MisfitError(Exception):
    """A value does not fit the type of its column."""


def convert(pieces: Sequence[Piece], target: Path, options: Options, tell: Callable[[str], None]) -> Converted:
    """Files of one header as one Parquet file.

    Types are first taken from the first block of text. Where that does not hold for all of them, every
    block of every file is looked at, each column gets a type that holds all its values, and writing begins again.
    """
    dialects = [sniff(piece, options) for piece in pieces]
    _agree(dialects)
    for unusual, some in groupby(dialects, lambda dialect: dialect.unusual):
        alike = [dialect.piece.uri for dialect in some]
        if unusual:
            tell(f"{alike[0]}{f' and {len(alike) - 1} more' if len(alike) > 1 else ''}: {unusual}")
    first = kinds = _first_block(dialects[0])
    if any(pa.types.is_null(kind) for kind in kinds.values()):
        kinds = _all_blocks(dialects)
    try:
        return _written(dialects, target, kinds)
    except _MisfitError:
        kinds = _all_blocks(dialects)
    for name, kind in kinds.items():
        if kind != first[name] and not pa.types.is_null(first[name]):
            tell(f"column {name!r}: {first[name]} does not hold every value; read again as {kind}")
    try:
        return _written(dialects, target, kinds)
    except _MisfitError as error:
        raise RaeflowError(str(error)) from error


def _agree(dialects: Sequence[Dialect]) -> None:
    first = dialects[0]
    for other in dialects[1:]:
        missing = [name for name in first.names if name not in other.names]
        more = [name for name in other.names if name not in first.names]
        if missing or more:
            what = f"no column {missing[0]!r}" if missing else f"a column {more[0]!r} more"
            raise RaeflowError(f"{other.piece.uri}: its header is not that of {first.piece.uri}: {what}")


def _written(dialects: Sequence[Dialect], target: Path, kinds: Kinds) -> Converted:
    schema = pa.schema([pa.field(name, kind) for name, kind in kinds.items()])
    rows = write(target, schema, (_tidy(batch, schema) for dialect in dialects for batch in _batches(dialect, kinds)))
    return Converted(target, schema, rows)


def _tidy(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Empty text is a gap."""
    columns = []
    for column, kind in zip(batch.columns, schema.types, strict=True):
        columns.append(pc.if_else(pc.equal(column, ""), pa.scalar(None, kind), column) if pa.types.is_string(kind) else column)
    return pa.record_batch(columns, schema=schema)


def _first_block(dialect: Dialect) -> Kinds:
    with _reader(dialect, {}) as reader:
        if next(iter(reader), None) is None or not len(reader.schema):
            raise RaeflowError(f"{dialect.piece.uri}: there are no rows below the header")
        kinds = dict(zip(dialect.names, reader.schema.types, strict=True))
    for name, kind in kinds.items():
        if pa.types.is_binary(kind):
            raise dialect.not_text(f"column {name!r}")
    return kinds


def _all_blocks(dialects: Sequence[Dialect]) -> Kinds:
    """A type for each column that holds every value: what pyarrow says of each block, joined."""
    names = dialects[0].names
    kinds: Kinds = dict.fromkeys(names, pa.null())
    for dialect in dialects:
        for batch in _batches(dialect, dict.fromkeys(names, pa.string())):
            if batch.num_rows:
                for name, kind in zip(names, _inferred(batch, dialect), strict=True):
                    kinds[name] = widest(kinds[name], kind)
    return {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in kinds.items()}


def _inferred(batch: pa.RecordBatch, dialect: Dialect) -> list[pa.DataType]:
    sink = io.BytesIO()
    csv.write_csv(batch, sink)
    table = csv.read_csv(
        pa.BufferReader(sink.getvalue()),
        csv.ReadOptions(block_size=sink.tell() + 1),
        csv.ParseOptions(newlines_in_values=True),
        csv.ConvertOptions(decimal_point=dialect.decimal),
    )
    return list(table.schema.types)


def widest(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both, of those that pyarrow finds in text."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    clocks = [kind for kind in (one, other) if pa.types.is_timestamp(kind)]
    days = [kind for kind in (one, other) if pa.types.is_date(kind)]
    if len(clocks) + len(days) == 2 and len({kind.tz for kind in clocks}) == 1 and not (days and clocks[0].tz):
        return max(clocks, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    return pa.string()


def _batches(dialect: Dialect, kinds: Kinds) -> Iterator[pa.RecordBatch]:
    """Blocks of a file with these types, columns named and ordered as in `kinds`."""
    with _reader(dialect, kinds) as reader:
        last: pa.RecordBatch | None = None
        for batch in reader:
            yield batch.rename_columns(list(kinds))
            last = batch if batch.num_rows else last
    if last is not None and "\n" in str(last.column(dialect.raw[-1])[-1].as_py()):
        refuse_open_quote(dialect)


@contextmanager
def _reader(dialect: Dialect, kinds: Kinds) -> Iterator[csv.CSVStreamingReader]:
    """pyarrow's reader of one file; what it complains of becomes a refusal with its place, or a `_MisfitError`."""
    raw = dict(zip(dialect.names, dialect.raw, strict=True))
    wanted = [raw[name] for name in kinds]
    misfits: list[csv.InvalidRow] = []

    def misfit(row: csv.InvalidRow) -> str:
        misfits.append(row)  # an exception would not leave pyarrow's parser
        return "error"

    try:
        with opened(dialect.piece) as stream:
            yield csv.open_csv(
                stream,
                csv.ReadOptions(block_size=_BLOCK, encoding=dialect.encoding, autogenerate_column_names=not dialect.header),
                csv.ParseOptions(
                    delimiter=dialect.sign,
                    newlines_in_values=True,
                    ignore_empty_lines=len(dialect.names) > 1,  # in a table of one column an empty line is a gap
                    invalid_row_handler=misfit,
                ),
                csv.ConvertOptions(
                    column_types={raw[name]: kind for name, kind in kinds.items()}, include_columns=wanted, decimal_point=dialect.decimal
                ),
            )
    except ARROW_ERRORS as error:
        told = reason(error)
        if misfits:
            row = misfits[0]
            raise ragged(dialect, row.number, row.actual_columns, row.expected_columns) from error
        if "UTF8" in told or "codec can't decode" in told:
            raise dialect.not_text(told) from error
        if "conversion error" in told:
            raise _MisfitError(f"{dialect.piece.uri}: {told}") from error
        if "straddl" in told:
            raise RaeflowError(f"{dialect.piece.uri}: a row is longer than {_BLOCK >> 20} MiB (is a quote never closed?)") from error
        raise RaeflowError(f"{dialect.piece.uri}: cannot be read as text ({re.sub(' *CSV parse error: *', '', told)})") from error
