"""What Arrow types are to raeflow: numbers, lists, and columns without nulls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from raeflow.errors import RowError


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary; any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats, decimals and true/false."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def countable(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Numbers as numpy takes them: true/false as 0 and 1, decimals as floats, others as they are."""
    if pa.types.is_boolean(values.type):
        return values.cast(pa.uint8())
    return values.cast(pa.float64()) if pa.types.is_decimal(values.type) else values


def is_list(kind: pa.DataType) -> bool:
    """Lists of fixed or any length."""
    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def refuse_nulls(column: pa.ChunkedArray | pa.Array, name: str, where: str, first: int) -> None:
    """Refuse a column with a null, naming the first."""
    if column.null_count:
        more = f", one of {column.null_count} in {len(column)} rows"
        refuse_rows(np.flatnonzero(column.is_null()), lambda _: "the value is null", name, where, first, more)


def refuse_rows(
    rows: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]], says: Callable[[int], str], name: str, where: str, first: int, more: str = ""
) -> NoReturn:
    """Refuse rows (numbered from 0) of a column; `says(i)` is what is wrong with `rows[i]`, `more` only for who reads the first of them."""
    faults = {first + int(row): f"column {name!r}: {says(i)}" for i, row in enumerate(rows)}
    raise RowError(f"{where}column {name!r}, row {first + int(rows[0])}: {says(0)}{more}", faults)
