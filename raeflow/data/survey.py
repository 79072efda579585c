"""Which columns of a table can tell something, from types, names and a look at some rows; and why the others stay out.

Nothing is left out in silence: every column that is not chosen comes back with a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raeflow.data.columns import is_text, role_of
from raeflow.data.files import ARROW_ERRORS, Footer, reason
from raeflow.data.types import plain
from raeflow.errors import RaeflowError

ROWS, PLACES = 16_384, 16
"""Rows that are looked at, and how many places of the files they come from."""
_WHOLE, _SLICES = 1 << 17, 4
"""Rows of a row group up to which all of it is read and slices from all over it are looked at; of a larger one the first rows."""
_FEWEST = 50
"""Rows below which nothing is concluded from values that differ."""
_DIFFERENT = 0.5
"""Share of different words from which a column of words is an id or free text."""
_UNIQUE = 0.95
"""Share of different whole numbers above which a column whose name says id is one."""
_GIVEN_AWAY = 0.999
"""Share of rows whose label a column's value tells, from which the column gives the label away."""
TELLING = {
    "label", "labels", "class", "target", "anomaly", "is_anomaly", "outlier", "is_outlier", "split", "anomaly_score",
}  # fmt: skip
"""Names of columns that no model should be shown by accident."""
_BESIDE_LABELS = {
    "attack", "attack_cat", "attack_type", "category_label", "changepoint", "difficulty", "fault", "fault_type", "is_fraud", "is_normal",
    "score", "severity", "subclass", "target_class", "threshold",
}  # fmt: skip
"""Names of columns that, in a table with labels, say something of the label rather than of the row."""

Reasons = list[tuple[str, str]]


def look(footers: Sequence[Footer], names: Sequence[str]) -> list[pa.Table]:
    """Some rows of these columns, from places all over the files, in order; a table for each place."""
    groups = [(f, g) for f in footers for g in range(f.metadata.num_row_groups) if f.metadata.row_group(g).num_rows]
    chosen = [groups[int(i)] for i in np.unique(np.linspace(0, len(groups) - 1, min(PLACES, len(groups))).astype(int))] if groups else []
    each = math.ceil(ROWS / max(1, len(chosen)))
    return [_first(footer, group, names, each) for footer, group in chosen]


def _first(footer: Footer, group: int, names: Sequence[str], rows: int) -> pa.Table:
    piece = footer.piece
    held = [name for name in names if name in footer.schema.names]
    words = [name for name in held if is_text(footer.schema.field(name).type)]
    try:
        with piece.filesystem.open_input_file(piece.path) as file, pq.ParquetFile(file, read_dictionary=words) as parquet:
            if footer.metadata.row_group(group).num_rows > _WHOLE:
                return pa.Table.from_batches([next(parquet.iter_batches(batch_size=rows, row_groups=[group], columns=held))])
            table = parquet.read_row_group(group, columns=held)
            each = math.ceil(rows / _SLICES)
            starts = [(len(table) - each) * i // (_SLICES - 1) for i in range(_SLICES)] if len(table) > rows else [0]
            return pa.concat_tables([table.slice(start, each) for start in starts]) if len(starts) > 1 else table
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}, row group {group}: cannot be read ({reason(error)})") from error


def survey(footers: Sequence[Footer], fields: Sequence[pa.Field], label: str | None) -> tuple[list[str], Reasons]:
    """Names of the columns that make a row, and why each of the others does not."""
    left: Reasons = []
    free = []
    for field in fields:
        why = _by_type(field)
        if why:
            left.append((field.name, why))
        else:
            free.append(field)
    # Of other columns names and types say all: nothing is concluded from their values.
    asked = [field.name for field in free if _words(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)]
    parts = look(footers, [*asked, *([label] if label and asked else [])]) if asked else []
    chosen = []
    for field in free:
        columns = [part[field.name] for part in parts if _alike(part, field)]
        why = _by_name(field, label) or _by_values(field, columns) or (_leak(field, parts, label) if label else "")
        if why:
            left.append((field.name, why))
        else:
            chosen.append(field.name)
    return chosen, left


def _alike(part: pa.Table, field: pa.Field) -> bool:
    """Whether rows of a file have the column as the first file has it; if not, it is refused when all files are compared."""
    return part.column_names.count(field.name) == 1 and role_of(part[field.name].type) == role_of(field.type)


def _tells(part: pa.Table, label: str) -> bool:
    """Whether rows of a file have a label that is one."""
    return part.column_names.count(label) == 1 and role_of(part[label].type) in ("number", "flag", "category")


def _by_type(field: pa.Field) -> str:
    if field.name.startswith("__index_level_"):
        return "the index of a data frame"
    if pa.types.is_null(field.type):
        return "it has no values"
    return "" if role_of(field.type) else f"{field.type} is no column of a table"


def _by_name(field: pa.Field, label: str | None) -> str:
    name = field.name.lower()
    if name in TELLING and _words(field.type):
        return f"it is named like a label: say Data(label={field.name!r}) if it is one"
    return "its name says that it tells of the label" if label and name in _BESIDE_LABELS else ""


def _words(kind: pa.DataType) -> bool:
    return is_text(plain(kind))


def _by_values(field: pa.Field, columns: Sequence[pa.ChunkedArray]) -> str:
    """Ids, free text and counters of rows."""
    rows = sum(len(c) - c.null_count for c in columns)
    if rows < _FEWEST:
        return ""
    if _words(field.type):
        plain = [c.cast(pa.string()) for c in columns]
        different = pc.count_distinct(pa.chunked_array([chunk for c in plain for chunk in c.chunks], pa.string())).as_py()
        if different > _DIFFERENT * rows:
            spaces = sum(pc.sum(pc.match_substring(c, " ")).as_py() or 0 for c in plain)
            kind = "free text" if spaces > 0.5 * rows else "an id"
            return f"{kind}: {different:,} different values in {rows:,} rows"
    if pa.types.is_integer(field.type) and all(pa.types.is_integer(c.type) and c.null_count == 0 for c in columns):
        values = np.concatenate([np.asarray(c.to_numpy()) for c in columns])
        steps = values[1:] > values[:-1]
        if bool(steps.all()) and bool((values[1:] - values[:-1] == 1).mean() > 0.5):
            return f"a counter of rows: all of {rows:,} values differ"
        different = len(np.unique(values)) if _id_name(field.name) else 0
        if different > _UNIQUE * rows:
            return f"an id: {different:,} different values in {rows:,} rows"
    return ""


def _id_name(name: str) -> bool:
    parts = name.lower().replace("-", "_").split("_")
    return parts[-1] in ("id", "uuid", "guid", "key", "index", "idx", "no", "nr", "number", "rowid") or parts[0] in ("id", "uuid", "index")


def _leak(field: pa.Field, parts: Sequence[pa.Table], label: str) -> str:
    """Whether each of a column's values goes with one label alone: then it is the label in other words."""
    pairs = [part.select([field.name, label]) for part in parts if _alike(part, field) and _tells(part, label)]
    if not pairs or not (_words(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)):
        return ""
    both = pa.concat_tables([pa.table({"v": p[field.name].cast(pa.string()), "l": p[label].cast(pa.string())}) for p in pairs]).drop_null()
    counted = both.group_by(["v", "l"]).aggregate([([], "count_all")])
    best = counted.group_by("v").aggregate([("count_all", "max"), ("count_all", "sum")])
    labels = both.group_by("l").aggregate([([], "count_all")])
    if len(both) < _FEWEST or len(labels) < 2 or len(best) > len(both) // 4:
        return ""
    told = pc.sum(best["count_all_max"]).as_py() / len(both)
    guessed = pc.max(labels["count_all"]).as_py() / len(both)
    # Among few anomalies a column that tells nothing is right nearly always, too.
    if told >= _GIVEN_AWAY and (1 - told) < 0.02 * (1 - guessed):
        return f"it gives the label away: {told:.1%} of {len(both):,} labels follow from it"
    return ""
