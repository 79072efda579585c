"""`normal` and `anomaly`: pyarrow expressions, or tuples, as masks over a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raeflow.data.files import ARROW_ERRORS, reason
from raeflow.errors import RaeflowError

_OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "in", "not in")


def to_expression(rule: Any, field: str) -> pc.Expression | None:
    """`Data.normal` or `Data.anomaly` as an expression; tuples were frozen by `Data`, so lists are made anew."""
    if rule is None or isinstance(rule, pc.Expression):
        return rule
    try:
        terms = [rule] if _is_term(rule) else list(rule)
        groups = [terms] if all(map(_is_term, terms)) else [[group] if _is_term(group) else list(group) for group in terms]
        return pq.filters_to_expression([[_term(term, rule, field) for term in group] for group in groups])
    except (*ARROW_ERRORS, TypeError, ValueError) as error:
        raise RaeflowError(f"Data({field}={rule!r}): not a filter ({reason(error)})") from error


def _is_term(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], str)


def _term(term: Any, rule: Any, field: str) -> tuple[str, str, Any]:
    if not _is_term(term) or term[1] not in _OPERATORS:
        signs = ", ".join(repr(sign) for sign in _OPERATORS)
        raise RaeflowError(f"Data({field}={rule!r}): {term!r} is not (column, operator, value) with an operator of {signs}")
    name, sign, value = term
    return name, sign, list(value) if sign in ("in", "not in") else value


def columns_of(expression: pc.Expression | None, names: Sequence[str]) -> list[str]:
    """Those of `names` that an expression mentions."""
    if expression is None:
        return []
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', str(expression))  # a quoted value is no column
    return [name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)]


def mask(table: pa.Table, expression: pc.Expression, field: str, where: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows (N,) an expression keeps; a null does not count as kept."""
    import pyarrow.dataset as ds  # takes longer to import than small tables to read

    try:
        kept = ds.InMemoryDataset(table).to_table(columns={"kept": expression}, use_threads=False)["kept"]
        return np.asarray(kept.fill_null(False).to_numpy(), np.bool_)
    except (*ARROW_ERRORS, TypeError, AttributeError) as error:
        raise RaeflowError(f"{where}: Data({field}={expression}) cannot be applied: {reason(error)}") from error
