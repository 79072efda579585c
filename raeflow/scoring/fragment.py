"""One fragment: read, scored, written under a temporary name, committed whole."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raeflow.data.faults import Sifted, sift
from raeflow.data.files import ARROW_ERRORS, Piece, named, reason
from raeflow.data.fixed import leaves, nulled, plain_metadata, restored
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring import readings

if TYPE_CHECKING:
    from raeflow.scoring.halo import Halo

ADDED = pa.schema([
    ("anomaly_score", pa.float32()), ("is_anomaly", pa.bool_()), ("threshold", pa.float64()), ("detector", pa.string()),
    ("problem", pa.string()),
])  # fmt: skip
"""Columns that scoring adds; `is_anomaly` is `anomaly_score > threshold`, `detector` is its id. A bad row has neither score
nor flag but a `problem`, which is null for sound rows."""
CAUSES = pa.field("channel_errors", pa.list_(pa.float32()))
"""Of readings in order of time one more: the error of each column at a reading that raises an alert; null where none is raised."""
STAMP = b"raeflow.scored"
"""Key in a footer under which an output says what it was made from."""
LISTED = 5
"""Bad rows that a message names."""
OBJECT_STORES = ("s3", "gcs", "abfs")  # they have no folders to make
_ENCODINGS = ("BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY")
Told = Callable[[], tuple[list[pa.Array], int, int]]
"""What scoring adds to a chunk, how many of its rows raise an alert, and how many sound ones have no score."""
_WIDTHS = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}


@dataclass(frozen=True)
class Fragment:
    """A range of row groups of one file, and where its scored rows go."""

    piece: Piece
    groups: tuple[int, ...]
    first: int
    """Number of its first row in the file."""
    rows: int
    chunk: int
    """Rows read, scored and written at a time; a chunk is a row group of the output."""
    columns: tuple[str, ...]
    """Input columns that are kept, in the order of the file."""
    out: Piece
    folders: int
    """How many folders below the output folder `out` lies."""
    stamp: str
    """What decides the output, as JSON: detector, input, row groups, columns."""
    refuse: bool = False
    """Whether a bad row keeps the fragment from being committed."""
    halo: Halo | None = None
    """Of readings in order of time: what their windows hold besides the fragment's own rows."""

    @property
    def added(self) -> pa.Schema:
        """Columns that scoring adds to it."""
        return added(self.halo is not None)


def added(readings: bool) -> pa.Schema:
    """Columns that scoring adds to rows, or to readings in order of time."""
    return ADDED.append(CAUSES) if readings else ADDED


class BadRowsError(RaeflowError):
    """A fragment that is not committed because of its bad rows."""

    def __init__(self, message: str, count: int = 0, listed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.count, self.listed = count, list(listed)
        """How many there are, and the first of them: file, row, problem."""


class Stopped(Exception):  # noqa: N818
    """The work was called off between two chunks."""


def score_fragment(detector: Detector, fragment: Fragment, stopped: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Read, score, write and commit one fragment.

    Returns statistics: rows, alerts, bad (rows), unscored (readings that no window gives a score to), first_bad (the first
    bad row and its problem, or nothing), started and ended (seconds since the epoch), input, output. Where `stopped` says so
    the work ends between two chunks with nothing committed. Raises RaeflowError with file and row groups for what cannot be read,
    scored or written, BadRowsError for bad rows where the fragment is to `refuse` them.
    """
    started, out = time.time(), fragment.out
    at = PurePosixPath(out.path)
    temporary = str(at.with_name(f".{at.name}.{uuid.uuid4().hex[:8]}.tmp"))
    try:
        if out.filesystem.type_name not in OBJECT_STORES:
            out.filesystem.create_dir(str(at.parent), recursive=True)
        with out.filesystem.open_output_stream(temporary) as sink:
            statistics = _write(detector, fragment, sink, stopped)
        out.filesystem.move(temporary, out.path)
    except BaseException as error:
        _discard(out.filesystem, temporary)
        if isinstance(error, ARROW_ERRORS):
            what = f"{fragment.piece.uri}, {named(fragment.groups)}: cannot be scored into {out.uri}"
            raise RaeflowError(f"{what} ({reason(error)})") from error
        raise
    return {**statistics, "started": started, "ended": time.time(), "input": fragment.piece.uri, "output": out.uri}


def _discard(filesystem: fs.FileSystem, path: str) -> None:
    """Delete a temporary if it is there; the error that led here is the one to tell of."""
    try:
        filesystem.delete_file(path)
    except ARROW_ERRORS:
        return


def _write(detector: Detector, fragment: Fragment, sink: Any, stopped: Callable[[], bool] | None) -> dict[str, Any]:
    """All rows of a fragment, chunk by chunk; their number, that of alerts, of bad and of unscored rows."""
    piece, rows, alerts, bad, unscored = fragment.piece, 0, 0, 0, 0
    listed: list[str] = []
    # Near files are read in small pieces, so that even a huge row group needs little memory; of far ones every
    # request costs, so a fragment is fetched in few.
    near = isinstance(piece.filesystem, fs.LocalFileSystem)
    ways: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False} if near else {"pre_buffer": True}
    with piece.filesystem.open_input_file(piece.path) as file, pq.ParquetFile(file, **ways) as parquet, ExitStack() as inner:
        own = parquet.schema_arrow
        read = list(dict.fromkeys((*fragment.columns, *detector.spec.columns)))
        source, loose = parquet, nulled(parquet.metadata, own, fragment.groups, read)
        if loose:
            source = inner.enter_context(pq.ParquetFile(file, metadata=plain_metadata(file), **ways))
        # Lists that are null are written without a fixed size, or no reader of Arrow could read the output.
        kept = [source.schema_arrow.field(name) if name in loose else own.field(name) for name in fragment.columns]
        schema = pa.schema([*kept, *fragment.added], own.metadata)

        def chunks(columns: list[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
            """Rows as they are stored and as the input has them."""
            for stored in _chunks(source, fragment, columns):
                if stopped is not None and stopped():
                    raise Stopped
                yield stored, restored(stored, own) if loose else stored

        take = _taker(detector, fragment, (chunk for _, chunk in chunks(list(dict.fromkeys(detector.spec.columns)))))
        with pq.ParquetWriter(sink, schema, **writing(parquet.metadata, own, schema, fragment)) as writer:
            for stored, chunk in chunks(read):
                problems, scored = take(chunk, rows)
                at, few = fragment.first + rows, itertools.islice(problems.items(), LISTED - len(listed))
                listed += [f"row {at + row}: {problem}" for row, problem in few]
                rows, bad = rows + chunk.num_rows, bad + len(problems)
                if bad and fragment.refuse:
                    continue  # to find the others
                told, count, without = scored()
                columns = [stored.column(name) if name in loose else chunk.column(name) for name in fragment.columns]
                writer.write_table(pa.table([*columns, *told], schema=schema), row_group_size=chunk.num_rows)
                alerts, unscored = alerts + count, unscored + without
            if rows != fragment.rows:
                raise RaeflowError(f"{piece.uri}: {rows} rows where its footer tells of {fragment.rows}: it changed while it was read")
            if bad and fragment.refuse:
                named_rows = [f"{piece.uri}, {row}" for row in listed]
                raise BadRowsError(f"{named_rows[0]}, one of {bad} bad rows", bad, named_rows)
            statistics = {"rows": rows, "alerts": alerts, "bad": bad, "unscored": unscored, "first_bad": listed[0] if listed else ""}
            writer.add_key_value_metadata({STAMP: json.dumps({**json.loads(fragment.stamp), "statistics": statistics})})
    return statistics


def _taker(detector: Detector, fragment: Fragment, chunks: Iterator[pa.Table]) -> Callable[[pa.Table, int], tuple[dict[int, str], Told]]:
    """What takes a chunk, which begins at some row, and gives its bad rows and what tells what scoring adds to it.

    Rows are scored chunk by chunk. Windows of readings reach over the borders of chunks, so all own rows are read from `chunks`, and
    scored, before the first is written.
    """
    if fragment.halo is not None:
        own = readings.score_rows(detector, fragment, fragment.halo, chunks)
        return lambda chunk, first: (own.problems_of(first, chunk.num_rows), lambda: own.added(detector, first, chunk.num_rows))
    where = f"{fragment.piece.uri}, {named(fragment.groups)}"

    def take(chunk: pa.Table, first: int) -> tuple[dict[int, str], Told]:  # noqa: ARG001 - rows know no order
        sifted = sift(chunk, detector.spec, where)
        return sifted.problems, lambda: (*_added(detector, sifted, chunk.num_rows), 0)

    return take


def _added(detector: Detector, sifted: Sifted, count: int) -> tuple[list[pa.Array], int]:
    """What scoring adds to a chunk of `count` rows, in the order of `ADDED`, and how many alerts are in it."""
    scores = detector.score(sifted.rows)
    flags = detector.flags(scores)
    alerts, missing = int(flags.sum()), None
    problems = pa.nulls(count, pa.string())
    if sifted.good is not None:
        missing = np.ones(count, np.bool_)
        missing[sifted.good] = False
        scores, flags = (_spread(values, sifted.good, count) for values in (scores, flags))
        problems = pa.array([sifted.problems.get(row) for row in range(count)], pa.string())
    constants = zip((detector.threshold.value, detector.id), ADDED.types[2:4], strict=True)
    repeated = [pa.repeat(pa.scalar(value, kind), count) for value, kind in constants]
    return [pa.array(scores, mask=missing), pa.array(flags, mask=missing), *repeated, problems], alerts


def _spread(values: np.ndarray[Any, Any], places: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Values at their places among `count`, zeros between them."""
    spread = np.zeros(count, values.dtype)
    spread[places] = values
    return spread


def _chunks(parquet: pq.ParquetFile, fragment: Fragment, columns: list[str]) -> Iterator[pa.Table]:
    """A fragment's rows, `fragment.chunk` at a time."""
    parts: list[pa.RecordBatch] = []
    # Batches end where a row group's dictionary does, so a chunk can come in several.
    for batch in parquet.iter_batches(fragment.chunk, row_groups=list(fragment.groups), columns=columns, use_threads=False):
        parts.append(batch)
        if sum(map(len, parts)) >= fragment.chunk:
            yield pa.Table.from_batches(parts)
            parts = []
    if parts:
        yield pa.Table.from_batches(parts)


def writing(metadata: pq.FileMetaData, own: pa.Schema, schema: pa.Schema, fragment: Fragment) -> dict[str, Any]:
    """Options of a ParquetWriter that writes columns as the input has them: codec, encoding, and a dictionary where it paid.

    Args:
        metadata: of the input, whose Arrow schema is `own`.
        schema: of the output.
        fragment: whose columns and first row group count.

    Statistics are written for flat columns alone: nobody looks for rows by the range of a list's values.
    """
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    stored = pq.read_metadata(pa.BufferReader(empty.getvalue())).schema
    paths = [stored.column(i).path for i in range(len(stored.names))]
    flat = {field.name for field in schema if not pa.types.is_nested(field.type)}
    # Stored columns come in the same order in both files, whatever the input's writer called them.
    spans = leaves(own)
    kept = [i for name in fragment.columns for i in spans[name]]
    group = metadata.row_group(fragment.groups[0])
    compression: dict[str, str] = {}
    encodings: dict[str, str] = {}
    dictionaries = list(ADDED.names[2:])  # said again and again, or not at all
    for path, leaf in zip(paths, kept, strict=False):
        column = group.column(leaf)
        compression[path] = column.compression.replace("UNCOMPRESSED", "NONE")
        plain = _WIDTHS.get(column.physical_type, 0) * column.num_values
        special = [e for e in column.encodings if e in _ENCODINGS]
        if special:
            encodings[path] = special[0]
        elif column.has_dictionary_page and (not plain or column.total_uncompressed_size < 0.5 * plain):
            dictionaries.append(path)
    codec = next(iter(compression.values()), "ZSTD")
    compression |= dict.fromkeys(paths[len(kept) :], codec)
    return {
        "compression": compression, "column_encoding": encodings or None, "use_dictionary": dictionaries,
        "write_statistics": [path for path in paths if path in flat],
    }  # fmt: skip
