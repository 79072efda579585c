"""Rows of a table as people read them: the columns that make them strange, with value and expected value in the user's own words.

N rows to show, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raeflow.data.columns import to_table
from raeflow.report import markup

if TYPE_CHECKING:
    from torch import Tensor

    from raeflow.detector import Detector

TOP_COLUMNS = 4

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Group:
    """Some rows of the test split, and why they are shown."""

    title: str
    caption: str
    index: Values


def grid(group: Group, detector: Detector, x: Tensor, scores: Values, known: Values | None) -> str:
    """HTML of stored rows (N, K): value, expected value, and how far the score falls when the column is given the latter.

    Args:
        group: why these rows are shown, and their numbers in the test split.
        detector: whose expectations they are compared with.
        x: the rows.
        scores: of the whole test split.
        known: which of the N rows are anomalies, where that is known.
    """
    value, expected = (to_table(rows.float(), detector.spec) for rows in (x, torch.from_numpy(detector.expected(x))))
    drops, strange = detector.drops(x), never_seen(detector, x)
    words = {f.name for f in detector.spec.fields if f.role == "category"}
    lines = []
    for n, i in enumerate(group.index):
        kind = [] if known is None else ["anomaly" if known[n] else "normal"]
        for place, c in enumerate(np.argsort(-drops[n], kind="stable")[:TOP_COLUMNS]):
            name = detector.spec.columns[int(c)]
            told = cell(value[name][n].as_py(), strange=bool(strange[n, c]), words=name in words)
            first = [str(i), f"{scores[i]:.4g}", *kind] if place == 0 else [""] * (2 + len(kind))
            lines.append([*first, name, told, cell(expected[name][n].as_py()), f"{drops[n, c]:.3g}"])
    heads = ["test row", "score", *([] if known is None else ["truth"]), "column", "value", "expected", "score falls by"]
    said = f"{group.caption} Last: how far the score falls when the column is given its expected value."
    return markup.grid(heads, lines, said, numbers=(0, 1, len(heads) - 1))


def never_seen(detector: Detector, x: Tensor) -> Values:
    """(N, C) bool: in which columns stored rows (N, K) have what train never had."""
    encoding: Any = detector.graph.encoding
    return np.asarray(encoding.strange(x.to(detector.device)).cpu())


def cell(value: Any, strange: bool = False, words: bool = False) -> str:
    """A value for people: numbers in four digits, clocks to the second, gaps and what train never had as such."""
    if value is None and strange and words:
        return "none, or a level that train never had"
    if value is None:
        told = "none"
    elif isinstance(value, bool):
        told = "true" if value else "false"
    elif isinstance(value, float):
        told = f"{value:.4g}"
    elif isinstance(value, datetime):
        told = value.isoformat(sep=" ", timespec="seconds")
    else:
        told = value.isoformat("seconds") if isinstance(value, time) else str(value)
    return f"{told}, never in train" if strange else told
