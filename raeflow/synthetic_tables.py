"""Synthetic anomalies of tables with words, flags, clocks and gaps: each column changes as its kind can.

The kinds are those of `raeflow.synthetic` for numbers, carried over: a column's values change together, so that a row
stays one that a file could hold. Counts and rates do so as well: an end that many rows share (no bytes, a rate of 1) is
passed by none, and what takes few values takes one of these. Else a model has but to see -0.3 attempts to be preferred.
N base rows, F encoded values, C columns.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from raeflow import synthetic
from raeflow.data.encoding import TableEncoding
from raeflow.data.encoding.record import NUMBERS
from raeflow.synthetic import keep_changed, not_none
from raeflow.synthetic._draws import Maker, log_uniform
from raeflow.synthetic._draws import other as other_row

_GAP = 0.1
"""Share of the changes of a column that has gaps in train that take its value away."""
SHARED = 0.1
"""Share of rows that have the very same number, from which on it is a case of its own: no attempt, all of them, a full tank."""
FEW = 0.5
"""Different values of a number, as a share of rows, up to which they are all that it can take between its ends; what many rows
share counts in neither."""


def make(rows: Tensor, encoding: TableEncoding, count: int, seed: int) -> dict[str, Tensor]:
    """Up to `count` anomalies (n, F) of each kind from encoded normal rows (N, F), by name of the kind.

    stretched, beyond, between, local: the numbers of a row move as those of a table of numbers do; between rows, what is no
    number comes from either of the two. altered: chosen flags turn, categories take another level, clocks another hour or
    day, and now and then a value is gone where train had gaps.
    Raises RaeflowError where no kind changes anything.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = rows.detach().to("cpu", torch.float32)
    blocks, made = _Blocks(encoding, normal), {}
    for name, maker in blocks.makers().items():
        base = normal[torch.randint(len(normal), (count,), generator=generator)]
        changed = keep_changed(base, maker(base, normal, generator), normal)
        if len(changed):
            made[name] = changed
    return not_none(made, rows)


class _Blocks:
    """Which encoded values belong to which column, and what each column's can become, as rows (N, F) show it."""

    def __init__(self, encoding: TableEncoding, rows: Tensor) -> None:
        self.encoding = encoding
        self.owner = encoding.owner.cpu()
        used = torch.zeros(len(encoding.columns), dtype=torch.bool)
        used[self.owner] = True
        numbers = [i for i, c in enumerate(encoding.columns) if c.role in NUMBERS]
        steps = torch.tensor([encoding.columns[i].role != "flag" for i in numbers], dtype=torch.bool)
        self.moves, self.flags = (torch.zeros(len(self.owner), dtype=torch.bool) for _ in range(2))
        self.moves[: len(numbers)], self.flags[: len(numbers)] = steps, ~steps
        moved = torch.zeros_like(used)
        moved[[i for i in numbers if encoding.columns[i].role != "flag" and not encoding.columns[i].marks_gaps]] = True
        self.kinds = used & ~moved
        """Columns that can take another value of their kind: all but numbers without gaps."""
        shift, scale = encoding.level_shift.cpu(), encoding.level_scale.cpu()
        self.dark, self.light = -shift / scale, (1 - shift) / scale
        self.low, self.high = torch.full((2, len(self.owner)), math.inf).mul(torch.tensor([[-1.0], [1.0]])).unbind()
        """Ends (F,) that many rows share; infinite where there is none."""
        self.cases = torch.full((len(self.owner), math.ceil(1 / SHARED)), math.nan)
        """(F, A) values that many rows share."""
        self.values: dict[int, Tensor] = {}
        """All values, in order, of numbers that take few."""
        self._see(rows)

    def _see(self, rows: Tensor) -> None:
        there = self._there(rows)
        for at in self.moves.nonzero().flatten().tolist():
            own = rows[there[:, at], at]
            values, counts = torch.unique(own, return_counts=True)
            if len(values) < 2:
                continue
            common = counts >= max(2.0, SHARED * len(own))
            cases = values[common]
            self.cases[at, : len(cases)] = cases
            for end, bounds in ((0, self.low), (-1, self.high)):
                if len(cases) and cases[end] == values[end]:
                    bounds[at] = values[end]
            if len(values) - len(cases) <= FEW * float(counts[~common].sum()):
                self.values[at] = values

    def makers(self) -> dict[str, Maker]:
        """Kinds by name."""
        found: dict[str, Maker] = {"stretched": self.stretched, "beyond": self.beyond, "between": self.between, "local": self.local}
        if bool(self.kinds.any()):
            found["altered"] = self.altered
        return found

    def _chosen(self, count: int, generator: torch.Generator) -> Tensor:
        """A random share of the columns that are no numbers of each row, at least one of them, as (N, F) bool."""
        draws = torch.rand((count, len(self.kinds)), generator=generator).masked_fill(~self.kinds, 2.0)
        share = torch.rand((count, 1), generator=generator)
        columns = ((draws < share) | (draws == draws.amin(1, keepdim=True))) & self.kinds
        return columns[:, self.owner]

    def altered(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Chosen flags, categories and clocks take another value of their kind, and now and then any value is gone."""
        chosen = self._chosen(len(x), generator)
        other = torch.where(self.flags & self._there(x), self._flipped(x, rows), x)
        self._relevel(other, x, generator)
        self._turn(other, generator)
        self._lose(other, generator)
        return torch.where(chosen, other, x)

    def stretched(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As `synthetic.stretched`."""
        return self._legal(torch.where(self._moving(x), synthetic.stretched(x, rows, generator), x))

    def beyond(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As `synthetic.beyond`."""
        other = other_row(x, rows, generator)
        step = (x - other) * log_uniform((len(x), 1), synthetic.BEYOND, generator)
        return self._legal(torch.where(self._moving(x, other), x + step, x))

    def between(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As `synthetic.between`; what is no number, or in one of the two rows a gap or a value that many share, is that of either."""
        other = other_row(x, rows, generator)
        mixed = x + (other - x) * synthetic.halfway(len(x), generator)
        theirs = (torch.rand((len(x), len(self.kinds)), generator=generator) < 0.5)[:, self.owner]
        mixing = self._moving(x, other) & ~self._shared(x) & ~self._shared(other)
        return self._legal(torch.where(mixing, mixed, torch.where(theirs, other, x)))

    def local(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """As `synthetic.local`."""
        first, second = synthetic.neighbours(x, rows, generator)
        step = (first - second) * log_uniform((len(x), 1), synthetic.STEPS, generator)
        return self._legal(torch.where(self._moving(x, first, second), x + step, x))

    def _legal(self, x: Tensor) -> Tensor:
        """Rows (N, F) with no number past an end that many rows share, and those of few values at the nearest of these."""
        x = x.maximum(self.low).minimum(self.high)
        for at, values in self.values.items():
            own = x[:, at].contiguous()
            nearest = values[torch.searchsorted((values[1:] + values[:-1]) / 2, own)]
            x[:, at] = torch.where((own >= values[0]) & (own <= values[-1]), nearest, own)
        return x

    def _shared(self, x: Tensor) -> Tensor:
        """(N, F) bool: numbers that many rows have alike."""
        return (x.unsqueeze(2) == self.cases).any(2)

    def _moving(self, *rows: Tensor) -> Tensor:
        """(N, F) bool: values of numbers that all of some rows (N, F) have."""
        there = self.moves.expand_as(rows[0])
        for own in rows:
            there = there & self._there(own)
        return there

    def _there(self, x: Tensor) -> Tensor:
        """(N, F) bool: encoded values that stand for a value; where there is a gap, nothing can move."""
        first, marked = self.encoding.sizes[:2]
        gone = torch.zeros((len(x), len(self.kinds)), dtype=torch.bool)
        gone[:, self.owner[first : first + marked]] = x[:, first : first + marked] > 0
        return ~gone[:, self.owner]

    @staticmethod
    def _flipped(x: Tensor, rows: Tensor) -> Tensor:
        """The other of two values; what lies between them becomes the farther one."""
        low, high = rows.amin(0), rows.amax(0)
        return torch.where(x > (low + high) / 2, low, high)

    def _relevel(self, other: Tensor, x: Tensor, generator: torch.Generator) -> None:
        """Another part of each category lights up, all equally likely."""
        at = sum(self.encoding.sizes[:2])
        first = 0
        for c in self.encoding.categories:
            size = len(c.parts)
            own, dark, light = slice(at + first, at + first + size), self.dark[first : first + size], self.light[first : first + size]
            now = ((x[:, own] - dark) / (light - dark)).argmax(1)
            then = (now + torch.randint(1, size, (len(x),), generator=generator)) % size
            lit = torch.arange(size) == then[:, None]
            other[:, own] = torch.where(lit, light, dark)
            first += size

    def _turn(self, other: Tensor, generator: torch.Generator) -> None:
        """Every circle of a clock shows another time, at least an eighth of a turn away."""
        at = sum(self.encoding.sizes[:3])
        sine, cosine = other[:, at::2].clone(), other[:, at + 1 :: 2].clone()
        if not sine.shape[1]:
            return
        by = 2 * math.pi * (0.125 + 0.75 * torch.rand(sine.shape, generator=generator))
        other[:, at::2] = sine * by.cos() + cosine * by.sin()
        other[:, at + 1 :: 2] = cosine * by.cos() - sine * by.sin()

    def _lose(self, other: Tensor, generator: torch.Generator) -> None:
        """Now and then a value is gone, in columns that had gaps in train."""
        encoding = self.encoding
        marked = [c for c in encoding.columns if c.marks_gaps]
        if not marked:
            return
        nothing = torch.full((1, encoding.stored), math.nan)
        empty = copy.deepcopy(encoding).cpu()(nothing)[0]
        number = {c.name: i for i, c in enumerate(encoding.columns)}
        at = torch.tensor([number[c.name] for c in marked])
        lost = torch.zeros((len(other), len(encoding.columns)), dtype=torch.bool)
        lost[:, at] = torch.rand((len(other), len(marked)), generator=generator) < _GAP
        other.copy_(torch.where(lost[:, self.owner], empty, other))


def typed(encoding: object) -> bool:
    """Whether rows have more than numbers, so that anomalies must know of columns."""
    return isinstance(encoding, TableEncoding) and any(encoding.sizes[1:])
