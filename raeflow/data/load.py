"""`load`: read the files once and put every row where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pyarrow as pa

from raeflow.data import splits
from raeflow.data.bins import Bins
from raeflow.data.encoding.lexicon import Lexicon, move
from raeflow.data.encoding.sketch import chunks
from raeflow.data.faults import Tally
from raeflow.data.files import expand, read_footers
from raeflow.data.learning import learn
from raeflow.data.plan import Plan, make_plan
from raeflow.data.reading import prefetch
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.sources import resolve
from raeflow.data.stream import load_streamed
from raeflow.errors import RaeflowError
from raeflow.study import Data


def inspect(data: Data) -> RowSpec:
    """How a row of `data` is read; everything wrong that shows without reading all rows is refused here.

    Of a table with words, levels and the width of the encoded row are known only after `load`.
    """
    return make_plan(resolve(data)).reader.spec


def count(data: Data) -> int:
    """Rows in the files of `Data.source`, from their footers: an upper bound of the train split."""
    return sum(footer.metadata.num_rows for footer in read_footers(expand(cast(Sequence[str], resolve(data).source))))


def load(data: Data) -> Splits:
    """Read the rows once into four disjoint splits, with the encoding fitted on train.

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
    lexicon = Lexicon(reader.spec)
    # Units are read side by side by one thread each; Arrow's own threads help where there is only one.
    threads = 0 if alone else pa.cpu_count()
    for unit, part in zip(plan.units, prefetch(lambda unit: reader.read(unit, threads=alone), plan.units, threads, threads), strict=True):
        tally.add(unit.piece, unit.groups, part.problems)
        lexicon.learn(part.x, part.levels)
        bins.add(part)
    del part
    skipped = tally.settle()
    bins.refuse_empty()
    train = cast(Rows, bins.rows(splits.TRAIN))
    validate, labelled = bins.validation()
    calibrate, test = bins.rows(splits.CALIBRATE), bins.rows(splits.TEST)
    spec, encoding, moved = learn(plan.data, reader.spec, lexicon, chunks(train.x), lambda: chunks(train.x), lambda: None)
    move((train, labelled or validate, calibrate, test), moved)
    return Splits(spec, encoding, train, validate, calibrate, test, labelled, plan.fingerprint, plan.left_out, skipped)
