"""From `Data` to a plan: files opened, columns checked, splits decided; no row read but those of a split column."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa

from raeflow.data import filters, splits
from raeflow.data.columns import kindred, role_of
from raeflow.data.files import Footer, expand, read_footers, read_groups
from raeflow.data.reading import Reader, Unit
from raeflow.data.rows import RowSpec
from raeflow.data.schema import sniff, sniff_target
from raeflow.data.types import plain
from raeflow.errors import RaeflowError
from raeflow.study import SPLITS, Data, to_json

_UNIT = 2 << 20
"""Values that row groups are gathered to: small groups cost more to open than to read, and decoding a value
takes up to 10 bytes for a while, whatever its type."""
_ITEM = {"uint8": 1, "float32": 4}


@dataclass(frozen=True)
class Plan:
    """Everything that is known before rows are read."""

    data: Data
    reader: Reader
    units: tuple[Unit, ...]
    decided: tuple[int, ...]
    """Splits that some row may belong to."""
    row_bytes: int
    """Memory of one row, its target included."""
    fingerprint: str
    left_out: tuple[tuple[str, str], ...] = ()
    """Columns that are no part of the row, and why."""

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(unit.rows for unit in self.units)


def make_plan(data: Data) -> Plan:
    """Open every file that `data`, resolved, names; refuse all that can be refused without reading rows."""
    roles = _roles(data)
    footers = [footer for _, listed in roles for footer in listed]
    spec, left = sniff(data, footers)
    if data.time is not None and len(spec.stored) != 1:
        raise RaeflowError(f"Data(time={data.time!r}): a reading is columns or one list of numbers, not values of shape {spec.stored}")
    target = sniff_target(spec, data.target, footers[0]) if data.target is not None else None
    reader = _reader(data, spec, target, roles)
    size = math.prod(spec.stored) * (2 if target else 1)
    held = size if data.time is None else 2 * size  # readings are held whole, so less is decoded beside them at a time
    units = tuple(unit for given, listed in roles for footer in listed for unit in _units(footer, given, data.label, held))
    given = {unit.given for unit in units if unit.given is not None}
    if reader.split is not None:
        given |= _spoken(reader.split, units)
    codes, ends = splits.shares(data.fractions, sorted(given))
    reader = replace(reader, codes=codes, ends=ends)
    decided = tuple(sorted(given | {code for code in codes if data.fractions[code] > 0}))
    return Plan(data, reader, units, decided, size * _ITEM[spec.dtype], _fingerprint(data, spec, roles), tuple(left))


def _roles(data: Data) -> list[tuple[int | None, list[Footer]]]:
    """Files of `Data.source` (None) and of the splits that have files of their own."""
    named = [(None, data.source)] + [(code, getattr(data, SPLITS[code])) for code in (splits.VALIDATE, splits.CALIBRATE, splits.TEST)]
    pieces = [(code, expand(cast(Sequence[str], sources))) for code, sources in named if sources is not None]
    seen: dict[str, int | None] = {}
    for code, listed in pieces:
        for piece in listed:
            if piece.uri in seen:
                names = ["source" if c is None else SPLITS[c] for c in (seen[piece.uri], code)]
                raise RaeflowError(f"{piece.uri}: named both in Data({names[0]}=...) and in Data({names[1]}=...)")
            seen[piece.uri] = code
    footers = read_footers([piece for _, listed in pieces for piece in listed])
    at, roles = 0, []
    for code, listed in pieces:
        roles.append((code, footers[at : at + len(listed)]))
        at += len(listed)
    return roles


def _reader(data: Data, spec: RowSpec, target: RowSpec | None, roles: list[tuple[int | None, list[Footer]]]) -> Reader:
    normal, anomaly = (filters.to_expression(getattr(data, name), name) for name in ("normal", "anomaly"))
    footers = [footer for _, listed in roles for footer in listed]
    names = list(dict.fromkeys(name for footer in footers for name in footer.schema.names))
    extra = tuple(dict.fromkeys([*filters.columns_of(normal, names), *filters.columns_of(anomaly, names)]))
    split = None if data.split in (None, "hash") else data.split
    clock = [name for name in (data.time, data.series) if name is not None]
    wanted = [*spec.columns, *(target.columns if target else ()), *extra, *clock]
    for given, listed in roles:
        for footer in listed:
            _agree(footer, footers[0], [*wanted, *([split] if split and given is None else [])], spec)
    text = data.label is not None and _label_is_text(data, footers)
    return Reader(spec, target, data.label, text, normal, anomaly, split, extra=extra, skip=data.bad_rows == "skip")


def _agree(footer: Footer, first: Footer, names: Sequence[str], spec: RowSpec) -> None:
    """Refuse a file that lacks a column, or has it in another type than the first file."""
    for name in names:
        found = footer.schema.get_all_field_indices(name)
        if len(found) != 1:
            have = ", ".join(map(repr, footer.schema.names[:20]))
            more = f" (it is in {first.piece.uri})" if name in first.schema.names and first is not footer and not found else ""
            raise RaeflowError(
                f"{footer.piece.uri}: {len(found) or 'no'} column{'s'[: len(found)]} named {name!r}{more}; columns are {have}"
            )
        mine = footer.schema.field(found[0]).type
        theirs = first.schema.field(name).type if name in first.schema.names else mine
        empty = bool(spec.held) and (pa.types.is_null(mine) or pa.types.is_null(theirs))
        alike = empty or (spec.kind == "mixed" and role_of(mine) == role_of(theirs) and _kindred(mine, theirs))
        if name in spec.columns and mine != theirs and not alike:
            other = f"{theirs} in {first.piece.uri}"
            raise RaeflowError(f"{footer.piece.uri}: column {name!r} holds {mine}, but {other}; files of one set share a schema")


def _kindred(one: pa.DataType, other: pa.DataType) -> bool:
    names = str(plain(one)), str(plain(other))
    return kindred(*names) and kindred(*reversed(names))


def _label_is_text(data: Data, footers: Sequence[Footer]) -> bool:
    """Whether the label is text. Files may lack it, as unlabelled training files do, but not all of them."""
    kinds = [(f, f.schema.field(data.label).type) for f in footers if data.label in f.schema.names]
    if not kinds:
        have = ", ".join(map(repr, footers[0].schema.names[:20]))
        raise RaeflowError(f"{footers[0].piece.uri}: no column named {data.label!r} for the label; columns are {have}")
    texts = []
    for footer, kind in kinds:
        kind = plain(kind)
        texts.append(bool(pa.types.is_string(kind) or pa.types.is_large_string(kind)))
        if not texts[-1] and not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)):
            raise RaeflowError(f"{footer.piece.uri}: label column {data.label!r} holds {kind}, not whole numbers, true/false or text")
        if texts[-1] != texts[0]:
            other = f"{kinds[0][1]} in {kinds[0][0].piece.uri}"
            raise RaeflowError(f"{footer.piece.uri}: label column {data.label!r} holds {kind}, but {other}")
    return texts[0]


def _units(footer: Footer, given: int | None, label: str | None, size: int) -> list[Unit]:
    """Consecutive row groups, gathered to a handy size."""
    units: list[Unit] = []
    groups: list[int] = []
    rows = first = 0
    count = footer.metadata.num_row_groups
    for group in range(count):
        groups.append(group)
        rows += footer.metadata.row_group(group).num_rows
        if rows * size >= _UNIT or group == count - 1:
            if rows:
                units.append(Unit(footer.piece, tuple(groups), first, rows, given, label in footer.schema.names))
            first, rows, groups = first + rows, 0, []
    return units


def _spoken(column: str, units: Sequence[Unit]) -> set[int]:
    """Splits that a split column names; the column is read by itself, since the hash must know what is missing."""
    found: set[int] = set()
    for unit in units:
        if unit.given is None:
            for group in unit.groups:
                table = read_groups(unit.piece, [group], [column])
                found |= set(splits.spoken(table[column], column, f"{unit.piece.uri}, row group {group}").tolist())
    if splits.TRAIN not in found:
        names = ", ".join(SPLITS[code] for code in sorted(found)) or "nothing"
        raise RaeflowError(f"Data(split={column!r}): the column names {names} but no row of train")
    return found - {splits.TRAIN}


def _fingerprint(data: Data, spec: RowSpec, roles: list[tuple[int | None, list[Footer]]]) -> str:
    """SHA-256 over what is read, whatever the paths and the order of files."""
    kept = ("label", "target", "normal", "anomaly", "split", "fractions")
    said = {name: to_json(getattr(data, name)) for name in kept}
    # What is younger than studies that are kept counts only where it is used, so that theirs stay valid.
    if data.roles is not None or data.min_frequency != Data.min_frequency:
        said |= {"roles": to_json(data.roles), "min_frequency": data.min_frequency}
    if data.bad_rows != Data.bad_rows:
        said["bad_rows"] = data.bad_rows
    if data.contamination is not None:
        said["contamination"] = data.contamination
    if data.time is not None:
        said |= {name: getattr(data, name) for name in ("time", "series", "window", "stride", "max_gap", "scale_by", "split_by")}
    said_of = spec if spec.fields else replace(spec, held=())
    what = {"files": [[code, sorted(f.digest for f in listed)] for code, listed in roles], "spec": said_of.to_json(), **said}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
