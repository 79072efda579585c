"""Stored rows of a table to the one vector that a model sees, and back; every step is torch, so a detector exports whole.

B rows, K stored values, C columns, F values of the encoded row, in the order: numbers and flags, gaps, categories, clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raeflow.data.columns import DAY
from raeflow.data.encoding.record import GAP, NUMBERS, OTHER, Encoded

YEAR = 365.2425
_ABOVE = 1e9
"""Beyond every code, which float32 holds exactly."""
_MONDAY = 3
"""Day 0, 1 January 1970, was a Thursday: three days after a Monday."""


class TableEncoding(nn.Module):
    """(B, K) stored values, NaN for gaps, to (B, F) float32.

    - Numbers and flags: (x - shift) / scale. Those with a long tail are first taken as asinh((x - centre) / width), which
      is linear near the centre, grows like a logarithm beyond and never ends (inverse hyperbolic sine; Burbidge, Magee,
      Robb 1988). A gap becomes the median, and where train had gaps an indicator of its own.
    - Categories: (indicator - share) / (root of share x root of the number of parts less one), so that a column's squares
      add up to one as a standardised number's do, however many levels it has (factor analysis of mixed data, Pages 2004).
    - Clocks: sine and cosine of hour, weekday and season, on circles so small that a clock weighs what a number does.

    A table of numbers alone is standardised with the very arithmetic of `Scaling`.
    """

    shift: Tensor
    scale: Tensor
    fill: Tensor
    centre: Tensor
    breadth: Tensor
    gap_shift: Tensor
    gap_scale: Tensor
    level_shift: Tensor
    level_scale: Tensor
    today: Tensor
    number_at: Tensor
    tail_at: Tensor
    gap_at: Tensor
    owner: Tensor
    lit: Tensor
    starts: Tensor
    last: Tensor
    category_at: Tensor
    column_at: Tensor
    no_gaps: Tensor
    least: Tensor
    most: Tensor
    radii: Tensor

    def __init__(self, columns: Sequence[Encoded], stored: int, mode: str = "standard") -> None:
        super().__init__()
        self.columns, self.stored, self.mode = tuple(columns), stored, mode
        numbers = [c for c in self.columns if c.role in NUMBERS]
        tails = [i for i, c in enumerate(numbers) if c.role == "long_tail"]
        marked = [c for c in self.columns if c.marks_gaps]
        self.categories = [c for c in self.columns if c.role == "category"]
        self.clocks = [c for c in self.columns if c.role == "clock"]
        parts = sum(len(c.parts) for c in self.categories)
        self.plain = len(numbers) == stored == len(self.columns) and not tails and not marked
        self.sizes = (len(numbers), len(marked), parts, 2 * sum(len(c.parts) for c in self.clocks))
        sizes = {
            "shift": len(numbers), "scale": len(numbers), "fill": len(numbers), "centre": len(tails), "breadth": len(tails),
            "gap_shift": len(marked), "gap_scale": len(marked), "level_shift": parts, "level_scale": parts, "today": len(self.clocks),
        }  # fmt: skip
        for name, size in sizes.items():
            self.register_buffer(name, torch.ones(size) if name.endswith(("scale", "breadth")) else torch.zeros(size))
        self._place("number_at", [c.at for c in numbers])
        self._place("tail_at", tails)
        self._place("gap_at", [c.at for c in marked])
        self._place("owner", self._owners(numbers, marked))
        self._levels(parts)
        self._watches()
        radii = [1 / math.sqrt(len(c.parts)) for c in self.clocks for _ in c.parts]
        self.register_buffer("radii", torch.tensor(radii), persistent=False)

    def _place(self, name: str, values: Sequence[int]) -> None:
        """Indices follow from the columns, so they are not kept with the weights."""
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def _owners(self, numbers: Sequence[Encoded], marked: Sequence[Encoded]) -> list[int]:
        """Column of each of the F encoded values."""
        number = {c.name: i for i, c in enumerate(self.columns)}
        owned = [*numbers, *marked, *(c for c in (*self.categories, *self.clocks) for _ in range(c.width))]
        return [number[c.name] for c in owned]

    def _levels(self, parts: int) -> None:
        """For each category and code (-1 unseen, 0.. levels, then the gap) the indicator that it lights; `parts` lights none."""
        lit: list[int] = []
        starts, first = [], 0
        for c in self.categories:
            other = first + c.parts.index(OTHER) if OTHER in c.parts else parts
            gap = first + c.parts.index(GAP) if GAP in c.parts else other if c.gaps else parts
            starts.append(len(lit) + 1)
            lit += [other, *(first + part for part in c.codes), gap]
            first += len(c.parts)
        self._place("lit", lit)
        last = [s + len(c.codes) for s, c in zip(starts, self.categories, strict=True)]
        for name, places in (("starts", starts), ("last", last)):
            self.register_buffer(name, torch.tensor(places, dtype=torch.float32), persistent=False)
        self._place("category_at", [c.at for c in self.categories])

    def _watches(self) -> None:
        """What of each column was never seen in train: a gap, a level, another value than the one there was."""
        ranges = [_range(c) for c in self.columns]
        self._place("column_at", [c.at for c in self.columns])
        no_gaps = [c.role != "ignored" and not c.gaps for c in self.columns]
        self.register_buffer("no_gaps", torch.tensor(no_gaps, dtype=torch.bool), persistent=False)
        for name, values in (("least", [low for low, _ in ranges]), ("most", [high for _, high in ranges])):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(F,)."""
        return (sum(self.sizes),)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) as stored, of any numeric dtype, to (B, F) float32."""
        x = x.to(torch.float32)
        if self.plain:
            return torch.nan_to_num(self.standardised(x), nan=0.0, posinf=math.inf, neginf=-math.inf)
        parts = []
        if self.sizes[0]:
            parts.append(self._numbers(x))
        if self.sizes[1]:
            parts.append((x.index_select(1, self.gap_at).isnan().float() - self.gap_shift) / self.gap_scale)
        if self.sizes[2]:
            parts.append(self._indicators(x))
        if self.sizes[3]:
            parts.append(self._circles(x))
        return torch.cat(parts, 1)

    def standardised(self, x: Tensor) -> Tensor:
        """(B, K) of a table of numbers alone, where none is a gap, to (B, K) float32."""
        return (x.to(torch.float32) - self.shift) / self.scale

    def _numbers(self, x: Tensor) -> Tensor:
        values = x.index_select(1, self.number_at)  # many times as fast as x[:, index]
        values = torch.where(values.isnan(), self.fill, values)
        if len(self.tail_at):
            bent = ((values.index_select(1, self.tail_at) - self.centre) / self.breadth).asinh()
            values = values.index_copy(1, self.tail_at, bent)
        return (values - self.shift) / self.scale

    def _indicators(self, x: Tensor) -> Tensor:
        codes = x.index_select(1, self.category_at)
        # Below its first place a code is unseen, above its last a gap, and so is a NaN.
        index = (codes.nan_to_num(nan=_ABOVE) + self.starts).clamp(self.starts - 1, self.last).long()
        lit = self.lit.index_select(0, index.reshape(-1)).view_as(index)
        shown = codes.new_zeros((x.shape[0], self.sizes[2] + 1)).scatter(1, lit, 1.0)[:, :-1]
        return (shown - self.level_shift) / self.level_scale

    def _circles(self, x: Tensor) -> Tensor:
        turns = [self._turn(x, c, part) for c in self.clocks for part in c.parts]
        angle = 2 * math.pi * torch.stack(turns, 1)
        points = torch.stack([angle.sin(), angle.cos()], 2) * self.radii[:, None]
        return points.flatten(1).nan_to_num(nan=0.0)  # a gap lies in the middle of the circle

    @staticmethod
    def _turn(x: Tensor, c: Encoded, part: str) -> Tensor:
        """Where a clock stands on a circle, in turns."""
        if part == "hour":
            return x[:, c.at + c.slots - 1] / DAY
        days = x[:, c.at]
        return (days + _MONDAY).remainder(7) / 7 if part == "weekday" else (days / YEAR).remainder(1)

    def strange(self, x: Tensor) -> Tensor:
        """(B, K) stored values to (B, C) bool: in which columns a row has what train never had."""
        at = x.to(torch.float32).index_select(1, self.column_at)
        return (at < self.least) | (at > self.most) | (at.isnan() & self.no_gaps)

    def novelties(self, x: Tensor) -> Tensor:
        """(B, K) stored values to (B,): in how many columns a row has what train never had."""
        if self.plain:
            return (x.isnan() if x.is_floating_point() else torch.zeros_like(x)).sum(1)
        return self.strange(x).sum(1)

    def by_column(self, values: Tensor) -> Tensor:
        """(B, F) of the encoded row, squared errors say, to (B, C): their sum for each column."""
        if self.plain:
            return values
        return values.new_zeros((len(values), len(self.columns))).index_add(1, self.owner, values)

    @torch.no_grad()
    def inverse(self, encoded: Tensor, like: Tensor | None = None) -> Tensor:
        """(B, F) encoded rows to (B, K) stored ones: values in their units, the likeliest level, the nearest clock.

        `like` are stored rows (B, K): clocks stay near theirs, and what is ignored keeps its value; without it clocks
        lie near the middle of train and what is ignored is a gap.
        """
        if self.plain:
            return encoded * self.scale + self.shift
        out = encoded.new_full((len(encoded), self.stored), math.nan) if like is None else like.to(encoded).clone()
        numbers, _, levels, circles = torch.split(encoded, list(self.sizes), 1)
        values = numbers * self.scale + self.shift
        if len(self.tail_at):
            values = values.index_copy(1, self.tail_at, values[:, self.tail_at].sinh() * self.breadth + self.centre)
        out[:, self.number_at] = values
        shown = levels * self.level_scale + self.level_shift
        first = circle = 0
        for c in self.columns:
            if c.role == "flag":
                low, high = (float(v) for v in c.values if v is not None)
                out[:, c.at] = torch.where(out[:, c.at] > (low + high) / 2, high, low)
            if c.role == "constant":
                out[:, c.at] = math.nan if c.values[0] is None else c.values[0]
            if c.role == "category":
                out[:, c.at] = self._likeliest(shown[:, first : first + len(c.parts)], c)
                first += len(c.parts)
        for i, c in enumerate(self.clocks):
            own = circles[:, circle : circle + c.width]
            circle += c.width
            self._set_clock(out, own, c, self.today[i])
        return out

    def _likeliest(self, shown: Tensor, c: Encoded) -> Tensor:
        """The first level of the part with the highest indicator; a gap where that part is the gap's."""
        # A part that no level has is that of gaps, by itself or as what is rare.
        first = [float(c.codes.index(i)) if i in c.codes else math.nan for i in range(len(c.parts))]
        return shown.new_tensor(first)[shown.argmax(1)]

    @staticmethod
    def _set_clock(out: Tensor, circles: Tensor, c: Encoded, today: Tensor) -> None:
        """Put the expected clock into stored rows: as near the row's own day as its weekday and season allow."""
        turns = dict(zip(c.parts, (torch.atan2(circles[:, ::2], circles[:, 1::2]) / (2 * math.pi)).remainder(1).unbind(1), strict=True))
        if "hour" in turns:
            out[:, c.at + c.slots - 1] = turns["hour"] * DAY
            if c.slots == 1:
                return
        days = torch.where(out[:, c.at].isnan(), today, out[:, c.at]).round()
        if "season" in turns:
            off = (turns["season"] - (days / YEAR).remainder(1) + 0.5).remainder(1) - 0.5
            days = (days + off * YEAR).round()
        if "weekday" in turns:
            wanted = (turns["weekday"] * 7).round()
            days = days + (wanted - (days + _MONDAY) + 3).remainder(7) - 3
        out[:, c.at] = days
        if c.slots == 2:
            out[:, c.at + 1] = out[:, c.at + 1].nan_to_num(nan=0.0)


def _range(c: Encoded) -> tuple[float, float]:
    """Least and most of a column's stored values that were seen in train, as far as it is watched."""
    if c.role != "flag" and c.values:
        return (math.inf, -math.inf) if c.values[0] is None else (c.values[0], c.values[0])
    return (0.0 if c.role == "category" else -math.inf), math.inf
