"""The row of a table: how each of its columns is stored, from its type and from what the user says it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from raeflow.data.columns import role_of
from raeflow.data.files import Footer
from raeflow.data.rows import Field, RowSpec
from raeflow.data.types import is_number, plain
from raeflow.errors import RaeflowError
from raeflow.study import Data


def table_spec(data: Data, columns: tuple[str, ...], kinds: Sequence[pa.DataType], footers: Sequence[Footer]) -> RowSpec:
    """The row of these columns (of `kinds`): of numbers alone, or mixed with words, flags and clocks."""
    where, roles = footers[0].piece.uri, data.roles_of
    fields = [_stored_field(name, kind, roles.get(name), where) for name, kind in zip(columns, kinds, strict=True)]
    if any(field.role == "clock" or field.role == "category" or not is_number(plain(k)) for field, k in zip(fields, kinds, strict=True)):
        if data.shape is not None:
            raise RaeflowError(f"Data(shape={data.shape!r}): a table of words, flags and clocks has no shape of its own; leave it out")
        if data.scaling == "signal":
            raise RaeflowError("Data(scaling='signal'): a table of words, flags and clocks is no signal")
        spec = RowSpec(columns, "mixed", (0,), "float32", fields=tuple(fields))
        width = sum(field.slots for field in fields)
        return replace(spec, shape=(width,), held=(width,))
    shape = tuple(data.shape) if data.shape is not None else (len(columns),)
    if math.prod(shape) != len(columns):
        raise RaeflowError(f"Data(shape={shape!r}): {math.prod(shape)} values, but the row has {len(columns)} columns")
    whole = all(pa.types.is_uint8(plain(kind)) for kind in kinds) and not any(_has_nulls(f, columns) for f in footers)
    # A row of columns that is a signal or an image has no columns of its own any more.
    held = shape if len(shape) == 1 and data.scaling != "signal" else ()
    return RowSpec(columns, "columns", shape, "uint8" if whole else "float32", held=held)


def _stored_field(name: str, kind: pa.DataType, asked: str | None, where: str) -> Field:
    """How a column is stored: as its type says, or as a category where the user says so."""
    role = role_of(kind)
    if role is None:
        raise RaeflowError(f"{where}: column {name!r} holds {kind}, which is no column of a table; leave it out of Data(columns=...)")
    stored = plain(kind)
    fits = {
        None: True, "number": role in ("number", "flag"), "long_tail": role == "number", "flag": role in ("number", "flag"),
        "category": role in ("category", "flag") or pa.types.is_integer(stored) or pa.types.is_floating(stored), "clock": role == "clock",
    }  # fmt: skip
    if not fits[asked]:
        raise RaeflowError(f"{where}: Data(roles={{{name!r}: {asked!r}}}): the column holds {kind}, which cannot be a {asked}")
    return Field(name, "category" if asked == "category" else role, str(stored))


def _has_nulls(footer: Footer, columns: Sequence[str]) -> bool:
    """Whether a file may have a null in one of the columns, as far as its footer tells."""
    metadata = footer.metadata
    if any(pa.types.is_null(footer.schema.field(name).type) for name in columns if name in footer.schema.names):
        return True
    optional = {name for name in columns if name in footer.schema.names and footer.schema.field(name).nullable}
    for group in range(metadata.num_row_groups):
        for leaf in range(metadata.num_columns):
            column = metadata.row_group(group).column(leaf)
            known = column.statistics is not None and column.statistics.has_null_count
            if column.path_in_schema in optional and (not known or column.statistics.null_count):
                return True
    return False


def check_roles(data: Data, columns: Sequence[str]) -> None:
    """A role for a column that is none of the row's is a mistake."""
    for name, role in data.roles_of.items():
        if role == "out" and name in columns:
            raise RaeflowError(f"Data(columns=...) names {name!r}, but Data(roles={{{name!r}: 'out'}}) leaves it out")
        if role != "out" and name not in columns:
            raise RaeflowError(f"Data(roles={{{name!r}: {role!r}}}): the row has no such column; its columns are {', '.join(columns[:20])}")


def refuse_table_words(data: Data, spec: RowSpec) -> None:
    """What is said of a table's columns has no meaning for other rows."""
    asked = {name: role for name, role in data.roles_of.items() if role != "out"}
    said = f"roles={asked!r}" if asked else "scaling='asinh'" if data.scaling == "asinh" else ""
    if said:
        raise RaeflowError(
            f"Data({said}): this is for the columns of a table, but a row of {', '.join(spec.columns[:8])} has shape {spec.shape}"
        )
