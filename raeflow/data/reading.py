"""What to read and how: units of row groups, and the reader that turns one unit into tensors and masks.

A `Reader` is small and picklable: it holds paths, types and rules, never rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from raeflow.data import filters, splits
from raeflow.data.columns import Words
from raeflow.data.columns import named as named_levels
from raeflow.data.faults import sift_all
from raeflow.data.files import Piece, named, read_groups
from raeflow.data.rows import Raw, RowSpec
from raeflow.data.tensors import to_tensor
from raeflow.data.types import refuse_nulls
from raeflow.errors import RaeflowError

T = TypeVar("T")
R = TypeVar("R")
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Unit:
    """Row groups of one file that are read at once."""

    piece: Piece
    groups: tuple[int, ...]
    first: int
    """Row of the file at which they begin."""
    rows: int
    given: int | None
    """Split that the file was named for; None for `Data.source`, whose rows are divided."""
    has_label: bool = True


@dataclass(frozen=True)
class Part:
    """Rows of one unit with everything known of them."""

    x: Tensor
    """(n, *stored) as the file has it."""
    split: np.ndarray[Any, np.dtype[np.uint8]]
    """(n,) as `splits.TRAIN` and so on."""
    target: Tensor | None = None
    label: Tensor | None = None
    """(n,) int64; for text, places in `words` until all files are read."""
    words: tuple[str, ...] | None = None
    normal: Bools | None = None
    truth: Bools | None = None
    keys: splits.Keys | None = None
    """(n,) hashes of the rows, where they are needed."""
    levels: Words = field(default_factory=dict)
    """Words of the categories by stored place, while levels are learnt: `x` has places among them."""
    problems: dict[int, str] = field(default_factory=dict)
    """What is wrong with each row that was left out, by its number in the unit."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def numbers(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(n,) number of each row in its unit."""
        return np.delete(np.arange(len(self.x) + len(self.problems)), list(self.problems))

    def train(self) -> Raw:
        """Normal rows of the train split; without a copy where that is all of them."""
        here = self.split == splits.TRAIN if self.normal is None else (self.split == splits.TRAIN) & self.normal
        if here.all():
            return Raw(self.x, self.target, self.label)
        index = np.flatnonzero(here)
        label = None if self.label is None else self.label[torch.from_numpy(index)]
        return Raw(take_rows(self.x, index), None if self.target is None else take_rows(self.target, index), label)


@dataclass(frozen=True)
class Reader:
    """Reads units by one rule."""

    spec: RowSpec
    target: RowSpec | None = None
    label: str | None = None
    text_label: bool = False
    normal: Any = None
    """pyarrow expression or None."""
    anomaly: Any = None
    split: str | None = None
    """Split column; None: the hash divides the rows of `Data.source`."""
    codes: tuple[int, ...] = (splits.TRAIN,)
    """Splits that the hash decides, and where each ends in [0, 1)."""
    ends: tuple[float, ...] = (1.0,)
    extra: tuple[str, ...] = ()
    """Columns that only the filters need."""
    classes: tuple[str, ...] | None = field(default=None)
    """All words of a text label in order, once they are known."""
    skip: bool = False
    """Leave bad rows out; else the first is refused."""

    def columns(self, unit: Unit) -> list[str]:
        """What is read of a unit's file, and nothing else."""
        wanted = [*self.spec.columns, *(self.target.columns if self.target else ()), *self.extra]
        wanted += [self.label] if self.label and unit.has_label else []
        wanted += [self.split] if self.split and unit.given is None else []
        return list(dict.fromkeys(wanted))

    def read(self, unit: Unit, keys: bool = False, threads: bool = False) -> Part:
        """Rows of a unit; a fault is told with its file, row group and row within the group."""
        try:
            table = read_groups(unit.piece, unit.groups, self.columns(unit), threads, self._words)
            return self.part(table, unit, f"{unit.piece.uri}, {named(unit.groups)}", keys)
        except RaeflowError:
            if len(unit.groups) == 1:
                raise
        for group in unit.groups:  # find the very row group
            one = replace(unit, groups=(group,))
            table = read_groups(unit.piece, one.groups, self.columns(unit), words=self._words)
            self.part(table, one, f"{unit.piece.uri}, {named(one.groups)}", keys)
        raise AssertionError("a fault in several row groups is in one of them")

    def part(self, table: pa.Table, unit: Unit, where: str, keys: bool = False) -> Part:
        """Rows of a table that has been read; without its bad rows where they are to be skipped."""
        specs = [self.spec] if self.target is None else [self.spec, self.target]
        problems: dict[int, str] = {}
        levels: Words = {}
        if self.skip:
            table, tensors, problems = sift_all(table, specs, where, levels)
            where += f" without its {len(problems)} bad rows" if problems else ""
        else:
            tensors = [to_tensor(table, spec, where, words=levels) for spec in specs]
        x, target = tensors[0], None if self.target is None else tensors[1]
        normal = None if self.normal is None else filters.mask(table, self.normal, "normal", where)
        label, words = self._label(table, unit, where)
        divided = unit.given is None and len(self.codes) > 1
        hashes = self._keys(x, levels) if keys or divided else None
        split = np.full(len(x), splits.TRAIN if unit.given is None else unit.given, np.uint8)
        if unit.given is None and self.split is not None:
            split = splits.spoken(table[self.split], self.split, where)
        if divided and hashes is not None:
            here = split == splits.TRAIN
            split = np.where(here, splits.assign(hashes, self.codes, self.ends), split).astype(np.uint8)
        for place, levels_known in self._known.items():
            x.numpy()[:, place] = named_levels(x.numpy()[:, place], levels.pop(place, []), levels_known)
        truth = self._truth(table, normal, label, where)
        return Part(x, split, target, label, words, normal, truth, hashes if keys else None, levels, problems)

    @property
    def _words(self) -> list[str]:
        """Columns of text of which each word is looked at once; filters and labels are asked of plain text."""
        asked = (*self.extra, self.label, self.split)
        return [f.name for f in self.spec.fields if f.role == "category" and f.name not in asked]

    @property
    def _known(self) -> dict[int, tuple[str, ...]]:
        """Levels of the categories whose levels are known, by stored place."""
        return {place: f.levels for f, place in self.spec.placed if f.levels is not None}

    def _keys(self, x: Tensor, levels: Words) -> splits.Keys:
        return splits.table_keys(x, self.spec, levels) if self.spec.fields else splits.row_keys(x)

    def _label(self, table: pa.Table, unit: Unit, where: str) -> tuple[Tensor | None, tuple[str, ...] | None]:
        if self.label is None or not unit.has_label:
            return None, None
        column = table[self.label]
        refuse_nulls(column, self.label, f"{where}, label ", 0)
        if not self.text_label:
            return torch.from_numpy(_whole_numbers(column, self.label, where)), None
        words, places = splits.worded(column)
        if self.classes is None:
            return torch.from_numpy(places), tuple(words)
        return torch.from_numpy(recode(words, self.classes)[places]), self.classes

    def _truth(self, table: pa.Table, normal: Bools | None, label: Tensor | None, where: str) -> Bools | None:
        if self.anomaly is not None:
            return filters.mask(table, self.anomaly, "anomaly", where)
        if normal is not None:
            return ~normal
        return None if label is None else (label != 0).numpy()


def take_rows(rows: Tensor, index: np.ndarray[Any, np.dtype[np.int64]], out: Tensor | None = None) -> Tensor:
    """Some rows, in `out` if given; by numpy, since torch would start threads of its own in every thread that reads."""
    taken = np.take(rows.numpy(), index, 0, out=None if out is None else out.numpy(), mode="clip")
    return torch.from_numpy(taken) if out is None else out


def recode(words: Sequence[str], classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Place of each word among the sorted classes."""
    return np.searchsorted(np.asarray(classes, dtype=object), np.asarray(words, dtype=object)).astype(np.int64)


def _whole_numbers(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    try:
        values = pc.cast(column, pa.int64())
    except pa.ArrowException as error:
        raise RaeflowError(f"{where}, label column {name!r}: not whole numbers ({str(error).splitlines()[0]})") from error
    return np.array(values.to_numpy(), np.int64)


def prefetch(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """`map(function, items)` by threads, in order, with at most `ahead` results waiting."""
    if threads < 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
