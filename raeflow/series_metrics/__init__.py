"""How well alerts and scores of series tell events: beside `raeflow.metrics`, which takes each reading by itself.

`truth` (N,) is True or 1 for readings of an event, an unbroken run of which is one true event; `scores` (N,) are higher for
stranger readings, NaN where a reading has none. No figure here adjusts points (`docs/series_metrics.md` says why).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raeflow.series_metrics._checks import checked
from raeflow.series_metrics.affiliation import affiliation
from raeflow.series_metrics.alarms import alarms, leaderboard
from raeflow.series_metrics.surface import vus
from raeflow.timeline import Timeline

__all__ = ["affiliation", "alarms", "leaderboard", "measures", "vus"]


def measures(
    truth: Any, scores: Any, threshold: float, time: Any, series: Any = None, *, buffer: int, joined: Any = 0, max_step: Any = None
) -> dict[str, float]:
    """All figures of this page together: `alarms`, `vus` and `affiliation`, whose names begin with their own.

    Args:
        truth: (N,) 0 or 1.
        scores: (N,) NaN where a reading has none.
        threshold: a reading raises an alert where its score exceeds it.
        time: (N,) timestamps or seconds, in any order.
        series: (N,) whose reading it is; None: all are of one series.
        buffer: the widest buffer of `vus`, in readings; the window's length where nothing else is known.
        joined: alerts no further apart than this (seconds or a timedelta) are one.
        max_step: neighbours further apart have a gap between them; None: five times the median step.
    """
    line = Timeline.of(time, series)
    marked, values = checked("measures", truth, scores)
    ordered = marked[line.order], values[line.order]
    found = alarms(truth, values > threshold, time, series, joined=joined, max_step=max_step, scored=~np.isnan(values))
    found |= vus(*ordered, buffer, line.series)
    precision, recall = affiliation(ordered[0], ordered[1] > threshold, line.series)
    return found | {"affiliation_precision": precision, "affiliation_recall": recall}
