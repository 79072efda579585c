"""Bad rows told from sound ones: which rows of a table can be used, and what is wrong with the others.

`to_tensor` refuses a table for its first bad row and names all rows with the same kind of fault, so each
pass over a table takes one kind of fault out. A table without bad rows costs what `to_tensor` costs.
What is wrong with a file rather than with a row (a missing column, a wrong type) stays a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from raeflow.data.columns import Words
from raeflow.data.files import Piece, read_footer
from raeflow.data.rows import RowSpec, Skipped
from raeflow.data.tensors import to_tensor
from raeflow.errors import RaeflowError, RowError

MOST_BAD = 0.1
"""Share of bad rows above which the data, not the rows, are wrong."""
_KINDS = 32
"""Kinds of faults in one table, each of which costs a pass over it."""


@dataclass(frozen=True)
class Sifted:
    """Rows of a table that can be used, and why the others cannot."""

    rows: Tensor
    """(n, *stored) sound rows, as `to_tensor` gives them."""
    good: np.ndarray[Any, np.dtype[np.int64]] | None
    """(n,) their numbers in the table; None where all are sound."""
    problems: dict[int, str]
    """What is wrong with each other row, by its number in the table: "column 'x': value 17 is nan"."""


def sift(table: pa.Table, spec: RowSpec, where: str = "", words: Words | None = None) -> Sifted:
    """Sound and bad rows of a table; see `to_tensor` for `words`, which are those of the sound rows.

    Raises RaeflowError, placed by `where`, for what is wrong with the whole table, and where it has more
    than 32 kinds of faults.
    """
    part, index = table, np.arange(table.num_rows)
    problems: dict[int, str] = {}
    for _ in range(_KINDS):
        try:
            rows = to_tensor(part, spec, where, words=words)
        except RowError as error:
            if not error.faults:
                raise
            if not problems:  # the row's columns in one piece each: faults are found piece by piece
                part = part.select(list(dict.fromkeys(spec.columns))).combine_chunks()
            problems |= {int(index[row]): problem for row, problem in error.faults.items()}
            sound = np.ones(len(index), np.bool_)
            sound[list(error.faults)] = False
            part, index = part.filter(pa.array(sound)), index[sound]
        else:
            return Sifted(rows, index if problems else None, dict(sorted(problems.items())))
    row, problem = min(problems.items())
    raise RaeflowError(f"{where}, row {row}: {problem}, and {_KINDS} other kinds of faults in {len(problems)} of {table.num_rows} rows")


def sift_all(
    table: pa.Table, specs: Sequence[RowSpec], where: str = "", words: Words | None = None
) -> tuple[pa.Table, list[Tensor], dict[int, str]]:
    """The table without rows that are bad by any of `specs`, its rows by each of them, and the problems by number of row."""
    sifted = [sift(table, spec, where, words) for spec in specs]
    problems = {row: problem for part in reversed(sifted) for row, problem in part.problems.items()}
    if not problems:
        return table, [part.rows for part in sifted], {}
    sound = np.ones(table.num_rows, np.bool_)
    sound[list(problems)] = False
    table = table.filter(pa.array(sound))
    return table, [to_tensor(table, spec, where, words=words) for spec in specs], dict(sorted(problems.items()))


class Tally:
    """Counts the rows that are left out while the units of a data set are read."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.first = total, 0, ""

    def add(self, piece: Piece, groups: Sequence[int], problems: dict[int, str]) -> None:
        """Count the bad rows of some row groups, numbered from the first row of the first of them."""
        if problems and not self.first:
            row, problem = min(problems.items())
            groups = list(groups)
            metadata = read_footer(piece).metadata if len(groups) > 1 else None
            while metadata is not None and row >= metadata.row_group(groups[0]).num_rows:
                row -= metadata.row_group(groups.pop(0)).num_rows
            self.first = f"{piece.uri}, row group {groups[0]}, row {row}: {problem}"
        self.count += len(problems)

    def settle(self) -> Skipped | None:
        """What was left out, None where nothing was; refuses where that is more than `MOST_BAD` of all rows."""
        if self.count > MOST_BAD * self.total:
            share = f"{self.count:,} of {self.total:,} rows are bad, more than {MOST_BAD:.0%}"
            raise RaeflowError(f"{share}, which Data(bad_rows='skip') does not pass over: {self.first}")
        return Skipped(self.count, self.total, self.first) if self.count else None
