"""What all figures of series ask of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from raeflow.errors import RaeflowError
from raeflow.timeline import Flags, Floats, Index, Timeline, of_length

Spans = tuple[Index, Index, Index]
"""First reading, last reading and series of each event."""


def flags_of(what: str, values: Any, count: int) -> Flags:
    """(count,) booleans of zeros and ones, or a refusal that calls the figure `what`."""
    found = of_length(f"{what}: truth or alerts", values, count)
    strange = ~np.isin(found, (0, 1))
    if strange.any():
        raise RaeflowError(
            f"{what}: truth and alerts must be 0/1 or boolean, but reading {int(strange.argmax())} has {found[strange.argmax()]}"
        )
    return found.astype(np.bool_)


def checked(what: str, truth: Any, scores: Any) -> tuple[Flags, Floats]:
    """Truth and scores (N,), both copies."""
    values = of_length(f"{what}: scores", scores, np.size(scores)).copy()
    return flags_of(what, truth, len(values)), values


def together(series: Any, count: int) -> Index:
    """Numbers (count,) of series from 0 in order of appearance; refuses readings of a series that do not stand together."""
    if not count:
        return np.empty(0, np.int64)
    names = np.zeros(count, np.int64) if series is None else Timeline.of(np.zeros(count, np.int64), series)
    if isinstance(names, Timeline):
        codes = np.empty(count, np.int64)
        codes[names.order] = names.series
    else:
        codes = names
    begins = np.concatenate([[True], codes[1:] != codes[:-1]])
    if begins.sum() > len(np.unique(codes)):
        raise RaeflowError("readings of a series must stand together, in order of time, but those of one are parted by another's")
    return np.cumsum(begins) - 1


def spans(marked: Flags, codes: Index) -> Spans:
    """Unbroken runs of marked readings of one series; `codes` (N,) are the readings' series, those of one together."""
    edge = np.concatenate([[True], codes[1:] != codes[:-1]]) if len(codes) else np.empty(0, np.bool_)
    starts = np.flatnonzero(marked & (edge | ~np.concatenate([[False], marked])[:-1]))
    ends = np.flatnonzero(marked & (np.append(edge, True)[1:] | ~np.append(marked, False)[1:]))
    return starts, ends, codes[starts]
