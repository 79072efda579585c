"""Arrow columns to row tensors: views of Arrow's own buffers where type and order allow, one copy elsewhere.

N rows of a table, D values of a row, F columns; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from raeflow.data.rows import RowSpec, Shape
from raeflow.errors import RaeflowError, RowError

_BLOCK = 4096
"""Rows in which columns are woven into rows: a block of the result stays in the cache."""
_NAMES = {
    "c": "C", "channel": "C", "channels": "C", "h": "H", "height": "H", "y": "H", "w": "W", "width": "W", "x": "W",
    "l": "L", "length": "L", "t": "L", "time": "L", "samples": "L",
}  # fmt: skip
_TORCH = {"uint8": torch.uint8, "float32": torch.float32}


def to_tensor(table: pa.Table | pa.RecordBatch, spec: RowSpec, where: str = "", first: int = 0) -> Tensor:
    """Rows of an Arrow table as a tensor (N, *spec.shape) of `spec.dtype`.

    `where` and `first`, the number of the table's first row, place a fault in its message. A column in one
    piece of the very dtype is not copied, so the tensor may alias Arrow's memory: treat it as read-only.
    Raises `RaeflowError` for a missing column or a wrong type, and `RowError` for nulls, ragged lists, NaN
    or infinity, and images that cannot be decoded.
    """
    where = f"{where}, " if where else ""
    columns = [_column(table, name, where) for name in spec.columns]
    if table.num_rows == 0:
        return torch.empty((0, *spec.shape), dtype=_TORCH[spec.dtype])
    if spec.kind == "columns":
        rows = _weave(columns, spec, where, first)
    elif spec.kind == "image":
        from raeflow.data.images import decode  # Pillow, only where images are encoded

        return decode(columns[0], spec, where, first)
    else:
        rows = _lists(columns[0], spec, where, first)
    if rows.dtype == torch.float32:
        _refuse_not_finite(rows, columns, spec, where, first)
    return rows.reshape(len(rows), *spec.shape)


def _column(table: pa.Table | pa.RecordBatch, name: str, where: str) -> pa.ChunkedArray:
    at = table.schema.get_all_field_indices(name)
    if len(at) != 1:
        have = ", ".join(repr(n) for n in table.schema.names[:20])
        raise RaeflowError(f"{where}{len(at) or 'no'} column{'s'[: len(at)]} named {name!r}; columns are {have}")
    column = table.column(at[0])
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


# --- several numeric columns -------------------------------------------------------------------------------------------------


def _weave(columns: list[pa.ChunkedArray], spec: RowSpec, where: str, first: int) -> Tensor:
    """F columns of N values as one (N, F) tensor."""
    arrays = []
    for name, column in zip(spec.columns, columns, strict=True):
        refuse_nulls(column, name, where, first)
        starts = np.cumsum([first, *map(len, column.chunks)])
        arrays.append(_whole([_numbers(c, spec.dtype, name, where, int(s)) for c, s in zip(column.chunks, starts, strict=False)]))
    if len(arrays) == 1:
        return arrays[0].unsqueeze(1)
    out = torch.empty((len(arrays[0]), len(arrays)), dtype=_TORCH[spec.dtype])
    target, sources = out.numpy(), [a.numpy() for a in arrays]
    for start in range(0, len(target), _BLOCK):
        part = slice(start, start + _BLOCK)
        for j, source in enumerate(sources):
            target[part, j] = source[part]
    return out


def _whole(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


def _numbers(values: pa.Array, dtype: str, name: str, where: str, first: int = 0, width: int = 1) -> Tensor:
    """A flat numeric array without nulls, `width` values a row, as a tensor of `dtype`; no copy where it has that type already."""
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    kind = values.type
    if not is_number(kind):
        raise RaeflowError(f"{where}column {name!r} holds {kind}, not numbers")
    if str(kind) == {"uint8": "uint8", "float32": "float"}[dtype]:
        return from_dlpack(values)
    if pa.types.is_boolean(kind):
        values = values.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    if dtype == "uint8":
        try:
            return from_dlpack(pc.cast(values, pa.uint8()))
        except pa.ArrowInvalid:
            flat = values.to_numpy(zero_copy_only=False)
            bad = np.flatnonzero(~((flat >= 0) & (flat <= 255) & (flat == np.floor(flat))))
            rows, at = np.unique(bad // width, return_index=True)
            refuse_rows(rows, lambda i: f"value {flat[bad[at[i]]]} is none of the whole numbers 0-255", name, where, first)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused with its place
        return torch.from_numpy(values.to_numpy(zero_copy_only=False).astype(np.float32, copy=True))


# --- one list or tensor column -----------------------------------------------------------------------------------------------


def _lists(column: pa.ChunkedArray, spec: RowSpec, where: str, first: int) -> Tensor:
    """One column of N lists of D values as a tensor (N, *spec.shape)."""
    name, parts = spec.columns[0], []
    for chunk in column.chunks:
        if len(chunk):
            parts.append(_chunk(chunk, spec, name, where, first))
            first += len(chunk)
    return _whole(parts)


def _chunk(chunk: pa.Array, spec: RowSpec, name: str, where: str, first: int) -> Tensor:
    count, kind, size = len(chunk), chunk.type, math.prod(spec.shape)
    refuse_nulls(chunk, name, where, first)
    if isinstance(kind, pa.BaseExtensionType):
        chunk = chunk.storage
    if not is_list(chunk.type):
        raise RaeflowError(f"{where}column {name!r} holds {kind}, not lists of {size} numbers")
    values, width = chunk, 1
    while is_list(values.type):
        values, inner = _flat(values, name, where, first, width, size)
        width *= inner
    if width != size:
        refuse_rows(range(count), lambda _: f"{width} values where a row has {_product(spec.shape)}", name, where, first)
    if values.null_count:
        bad = np.flatnonzero(values.is_null())
        lost, at = np.unique(bad // size, return_index=True)
        refuse_rows(lost, lambda i: f"value {bad[at[i]] % size} is null", name, where, first)
    flat = _numbers(values, spec.dtype, name, where, first, size)
    order, dims = _order(kind, spec)
    rows = flat.view(count, *dims)
    if order is None:
        return rows
    return torch.from_numpy(np.ascontiguousarray(rows.numpy().transpose(0, *(1 + axis for axis in order))))


def _flat(lists: pa.Array, name: str, where: str, first: int, width: int, total: int) -> tuple[pa.Array, int]:
    """Values of equally long lists, and how many each list has; `width` lists make a row of `total` values."""
    if lists.null_count:
        rows = np.unique(np.flatnonzero(lists.is_null()) // width)
        refuse_rows(rows, lambda _: "an inner list is null", name, where, first)
    if pa.types.is_fixed_size_list(lists.type):
        return lists.flatten(), lists.type.list_size
    sizes = np.diff(lists.offsets.to_numpy())
    size = int(sizes[0])
    if (sizes != size).any():
        # The innermost lists must fill the row; of others the usual length is taken for the right one.
        size = int(np.bincount(sizes).argmax()) if is_list(lists.type.value_type) or total % width else total // width
        bad = np.flatnonzero(sizes != size)
        rows, at = np.unique(bad // width, return_index=True)
        refuse_rows(rows, lambda i: f"ragged lists: {sizes[bad[at[i]]]} values here, {size} in a sound row", name, where, first)
    return lists.flatten(), size


def _order(kind: pa.DataType, spec: RowSpec) -> tuple[tuple[int, ...] | None, Shape]:
    """Axes of the stored values in the model's order (None: they lie so already), and the stored shape."""
    axes = tensor_axes(kind)
    if axes is not None:
        stored, order = tuple(kind.shape), axes
        if len(order) == 3 and spec.layout == "HWC" and not _dim_names(kind):
            order = (order[2], order[0], order[1])
        model = tuple(stored[axis] for axis in order)
        # Axes of size 1 come and go: (H, W) is (1, H, W).
        if tuple(n for n in model if n > 1) != tuple(n for n in spec.shape if n > 1):
            order, stored = tuple(range(len(spec.shape))), spec.shape
    elif spec.layout == "HWC" and len(spec.shape) == 3:
        channels, height, width = spec.shape
        order, stored = (2, 0, 1), (height, width, channels)
    elif spec.layout == "HWC" and len(spec.shape) == 2:
        order, stored = (1, 0), (spec.shape[1], spec.shape[0])
    else:
        return None, spec.shape
    moved = [axis for axis in order if stored[axis] > 1]
    return (None, spec.shape) if moved == sorted(moved) else (order, stored)


def tensor_axes(kind: pa.DataType) -> tuple[int, ...] | None:
    """Axes of a fixed-shape tensor's storage in the order C, H, W (or C, L) if they are named, else in their logical order."""
    if not isinstance(kind, pa.FixedShapeTensorType):
        return None
    names = _dim_names(kind)
    if names:
        return tuple(sorted(range(len(names)), key=lambda i: "CHWL".index(names[i])))
    return tuple(kind.permutation) if kind.permutation else tuple(range(len(kind.shape)))


def _dim_names(kind: pa.FixedShapeTensorType) -> list[str] | None:
    """The tensor's dimensions as C, H, W, L; None unless every one of them is known and different."""
    names = [_NAMES.get(name.lower(), "") for name in kind.dim_names or []]
    return names if names and all(names) and len(set(names)) == len(names) else None


def named_axes(kind: pa.DataType) -> bool:
    """Whether a tensor type says which of its axes are channels, height, width or length."""
    return isinstance(kind, pa.FixedShapeTensorType) and _dim_names(kind) is not None


# --- what is refused ---------------------------------------------------------------------------------------------------------


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
        more = f", one of {column.null_count} in {len(column)} rows"
        refuse_rows(np.flatnonzero(column.is_null()), lambda _: "the value is null", name, where, first, more)


def refuse_rows(
    rows: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]], says: Callable[[int], str], name: str, where: str, first: int, more: str = ""
) -> NoReturn:
    """Refuse rows (numbered from 0) of a column; `says(i)` is what is wrong with `rows[i]`, `more` only for who reads the first of them."""
    faults = {first + int(row): f"column {name!r}: {says(i)}" for i, row in enumerate(rows)}
    raise RowError(f"{where}column {name!r}, row {first + int(rows[0])}: {says(0)}{more}", faults)


def _refuse_not_finite(rows: Tensor, columns: list[pa.ChunkedArray], spec: RowSpec, where: str, first: int) -> None:
    # A sum runs at the speed of memory, isfinite at a fortieth of it; a sum that overflows is only looked at again.
    # numpy's, since torch would start its own threads in each of the threads that read.
    with np.errstate(over="ignore"):
        if math.isfinite(float(rows.numpy().sum())):
            return
    flat = rows.reshape(len(rows), -1)
    bad = ~torch.isfinite(flat)
    if not bool(bad.any()):
        return
    told, sentence, faults = bad.numpy(), "", {}
    for row, entry in zip(np.flatnonzero(told.any(1)).tolist(), told.argmax(1)[told.any(1)].tolist(), strict=True):
        if spec.kind == "columns":
            name, value, place = spec.columns[entry], columns[entry][row].as_py(), ""
            why = "is not finite" if not math.isfinite(value) else "does not fit into float32"
            faults[first + row] = f"column {name!r}: value {value!r} {why}"
        else:
            name, value, place = spec.columns[0], float(flat[row, entry]), f", entry {_index(entry, spec.shape)}"
            why = "is not finite"
            faults[first + row] = f"column {name!r}: value {_index(entry, spec.shape)} is {value!r}"
        sentence = sentence or f"{where}column {name!r}, row {first + row}{place}: value {value!r} {why}"
    raise RowError(sentence, faults)


def _index(entry: int, shape: Shape) -> str:
    index = np.unravel_index(entry, shape)
    return str(int(index[0])) if len(index) == 1 else str(tuple(int(i) for i in index))


def _product(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else f"{'x'.join(str(n) for n in shape)} = {math.prod(shape)}"
