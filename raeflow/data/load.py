"""`load`: read the files once and put every row where it belongs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast

import pyarrow as pa
from torch import Tensor

from raeflow.data import splits
from raeflow.data.bins import Bins, Varying, watched
from raeflow.data.faults import Tally
from raeflow.data.files import expand, read_footers
from raeflow.data.plan import Plan, make_plan
from raeflow.data.reading import prefetch
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.data.sources import resolve
from raeflow.data.stream import load_streamed
from raeflow.errors import RaeflowError
from raeflow.study import Data

_CHUNK = 4 << 20
"""Bytes of train rows that the scaling looks at in one go."""


def inspect(data: Data) -> RowSpec:
    """How a row of `data` is read; everything wrong that shows without reading rows is refused here."""
    return make_plan(resolve(data)).reader.spec


def count(data: Data) -> int:
    """Rows in the files of `Data.source`, from their footers: an upper bound of the train split."""
    return sum(footer.metadata.num_rows for footer in read_footers(expand(cast(Sequence[str], resolve(data).source))))


def load(data: Data) -> Splits:
    """Read the rows once into four disjoint splits, with the scaling fitted on train.

    Train, validate and calibrate hold normal rows only, test all held-out rows. Where all rows take more
    than `Data.memory` bytes, train is streamed (`StreamedRows`) and each held-out split keeps at most a
    quarter of that memory, chosen by hash. Raises `RaeflowError` with file, row group, column, row and value.
    """
    plan = make_plan(resolve(data))
    if not plan.rows:
        raise RaeflowError(f"{', '.join(cast(Sequence[str], plan.data.source))}: there are no rows")
    return load_streamed(plan) if plan.rows * plan.row_bytes > data.memory else _resident(plan)


def _resident(plan: Plan) -> Splits:
    reader, bins, alone, tally = plan.reader, Bins(plan), len(plan.units) == 1, Tally(plan.rows)
    # Units are read side by side by one thread each; Arrow's own threads help where there is only one.
    threads = 0 if alone else pa.cpu_count()
    for unit, part in zip(plan.units, prefetch(lambda unit: reader.read(unit, threads=alone), plan.units, threads, threads), strict=True):
        tally.add(unit.piece, unit.groups, part.problems)
        bins.add(part)
    del part
    skipped = tally.settle()
    bins.refuse_empty()
    train = cast(Rows, bins.rows(splits.TRAIN))
    validate, labelled = bins.validation()
    calibrate, test = bins.rows(splits.CALIBRATE), bins.rows(splits.TEST)
    varying = Varying(reader.spec)
    chunks = watched(_chunks(train.x), varying.see)
    scaling = fit_scaling(plan.data.scaling, reader.spec.shape, train.x.dtype, chunks)
    deque(chunks, maxlen=0)  # where the scaling did not need to look
    varying.refuse()
    return Splits(reader.spec, scaling, train, validate, calibrate, test, labelled, plan.fingerprint, skipped)


def _chunks(x: Tensor) -> Iterator[Tensor]:
    step = max(1, _CHUNK // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        yield x[start : start + step]
