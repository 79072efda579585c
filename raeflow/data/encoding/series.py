"""Readings of many series to what a model sees of them: one encoding for all, and where asked for each series' own scale.

n readings of one series, S series, K stored values, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raeflow.data.encoding.module import TableEncoding
from raeflow.data.encoding.record import NUMBERS, Encoded
from raeflow.data.scaling import Moments, Scaling, varying

BLOCK = 1 << 16
"""Readings that are encoded at a time."""


class SeriesEncoding(nn.Module):
    """What readings are encoded by; windows, which hold encoded readings, pass as they are.

    A window shares its readings with its neighbours, so each reading is encoded once, by `encode`, before windows are cut.
    """

    steps: Tensor
    """(S,) float64: the usual step of each series, in ticks of the clock."""
    own_shift: Tensor
    own_scale: Tensor
    """(S, C) what each series' encoded readings are scaled by; (0, C) where all share one scale."""

    def __init__(self, reading: Scaling | TableEncoding, names: Sequence[str], channels: int, own: bool) -> None:
        """`names` are the series that train knows; `own` scales each by its own train readings."""
        super().__init__()
        self.reading, self.names, self.own, self.channels = reading, tuple(names), own, channels
        self._place = {name: place for place, name in enumerate(self.names)}
        size = (len(self.names) if own else 0, channels)
        self.register_buffer("steps", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("own_shift", torch.zeros(size))
        self.register_buffer("own_scale", torch.ones(size))

    @property
    def mode(self) -> str:
        """How readings are scaled, in a word."""
        return self.reading.mode

    @property
    def columns(self) -> tuple[Encoded, ...]:
        """What each column of a reading is; none where it is one list."""
        return self.reading.columns if isinstance(self.reading, TableEncoding) else ()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) windows of encoded readings as they are, float32."""
        return x.to(torch.float32)

    def inverse(self, encoded: Tensor, like: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as other encodings have it
        """(B, C, L) windows, which are held as they are encoded; `decode` gives readings in their own units."""
        return encoded

    def place(self, name: str) -> int | None:
        """Place of a series among those that train knows; None of one that it does not."""
        return self._place.get(name)

    @torch.no_grad()
    def encode(self, stored: Tensor, series: int | None) -> Tensor:
        """(n, K) stored readings of a series, by its place, to (n, C) float32; one that train does not know has the common scale.

        A gap in a number that is scaled by its own series lies at the middle of that series.
        """
        encoded: Tensor = self.reading(stored)
        if not self.own or series is None:
            return encoded
        encoded = (encoded - self.own_shift[series]) / self.own_scale[series]
        for channel, gap in self._gaps(stored):
            encoded[gap, channel] = 0.0
        return encoded

    @torch.no_grad()
    def decode(self, encoded: Tensor, series: int | None, like: Tensor | None = None) -> Tensor:
        """(n, C) encoded readings of a series to (n, K) stored ones; see `TableEncoding.inverse` for `like`."""
        if self.own and series is not None:
            encoded = encoded * self.own_scale[series] + self.own_shift[series]
        return self.reading.inverse(encoded, like)

    @torch.no_grad()
    def fit_own(self, series: int, stored: Tensor) -> None:
        """Learn the scale of a series from its train readings (n, K): of its numbers alone, since words and clocks have none.

        A number that does not vary there keeps the common scale around its value: what departs from it stands out by that.
        """
        seen, numbers = Moments(), self._numbers()
        for start in range(0, len(stored), BLOCK):
            part = stored[start : start + BLOCK]
            encoded: Tensor = self.reading(part)
            for channel, gap in self._gaps(part):
                encoded[gap, channel] = torch.nan
            seen.see(encoded[:, numbers].numpy())
        known = np.broadcast_to(np.asarray(seen.count), len(numbers)) > 1
        spread = varying(seen.mean, seen.std)
        self.own_shift[series, numbers] = torch.from_numpy(np.where(known, seen.mean, 0.0).astype(np.float32))
        self.own_scale[series, numbers] = torch.from_numpy(np.where(known & (spread > 0), spread, 1.0).astype(np.float32))

    def _numbers(self) -> list[int]:
        """Channels that a series may scale: encoded numbers, which come first, but for flags."""
        if not isinstance(self.reading, TableEncoding):
            return list(range(self.channels))
        numbers = [c for c in self.columns if c.role in NUMBERS]
        return [channel for channel, c in enumerate(numbers) if c.role != "flag"]

    def _gaps(self, stored: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Channels of numbers that have gaps in stored readings (n, K), with (n,) where they are."""
        if not isinstance(self.reading, TableEncoding) or not stored.is_floating_point():
            return
        numbers = [c for c in self.columns if c.role in NUMBERS]
        for channel in self._numbers():
            gap = stored[:, numbers[channel].at].isnan()
            if bool(gap.any()):
                yield channel, gap

    def to_json(self) -> dict[str, Any]:
        """Of what `from_json` makes it again, without its tensors."""
        reading = self.reading
        if isinstance(reading, Scaling):
            said: dict[str, Any] = {"scaling": reading.mode}
        else:
            said = {"mode": reading.mode, "columns": [c.to_json() for c in reading.columns]}
        return {"reading": said, "series": list(self.names), "channels": self.channels, "own": self.own}

    @classmethod
    def from_json(cls, said: dict[str, Any], stored: tuple[int, ...]) -> SeriesEncoding:
        """What `to_json` told of, before its tensors are loaded; `stored` is the shape of a stored reading."""
        inner = said["reading"]
        if "scaling" in inner:
            return cls(Scaling(inner["scaling"], stored), said["series"], said["channels"], said["own"])
        reading = TableEncoding([Encoded.from_json(c) for c in inner["columns"]], stored[0], inner["mode"])
        return cls(reading, said["series"], said["channels"], said["own"])


@torch.no_grad()
def encode_all(encoding: SeriesEncoding, stored: Tensor, parts: Iterable[tuple[int, int, int | None]]) -> Tensor:
    """(R, K) stored readings to (R, C) float32, in their own memory where they fit it.

    `parts` are first reading, end and place of each series.
    """
    same = stored.dtype == torch.float32 and stored.shape[1] == encoding.channels
    out = stored if same else torch.empty((len(stored), encoding.channels))
    for first, end, series in parts:
        for start in range(first, end, BLOCK):
            here = slice(start, min(start + BLOCK, end))
            out[here] = encoding.encode(stored[here], series)
    return out
