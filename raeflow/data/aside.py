"""Rows that cleaning set aside, to be looked at: one Parquet file with all that the user's own files have of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raeflow.data.cleaning import SetAside
from raeflow.data.files import ARROW_ERRORS, read_footer, read_groups, reason
from raeflow.data.reading import Unit
from raeflow.data.types import plain
from raeflow.data.writing import whole
from raeflow.errors import RaeflowError
from raeflow.study import SPLITS

NAME = "set_aside.parquet"
OWN = ("set_aside_from", "file", "row", "strangeness", "forest_vote", "neighbour_vote")
"""Columns beside the file's own: split, file and row of it, mean rank among train rows, and the two votes (`voters.Votes`)."""
_ROWS = 4096


def write(aside: SetAside, path: Path) -> Path:
    """Write the rows as their files have them, all columns, the strangest first; whole or not at all.

    Where a file has a column of the name of one of `OWN`, ours gets a `_`. Raises RaeflowError where a file cannot be read any
    more, or the folder cannot be written.
    """
    try:
        table = rows(aside)
        with whole(path) as part:
            pq.write_table(table, part, compression="zstd", row_group_size=_ROWS)
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{path}: the rows that were set aside cannot be written there ({reason(error)})") from error
    return path


def rows(aside: SetAside) -> pa.Table:
    """The rows (n) of all splits, the strangest first, with the columns of their files and those of `OWN`."""
    tables, order = [], []
    for at in np.unique(aside.places[:, 0]):
        here = np.flatnonzero(aside.places[:, 0] == at)
        order.append(here)
        tables.append(_of_unit(aside.units[int(at)], aside.places[here, 1]))
    index = np.concatenate(order) if order else np.empty(0, np.int64)
    table = pa.concat_tables(_alike(tables), promote_options="permissive") if tables else pa.table({})
    first = np.asarray([unit.first for unit in aside.units])[aside.places[index, 0]]
    own = {
        "set_aside_from": pa.array(np.asarray(SPLITS)[aside.split[index]]),
        "file": pa.array([aside.units[int(at)].piece.uri for at in aside.places[index, 0]], pa.string()),
        "row": pa.array(first + aside.places[index, 1], pa.int64()),
        "strangeness": pa.array(aside.votes.strangeness[index]),
        "forest_vote": pa.array(aside.votes.forest[index]),
        "neighbour_vote": pa.array(aside.votes.neighbours[index]),
    }
    taken = set(table.column_names)
    for name, values in own.items():
        while name in taken:
            name += "_"
        table = table.append_column(name, values)
    return table.take(np.lexsort((aside.votes.forest[index], aside.votes.strangeness[index]))[::-1].copy())


def _of_unit(unit: Unit, numbers: np.ndarray) -> pa.Table:
    names = read_footer(unit.piece).schema.names
    return read_groups(unit.piece, unit.groups, names).take(numbers)


def _alike(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Tables whose columns of one name can be put together: text in one layout, and as text what files have in different types."""
    plains = [t.cast(pa.schema([f.with_type(plain(f.type)) for f in t.schema])) for t in tables]
    try:
        pa.unify_schemas([t.schema for t in plains], promote_options="permissive")
    except pa.ArrowException:
        kinds: dict[str, set[str]] = {}
        for t in plains:
            for f in t.schema:
                kinds.setdefault(f.name, set()).add(str(f.type))
        plains = [t.cast(pa.schema([f.with_type(pa.string()) if len(kinds[f.name]) > 1 else f for f in t.schema])) for t in plains]
    return plains
