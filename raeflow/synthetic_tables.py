"""Synthetic anomalies of tables with words, flags, clocks and gaps: each column changes as its kind can.

The kinds are those of `raeflow.synthetic` for numbers, carried over: a column's values change together, so that a row
stays one that a file could hold. N base rows, F encoded values, C columns.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from raeflow.data.encoding import TableEncoding
from raeflow.data.encoding.record import NUMBERS
from raeflow.synthetic import STRENGTHS, keep_changed, log_uniform, not_none

_GAP = 0.1
"""Share of the changes of a column that has gaps in train that take its value away."""


def make(rows: Tensor, encoding: TableEncoding, count: int, seed: int) -> dict[str, Tensor]:
    """Up to `count` anomalies (n, F) of each kind from encoded normal rows (N, F), by name of the kind.

    permuted: chosen columns come from other rows. shifted: chosen numbers move, flags turn, categories take another
    level, clocks another hour or day, and now and then a value is gone where train had gaps. shrunk, stretched: all
    numbers of a row move towards the mean row, or away from it.
    Raises RaeflowError where no kind changes anything.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = rows.detach().to("cpu", torch.float32)
    blocks = _Blocks(encoding)
    made = {}
    makers = {"permuted": blocks.permuted, "shifted": blocks.shifted, "shrunk": blocks.shrunk, "stretched": blocks.stretched}
    for name, maker in makers.items():
        base = normal[torch.randint(len(normal), (count,), generator=generator)]
        changed = keep_changed(base, maker(base, normal, generator), normal)
        if len(changed):
            made[name] = changed
    return not_none(made, rows)


class _Blocks:
    """Which encoded values belong to which column, and what each column's can become."""

    def __init__(self, encoding: TableEncoding) -> None:
        self.encoding = encoding
        self.owner = encoding.owner.cpu()
        self.used = torch.zeros(len(encoding.columns), dtype=torch.bool)
        self.used[self.owner] = True
        numbers = [i for i, c in enumerate(encoding.columns) if c.role in NUMBERS]
        steps = torch.tensor([encoding.columns[i].role != "flag" for i in numbers], dtype=torch.bool)
        self.moves, self.flags = (torch.zeros(len(self.owner), dtype=torch.bool) for _ in range(2))
        self.moves[: len(numbers)], self.flags[: len(numbers)] = steps, ~steps
        shift, scale = encoding.level_shift.cpu(), encoding.level_scale.cpu()
        self.dark, self.light = -shift / scale, (1 - shift) / scale

    def _chosen(self, count: int, generator: torch.Generator) -> Tensor:
        """A random share of the columns of each row, at least one of them, as (N, F) bool."""
        draws = torch.rand((count, len(self.used)), generator=generator).masked_fill(~self.used, 2.0)
        share = torch.rand((count, 1), generator=generator)
        columns = ((draws < share) | (draws == draws.amin(1, keepdim=True))) & self.used
        return columns[:, self.owner]

    def permuted(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Chosen columns come from other rows, each from its own."""
        donors = torch.randint(len(rows), (len(x), len(self.used)), generator=generator)[:, self.owner]
        return torch.where(self._chosen(len(x), generator), rows.gather(0, donors), x)

    def shifted(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Chosen columns take another value of their kind."""
        chosen = self._chosen(len(x), generator)
        there = self._there(x)
        other = torch.where(self.flags & there, self._flipped(x, rows), x)
        step = torch.randn(x.shape, generator=generator) * log_uniform((len(x), 1), STRENGTHS, generator)
        other = torch.where(self.moves & there, x + step * rows.std(0, correction=0), other)
        self._relevel(other, x, generator)
        self._turn(other, generator)
        self._lose(other, generator)
        return torch.where(chosen, other, x)

    def shrunk(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """All numbers drawn in to less than half their distance from the mean row."""
        mean = rows.mean(0)
        return torch.where(self.moves & self._there(x), mean + (x - mean) * torch.rand((len(x), 1), generator=generator) / 2, x)

    def stretched(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """All numbers moved out to one to four times their distance from the mean row."""
        mean = rows.mean(0)
        return torch.where(self.moves & self._there(x), mean + (x - mean) * log_uniform((len(x), 1), (1.0, 4.0), generator), x)

    def _there(self, x: Tensor) -> Tensor:
        """(N, F) bool: encoded values that stand for a value; where there is a gap, nothing can move."""
        first, marked = self.encoding.sizes[:2]
        gone = torch.zeros((len(x), len(self.used)), dtype=torch.bool)
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
