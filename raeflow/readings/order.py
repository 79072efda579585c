"""Readings that are to be scored, in order: which follow one another, by the steps that training has seen.

What is usual comes from training alone. The steps of the readings to be scored have no say, or a later one would change which
earlier ones lie behind a gap.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raeflow.data.clock import Keys, Kind
from raeflow.data.encoding.series import SeriesEncoding, encode_all
from raeflow.data.order import Bools, Floats, Order, Places, Where, gaps, ordered, ranked
from raeflow.data.rows import Windowing
from raeflow.errors import RaeflowError
from raeflow.timeline import PER_SECOND

Part = tuple[int, int, str]
"""First reading, end and name of a series, in order."""


@dataclass(frozen=True)
class Ordered:
    """Readings by series, then by time, and where they break off."""

    order: Order
    apart: Bools
    """(R,) in order: whether a reading does not follow the one before it."""
    names: tuple[str, ...]
    kind: Kind

    @functools.cached_property
    def rows(self) -> Places:
        """(R,) number in the input of each reading in order."""
        return np.arange(len(self.apart)) if self.order.rows is None else self.order.rows

    @functools.cached_property
    def ranks(self) -> Places:
        """(R,) place in order of each reading of the input."""
        return np.arange(len(self.apart)) if self.order.rows is None else ranked(self.order.rows)

    @property
    def parts(self) -> list[Part]:
        """The series."""
        return [(int(a), int(b), name) for (a, b), name in zip(itertools.pairwise(self.order.bounds), self.names, strict=True)]

    @functools.cached_property
    def runs(self) -> tuple[Places, Places]:
        """(R,), (R,): first reading and end of the run that each is in."""
        return runs(self.apart)

    @property
    def positions(self) -> Places:
        """(R,) places in order that leave one free at every gap, so that only readings that follow one another are neighbours."""
        return np.arange(len(self.apart)) + np.cumsum(self.apart)


def put_in_order(keys: Keys, where: Where, how: Windowing, encoding: SeriesEncoding) -> Ordered:
    """Readings in order; gaps are measured by the usual steps of training.

    Raises RaeflowError where a series has two readings of one moment, and where the clock is not of the kind that training had.
    """
    if bool(keys.kind.unit) != bool(how.unit) and len(keys.ticks):
        kinds = ("plain numbers", "moments")
        has, had = kinds[bool(keys.kind.unit)], kinds[bool(how.unit)]
        raise RaeflowError(f"the clock {how.time!r} holds {has}, but this detector learnt its steps from {had}")
    order = ordered(keys, where)
    steps = usual_steps(keys.names, how, encoding) * ticks_per(keys.kind, how)
    return Ordered(order, gaps(order.ticks, order.bounds, steps, how.max_gap), keys.names, keys.kind)


def usual_steps(names: Sequence[str], how: Windowing, encoding: SeriesEncoding) -> Floats:
    """(S,) usual step of each series in training, in ticks of training's clock; the usual one of all for a series that it did not have."""
    places = [encoding.place(name) for name in names]
    return np.asarray([how.step if at is None else float(encoding.steps[at]) for at in places], np.float64)


def ticks_per(kind: Kind, how: Windowing) -> float:
    """Ticks of a clock for one tick of training's."""
    return PER_SECOND[kind.unit] / PER_SECOND[how.unit] if kind.unit else 1.0


def runs(apart: Bools) -> tuple[Places, Places]:
    """(R,), (R,): first reading and end of the run that each reading is in."""
    firsts = np.flatnonzero(apart)
    lengths = np.diff(np.append(firsts, len(apart)))
    return np.repeat(firsts, lengths), np.repeat(firsts + lengths, lengths)


def break_at(apart: Bools, bad: Bools) -> Bools:
    """(R,) `apart` where readings that are bad stand alone, so that no window of their neighbours holds them."""
    broken: Bools = apart | bad
    broken[1:] |= bad[:-1]
    return broken


@torch.no_grad()
def encoded(encoding: SeriesEncoding, stored: Tensor, parts: Sequence[Part]) -> Tensor:
    """(R, K) stored readings in order, whose memory may be taken, to (R, C) float32 as the model sees them."""
    if not encoding.own:
        return encode_all(encoding, stored, [(0, len(stored), None)])
    return encode_all(encoding, stored, [(first, end, encoding.place(name)) for first, end, name in parts])
