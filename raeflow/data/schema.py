"""What a row is, read from schema and footers alone: columns, shape, dtype, layout.

The shape comes from `Data.shape`, else from the column's type, else from metadata of the field or schema
(`shape` like `28,28,1` in the order of storage, with `layout` like `HWC`), else from the footers' counts.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from raeflow.data import filters
from raeflow.data.columns import role_of
from raeflow.data.files import Footer, cells, first_row, read_groups
from raeflow.data.rows import RowSpec, Shape
from raeflow.data.survey import TELLING, Reasons, survey
from raeflow.data.tablespec import check_roles, refuse_table_words, table_spec
from raeflow.data.tensors import named_axes, tensor_axes, to_tensor
from raeflow.data.types import is_list, is_number, plain
from raeflow.errors import RaeflowError
from raeflow.study import Data

__all__ = ["sniff", "sniff_target", "to_tensor"]

_FIRST = 5
"""Values of a column of bytes among which one must be an image for the column to be the row of a table's file."""
_IMAGES = 100
"""Images among which one must be whole where bad rows are skipped."""


def sniff(data: Data, footers: Sequence[Footer]) -> tuple[RowSpec, Reasons]:
    """The row that `data` means in these files, which are checked to agree on it, and why other columns are no part of it."""
    footers = [replace(footers[0], schema=_typed(footers)), *footers[1:]]
    schema, where = footers[0].schema, footers[0].piece.uri
    columns, left = (tuple(data.columns), []) if data.columns is not None else _candidates(data, footers)
    for name in columns:
        _field(schema, name, where)
    check_roles(data, columns)
    kinds = [schema.field(name).type for name in columns]
    if len(columns) > 1 or role_of(kinds[0]):
        spec = table_spec(data, columns, kinds, footers)
    elif is_image(plain(kinds[0])):
        spec = _image_spec(data, footers, columns[0])
    elif _leaf(plain(kinds[0])) is not None:
        spec = _list_spec(data, footers, columns[0])
    else:
        raise RaeflowError(
            f"{where}: column {columns[0]!r} holds {kinds[0]}, not numbers, words, times, lists of numbers or encoded images"
        )
    if not spec.held:
        refuse_table_words(data, spec)
    return spec, left


def sniff_target(spec: RowSpec, target: str, footer: Footer) -> RowSpec:
    """How the target column is read: like the row, whose type it must have."""
    where = footer.piece.uri
    kind = plain(_field(footer.schema, target, where).type)
    row = plain(footer.schema.field(spec.columns[0]).type)
    if len(spec.columns) > 1:
        raise RaeflowError(f"Data(target={target!r}): a target needs the row in one column; this row is {len(spec.columns)} columns")
    same = is_image(kind) if is_image(row) else _leaf(kind) is not None or is_number(kind)
    if not same or (_leaf(kind) is None) != (_leaf(row) is None):
        raise RaeflowError(f"{where}: target {target!r} holds {kind} while the row {spec.columns[0]!r} holds {row}")
    return RowSpec((target,), spec.kind, spec.shape, spec.dtype, spec.layout, spec.resize)


def is_image(kind: pa.DataType) -> bool:
    """Encoded images: bytes, or the struct of bytes and path of public data hubs."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and is_image(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _leaf(kind: pa.DataType) -> pa.DataType | None:
    """Numbers at the bottom of a list or tensor type; None for any other type."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not is_list(kind):
        return None
    while is_list(kind):
        kind = kind.value_type
    return kind if is_number(kind) else None


def _field(schema: pa.Schema, name: str, where: str) -> pa.Field:
    at = schema.get_all_field_indices(name)
    if len(at) == 1:
        return schema.field(at[0])
    have = ", ".join(repr(n) for n in schema.names[:20]) + (", ..." if len(schema.names) > 20 else "")
    raise RaeflowError(f"{where}: {'no' if not at else len(at)} column{'s'[: len(at)]} named {name!r}; columns are {have}")


def _typed(footers: Sequence[Footer]) -> pa.Schema:
    """The first file's schema; a column of it that has no values, and so no type, has that of a file where it has some."""
    schema = footers[0].schema
    for at, field in enumerate(schema):
        if pa.types.is_null(field.type):
            others = [f.schema.field(field.name) for f in footers if len(f.schema.get_all_field_indices(field.name)) == 1]
            schema = schema.set(at, next((other for other in others if not pa.types.is_null(other.type)), field))
    return schema


def _candidates(data: Data, footers: Sequence[Footer]) -> tuple[tuple[str, ...], Reasons]:
    """The only list, tensor or image column, else all columns that can tell something and are not spoken for."""
    schema, where = footers[0].schema, footers[0].piece.uri
    taken = {
        name: f"Data({field}={name!r})"
        for field in ("label", "target", "split", "time", "series")
        if (name := getattr(data, field)) is not None
    }
    for field in ("normal", "anomaly"):
        for name in filters.columns_of(filters.to_expression(getattr(data, field), field), schema.names):
            taken.setdefault(name, f"Data({field}=...) asks for it")
    left = [(f.name, taken[f.name]) for f in schema if f.name in taken]
    asked = data.roles_of
    out = [f.name for f in schema if asked.get(f.name) == "out" and f.name not in taken]
    left += [(name, "Data(roles=...) says so") for name in out]
    free = [f for f in schema if f.name not in taken and f.name not in out]
    whole = [f.name for f in free if is_image(f.type) or _leaf(f.type) is not None]
    others = any(role_of(f.type) for f in free)
    blind = [name for name in whole if others and _no_image(footers, schema.field(name))]
    left += [(name, "bytes that are no images") for name in blind]
    whole, free = [name for name in whole if name not in blind], [f for f in free if f.name not in blind]
    if len(whole) == 1:
        return (whole[0],), left + [(f.name, f"the row is the one column {whole[0]!r}") for f in free if f.name != whole[0]]
    if whole:
        raise RaeflowError(f"{where}: columns {', '.join(map(repr, whole))} could each be the row; choose with Data(columns=...)")
    for field in free:
        _field(schema, field.name, where)  # no two of a name
    telling = [f.name for f in free if is_number(plain(f.type)) and f.name.lower() in TELLING and f.name not in asked]
    if telling:
        raise RaeflowError(
            f"{where}: is column {telling[0]!r} part of the row? Name the row with Data(columns=...), or say "
            f"Data(label={telling[0]!r}) to leave it out"
        )
    seen, why = survey(footers, [f for f in free if f.name not in asked], data.label)
    chosen = tuple(f.name for f in free if f.name in seen or f.name in asked)
    left += why
    if not chosen:
        have = "; ".join(f"{name}: {reason}" for name, reason in left[:8]) or "there is no column"
        raise RaeflowError(f"{where}: no column of numbers, words, times, lists of numbers or encoded images can be the row ({have})")
    order = {name: i for i, name in enumerate(schema.names)}
    return chosen, sorted(left, key=lambda pair: order[pair[0]])


def _no_image(footers: Sequence[Footer], field: pa.Field) -> bool:
    """Whether a column of plain bytes holds something else than images: none of its first values is one."""
    if pa.types.is_struct(field.type) or not is_image(field.type):
        return False
    from raeflow.data.images import sniff as sniff_image

    footer = next((f for f in footers if f.metadata.num_rows and field.name in f.schema.names), None)
    for value in itertools.islice(cells(footer, field.name), _FIRST) if footer is not None else ():
        try:
            sniff_image(value, "")
        except (RaeflowError, TypeError):
            continue
        return False
    return True


def _image_spec(data: Data, footers: Sequence[Footer], name: str) -> RowSpec:
    footer = next((f for f in footers if f.metadata.num_rows), footers[0])
    shape, dtype = _first_image(footer, name, _IMAGES if data.bad_rows == "skip" else 1)
    if data.shape is not None:
        if len(data.shape) != 3 or data.shape[0] not in (1, 3, 4):
            raise RaeflowError(f"Data(shape={data.shape!r}): encoded images have a shape (C, H, W) with 1, 3 or 4 channels")
        shape = tuple(data.shape)
    return RowSpec((name,), "image", shape, dtype, resize=data.shape is not None)


def _first_image(footer: Footer, name: str, most: int) -> tuple[Shape, str]:
    """Shape and dtype of the first of up to `most` images that is one."""
    from raeflow.data.images import sniff as sniff_image

    refusal = RaeflowError(f"{footer.piece.uri}: there are no rows")
    for row, value in enumerate(itertools.islice(cells(footer, name), most)):
        where = f"{footer.piece.uri}, row group 0, row {row}, column {name!r}"
        encoded = value.get("bytes") if isinstance(value, dict) else value
        try:
            if encoded is not None:
                return sniff_image(encoded, where)
            raise RaeflowError(f"{where}: the value is null")
        except RaeflowError as error:
            refusal = refusal if row else error
    raise refusal


def _list_spec(data: Data, footers: Sequence[Footer], name: str) -> RowSpec:
    field = footers[0].schema.field(name)
    where = f"{footers[0].piece.uri}: column {name!r}"
    stored, layout = _stored(field, footers, name, data.bad_rows == "skip")
    told, word = _told(footers[0].schema, field, math.prod(stored))
    if told is not None and tensor_axes(field.type) is None:
        stored = told
    layout = data.layout or (None if named_axes(field.type) else word) or layout
    if data.shape is not None:
        shape = tuple(data.shape)
        if math.prod(shape) != math.prod(stored):
            raise RaeflowError(f"Data(shape={shape!r}): {math.prod(shape)} values, but {where} holds {math.prod(stored)} a row")
        if layout == "HWC" and len(shape) == 3 and shape[0] > 4 and shape[2] in (1, 3, 4):
            raise RaeflowError(f"Data(shape={shape!r}): a shape is (C, H, W) in either layout; is it {(shape[2], *shape[:2])!r}?")
        if layout is None and len(shape) == 3 and stored == (*shape[1:], shape[0]) and stored != shape:
            layout = "HWC"
    else:
        shape, layout = _model_shape(stored, layout, where)
    leaf = _leaf(field.type)
    return RowSpec((name,), "list", shape, "uint8" if pa.types.is_uint8(leaf) else "float32", layout or "CHW")


def _model_shape(stored: Shape, layout: str | None, where: str) -> tuple[Shape, str | None]:
    """(F,), (C, L) or (C, H, W) of values stored as `stored`."""
    if len(stored) == 2 and layout == "HW":
        return (1, *stored), "CHW"
    if len(stored) > 3:
        raise RaeflowError(f"{where} holds values of shape {stored}; say Data(shape=...) as (F,), (C, L) or (C, H, W)")
    if len(stored) == 3 and layout is None and stored[0] > 4 and stored[2] in (1, 3, 4):
        raise RaeflowError(f"{where} holds values of shape {stored}; say Data(layout='HWC') if channels come last, else 'CHW'")
    return (stored if layout != "HWC" or len(stored) == 1 else (stored[-1], *stored[:-1])), layout


def _told(schema: pa.Schema, field: pa.Field, size: int) -> tuple[Shape | None, str | None]:
    """`shape` and `layout` in the metadata of field or schema; a shape of another size is about another column."""
    for metadata in (field.metadata, schema.metadata):
        values = {k.decode(): v.decode(errors="replace") for k, v in (metadata or {}).items() if k in (b"shape", b"layout")}
        if "shape" not in values:
            continue
        try:
            shape = tuple(int(n) for n in values["shape"].strip(" []()").rstrip(",").replace("x", ",").split(","))
        except ValueError:
            continue
        if math.prod(shape) == size:
            word = values.get("layout", "").split()[:1]
            known = {"HWC": "HWC", "CHW": "CHW", "HW": "HW", "LC": "HWC", "TC": "HWC", "CL": "CHW", "CT": "CHW"}
            return shape, known.get(word[0].upper()) if word else None
    return None, None


def _stored(field: pa.Field, footers: Sequence[Footer], name: str, skip: bool) -> tuple[Shape, str | None]:
    """Sizes of a list column's values in the order of storage, or for tensors in that of the model."""
    axes = tensor_axes(field.type)
    if axes is not None:
        return tuple(field.type.shape[axis] for axis in axes), "CHW" if named_axes(field.type) else None
    kind, sizes = field.type, []
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    while pa.types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = kind.value_type
    if not is_list(kind):
        return tuple(sizes), None
    if is_list(kind.value_type) or sizes:
        return _nested(footers, name), None
    return (_counted(footers, name, skip),), None


def _nested(footers: Sequence[Footer], name: str) -> Shape:
    """Sizes of nested lists, from the first row there is."""
    footer = next((f for f in footers if f.metadata.num_rows), footers[0])
    value, sizes = first_row(footer, name), []
    while isinstance(value, list):
        sizes.append(len(value))
        value = value[0] if value else None
    if not sizes or 0 in sizes:
        raise RaeflowError(f"{footer.piece.uri}, row group 0, row 0, column {name!r}: no values to tell the shape of a row from")
    return tuple(sizes)


def _counted(footers: Sequence[Footer], name: str, skip: bool) -> int:
    """Length of the lists of a column: every row group's count of values is that many times its count of rows, but for rows to skip."""
    for footer in footers:
        metadata = footer.metadata
        paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        leaf = next(i for i, path in enumerate(paths) if path.startswith(f"{name}."))
        for group in range(metadata.num_row_groups):
            rows, values = metadata.row_group(group).num_rows, metadata.row_group(group).column(leaf).num_values
            if rows:
                if not values % rows:
                    return int(values // rows)
                usual = _usual_length(footer, group, name, skip)
                if usual:
                    return usual
    raise RaeflowError(f"{footers[0].piece.uri}: there are no rows")


def _usual_length(footer: Footer, group: int, name: str, skip: bool) -> int | None:
    """Length of most lists of a ragged row group, None where most are null; refused unless rows are to be skipped."""
    lengths = pc.list_value_length(read_groups(footer.piece, [group], [name])[name]).to_pylist()
    where, usual = f"{footer.piece.uri}, row group {group}, column {name!r}", Counter(lengths).most_common(1)[0][0]
    if skip:
        return None if usual is None else int(usual)
    at = next(i for i, length in enumerate(lengths) if length != usual)
    raise RaeflowError(f"{where}, row {at}: ragged lists: {lengths[at]} values here, {usual} in most rows")
