"""Training on more rows than memory holds: row groups stream by, shuffled, while the next ones are read.

Rows held back for validation, calibration and test stay in memory, thinned where they are too many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raeflow.data import splits
from raeflow.data.bins import Bins
from raeflow.data.encoding.lexicon import Lexicon, move
from raeflow.data.faults import Tally
from raeflow.data.learning import learn
from raeflow.data.plan import Plan
from raeflow.data.reading import Reader, Unit, prefetch
from raeflow.data.rows import Raw, Rows, RowSpec, Shape, Splits
from raeflow.errors import RaeflowError
from raeflow.study import SPLITS

log = logging.getLogger(__name__)
_HELD = 4
"""Each of three held-out splits may fill this share of the memory, the window of shuffled rows an eighth of it."""
_WINDOW = 8
SAMPLED = 1 << 14
"""Train rows of a stream that are kept, chosen by hash, for what is learnt from a sample (heads, votes); as much as a window at most."""


@dataclass(frozen=True)
class StreamedRows:
    """Train rows that are read anew each epoch; cheap to pickle, since it holds paths and rules but no row.

    With a seed, the order of units (neighbouring row groups of a file) is drawn anew each epoch, and
    rows are drawn from a window of `window` rows in which several units mix. Seed and epoch alone decide
    the order. Every worker reads every unit and takes its own part of each batch, as `Rows.batches` does.
    """

    reader: Reader
    units: tuple[Unit, ...]
    counts: tuple[int, ...]
    """Train rows of each unit."""
    window: int

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def shape(self) -> Shape:
        """Shape of one row as it is stored."""
        return self.reader.spec.stored

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1, drop_last: bool = False
    ) -> Iterator[Raw]:
        """See `RowSource.batches`."""
        count, own = len(self), size // world
        stop = count - count % size if (drop_last or world > 1) and count >= size else count
        start = 0
        for pool, order in self._windows(size, seed, epoch):
            for at in range(0, len(order), size):
                whole = min(size, len(order) - at, stop - start)
                low, high = (min(rank * own, whole), min((rank + 1) * own, whole)) if world > 1 else (0, whole)
                yield _take(pool, order[at + low : at + high])
                start += whole
                if start >= stop:
                    return

    def _windows(self, size: int, seed: int | None, epoch: int) -> Iterator[tuple[Raw, Tensor]]:
        """Rows in memory, and which of them come next: a multiple of `size` each time but the last."""
        drawn = None if seed is None else torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        turns = list(range(len(self.units)))
        if drawn is not None:
            turns = torch.randperm(len(turns), generator=drawn).tolist()
        window = size if drawn is None else max(self.window, 2 * size)
        pool: list[Raw] = []
        have, read = 0, 0
        for raw in prefetch(self._train, [self.units[i] for i in turns], max(1, pa.cpu_count() - 1), 1):
            pool.append(raw)
            have, read = have + len(raw.x), read + 1
            if have < window or read == len(turns):
                continue
            rows = _join(pool)
            order = torch.arange(have) if drawn is None else torch.randperm(have, generator=drawn)
            # Half a window stays to mix with what comes, so that rows of one unit spread over several windows.
            emitted = have - (0 if drawn is None else window // 2)
            emitted -= emitted % size
            yield rows, order[:emitted]
            pool = [_take(rows, order[emitted:])]
            have -= emitted
            del rows
        rows = _join(pool)
        yield rows, torch.arange(have) if drawn is None else torch.randperm(have, generator=drawn)

    def _train(self, unit: Unit) -> Raw:
        return self.reader.read(unit).train()


def _take(raw: Raw, index: Tensor) -> Raw:
    return Raw(*(None if t is None else t[index] for t in (raw.x, raw.target, raw.label)))  # type: ignore[arg-type]


def _join(raws: list[Raw]) -> Raw:
    """All rows in one; the list is emptied."""
    if len(raws) == 1:
        return raws.pop()
    target = torch.cat([r.target for r in raws if r.target is not None]) if raws[0].target is not None else None
    label = torch.cat([r.label for r in raws if r.label is not None]) if raws[0].label is not None else None
    x = torch.cat([r.x for r in raws])
    raws.clear()
    return Raw(x, target, label)


def _refuse_large(plan: Plan) -> None:
    """Refuse row groups that memory cannot hold one of."""
    memory = plan.data.memory
    for unit in plan.units:
        if len(unit.groups) == 1 and unit.rows * plan.row_bytes > memory:
            raise RaeflowError(
                f"{unit.piece.uri}, row group {unit.groups[0]}: its {unit.rows} rows take {unit.rows * plan.row_bytes} bytes, more than "
                f"Data(memory={memory}); write smaller row groups or allow more memory"
            )


def load_streamed(plan: Plan) -> Splits:
    """One pass over all rows: scaling and counts of train, and what memory holds of the other splits."""
    memory, reader = plan.data.memory, plan.reader
    _refuse_large(plan)
    if not all(unit.has_label for unit in plan.units if unit.given is None):
        reader = replace(reader, label=None)
    bins = Bins(plan, max(1, memory // _HELD // plan.row_bytes), keep_train=False)
    lexicon, counts, tally = Lexicon(reader.spec), [], Tally(plan.rows)
    window = max(1, memory // _WINDOW // plan.row_bytes)
    sample = _Sample(min(SAMPLED, window))

    def chunks() -> Iterator[Tensor]:
        parts = prefetch(lambda unit: reader.read(unit, keys=True), plan.units, pa.cpu_count(), 1)
        for unit, part in zip(plan.units, parts, strict=True):
            tally.add(unit.piece, unit.groups, part.problems)
            lexicon.learn(part.x, part.levels)
            bins.add(part)
            train = part.train().x
            counts.append(len(train))
            if len(train):
                sample.see(train, reader.spec)
                yield train

    def refuse() -> None:
        tally.settle()
        bins.refuse_empty(sum(counts))

    # The held-out rows and the counts want the whole pass.
    spec, encoding, moved = learn(plan.data, reader.spec, lexicon, chunks(), None, refuse)
    used = [(unit, n) for unit, n in zip(plan.units, counts, strict=True) if n]
    train = StreamedRows(replace(reader, spec=spec, classes=bins.classes), tuple(u for u, _ in used), tuple(n for _, n in used), window)
    for code, level in bins.level.items():
        if level:
            log.warning("%s: 1 in %d rows is kept, chosen by hash, since Data(memory=%d) holds no more", SPLITS[code], 2**level, memory)
    validate, labelled = bins.validation()
    calibrate, test = bins.rows(splits.CALIBRATE), bins.rows(splits.TEST)
    sampled = Rows(sample.rows)
    move((labelled or validate, calibrate, test, sampled), moved)
    skipped = tally.settle()
    return Splits(spec, encoding, train, validate, calibrate, test, labelled, plan.fingerprint, plan.left_out, skipped, sampled)


class _Sample:
    """Some of the rows that pass: those with the lowest second hash, whatever the order of the files."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows = torch.empty(0)
        self._keys = np.empty(0, np.uint64)

    def see(self, rows: Tensor, spec: RowSpec) -> None:
        """Rows (n, *stored)."""
        keys = splits.thinning(splits.stored_keys(rows, spec))
        if len(self._keys) >= self.count:
            low = keys < self._keys.max()
            keys, rows = keys[low], rows[torch.from_numpy(low)]
        keys = np.concatenate([self._keys, keys])
        rows = torch.cat([self.rows, rows]) if len(self.rows) else rows
        least = np.sort(np.argsort(keys, kind="stable")[: self.count])
        self.rows, self._keys = rows[torch.from_numpy(least)], keys[least]
