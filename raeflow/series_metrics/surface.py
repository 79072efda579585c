"""Volumes under the surfaces of ROC and precision-recall curves over buffers around events (Paparrizos et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from raeflow.errors import RaeflowError
from raeflow.series_metrics._checks import Spans, checked, spans, together
from raeflow.timeline import Flags, Floats, Index

EDITIONS = ("paper", "package")


def vus(
    truth: Any, scores: Any, buffer: int, series: Any = None, *, thresholds: int | None = 250, edition: str = "paper"
) -> dict[str, float]:
    """Volumes under the surfaces of ROC and precision-recall over buffers around events (Paparrizos et al. 2022, PVLDB 15(11)).

    `vus_roc` and `vus_pr` are means over buffers of 0 to `buffer` readings. With a buffer of w readings the w // 2 ones next to an event
    at distance d count as sqrt(1 - d / w) of an event's reading, so a score that rises a little early or late is no plain mistake; recall
    is weighted with the share of events that have any flagged reading. Chance is not 0.5 for `vus_roc`: it depends on the events and the
    buffer, so compare with a random score on the same ones.

    Time is O(N log N) once and O(readings within the buffer of an event) for each buffer. Readings without a score (NaN) count
    nowhere, nor do events that have none.

    Args:
        truth: (N,) 0 or 1, in order of time.
        scores: (N,) of the same readings; only their order matters.
        buffer: widest buffer in readings; the window's length or the period of the series.
        series: (N,) whose reading it is, those of a series together; a buffer ends with its series.
        thresholds: scores taken as thresholds, at even ranks, as the authors' own code does; None takes every one.
        edition: "paper" counts as published in 2022. "package" as the authors' package since version 0.0.6 and their later benchmark
            TSB-AD do: only flagged readings of a buffer count as positives, and precision is summed in steps. Both mostly read higher.

    Raises RaeflowError where there are no events, or nothing but events.
    """
    marked, values = checked("VUS", truth, scores)
    codes = together(series, len(marked))
    if buffer < 0 or (thresholds is not None and thresholds < 2):
        raise RaeflowError(f"VUS: buffer={buffer} must be 0 or more readings and thresholds={thresholds} at least 2")
    if edition not in EDITIONS:
        raise RaeflowError(f"VUS: edition={edition!r} must be 'paper' or 'package'")
    seen = ~np.isnan(values)
    starts, ends, whose = spans(marked, codes)
    sums = np.concatenate([[0], np.cumsum(seen & marked)])
    lives = sums[ends + 1] > sums[starts]
    events_seen = starts[lives], ends[lives], whose[lives]
    for start, end in zip(starts[~lives], ends[~lives], strict=True):
        marked[start : end + 1] = False
    count, events = int(seen.sum()), int((seen & marked).sum())
    if not 0 < events < count:
        raise RaeflowError(f"VUS needs scored readings of events and normal ones, but of {count} scored readings {events} are of events")
    bucket, levels = _buckets(values, seen, thresholds)
    flagged = np.cumsum(np.bincount(bucket[seen], minlength=levels)).astype(np.float64)
    inside = np.cumsum(np.bincount(bucket[seen & marked], minlength=levels))
    roc = pr = 0.0
    for weight_P, bucket_P, group_P in _buffered(marked, codes, seen, bucket, events_seen, buffer):
        groups = np.flatnonzero(np.diff(group_P, prepend=-1))
        hits = np.cumsum(np.bincount(bucket_P, weight_P, levels))
        known = np.cumsum(np.bincount(np.minimum.reduceat(bucket_P, groups), minlength=levels)) / len(groups)
        buffered = weight_P.sum() if edition == "paper" else events + hits - inside
        positives = (events + buffered) / 2  # the mean of those before and after buffering
        recall = np.concatenate([[0.0], np.minimum(hits / positives, 1) * known])
        alarm = np.concatenate([[0.0], (flagged - hits) / (count - positives)])
        precision = np.concatenate([[1.0], hits / flagged])
        roc += float(np.trapezoid(np.append(recall, 1.0), np.append(alarm, 1.0)))
        pr += float(np.trapezoid(precision, recall) if edition == "paper" else np.diff(recall) @ precision[1:])
    return {"vus_roc": roc / (buffer + 1), "vus_pr": pr / (buffer + 1)}


def _buckets(values: Floats, seen: Flags, thresholds: int | None) -> tuple[Index, int]:
    """(N,) number of the first threshold, from the highest, that a score reaches, and how many thresholds there are."""
    falling = -np.sort(-values[seen])
    levels = np.unique(falling)[::-1] if thresholds is None else falling[np.linspace(0, len(falling) - 1, thresholds).astype(np.int64)]
    return np.searchsorted(-levels, -np.where(seen, values, levels[-1])), len(levels)


def _buffered(marked: Flags, codes: Index, seen: Flags, bucket: Index, events: Spans, buffer: int) -> Iterator[tuple[Floats, Index, Index]]:
    """For buffers of 0 to `buffer`: weight, bucket and event of each scored reading of an event or its buffer, in order of time.

    Events whose buffers meet are one. Two buffers over a reading weigh more than 1 together, which is cut at 1.
    """
    starts, ends, whose = events
    near = np.flatnonzero(seen)
    # Distances to the two events before and the two behind, as far as they are of the same series.
    far = len(marked) + buffer + 1
    before, behind = np.searchsorted(ends, near) - 1, np.searchsorted(starts, near, "right")
    apart = []
    for event, place in ((before, ends), (before - 1, ends), (behind, starts), (behind + 1, starts)):
        known = (event >= 0) & (event < len(starts))
        kept = np.where(known, event, 0)
        apart.append(np.where(known & (whose[kept] == codes[near]), np.abs(near - place[kept]), far))
    before_1, before_2, behind_1, behind_2 = apart
    inside = marked[near]
    reach = np.where(inside, 0, np.minimum(before_1, behind_1))
    kept = np.flatnonzero(reach <= buffer // 2)
    reach, inside, places = reach[kept], inside[kept], near[kept]
    second = np.sort(np.stack([d[kept] for d in (before_1, before_2, behind_1, behind_2)]), axis=0)[1]
    owner = np.where(before_1[kept] <= behind_1[kept], before[kept], behind[kept])
    owner = np.where(inside, np.searchsorted(starts, places, "right") - 1, owner)
    for width in range(buffer + 1):
        half = width // 2
        own = np.flatnonzero(reach <= half)
        weight = np.sqrt(1 - reach[own] / max(width, 1))
        weight[second[own] <= half] = 1.0
        weight[inside[own]] = 1.0
        parted = np.diff(whose).astype(np.bool_) | (starts[1:] - ends[:-1] - 1 >= 2 * half)
        yield weight, bucket[places[own]], np.concatenate([[0], np.cumsum(parted)])[owner[own]]
