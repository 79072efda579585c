"""What train showed of a table to the encoding of its columns, by stated rules.

S columns of numbers, P parts of a category.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raeflow.data.encoding.module import TableEncoding
from raeflow.data.encoding.record import GAP, NUMBERS, OTHER, RARE, Encoded
from raeflow.data.encoding.sketch import Sample, Sketch, quantile
from raeflow.data.rows import Field, RowSpec
from raeflow.data.scaling import varying
from raeflow.errors import RaeflowError

FAR = 20.0
"""Standard deviations from the mean beyond which the farthest value makes a tail long: an exponential needs 10^8 rows."""
_ONE_SIDED = 10
"""A tail so many times longer than the other is the only one: its transform starts at the other end."""
_NEAR = 0.05
"""Share of the distances from the centre within which a long-tailed number is taken nearly as it is."""
_TWO_WEEKS, _TWO_YEARS = 14, 2 * 365


@dataclass(frozen=True)
class Rules:
    """What the user said of a table's columns."""

    scaling: str = "auto"
    """auto, standard, asinh, unit, global or none, for numbers."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """number, long_tail, flag, category or clock, by column."""
    min_frequency: float = 0.01
    """Share of the train rows below which levels are taken together, and that no indicator's weight goes below."""


def fit_table(spec: RowSpec, sketch: Sketch, passes: Callable[[], Iterator[Tensor]] | Sample, rules: Rules | None = None) -> TableEncoding:
    """The encoding of a table, from a sketch of its train rows.

    Args:
        spec: how columns are stored, levels known, commonest first.
        sketch: of all train rows.
        passes: gives the train rows once more, for the quantiles of the few columns that need them, or a sample of
            all numbers taken on the same pass.
        rules: what the user said.

    Raises RaeflowError where no column tells anything: all are constant.
    """
    fit = _Fit(spec, sketch, rules or Rules())
    records = fit.records()
    if all(record.width == 0 and not record.marks_gaps for record in records):
        raise RaeflowError(_nothing(records, spec))
    encoding = TableEncoding(records, spec.stored[0], "standard" if fit.rules.scaling == "auto" else fit.rules.scaling)
    fit.fill(encoding, passes)
    return encoding


def _nothing(records: list[Encoded], spec: RowSpec) -> str:
    listed = ", ".join(
        f"{r.name!r} ({r.why or 'always empty' if r.role != 'constant' or r.values[0] is None else f'{r.values[0]:g}'})"
        for r in records[:8]
    )
    more = f" and {len(records) - 8} more" if len(records) > 8 else ""
    what = f"column {listed} is" if len(spec.columns) == 1 else f"columns {listed}{more} are"
    return f"{what} constant in the train split or tell nothing; there is nothing to learn from"


class _Fit:
    """One table's fit: decides each column's record, then fills the module's numbers."""

    def __init__(self, spec: RowSpec, sketch: Sketch, rules: Rules) -> None:
        self.spec, self.sketch, self.rules = spec, sketch, rules
        self.number = {place: i for i, place in enumerate(sketch.numbers)}
        moments = sketch.moments
        self.mean = np.broadcast_to(moments.mean, (max(1, len(self.number)),))
        self.std = varying(self.mean, np.broadcast_to(moments.std, self.mean.shape))

    def records(self) -> list[Encoded]:
        """What each column is."""
        fields = self.spec.fields or tuple(Field(name, "number", "") for name in self.spec.columns)
        decide = {"number": self._number, "flag": self._number, "category": self._category, "clock": self._clock}
        return [decide[f.role](f, place) for f, place in zip(fields, self.spec.places, strict=True)]

    # --- numbers ---------------------------------------------------------------------------------------------------------

    def _number(self, f: Field, at: int) -> Encoded:
        low, high, gaps = float(self.sketch.low[at]), float(self.sketch.high[at]), int(self.sketch.gaps[at])
        if gaps == self.sketch.rows:
            return Encoded(f.name, "constant", at, gaps=True, values=(None,))
        if low == high and not gaps:
            return Encoded(f.name, "constant", at, values=(low,))
        role, few, mode = self.rules.roles.get(f.name, f.role), self.sketch.few[at], self.rules.scaling
        if f.name not in self.rules.roles and mode in ("auto", "standard", "asinh"):
            if few is not None and len(few) == 2:
                role = "flag"  # two values have no tail
            elif role == "number" and (mode == "asinh" or (mode == "auto" and self._far(at, low, high))):
                role = "long_tail"
        if role == "flag" and (few is None or len(few) != 2):
            role = "number"  # of one value and gaps, or of more than two
        if role != "flag" or few is None:
            return Encoded(f.name, role, at, gaps=gaps > 0, values=(low,) if low == high else ())
        why = RARE if self._rare(self.mean[self.number[at]], *few) else ""
        return Encoded(f.name, role, at, gaps=gaps > 0, values=tuple(few), why=why)

    def _rare(self, mean: float, low: float, high: float) -> bool:
        """Whether one of a flag's two values is rarer than a level may be to count by itself."""
        share, least = (mean - low) / (high - low), self.rules.min_frequency
        return bool(share * (1 - share) < least * (1 - least)) and self.rules.scaling not in ("global", "none", "unit")

    def _far(self, at: int, low: float, high: float) -> bool:
        mean, std = self.mean[self.number[at]], self.std[self.number[at]]
        return bool(std > 0 and max(high - mean, mean - low) > FAR * std)

    # --- categories ------------------------------------------------------------------------------------------------------

    def _category(self, f: Field, at: int) -> Encoded:
        counts, rows, gaps = self._counts(f, at), self.sketch.rows, int(self.sketch.gaps[at])
        if f.levels is not None and not f.levels and gaps < rows:
            return Encoded(f.name, "ignored", at, gaps=True, why="more than 4,096 different words: an id, or free text")
        if not len(counts):
            return Encoded(f.name, "constant", at, gaps=True, values=(None,))
        if len(counts) == 1 and not gaps:
            return Encoded(f.name, "constant", at, values=(0.0,))
        least = self.rules.min_frequency * rows
        kept = [i for i, count in enumerate(counts) if count >= least]
        if not kept and gaps < least:
            return Encoded(f.name, "ignored", at, gaps=True, why=f"none of its levels has {self.rules.min_frequency:.2%} of the train rows")
        parts = [str((f.levels or ())[i]) for i in kept]
        if gaps >= least and gaps:
            parts.append(GAP)
        if len(kept) < len(counts) or 0 < gaps < least:
            parts.append(OTHER)
        part = {level: i for i, level in enumerate(kept)}
        codes = tuple(part.get(level, len(parts) - 1) for level in range(len(counts)))
        if len(parts) == 1:  # all rare together, as common as nothing else
            return Encoded(f.name, "ignored", at, gaps=True, why="one level has nearly all rows")
        return Encoded(f.name, "category", at, gaps=gaps > 0, parts=tuple(parts), codes=codes)

    def _counts(self, f: Field, at: int) -> np.ndarray[Any, Any]:
        counts = self.sketch.levels[at]
        return counts[: len(f.levels)] if f.levels is not None else counts

    # --- clocks ----------------------------------------------------------------------------------------------------------

    def _clock(self, f: Field, at: int) -> Encoded:
        gaps = int(self.sketch.gaps[at])
        if gaps == self.sketch.rows:
            return Encoded(f.name, "constant", at, slots=f.slots, gaps=True, values=(None,))
        dated = f.slots == 2 or f.type.startswith("date")
        timed = f.slots == 2 or not dated
        days = float(self.sketch.high[at] - self.sketch.low[at]) + 1 if dated else math.inf
        second = at + f.slots - 1
        parts = []
        if timed and self.sketch.high[second] > self.sketch.low[second] and days >= 2:
            parts.append("hour")
        if dated and days >= _TWO_WEEKS:
            parts.append("weekday")
        if dated and days >= _TWO_YEARS:
            parts.append("season")
        if not parts:
            covered = f"train covers {days:.0f} day{'s' * (days != 1)}" if dated else "it always shows the same time"
            return Encoded(f.name, "ignored", at, slots=f.slots, gaps=True, why=f"{covered}: no hour, weekday or season to tell")
        return Encoded(f.name, "clock", at, slots=f.slots, gaps=gaps > 0, parts=tuple(parts))

    # --- numbers of the module ---------------------------------------------------------------------------------------------

    def fill(self, encoding: TableEncoding, passes: Callable[[], Iterator[Tensor]] | Sample) -> None:
        """Set what the module computes with."""
        numbers = [c for c in encoding.columns if c.role in NUMBERS]
        wanted = any(c.role == "long_tail" or c.gaps for c in numbers)
        # Of all numbers, as a stream's is: the rows that are kept depend on the columns that are looked at.
        sample = passes if isinstance(passes, Sample) else _sampled(self.sketch.numbers if wanted else [], passes)
        shift, scale = self._scaled(numbers)
        fills = np.array(shift, np.float64)
        centres, breadths = [], []
        for i, c in enumerate(numbers):
            if c.role == "long_tail":
                values, counts = self._seen(c, sample)
                centre, breadth = self._bend(c, values, counts)
                bent = np.arcsinh((values - centre) / breadth)
                shift[i] = np.average(bent, weights=counts)
                spread = math.sqrt(np.average((bent - shift[i]) ** 2, weights=counts))
                scale[i] = (spread if spread > 0 else 1.0) * self._rarity(values, counts)
                fills[i] = centre + breadth * math.sinh(shift[i])
                centres.append(centre)
                breadths.append(breadth)
            if c.gaps:
                fills[i] = quantile(*self._seen(c, sample), 0.5)
        _set(encoding.shift, shift)
        _set(encoding.scale, scale)
        _set(encoding.fill, fills)
        _set(encoding.centre, centres)
        _set(encoding.breadth, breadths)
        marked = [c for c in encoding.columns if c.marks_gaps]
        shares = [self.sketch.gaps[c.at] / self.sketch.rows for c in marked]
        _set(encoding.gap_shift, shares)
        _set(encoding.gap_scale, [self._root(share) for share in shares])
        self._fill_levels(encoding)
        _set(encoding.today, [(self.sketch.low[c.at] + self.sketch.high[c.at]) // 2 for c in encoding.clocks])

    def _seen(self, c: Encoded, sample: Sample) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """A number's values in order and their counts; its ends where the sample has none, as of a column that is nearly always a gap."""
        values, counts = sample.values(c.at)
        if len(values):
            return values, counts
        return np.unique([self.sketch.low[c.at], self.sketch.high[c.at]]), np.ones(1 + (self.sketch.low[c.at] < self.sketch.high[c.at]))

    def _root(self, share: float) -> float:
        """Deviation of an indicator, not below that of the rarest level that stands alone."""
        least = self.rules.min_frequency
        return math.sqrt(max(share * (1 - share), least * (1 - least)))

    def _rarity(self, values: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> float:
        """How much wider the scale of a number must be that nearly always has one value: as if the others were as common as a
        level that counts by itself, for what one row in ten thousand has would outweigh everything."""
        common = np.bincount(np.unique(values, return_inverse=True)[1], counts).max() / counts.sum()
        return self._root(1 - common) / math.sqrt(common * (1 - common)) if 1 - self.rules.min_frequency < common < 1 else 1.0

    def _scaled(self, numbers: list[Encoded]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """shift and scale (S,) by the scaling asked for; no flag is given more weight than an indicator."""
        at = [self.number[c.at] for c in numbers]
        low, high = (values[[c.at for c in numbers]] for values in (self.sketch.low, self.sketch.high))
        mode = self.rules.scaling
        if mode == "none":
            return np.zeros(len(at)), np.ones(len(at))
        if mode == "unit":
            span = high - low
            return low.astype(np.float64), np.where(span > 0, span, 1.0)
        shift, std = np.array(self.mean[at], np.float64), np.array(self.std[at], np.float64)
        if mode == "global":
            shift, std = self._whole(len(at))
        scale = np.where(std > 0, std, 1.0)
        for i, c in enumerate(numbers):
            if c.why == RARE:
                first, second = (float(v) for v in c.values if v is not None)
                scale[i] = (second - first) * self._root(0.0)
        return shift, scale

    def _whole(self, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """One mean and deviation for all numbers."""
        if not count:
            return np.zeros(0), np.ones(0)
        weights = np.broadcast_to(self.sketch.moments.count, self.mean.shape)
        mean = float(np.average(self.mean, weights=weights))
        square = float(np.average(self.sketch.moments.std**2 + (self.mean - mean) ** 2, weights=weights))
        return np.full(count, mean), np.full(count, math.sqrt(square))

    def _bend(self, c: Encoded, values: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> tuple[float, float]:
        """Centre and breadth of asinh: from the other end where one tail is long, else from the median."""
        low, high, middle = float(self.sketch.low[c.at]), float(self.sketch.high[c.at]), quantile(values, counts, 0.5)
        centre = middle
        if high - middle > _ONE_SIDED * (middle - low):
            centre = low
        elif middle - low > _ONE_SIDED * (high - middle):
            centre = high
        distance = np.abs(values - centre)
        order = np.argsort(distance, kind="stable")
        distance, counts = distance[order], counts[order]
        away = distance > 0
        breadth = quantile(distance[away], counts[away], _NEAR) if away.any() else high - low
        return centre, max(breadth, 1e-30)

    def _fill_levels(self, encoding: TableEncoding) -> None:
        shares, scales = [], []
        fields = {f.name: f for f in self.spec.fields}
        for c in encoding.categories:
            counts = np.zeros(len(c.parts))
            np.add.at(counts, list(c.codes), self._counts(fields[c.name], c.at))
            gaps = float(self.sketch.gaps[c.at])
            if gaps:
                counts[c.parts.index(GAP if GAP in c.parts else OTHER)] += gaps
            own = counts / counts.sum()
            shares += list(own)
            scales += list(np.sqrt(np.maximum(own, self.rules.min_frequency)) * math.sqrt(len(own) - 1))
        _set(encoding.level_shift, shares)
        _set(encoding.level_scale, scales)


def _sampled(columns: list[int], passes: Callable[[], Iterator[Tensor]]) -> Sample:
    sample = Sample(columns)
    if columns:
        for chunk in passes():
            sample.see(chunk)
    return sample


def _set(buffer: Tensor, values: Any) -> None:
    buffer.copy_(torch.from_numpy(np.asarray(values, np.float64).astype(np.float32)))
