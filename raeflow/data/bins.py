"""Rows as they are read, sorted into the splits they belong to, and at last one tensor for each split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from raeflow.data import splits
from raeflow.data.plan import Plan
from raeflow.data.reading import Bools, Part, recode
from raeflow.data.rows import Rows, RowSpec
from raeflow.errors import RaeflowError
from raeflow.study import SPLITS

_ODD = 4
"""Bin of the validation rows that are not normal."""
_LAST = np.uint64(2**64 - 1)


class Bins:
    """Parts of each split; with a `limit`, at most that many rows of each held-out split are kept.

    What is kept under a limit are the rows whose (second) hash is below 2^-k, for the smallest k that fits:
    a choice that the order of files does not change.
    """

    def __init__(self, plan: Plan, limit: int | None = None, keep_train: bool = True) -> None:
        self.plan, self.limit = plan, limit
        self.codes = [code for code in plan.decided if keep_train or code != splits.TRAIN]
        self.parts: dict[int, list[Part]] = {code: [] for code in (*range(4), _ODD)}
        self.seen = dict.fromkeys((*range(4), _ODD), 0)
        self.level = dict.fromkeys(range(4), 0)
        self.words: set[str] = set()

    def add(self, part: Part) -> None:
        self.words.update(part.words or ())
        for code in self.codes:
            here = part.split == code
            if code == splits.TEST or part.normal is None:
                self._put(code, code, part, here)
            else:
                self._put(code, code, part, here & part.normal)
                if code == splits.VALIDATE:
                    self._put(_ODD, code, part, here & ~part.normal)
            if self.limit is not None and code != splits.TRAIN:
                self._thin(code)

    def _put(self, bin_: int, code: int, part: Part, chosen: Bools) -> None:
        self.seen[bin_] += int(chosen.sum())
        if self.limit is not None and part.keys is not None and self.level[code]:
            chosen = chosen & self._kept(part.keys, code)
        if chosen.any():
            self.parts[bin_].append(part.take(chosen))

    def _kept(self, keys: splits.Keys, code: int) -> Bools:
        return splits.thinning(keys) <= _LAST >> np.uint64(self.level[code])

    def _bins(self, code: int) -> list[int]:
        return [code, _ODD] if code == splits.VALIDATE else [code]

    def _thin(self, code: int) -> None:
        bins = self._bins(code)
        while sum(len(p) for b in bins for p in self.parts[b]) > (self.limit or 0) and self.level[code] < 63:
            self.level[code] += 1
            for b in bins:
                self.parts[b] = [p.take(self._kept(p.keys, code)) for p in self.parts[b] if p.keys is not None]

    def rows(self, code: int) -> Rows | None:
        """Rows of a split, None where nothing is meant to be in it; what was gathered is let go."""
        if code not in self.codes:
            return None
        self.refuse_empty(code)
        return gather([self.parts.pop(code)], self.classes, truth=code == splits.TEST)

    def validation(self) -> tuple[Rows, Rows | None]:
        """Normal validation rows, and all of them where their truth is known; the first are a slice of the second."""
        self.refuse_empty(splits.VALIDATE)
        normal, odd = self.parts.pop(splits.VALIDATE), self.parts.pop(_ODD)
        count = sum(len(part) for part in normal)
        every = gather([normal, odd], self.classes, truth=True)
        return every.take(slice(0, count)), every if every.anomaly is not None else None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Words of a text label, sorted: a row's label is its word's place among them."""
        return tuple(sorted(self.words)) if self.plan.reader.text_label else None

    def refuse_empty(self, code: int, rows: int | None = None) -> None:
        """Refuse a split that has no row, saying what should have put rows there."""
        if (sum(len(p) for p in self.parts[code]) if rows is None else rows) > 0:
            return
        plan, name = self.plan, SPLITS[code]
        by_hash = code in plan.reader.codes and len(plan.reader.codes) > 1
        why = f"Data(fractions={plan.data.fractions!r}) divides {plan.rows} rows" if by_hash else f"{plan.rows} rows in all"
        if plan.reader.normal is not None and code != splits.TEST:
            why += f", of which Data(normal={plan.reader.normal}) keeps some"
        raise RaeflowError(f"{plan.units[0].piece.uri if plan.units else plan.data.source}: no row is left for the {name} split ({why})")


def gather(groups: list[list[Part]], classes: tuple[str, ...] | None, truth: bool) -> Rows:
    """One tensor of all parts in turn; each part is let go as soon as it is copied, so the peak stays near the data's size."""
    parts = [part for group in groups for part in group]
    anomaly = None
    if truth and all(part.truth is not None for part in parts):
        anomaly = torch.from_numpy(np.concatenate([part.truth for part in parts if part.truth is not None]))
    label = None
    if all(part.label is not None for part in parts):
        label = torch.cat([_label(part, classes) for part in parts])
    x = [part.x for part in parts]
    target = [part.target for part in parts if part.target is not None]
    for group in groups:
        group.clear()
    parts.clear()
    return Rows(_joined(x), _joined(target) if target else None, label, anomaly)


def _label(part: Part, classes: tuple[str, ...] | None) -> Tensor:
    assert part.label is not None
    if classes is None or part.words is None or part.words == classes:
        return part.label
    return torch.from_numpy(recode(part.words, classes))[part.label]


def _joined(tensors: list[Tensor]) -> Tensor:
    """Like `torch.cat(tensors)`, but the list is emptied on the way."""
    if len(tensors) == 1:
        return tensors.pop()
    out = torch.empty((sum(len(t) for t in tensors), *tensors[0].shape[1:]), dtype=tensors[0].dtype)
    at = 0
    tensors.reverse()
    while tensors:
        part = tensors.pop()
        out[at : at + len(part)] = part
        at += len(part)
    return out


class Varying:
    """Watches train rows go by and refuses those that never vary: there is nothing to learn from them.

    A named column must vary; of a list's entries (pixels, samples) only one has to.
    """

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.first: Tensor | None = None
        self.still = torch.arange(len(spec.columns))

    def see(self, chunk: Tensor) -> None:
        if not len(chunk) or not len(self.still):
            return
        flat = chunk.reshape(len(chunk), -1)
        if self.first is None:
            self.first = flat[0].clone()
        if self.spec.kind == "columns":
            self.still = self.still[(flat[:, self.still] == self.first[self.still]).all(0)]
        elif bool((flat != self.first).any()):
            self.still = self.still[:0]

    def refuse(self) -> None:
        if not len(self.still) or self.first is None:
            return
        names = [self.spec.columns[int(i)] for i in self.still]
        if self.spec.kind != "columns":
            raise RaeflowError(f"column {names[0]!r} is the same in every row of the train split; there is nothing to learn from it")
        listed = ", ".join(f"{name!r} ({float(self.first[int(i)]):g})" for name, i in zip(names[:8], self.still[:8], strict=True))
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        what = "column" if len(names) == 1 else "columns"
        raise RaeflowError(f"{what} {listed}{more} constant in the train split: leave out of Data(columns=...) what tells rows nothing apart")


def watched(chunks: Iterable[Tensor], watch: Callable[[Tensor], None]) -> Iterator[Tensor]:
    for chunk in chunks:
        watch(chunk)
        yield chunk
