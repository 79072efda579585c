"""What conversions share: how they are told to read, how they write, what they say of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raeflow.data.writing import whole
from raeflow.errors import RaeflowError

_ROWS = 1 << 16
_BYTES = 32 << 20
"""Rows and bytes from which a row group is written: enough to compress well, few enough to read by the piece."""


@dataclass(frozen=True)
class Options:
    """How sources are to be read."""

    encoding: str | None = None
    """Of text; None: UTF-8, or UTF-16 where the file's first bytes say so."""
    header: bool | None = None
    """Whether the first line of text holds names; None: it does, unless all of it are numbers, which is refused."""
    skip_bad: bool = False
    """Leave out files of a folder that are no images, instead of refusing the folder."""


@dataclass(frozen=True)
class Converted:
    """What was written."""

    path: Path
    schema: pa.Schema
    rows: int
    notes: list[str] = field(default_factory=list)
    """What the user must know to read it."""


def write(target: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as row groups of a sensible size; the number of rows."""
    rows, waiting = 0, list[pa.RecordBatch]()
    try:
        with whole(target) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in batches:
                waiting.append(batch)
                rows += batch.num_rows
                if sum(one.num_rows for one in waiting) >= _ROWS or sum(one.nbytes for one in waiting) >= _BYTES:
                    writer.write_table(pa.Table.from_batches(waiting, schema))
                    waiting.clear()
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting, schema))
    except OSError as error:
        raise RaeflowError(f"{target} cannot be written ({error.strerror or error}); name another file with --out") from error
    return rows
