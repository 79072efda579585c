"""What raeflow takes the columns of a table for, from a bounded look at its rows: for study files and first questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from raeflow.data.columns import Words
from raeflow.data.encoding import Lexicon
from raeflow.data.files import expand, read_footers
from raeflow.data.learning import learn
from raeflow.data.plan import make_plan
from raeflow.data.rows import RowSpec, told
from raeflow.data.sources import resolve
from raeflow.data.survey import look
from raeflow.data.tensors import to_tensor
from raeflow.study import Data


def preview(data: Data) -> tuple[RowSpec, list[tuple[str, str]]]:
    """The row of `data`, and for each column of the files how it enters or why it stays out.

    Of a table, roles are those that the rows looked at (16,384, from all over the files) would give it; `load` decides
    by all train rows. Raises RaeflowError as `inspect` does.
    """
    plan = make_plan(resolve(data))
    spec = plan.reader.spec
    if not spec.held or not plan.rows:
        return spec, told(None, plan.left_out)
    lexicon, parts = Lexicon(spec), []
    for table in look(read_footers(expand(cast(Sequence[str], plan.data.source))), spec.columns):
        words: Words = {}
        x = to_tensor(table, spec, plan.units[0].piece.uri, words=words)
        lexicon.learn(x, words)
        parts.append(x)
    fitted, encoding, _ = learn(plan.data, spec, lexicon, parts, lambda: iter(parts), lambda: None)
    return fitted, told(encoding, plan.left_out)
