"""Rows as they are read, sorted into the splits they belong to, and at last one tensor for each split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raeflow.data import splits
from raeflow.data.plan import Plan
from raeflow.data.reading import Bools, Part, recode, take_rows
from raeflow.data.rows import Rows, RowSpec
from raeflow.errors import EmptySplit, RaeflowError
from raeflow.study import SPLITS

_ODD = 4
"""Bin of the validation rows that are not normal."""
_LAST = np.uint64(2**64 - 1)
Places = np.ndarray[Any, np.dtype[np.int64]]
_NOWHERE: Places = np.empty((0, 2), np.int64)


class Bins:
    """Rows of each split; with a `limit`, at most that many rows of each held-out split are kept.

    What is kept under a limit are the rows whose (second) hash is below 2^-k, for the smallest k that fits:
    a choice that the order of files does not change.
    """

    def __init__(self, plan: Plan, limit: int | None = None, keep_train: bool = True) -> None:
        self.plan, self.limit = plan, limit
        self.codes = [code for code in plan.decided if keep_train or code != splits.TRAIN]
        self.buffers = {code: Buffer(plan, _expected(plan, code, limit)) for code in self.codes}
        if splits.VALIDATE in self.codes:
            self.buffers[_ODD] = Buffer(plan, 0)
        self.level = dict.fromkeys(self.codes, 0)
        self.words: set[str] = set()
        self.labels = (0, 0)

    def add(self, part: Part, unit: int | None = None) -> None:
        """Copy the rows of a part into their splits; where its `unit` is named, by its place in the plan, places are kept too."""
        self.words.update(part.words or ())
        if part.label is not None and len(part.label):
            values = part.label.numpy()
            self.labels = min(self.labels[0], int(values.min())), max(self.labels[1], int(values.max()))
        for code in self.codes:
            here = part.split == code
            if code == splits.TEST or part.normal is None:
                self._put(code, code, part, here, unit)
            else:
                self._put(code, code, part, here & part.normal, unit)
                if code == splits.VALIDATE:
                    self._put(_ODD, code, part, here & ~part.normal, unit)
            if self.limit is not None:
                self._thin(code, self.limit)

    def _put(self, name: int, code: int, part: Part, chosen: Bools, unit: int | None) -> None:
        if part.keys is not None and self.level[code]:
            chosen = chosen & self._kept(part.keys, code)
        if chosen.any():
            self.buffers[name].append(part, np.flatnonzero(chosen), unit)

    def _kept(self, keys: splits.Keys, code: int) -> Bools:
        return splits.thinning(keys) <= _LAST >> np.uint64(self.level[code])

    def _thin(self, code: int, limit: int) -> None:
        buffers = [self.buffers[code], *([self.buffers[_ODD]] if code == splits.VALIDATE else [])]
        while sum(b.count for b in buffers) > limit and self.level[code] < 63:
            self.level[code] += 1
            for buffer in buffers:
                buffer.keep(lambda keys: self._kept(keys, code))

    def rows(self, code: int) -> Rows | None:
        """Rows of a split, None where none is meant to have any; they leave the bins."""
        if code not in self.codes:
            return None
        return self.buffers.pop(code).rows(self.classes, truth=code == splits.TEST and self.telling)

    def places(self, code: int) -> Places:
        """Where a split's rows came from, (n, 2): the unit's place in the plan and the row's number in it; to be asked before `rows`."""
        held = self.buffers[code].places if code in self.codes else []
        return np.concatenate([_NOWHERE, *held])

    def validation(self) -> tuple[Rows, Rows | None]:
        """Normal validation rows, and all of them where their truth is known; the first are a slice of the second."""
        normal, odd = self.buffers.pop(splits.VALIDATE), self.buffers.pop(_ODD)
        count = normal.count
        normal.extend(odd)
        every = normal.rows(self.classes, truth=self.telling)
        return every.take(slice(0, count)), every if every.anomaly is not None else None

    @property
    def telling(self) -> bool:
        """Whether it is known which rows are anomalies; which of several classes are is the user's to say."""
        reader = self.plan.reader
        flags = not reader.text_label and self.labels in ((0, 0), (0, 1))
        return reader.anomaly is not None or reader.normal is not None or flags

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Words of a text label, sorted: a row's label is its word's place among them."""
        return tuple(sorted(self.words)) if self.plan.reader.text_label else None

    def refuse_empty(self, train: int | None = None) -> None:
        """Refuse a split that has no row (`train` says how many train has where it is not kept), saying what should have put rows there."""
        counts = {code: self.buffers[code].count for code in self.codes}
        if train is not None:
            counts[splits.TRAIN] = train
        code = next((code for code in sorted(counts) if not counts[code]), None)
        if code is None:
            return
        plan, reader = self.plan, self.plan.reader
        why = f"{plan.rows} rows in all"
        if code in reader.codes and len(reader.codes) > 1:
            keys = [splits.stored_keys(b.x[: b.count], reader.spec) for b in self.buffers.values() if b.count]
            different = len(np.unique(np.concatenate(keys))) if keys else 0
            why += f", {different} of them different" if train is None else ""
            why += f", divided by Data(fractions={plan.data.fractions!r}), which keeps equal rows together"
        if reader.normal is not None and code != splits.TEST:
            why += f", of which Data(normal={reader.normal}) keeps the normal ones"
        raise EmptySplit(f"{plan.units[0].piece.uri}: no row is left for the {SPLITS[code]} split ({why})")


def _expected(plan: Plan, code: int, limit: int | None) -> int:
    """Rows that a split is likely to have at most, to reserve; memory that is not written to costs nothing."""
    given = sum(unit.rows for unit in plan.units if unit.given == code)
    divided = sum(unit.rows for unit in plan.units if unit.given is None)
    reader = plan.reader
    if code in reader.codes:
        ends = (0.0, *reader.ends)
        at = reader.codes.index(code)
        share = ends[at + 1] - ends[at]
        given += min(divided, int(divided * share + 6 * math.sqrt(divided * share) + 16))  # six standard deviations
    elif reader.split is not None:
        given += divided
    return given if limit is None else min(given, limit)


class Buffer:
    """Rows of one split as they come, in one tensor that grows where more come than were expected."""

    def __init__(self, plan: Plan, capacity: int) -> None:
        spec = plan.reader.spec
        self.x = torch.empty((capacity, *spec.stored), dtype=torch.uint8 if spec.dtype == "uint8" else torch.float32)
        self.target = torch.empty_like(self.x) if plan.reader.target else None
        self.count = 0
        self.labels: list[tuple[Tensor | None, tuple[str, ...] | None]] = []
        self.truths: list[Bools | None] = []
        self.keys: list[splits.Keys] = []
        self.places: list[Places] = []

    def append(self, part: Part, index: np.ndarray[Any, np.dtype[np.int64]], unit: int | None = None) -> None:
        """Copy some rows of a part, once, to where they stay."""
        self._reserve(len(index))
        place = slice(self.count, self.count + len(index))
        take_rows(part.x, index, self.x[place])
        if self.target is not None and part.target is not None:
            take_rows(part.target, index, self.target[place])
        self.count += len(index)
        self.labels.append((None if part.label is None else part.label[torch.from_numpy(index)], part.words))
        self.truths.append(None if part.truth is None else part.truth[index])
        if part.keys is not None:
            self.keys.append(part.keys[index])
        if unit is not None:
            rows = part.numbers[index]
            self.places.append(np.column_stack([np.full(len(rows), unit), rows]).astype(np.int64))

    def extend(self, other: Buffer) -> None:
        """Take over the rows of another buffer."""
        self._reserve(other.count)
        place = slice(self.count, self.count + other.count)
        self.x.numpy()[place] = other.x.numpy()[: other.count]
        if self.target is not None and other.target is not None:
            self.target.numpy()[place] = other.target.numpy()[: other.count]
        self.count += other.count
        self.labels += other.labels
        self.truths += other.truths
        self.keys += other.keys
        self.places += other.places

    def keep(self, rule: Callable[[splits.Keys], Bools]) -> None:
        """Drop the rows whose keys a rule does not keep."""
        if not self.keys:
            return
        masks = [rule(keys) for keys in self.keys]
        index = np.flatnonzero(np.concatenate(masks))
        for held in (self.x, self.target):
            if held is not None:
                held.numpy()[: len(index)] = held.numpy()[index]
        self.labels = [(None if t is None else t[torch.from_numpy(m)], w) for (t, w), m in zip(self.labels, masks, strict=True)]
        self.truths = [None if t is None else t[m] for t, m in zip(self.truths, masks, strict=True)]
        self.keys = [k[m] for k, m in zip(self.keys, masks, strict=True)]
        self.count = len(index)

    def rows(self, classes: tuple[str, ...] | None, truth: bool) -> Rows:
        """All rows so far."""
        anomaly = label = None
        if truth and all(t is not None for t in self.truths):
            anomaly = torch.from_numpy(np.concatenate([t for t in self.truths if t is not None]))
        if all(t is not None for t, _ in self.labels):
            label = torch.cat([_coded(t, words, classes) for t, words in self.labels if t is not None])
        return Rows(self.x[: self.count], None if self.target is None else self.target[: self.count], label, anomaly)

    def _reserve(self, more: int) -> None:
        need = self.count + more
        if need <= len(self.x):
            return
        size = max(need, len(self.x) * 3 // 2)
        self.x = _grown(self.x, self.count, size)
        self.target = None if self.target is None else _grown(self.target, self.count, size)


def _grown(held: Tensor, count: int, size: int) -> Tensor:
    larger = torch.empty((size, *held.shape[1:]), dtype=held.dtype)
    larger[:count] = held[:count]
    return larger


def _coded(label: Tensor, words: tuple[str, ...] | None, classes: tuple[str, ...] | None) -> Tensor:
    if classes is None or words is None or words == classes:
        return label
    return torch.from_numpy(recode(words, classes))[label]


class Varying:
    """Watches train rows that are no table go by and refuses those that never vary: there is nothing to learn from them.

    Columns that together make a signal must each vary; of a list's entries (pixels, samples) only one has to.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.first: np.ndarray[Any, Any] | None = None
        self.still = np.arange(len(spec.columns))

    def see(self, chunk: Tensor) -> None:
        """Look at rows (n, *shape); costs nothing once everything has varied."""
        if not len(chunk) or not len(self.still):
            return
        flat = chunk.numpy().reshape(len(chunk), -1)
        if self.first is None:
            self.first = flat[0].copy()
        if self.spec.kind == "columns":
            self.still = self.still[(flat[:, self.still] == self.first[self.still]).all(0)]
        elif (flat != self.first).any():
            self.still = self.still[:0]

    def refuse(self) -> None:
        """Refuse what was the same in every row seen."""
        if not len(self.still) or self.first is None:
            return
        names = [self.spec.columns[int(i)] for i in self.still]
        if self.spec.kind != "columns":
            raise RaeflowError(f"column {names[0]!r} is the same in every row of the train split; there is nothing to learn from it")
        listed = ", ".join(f"{name!r} ({float(self.first[int(i)]):g})" for name, i in zip(names[:8], self.still[:8], strict=True))
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        what = f"column {listed} is" if len(names) == 1 else f"columns {listed}{more} are"
        raise RaeflowError(f"{what} constant in the train split; leave constant columns out of Data(columns=...)")


def watched(chunks: Iterable[Tensor], watch: Callable[[Tensor], None]) -> Iterator[Tensor]:
    """The chunks as they are, shown to `watch` as they pass."""
    for chunk in chunks:
        watch(chunk)
        yield chunk
