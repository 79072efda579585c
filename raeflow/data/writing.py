"""Parquet that raeflow writes for itself: whole or not at all, with the row's shape in the schema."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raeflow.errors import RaeflowError

_ROWS = 4096


def fixed_lists(values: NDArray[Any]) -> pa.FixedSizeListArray:
    """(N, ...) numbers as one fixed-size-list column of N rows, values in C order; no copy where C-contiguous."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def describe(
    table: pa.Table, *, shape: Sequence[int] = (), source: str, licence: str, classes: Sequence[str] = (), layout: str | None = None
) -> pa.Table:
    """The table with the schema metadata that raeflow reads back: shape, layout, classes, source, licence."""
    metadata = {"source": source, "licence": licence}
    if shape:
        metadata["shape"] = ",".join(str(n) for n in shape)
    if classes:
        metadata["classes"] = json.dumps(list(classes))
    if layout is not None:
        metadata["layout"] = layout
    return table.replace_schema_metadata(metadata)


def write_parquet(table: pa.Table, path: Path) -> Path:
    """Write under a temporary name in the same folder, then rename.

    Readers and other writers never see a partial file; the last of several writers wins, and all of
    them write the same rows. Raises RaeflowError where the folder cannot be written.
    """
    try:
        with whole(path) as part:
            pq.write_table(table, part, compression="zstd", row_group_size=_ROWS)
    except OSError as error:
        raise RaeflowError(f"{path} cannot be written ({error.strerror or error}); RAEFLOW_CACHE names another folder for data") from error
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_all(tables: Mapping[str, pa.Table], root: Path) -> list[Path]:
    """Write each table to its path below `root`."""
    return [write_parquet(table, root / name) for name, table in tables.items()]
