"""Fixed-size lists that are null: Arrow writes them into Parquet and then cannot read them (apache/arrow#35692).

Parquet itself knows lists of any length alone. Without the Arrow schema that a footer carries such a
file is read as what it is, and columns are then given their types back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_KEY, _OTHER = b"ARROW:schema", b"ARROW.schema"


def fixed_size(kind: pa.DataType) -> int | None:
    """Values in each row of a type that fixes their number; None for other types."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not pa.types.is_fixed_size_list(kind):
        return None
    inner = fixed_size(kind.value_type) if pa.types.is_nested(kind.value_type) else 1
    return None if inner is None else kind.list_size * inner


def leaves(schema: pa.Schema) -> dict[str, range]:
    """Numbers of the stored columns that make up each top-level column (the last one of a name that comes twice)."""
    spans, at = {}, 0
    for field in schema:
        width = _leaf_count(field.type)
        spans[field.name] = range(at, at + width)
        at += width
    return spans


def _leaf_count(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return sum(_leaf_count(kind.field(i).type) for i in range(kind.num_fields)) if pa.types.is_nested(kind) else 1


def nulled(metadata: pq.FileMetaData, schema: pa.Schema, groups: Sequence[int], columns: Sequence[str]) -> list[str]:
    """Those of `columns` that are fixed-size lists with a null among them in some row groups."""
    sizes = {name: fixed_size(schema.field(name).type) for name in columns if schema.get_field_index(name) >= 0}
    if not any(sizes.values()):
        return []
    spans, found = leaves(schema), []
    for name, size in sizes.items():
        # A list that is null is stored as one value.
        stored = [metadata.row_group(g) for g in groups] if size else []
        if any(own.column(spans[name][0]).num_values != own.num_rows * size for own in stored if size):
            found.append(name)
    return found


def plain_metadata(file: Any) -> pq.FileMetaData:
    """The metadata of an open Parquet file without Arrow's own schema."""
    size = file.size()
    length = int.from_bytes(file.read_at(8, size - 8)[:4], "little")
    footer = file.read_at(length + 8, size - 8 - length).replace(_KEY, _OTHER)
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer))


def restored(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table that was read by `plain_metadata`, with the types of `schema`, which the file has by its own account."""
    fields = [schema.field(name) for name in table.column_names]
    return pa.table([_cast(table.column(f.name), f.type) for f in fields], schema=pa.schema(fields, schema.metadata))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if not isinstance(kind, pa.BaseExtensionType):
        return column.cast(kind)
    stored = column.cast(kind.storage_type)
    return pa.chunked_array([pa.ExtensionArray.from_storage(kind, chunk) for chunk in stored.chunks], kind)
