"""Readings as they come in, one at a time: the same scores as of a table at="last"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raeflow.data.clock import Kind, table_keys
from raeflow.data.encoding.series import SeriesEncoding
from raeflow.data.files import ARROW_ERRORS, reason
from raeflow.data.rows import Windowing
from raeflow.data.tensors import to_tensor
from raeflow.devices import device_of
from raeflow.errors import RaeflowError
from raeflow.graph import Graph
from raeflow.readings.order import ticks_per, usual_steps


@dataclass
class _Series:
    """The last readings of one series."""

    ring: Tensor
    """(C, 2 L): the newest readings end at `end`."""
    place: int | None
    """Of the series in training."""
    step: float
    """Usual step in training's ticks."""
    end: int = 0
    held: int = 0
    """Readings on end since the first one or the last gap."""
    tick: Any = None
    kind: Kind | None = None


class Stream:
    """Takes readings in order of time, of any number of series; holds one window of each."""

    def __init__(self, graph: Graph, how: Windowing) -> None:
        self.graph, self.how = graph, how
        assert isinstance(graph.encoding, SeriesEncoding)  # noqa: S101 - a detector of windows has no other
        self.encoding = graph.encoding
        self._device = device_of(graph)
        self._known: dict[str, _Series] = {}

    def push(self, reading: Mapping[str, Any]) -> float | None:
        """Score of one reading; None as long as its series has no full window, at its beginning and after a gap.

        Args:
            reading: value by column, with the clock and the series; None or NaN is a gap where training allows one.

        Raises RaeflowError for a column that is missing or of another type, for a value that is not finite, after which its series
        begins anew, and for a reading that is not later than the one before it in its series.
        """
        try:
            table = pa.table({name: pa.array([value]) for name, value in reading.items() if name in self._columns})
        except ARROW_ERRORS as error:
            raise RaeflowError(f"push: the reading {dict(reading)!r} is no row of a table ({reason(error)})") from error
        keys = table_keys(table, self.how.time, self.how.series, "push: ")
        own = self._series(keys.names[0])
        tick = keys.ticks[0].item()
        follows = self._follows(own, tick, keys.kind, keys.names[0])
        own.tick, own.kind = tick, keys.kind
        try:
            stored = to_tensor(table, self.how.reading, "push").clone()
        except RaeflowError:
            own.held = 0
            raise
        with torch.inference_mode():
            value = self.encoding.encode(stored.to(self._device), own.place)[0]
            self._keep(own, value, follows)
            if own.held < self.how.window:
                return None
            return float(self.graph(own.ring[:, own.end - self.how.window : own.end].unsqueeze(0).contiguous())[0])

    @property
    def _columns(self) -> set[str]:
        return {*self.how.reading.columns, self.how.time, *([self.how.series] if self.how.series else [])}

    def _series(self, name: str) -> _Series:
        if name not in self._known:
            step = float(usual_steps([name], self.how, self.encoding)[0])
            ring = torch.empty((self.encoding.channels, 2 * self.how.window), device=self._device)
            self._known[name] = _Series(ring, self.encoding.place(name), step)
        return self._known[name]

    def _follows(self, own: _Series, tick: Any, kind: Kind, name: str) -> bool:
        """Whether a reading comes next, without a gap."""
        if bool(kind.unit) != bool(self.how.unit):
            has, had = (("plain numbers", "moments")[bool(unit)] for unit in (kind.unit, self.how.unit))
            raise RaeflowError(f"push: the clock {self.how.time!r} holds {has}, but this detector learnt its steps from {had}")
        if own.kind is None:
            return False
        here, there = ticks_per(kind, self.how), ticks_per(own.kind, self.how)
        if kind.zoned != own.kind.zoned:
            raise RaeflowError(f"push: {kind.shown(tick)} comes after {own.kind.shown(own.tick)}: one names its time zone, the other not")
        step = tick - own.tick if here == there else tick / here - own.tick / there
        if step <= 0:
            who = f"series {name!r}" if name else "the series"
            raise RaeflowError(
                f"push: {who} has a reading at {kind.shown(tick)} after one at {own.kind.shown(own.tick)}: push them in order"
            )
        return not step > self.how.max_gap * own.step * (here if here == there else 1.0)

    def _keep(self, own: _Series, value: Tensor, follows: bool) -> None:
        if not follows:
            own.held = 0
        if own.end == own.ring.shape[1]:  # the newest readings go to the front
            keep = self.how.window - 1
            own.ring[:, :keep] = own.ring[:, own.end - keep :].clone()
            own.end = keep
        own.ring[:, own.end] = value
        own.end, own.held = own.end + 1, own.held + 1
