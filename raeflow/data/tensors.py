"""Arrow columns to row tensors: views of Arrow's own buffers where type and order allow, one copy elsewhere.

N rows of a table, D values of a row, F columns; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from raeflow.data import columns as columns_
from raeflow.data.rows import RowSpec, Shape
from raeflow.data.types import countable, is_list, is_number, refuse_nulls, refuse_rows
from raeflow.errors import RaeflowError, RowError

_BLOCK = 4096
"""Rows in which columns are woven into rows: a block of the result stays in the cache."""
_NAMES = {
    "c": "C", "channel": "C", "channels": "C", "h": "H", "height": "H", "y": "H", "w": "W", "width": "W", "x": "W",
    "l": "L", "length": "L", "t": "L", "time": "L", "samples": "L",
}  # fmt: skip
_TORCH = {"uint8": torch.uint8, "float32": torch.float32}


def to_tensor(
    table: pa.Table | pa.RecordBatch, spec: RowSpec, where: str = "", first: int = 0, words: columns_.Words | None = None
) -> Tensor:
    """Rows of an Arrow table as a tensor (N, *spec.stored) of `spec.dtype`, float32 where a table of bytes has gaps.

    `where` and `first`, the number of the table's first row, place a fault in its message. A column in one
    piece of the very dtype is not copied, so the tensor may alias Arrow's memory: treat it as read-only.
    NaN and nulls are gaps in the columns of a table. With `words` its categories are places among words that are put there,
    rather than among the levels of the spec.
    Raises `RaeflowError` for a missing column or a wrong type, and `RowError` for infinity, images that cannot be decoded,
    and, where a row is no table, nulls, NaN and ragged lists.
    """
    where = f"{where}, " if where else ""
    columns = [_column(table, name, where) for name in spec.columns]
    if table.num_rows == 0:
        return torch.empty((0, *spec.stored), dtype=_TORCH[spec.dtype])
    if spec.kind == "mixed":
        rows = _woven(columns_.store(columns, spec, where, words, first), torch.float32)
    elif spec.kind == "columns":
        rows = _weave(columns, spec, where, first)
    elif spec.kind == "image":
        from raeflow.data.images import decode  # Pillow, only where images are encoded

        return decode(columns[0], spec, where, first)
    else:
        rows = _lists(columns[0], spec, where, first)
    if rows.dtype == torch.float32:
        _refuse_not_finite(rows, columns, spec, where, first)
    return rows.reshape(len(rows), *spec.stored)


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
    arrays, gaps = [], bool(spec.held) and any(column.null_count for column in columns)
    for name, column in zip(spec.columns, columns, strict=True):
        if gaps or pa.types.is_null(column.type):
            arrays.append(columns_.gapped(column, name, where))
            continue
        refuse_nulls(column, name, where, first)
        starts = np.cumsum([first, *map(len, column.chunks)])
        parts = [_numbers(c, spec.dtype, name, where, int(s)) for c, s in zip(column.chunks, starts, strict=False)]
        arrays.append(_whole(parts).numpy())
    return _woven(arrays, torch.float32 if gaps else _TORCH[spec.dtype])


def _woven(arrays: list[np.ndarray[Any, Any]], dtype: torch.dtype) -> Tensor:
    """K arrays (N,) as one (N, K) tensor."""
    if len(arrays) == 1:
        return torch.from_numpy(arrays[0]).unsqueeze(1)
    out = torch.empty((len(arrays[0]), len(arrays)), dtype=dtype)
    target = out.numpy()
    for start in range(0, len(target), _BLOCK):
        part = slice(start, start + _BLOCK)
        for j, source in enumerate(arrays):
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
    values = countable(values)
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


def _refuse_not_finite(rows: Tensor, columns: list[pa.ChunkedArray], spec: RowSpec, where: str, first: int) -> None:
    # A sum runs at the speed of memory, isfinite at a fortieth of it; a sum that overflows is only looked at again.
    # numpy's, since torch would start its own threads in each of the threads that read.
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(rows.numpy().sum())):
            return
    flat = rows.reshape(len(rows), -1).numpy()
    bad = np.isinf(flat) if spec.held else ~np.isfinite(flat)
    if not bad.any():
        return
    each, sentence, faults, places = spec.kind in ("columns", "mixed"), "", {}, spec.places
    for row, entry in zip(np.flatnonzero(bad.any(1)).tolist(), bad.argmax(1)[bad.any(1)].tolist(), strict=True):
        at = bisect_right(places, entry) - 1 if spec.fields else entry
        name = spec.columns[at] if each else spec.columns[0]
        value: Any = columns[at][row].as_py() if each else float(flat[row, entry])
        odd = isinstance(value, (int, float)) and not math.isfinite(value)
        says = f"value {value!r} {'is not finite' if odd else 'does not fit into float32'}"
        index = _index(entry, spec.shape) if not each else ""
        faults[first + row] = f"column {name!r}: {says if each else f'value {index} is {value!r}'}"
        sentence = sentence or f"{where}column {name!r}, row {first + row}{'' if each else f', entry {index}'}: {says}"
    raise RowError(sentence, faults)


def _index(entry: int, shape: Shape) -> str:
    index = np.unravel_index(entry, shape)
    return str(int(index[0])) if len(index) == 1 else str(tuple(int(i) for i in index))


def _product(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else f"{'x'.join(str(n) for n in shape)} = {math.prod(shape)}"
