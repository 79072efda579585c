"""`load`: read the files once and put every row where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pyarrow as pa
import torch
from torch import Tensor

from raeflow.data import splits
from raeflow.data.bins import Bins
from raeflow.data.cleaning import CLEANED, clean
from raeflow.data.encoding.lexicon import Lexicon, move
from raeflow.data.encoding.sketch import chunks
from raeflow.data.faults import Tally
from raeflow.data.files import expand, read_footers
from raeflow.data.learning import Places, learn
from raeflow.data.plan import Plan, make_plan
from raeflow.data.reading import prefetch
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.series import load_series, windows_spec
from raeflow.data.sources import resolve
from raeflow.data.stream import load_streamed
from raeflow.errors import RaeflowError
from raeflow.study import Data


def inspect(data: Data) -> RowSpec:
    """How a row of `data` is read; everything wrong that shows without reading all rows is refused here.

    Of a table with words, levels and the width of the encoded row are known only after `load`.
    """
    spec = make_plan(resolve(data)).reader.spec
    return spec if data.time is None else windows_spec(data, spec, spec.stored[0])


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
    if data.time is not None:
        return load_series(plan)
    if plan.rows * plan.row_bytes <= data.memory:
        return _resident(plan)
    if data.contamination is not None:
        raise RaeflowError(
            f"Data(contamination={data.contamination!r}): {plan.rows:,} rows take {plan.rows * plan.row_bytes:,} bytes, more than "
            f"Data(memory={data.memory:,}) holds, and rows that stream by cannot be cleaned; allow more memory or give fewer rows"
        )
    return load_streamed(plan)


def _resident(plan: Plan) -> Splits:
    reader, bins, alone, tally = plan.reader, Bins(plan), len(plan.units) == 1, Tally(plan.rows)
    lexicon = Lexicon(reader.spec)
    # Units are read side by side by one thread each; Arrow's own threads help where there is only one.
    threads, cleaned = 0 if alone else pa.cpu_count(), plan.data.contamination is not None
    parts = prefetch(lambda unit: reader.read(unit, threads=alone), plan.units, threads, threads)
    for at, (unit, part) in enumerate(zip(plan.units, parts, strict=True)):
        tally.add(unit.piece, unit.groups, part.problems)
        lexicon.learn(part.x, part.levels)
        bins.add(part, at if cleaned else None)
    del part
    skipped = tally.settle()
    bins.refuse_empty()
    places = {code: bins.places(code) for code in CLEANED} if cleaned else {}
    train = cast(Rows, bins.rows(splits.TRAIN))
    validate, labelled = bins.validation()
    calibrate, test = bins.rows(splits.CALIBRATE), bins.rows(splits.TEST)
    spec, encoding, moved = learn(plan.data, reader.spec, lexicon, chunks(train.x), lambda: chunks(train.x), lambda: None)
    aside = None
    if plan.data.contamination is not None:
        cuts, aside = clean(
            plan.data.contamination,
            (train, validate, calibrate),
            places,
            plan.units,
            spec,
            partial(_encoded, encoding=encoding, moved=moved),
        )
        keep = {code: torch.from_numpy(cut.keep) for code, cut in cuts.items()}
        train = train.take(keep[splits.TRAIN])
        validate, labelled = _kept(validate, labelled, keep[splits.VALIDATE])
        calibrate = None if calibrate is None else calibrate.take(keep[splits.CALIBRATE])
        # What was set aside made tails long and levels known: the encoding is that of the rows that are learnt from.
        spec, encoding, moved = learn(plan.data, reader.spec, lexicon, chunks(train.x), lambda: chunks(train.x), lambda: None)
    move((train, labelled or validate, calibrate, test, aside.calibrate if aside else None), moved)
    return Splits(
        spec, encoding, train, validate, calibrate, test, labelled, plan.fingerprint, plan.left_out, skipped, set_aside=aside,
        unclean=aside is not None,
    )  # fmt: skip


def _kept(validate: Rows, labelled: Rows | None, keep: Tensor) -> tuple[Rows, Rows | None]:
    """The validation rows that stay, and all of them where their truth is known, of which the first are a slice."""
    if labelled is None:
        return validate.take(keep), None
    labelled = labelled.take(torch.argsort(~keep, stable=True))
    return labelled.take(slice(0, int(keep.sum()))), labelled


def _encoded(x: Tensor, encoding: Any, moved: Places) -> tuple[Tensor, Tensor]:
    """Rows as they were read (n, *stored): with settled levels, and encoded, both as copies."""
    settled = Rows(x.clone())
    move((settled,), moved)
    return settled.x, encoding(settled.x)
