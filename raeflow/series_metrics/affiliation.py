"""How near alerts lie to events, against alerts at random (Huet, Navarro & Rossi 2022)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raeflow.errors import RaeflowError
from raeflow.series_metrics._checks import flags_of, spans, together
from raeflow.timeline import Floats


def affiliation(truth: Any, flags: Any, series: Any = None) -> tuple[float, float]:
    """Affiliation precision and recall (Huet, Navarro & Rossi 2022, "Local evaluation of time series anomaly detection", KDD).

    Each event has a zone: what is nearer to it than to any other event of its series. Within the zone the distance of an alert to
    the event (precision), or of the event to the alerts (recall), becomes the chance that a point drawn evenly from the zone lies
    further away. Precision is 1 for alerts within events and 0.5 for alerts at random where events are short, more where they are
    long. Precision is the mean over events whose zone holds an alert (NaN where none does), recall over all events. A reading lasts
    from its place to the next.

    Alerts in a series without events have no zone and do not count: `alarms` counts them.

    Args:
        truth: (N,) 0 or 1, in order of time.
        flags: (N,) which readings raise an alert.
        series: (N,) whose reading it is, those of a series together.

    Raises RaeflowError where there is no event.
    """
    marked = flags_of("affiliation", truth, np.size(truth))
    raised = flags_of("affiliation", flags, len(marked))
    codes = together(series, len(marked))
    starts, ends, whose = spans(marked, codes)
    if not len(starts):
        raise RaeflowError(f"affiliation needs at least one event, but none of the {len(marked)} readings is of one")
    alert_starts, alert_ends, _ = spans(raised, codes)
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    stops = np.append(begins[1:], len(codes))
    alone = np.diff(whose, prepend=-1, append=-1) != 0  # before the first and after the last event of a series
    middles = (np.append(starts, 0) + np.append(0, ends + 1)) / 2
    lows = np.where(alone[:-1], begins[whose], middles[:-1])
    highs = np.where(alone[1:], stops[whose], middles[1:])
    firsts = np.searchsorted(alert_ends + 1, lows, "right")
    lasts = np.searchsorted(alert_starts, highs, "left")
    precisions, recalls = [], []
    for event in range(len(starts)):
        zone, own = (float(lows[event]), float(highs[event])), (float(starts[event]), float(ends[event] + 1))
        held = slice(firsts[event], max(firsts[event], lasts[event]))
        left = np.maximum(alert_starts[held], zone[0]).astype(np.float64)
        right = np.minimum(alert_ends[held] + 1, zone[1]).astype(np.float64)
        if not len(left):
            recalls.append(0.0)
            continue
        precisions.append(_precision(left, right, own, zone))
        recalls.append(_recall(left, right, own, zone))
    return (float(np.mean(precisions)) if precisions else math.nan), float(np.mean(recalls))


def _precision(left: Floats, right: Floats, event: tuple[float, float], zone: tuple[float, float]) -> float:
    """Mean over the alerts [left, right) of the chance to lie further from the event than they do."""
    start, end = event
    before, after = start - zone[0], zone[1] - end  # room on either side

    def upto(distance: Floats) -> Floats:
        """Integral of that chance from distance 0 to `distance`."""
        rooms = [room**2 - np.maximum(room - distance, 0) ** 2 for room in (before, after)]
        return np.asarray(sum(rooms) / (2 * (zone[1] - zone[0])))

    inside = np.maximum(np.minimum(right, end) - np.maximum(left, start), 0)
    early = upto(np.maximum(start - left, 0)) - upto(np.maximum(start - right, 0))
    late = upto(np.maximum(right - end, 0)) - upto(np.maximum(left - end, 0))
    return float((inside + early + late).sum() / (right - left).sum())


def _recall(left: Floats, right: Floats, event: tuple[float, float], zone: tuple[float, float]) -> float:
    """Mean over the event of the chance that a point of the zone lies further from it than the nearest alert does."""
    start, end = event
    low, high = zone
    inside = np.maximum(np.minimum(right, end) - np.maximum(left, start), 0).sum()
    # Between two alerts the nearer one counts; before the first and after the last there is but one.
    halves = (left[1:] + right[:-1]) / 2
    # After an alert that ends at p, a point y is y - p from it, so all below p and all above 2 y - p is further.
    y0, y1 = (np.clip(v, start, end) for v in (right, np.append(halves, end)))
    wide = np.maximum(y1 - y0, 0)
    y1 = y0 + wide
    after = wide * (right - low) + (np.maximum(high + right - 2 * y0, 0) ** 2 - np.maximum(high + right - 2 * y1, 0) ** 2) / 4
    # Before an alert that begins at p the same mirrored.
    y0, y1 = (np.clip(v, start, end) for v in (np.append(start, halves), left))
    wide = np.maximum(y1 - y0, 0)
    y0 = y1 - wide
    before = wide * (high - left) + (np.maximum(2 * y1 - left - low, 0) ** 2 - np.maximum(2 * y0 - left - low, 0) ** 2) / 4
    return float((inside + (after + before).sum() / (high - low)) / (end - start))
