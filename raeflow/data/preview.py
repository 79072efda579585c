"""What raeflow takes the columns of a table for, from a bounded look at its rows: for study files and first questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from raeflow.data.columns import Words
from raeflow.data.encoding import Lexicon
from raeflow.data.faults import sift
from raeflow.data.files import expand, read_footers
from raeflow.data.learning import learn
from raeflow.data.plan import make_plan
from raeflow.data.rows import RowSpec, told
from raeflow.data.sources import resolve
from raeflow.data.survey import look
from raeflow.errors import RaeflowError
from raeflow.study import Data


def preview(data: Data) -> tuple[RowSpec, list[tuple[str, str]]]:
    """The row of `data`, and for each column of the files how it enters or why it stays out.

    Of a table, roles are those that the rows looked at (16,384, from all over the files) would give it; `load` decides
    by all train rows. Rows that cannot be used are passed over here: `load` tells of them with their place.
    Raises RaeflowError as `inspect` does, and where there are no rows.
    """
    plan = make_plan(resolve(data))
    spec = plan.reader.spec
    sources = cast(Sequence[str], plan.data.source)
    if not plan.rows:
        raise RaeflowError(f"{', '.join(sources)}: there are no rows")
    if not spec.held:
        return spec, told(None, plan.left_out)
    lexicon, parts = Lexicon(spec), []
    for table in look(read_footers(expand(sources)), spec.columns):
        words: Words = {}
        x = sift(table, spec, "the rows looked at", words).rows
        lexicon.learn(x, words)
        parts.append(x)
    fitted, encoding, _ = learn(plan.data, spec, lexicon, parts, lambda: iter(parts), lambda: None)
    return fitted, told(encoding, plan.left_out)
