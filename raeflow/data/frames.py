"""Rows that a caller holds in memory: frames of any library that speaks Arrow, Arrow tables, arrays and tensors.

They become one Arrow table, and where a study or a fit wants them, one Parquet file; from there on they go the way of
every row. pandas, polars and torch are never imported for it: a frame is what gives an Arrow stream.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raeflow.data.files import ARROW_ERRORS, reason
from raeflow.errors import RaeflowError
from raeflow.study import InMemory

COLUMN = "x"
"""Column of an array of signals or images, and the first letter of the columns x0, x1, ... of a table without names."""
_AXES = {3: ("C", "L"), 4: ("C", "H", "W")}
_GROUP = 32 << 20
"""Bytes of a row group: what is read at once where rows are streamed."""
_FEWEST = 1024
"""Rows of a row group, at least."""


def is_arrow(rows: Any) -> bool:
    """Whether `rows` is an Arrow table or batch, or a frame that hands out one (pandas, polars, and others)."""
    return hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__")


def to_table(rows: Any) -> pa.Table:
    """Rows in memory as an Arrow table, without a copy where the types allow.

    Frames keep their columns, named by text, and lose their index. An array or tensor (N, F) becomes F columns
    x0, x1, ..., with NaN as a gap; (N, C, L) and (N, C, H, W) become one tensor column x.

    Raises RaeflowError for anything else, for two columns of one name, and for columns that Arrow has no type for.
    """
    if isinstance(rows, pa.Table):
        return _distinct(rows)
    if isinstance(rows, pa.RecordBatch):
        return _distinct(pa.Table.from_batches([rows]))
    try:
        if type(rows).__module__.partition(".")[0] == "pandas" and hasattr(rows, "columns"):
            # By hand, since pandas' own Arrow stream keeps the index, as a column where it has a name.
            return _distinct(pa.Table.from_pandas(_named(rows), preserve_index=False))
        if is_arrow(rows):
            return _distinct(pa.table(rows))
    except (*ARROW_ERRORS, TypeError, ValueError) as error:
        raise RaeflowError(f"{InMemory(rows)!r}: cannot be read as a table of columns ({reason(error)})") from error
    return _from_array(_array(rows), repr(InMemory(rows)))


def _named(frame: Any) -> Any:
    """A pandas frame whose columns are named by text, each once."""
    names = [str(name) for name in frame.columns]
    _refuse_twice(names)
    return frame.set_axis(names, axis=1)


def _distinct(table: pa.Table) -> pa.Table:
    _refuse_twice(table.column_names)
    return table


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise RaeflowError(f"the frame has {list(names).count(twice)} columns named {twice!r}; a column's name must be its own")


def _array(rows: Any) -> NDArray[Any]:
    if hasattr(rows, "detach"):  # a tensor of torch, wherever it lies
        rows = rows.detach().cpu()
        rows = rows.float() if "bfloat16" in str(rows.dtype) else rows
    try:
        values = np.asarray(rows)
    except (TypeError, ValueError) as error:  # ragged lists
        raise RaeflowError(f"{InMemory(rows)!r}: not an array of numbers ({reason(error)})") from error
    if values.dtype.kind not in "fiub":
        raise RaeflowError(f"{InMemory(rows)!r}: rows are a frame, an Arrow table, or an array of real numbers")
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _from_array(values: NDArray[Any], what: str) -> pa.Table:
    if values.ndim not in (2, *_AXES) or 0 in values.shape[1:]:
        raise RaeflowError(f"{what}: an array of rows has shape (N, F), (N, C, L) or (N, C, H, W)")
    if values.ndim == 2:
        columns = [pa.array(np.ascontiguousarray(values[:, at]), from_pandas=True) for at in range(values.shape[1])]
        return pa.table(columns, names=[f"{COLUMN}{at}" for at in range(values.shape[1])])
    kept = values if values.dtype == np.uint8 else values.astype(np.float32)
    names = list(_AXES[values.ndim])
    # Named axes, so that nobody takes (16, 8, 3) for channels that come last.
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(kept.dtype), kept.shape[1:], dim_names=names)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(kept).reshape(-1)), int(np.prod(kept.shape[1:])))
    return pa.table({COLUMN: pa.ExtensionArray.from_storage(kind, flat)})


def keep(table: pa.Table, folder: Path) -> Path:
    """Write a table as Parquet in `folder`, under a name made of its content, whole or not at all; equal tables are one file.

    Raises RaeflowError where the folder cannot be written, or Parquet has no type for a column.
    """
    plain = _plain(table)
    rows = max(_FEWEST, _GROUP // max(1, plain.nbytes // max(1, plain.num_rows)))
    part = folder / f".rows.{secrets.token_hex(6)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Not compressed: it is read at once, and scaled numbers hardly shrink.
            pq.write_table(plain, part, compression="none", row_group_size=rows)
            with part.open("rb") as file:
                path = folder / f"rows-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.parquet"
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{folder}: the rows in memory cannot be written there ({reason(error)})") from error
    return path


def _plain(table: pa.Table) -> pa.Table:
    """The same rows without what only the library that made them knows: its metadata, its chunks, its kind of text."""
    fields = [f.remove_metadata().with_type(_text(f.type)) for f in table.schema]
    return table.replace_schema_metadata(None).cast(pa.schema(fields)).combine_chunks()


def _text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_dictionary(kind) and _text(kind.value_type) != kind.value_type:
        return pa.dictionary(kind.index_type, pa.string(), kind.ordered)
    return kind


@functools.cache
def scratch() -> Path:
    """A folder of this process for rows in memory that belong to no study; it goes when the process ends."""
    place = tempfile.TemporaryDirectory(prefix="raeflow-")
    atexit.register(place.cleanup)
    return Path(place.name)
