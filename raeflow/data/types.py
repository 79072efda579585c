"""What Arrow types are to raeflow: numbers, lists, and columns without nulls."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from raeflow.errors import RaeflowError


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats, decimals and true/false."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def is_list(kind: pa.DataType) -> bool:
    """Lists of fixed or any length."""
    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def refuse_nulls(column: pa.ChunkedArray | pa.Array, name: str, where: str, first: int) -> None:
    """Refuse a column with a null, naming the first."""
    if column.null_count:
        at = int(pc.index(pc.is_null(column), True).as_py())
        raise RaeflowError(f"{where}column {name!r}, row {first + at}: the value is null, one of {column.null_count} in {len(column)} rows")
