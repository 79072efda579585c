"""Readings in order of time to windows: read once, encoded once, and held once, however many windows share them.

The keys (clock and series) are read first and by themselves; they say where each reading belongs, so that values go
straight there, sorted or not. R readings, S series, C channels, windows of L readings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raeflow.data import blocks, splits, timeline
from raeflow.data.blocks import Layout
from raeflow.data.clock import Keys, Kind, read_keys
from raeflow.data.encoding import TableEncoding
from raeflow.data.encoding.lexicon import Lexicon, move
from raeflow.data.encoding.series import SeriesEncoding, encode_all
from raeflow.data.encoding.sketch import chunks
from raeflow.data.learning import learn
from raeflow.data.plan import Plan
from raeflow.data.reading import Part, Reader
from raeflow.data.resident import Rows
from raeflow.data.rows import RowSpec, Splits, Windowing
from raeflow.data.timeline import Bools, Floats, Places, Starts
from raeflow.data.windows import Readings, Windows
from raeflow.errors import EmptySplit, RaeflowError
from raeflow.study import SPLITS, Data

NAMED = 5
"""Series that a sentence names."""


def windows_spec(data: Data, reading: RowSpec, channels: int, step: float = 0.0, unit: str = "", zoned: bool = False) -> RowSpec:
    """The row of a model that sees windows of such readings."""
    assert data.time is not None  # noqa: S101 - callers ask
    how = Windowing(data.time, data.series, data.window, data.max_gap, step, unit, zoned, data.scale_by, reading)
    return RowSpec(reading.columns, "windows", (channels, data.window), "float32", windows=how)


def load_series(plan: Plan) -> Splits:
    """Four splits of windows: blocks of each series' time, or whole series.

    Raises RaeflowError, with its place, for a time that is missing or comes twice, for time zones that do not go together, for a
    series whose step changes for good, and where a split gets no window.
    """
    data = plan.data
    if plan.rows * plan.row_bytes > data.memory:
        raise RaeflowError(
            f"Data(time={data.time!r}): {plan.rows:,} readings take {plan.rows * plan.row_bytes:,} bytes, more than "
            f"Data(memory={data.memory:,}) holds; readings in order of time are not streamed yet: allow more memory"
        )
    scheme = _scheme(plan)
    held = {code: _Held(plan, scheme, code) for code in plan.decided}
    lexicon = _read(plan, scheme, held)
    train = held[splits.TRAIN]
    spec, encoding, moved = learn(data, plan.reader.spec, lexicon, train.normal_chunks(), train.normal_chunks, lambda: None)
    move([Rows(part.values) for part in held.values()], moved)
    channels = encoding.shape[0] if isinstance(encoding, TableEncoding) else spec.shape[0]
    series = SeriesEncoding(encoding, scheme.names, channels, data.scale_by == "series")
    series.steps.copy_(torch.from_numpy(scheme.steps))
    if series.own:
        for place, (first, end) in enumerate(train.ranges()):
            series.fit_own(place, train.values[first:end])
    ready = {code: held.pop(code).windows(series) for code in plan.decided}
    kind = scheme.kind
    return Splits(
        windows_spec(data, spec, channels, scheme.usual, kind.unit, kind.zoned), series,
        train=ready[splits.TRAIN][0], validate=ready[splits.VALIDATE][0],
        calibrate=ready[splits.CALIBRATE][0] if splits.CALIBRATE in ready else None,
        test=ready[splits.TEST][1] if splits.TEST in ready else None,
        labelled=ready[splits.VALIDATE][1] if ready[splits.VALIDATE][1].anomaly is not None else None,
        fingerprint=plan.fingerprint, left_out=plan.left_out, series=scheme.told,
    )  # fmt: skip


@dataclass(frozen=True)
class _Scheme:
    """What the keys say: which split each reading is in, where it lies there, and what follows what."""

    names: tuple[str, ...]
    kind: Kind
    layout: Layout
    bounds: Places
    """(S + 1,) of the readings in order."""
    gaps: Bools
    """(R,) in order."""
    steps: Floats
    """(S,) usual step of each series, in ticks."""
    usual: float
    told: tuple[str, ...]


def _scheme(plan: Plan) -> _Scheme:
    """Read the keys, and settle all that they settle."""
    data, reader = plan.data, plan.reader
    assert data.time is not None  # noqa: S101 - callers ask
    keys = read_keys(plan.units, data.time, data.series, reader.split)
    firsts = np.cumsum([0, *(unit.rows for unit in plan.units)])

    def where(row: int) -> str:
        unit = plan.units[int(np.searchsorted(firsts, row, side="right")) - 1]
        return f"{unit.piece.uri}, row {unit.first + row - int(firsts[plan.units.index(unit)])}"

    order = timeline.ordered(keys, where)
    given = keys.given if order.rows is None else keys.given[order.rows]
    if len(reader.codes) < 2:
        split = given
    elif data.split_by == "series":
        split = blocks.by_series(given, order.bounds, keys.names, reader.codes, reader.ends)
    else:
        split = blocks.by_time(given, order.bounds, reader.codes, reader.ends, data.window)
    steps, usual = blocks.steps_of(order, split)
    timeline.refuse_changes(order, keys, steps, data.max_gap, data.window)
    gaps = timeline.gaps(order.ticks, order.bounds, steps, data.max_gap)
    told = _told(data, keys, order, gaps, usual)
    layout = Layout(split, order)
    # The keys themselves go before the values come, which take as much again.
    return _Scheme(keys.names, keys.kind, layout, order.bounds, gaps, steps, usual, told)


def _told(data: Data, keys: Keys, order: timeline.Order, gaps: Bools, usual: float) -> tuple[str, ...]:
    """What became of the readings, in sentences; refused where no run of them holds a window."""
    sizes = np.diff(order.bounds)
    short = [keys.names[int(s)] for s in np.flatnonzero(sizes < data.window)]
    many = f"{len(sizes):,} series" if data.series is not None else "one series"
    if len(short) == len(sizes):
        raise RaeflowError(
            f"Data(window={data.window}): the longest of {many} has {int(sizes.max())} readings, fewer than a window; choose a shorter one"
        )
    longest = int(np.diff(np.append(np.flatnonzero(gaps), len(gaps))).max())
    holes = int(gaps.sum()) - len(sizes)
    step = keys.kind.lasting(usual)
    if longest < data.window:
        raise RaeflowError(
            f"Data(window={data.window}, max_gap={data.max_gap:g}): no run of readings is so long, the longest has {longest}: their usual "
            f"step is {step}, and {holes:,} steps are above {data.max_gap:g} times that; choose a shorter window or a larger max_gap"
        )
    found = [
        f"{len(gaps):,} readings of {many}, one every {step}, with {holes:,} gaps" + (", put in order" if order.rows is not None else "")
    ]
    if short:
        more = f" and {len(short) - NAMED:,} more" if len(short) > NAMED else ""
        found.append(
            f"{len(short):,} series have fewer readings than a window of {data.window} and are left out: {', '.join(short[:NAMED])}{more}"
        )
    return tuple(found)


class _Held:
    """Readings of one split, as they are sorted in."""

    def __init__(self, plan: Plan, scheme: _Scheme, code: int) -> None:
        spec, count = plan.reader.spec, int(scheme.layout.counts[code])
        self.plan, self.code = plan, code
        self.values = torch.empty((count, *spec.stored), dtype=torch.uint8 if spec.dtype == "uint8" else torch.float32)
        self.bounds = scheme.layout.bounds(scheme.bounds, code)
        self.apart = scheme.layout.apart(scheme.gaps, code)
        self.normal = None if plan.reader.normal is None else np.ones(count, np.bool_)
        self.truth: Bools | None = np.zeros(count, np.bool_) if _may_tell(plan.reader) else None

    def put(self, part: Part, chosen: Bools, places: Places) -> None:
        """Sort in the chosen readings of a part."""
        values, rows = self.values.numpy(), part.x.numpy()
        at = places[chosen]
        if len(at) == len(rows) and bool((np.diff(at) == 1).all()):
            values[at[0] : at[0] + len(at)] = rows  # the files have them so: copied as they lie
        else:
            values[at] = rows[chosen]
        if self.normal is not None and part.normal is not None:
            self.normal[at] = part.normal[chosen]
        if self.truth is not None and part.truth is not None:
            self.truth[at] = part.truth[chosen]
        else:
            self.truth = None  # a file without labels: nothing is known of its readings

    def normal_chunks(self) -> Iterator[Tensor]:
        """Readings that are learnt from, piece by piece."""
        at = 0
        for chunk in chunks(self.values):
            keep = None if self.normal is None else self.normal[at : at + len(chunk)]
            at += len(chunk)
            yield chunk if keep is None or keep.all() else chunk[torch.from_numpy(keep)]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First reading and end of each series."""
        return zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True)

    def windows(self, encoding: SeriesEncoding) -> tuple[Windows, Windows]:
        """Windows of normal readings alone, and all windows: of test in order, of the others the normal ones first."""
        data = self.plan.data
        stride = data.stride if self.code in (splits.TRAIN, splits.VALIDATE) else 1
        found = timeline.starts(self.apart, data.window, stride)
        normal: Starts = found
        if self.normal is not None and self.code != splits.TEST:
            apart = self.apart | ~self.normal
            apart[1:] |= ~self.normal[:-1]
            normal = timeline.starts(apart, data.window, stride)
            found = np.concatenate([normal, np.setdiff1d(found, normal, assume_unique=True)])
        if not len(normal):
            self._refuse()
        parts = [(first, end, place) for place, (first, end) in enumerate(self.ranges())] if encoding.own else [(0, len(self.values), None)]
        readings = Readings(encode_all(encoding, self.values, parts), torch.from_numpy(self.bounds))
        every = Windows(readings, torch.from_numpy(found), data.window, self._anomalies(found))
        return every.take(slice(0, len(normal))), every

    def _anomalies(self, found: Starts) -> Tensor | None:
        """(N,) whether a window holds an anomalous reading; None where that is not known."""
        if self.truth is None or self.code in (splits.TRAIN, splits.CALIBRATE):
            return None
        before = np.concatenate([[0], np.cumsum(self.truth, dtype=np.int64)])
        return torch.from_numpy(before[found + self.plan.data.window] > before[found])

    def _refuse(self) -> None:
        data, name = self.plan.data, SPLITS[self.code]
        longest = int(np.diff(np.append(np.flatnonzero(self.apart), len(self.apart))).max(initial=0)) if len(self.apart) else 0
        why = f"its {len(self.values):,} readings have runs of {longest} at most without a gap or a change of series"
        if self.normal is not None and longest >= data.window:
            why += f", and Data(normal={self.plan.reader.normal}) leaves no window of normal ones"
        whole = "" if data.split_by == "series" or data.series is None else ", or divide by whole series with Data(split_by='series')"
        raise EmptySplit(
            f"Data(window={data.window}, fractions={data.fractions!r}): the {name} split has no window ({why}); give it a larger share or "
            f"choose a shorter window{whole}"
        )


def _may_tell(reader: Reader) -> bool:
    """Whether the files may say which readings are anomalies."""
    return reader.anomaly is not None or reader.normal is not None or (reader.label is not None and not reader.text_label)


def _read(plan: Plan, scheme: _Scheme, held: dict[int, _Held]) -> Lexicon:
    """Read all values, each straight to where it stays."""
    # The keys have decided the splits; a hash of readings has no say.
    reader = replace(plan.reader, split=None, codes=(splits.TRAIN,), ends=(1.0,))
    lexicon, first, labels = Lexicon(reader.spec), 0, (0, 0)
    for unit in plan.units:  # one at a time, by Arrow's threads: what is decoded is held beside what is kept
        part = reader.read(unit, threads=True)
        lexicon.learn(part.x, part.levels)
        if part.label is not None and len(part.label):
            labels = min(labels[0], int(part.label.min())), max(labels[1], int(part.label.max()))
        split, places = scheme.layout.places(first, len(part))
        first += len(part)
        for code in np.unique(split):
            if code in held:
                held[code].put(part, split == code, places)
    flags = reader.label is not None and not reader.text_label and labels in ((0, 0), (0, 1))
    if reader.anomaly is None and reader.normal is None and not flags:
        for own in held.values():
            own.truth = None  # which of several classes are anomalies is the user's to say
    pa.default_memory_pool().release_unused()
    return lexicon
