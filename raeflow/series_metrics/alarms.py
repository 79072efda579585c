"""What whoever answers alarms asks: events found, how late, and how many alarms a day are false."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raeflow.errors import RaeflowError
from raeflow.events import group_alerts
from raeflow.series_metrics._checks import flags_of, spans, together
from raeflow.timeline import Timeline, duration

DAY = 86400.0


def alarms(
    truth: Any, flags: Any, time: Any, series: Any = None, *, joined: Any = 0, max_step: Any = None, scored: Any = None
) -> dict[str, float]:
    """Events found, delay to detection and false alarms a day.

    `events` true ones, `found` those with a flagged reading, `event_recall` their share. `delay_seconds`, `delay_readings`: from an
    event's first reading to its first flagged one, the median of those found (NaN where none is). `alerts`: flagged readings that
    are neighbours or at most `joined` apart are one. `false_alarms`: alerts without a reading of an event, and
    `false_alarms_per_day`: for each 24 hours of normal readings that have a score; a gap counts as one step.

    Args:
        truth: (N,) 0 or 1.
        flags: (N,) which readings raise an alert.
        time: (N,) timestamps or seconds, in any order.
        series: (N,) whose reading it is.
        joined: seconds or a timedelta.
        max_step: seconds or a timedelta, above which a step is a gap; None: five times the median step.
        scored: (N,) which readings have a score; None: all. An event without any counts as missed.
    """
    line = Timeline.of(time, series)
    marked, raised = (flags_of("alarms", v, len(line.order)) for v in (truth, flags))
    watched = np.ones(len(marked), np.bool_) if scored is None else flags_of("alarms", scored, len(marked))
    steps = line.steps()
    usual = float(np.median(steps[line.follows()])) if line.follows().any() else 0.0
    gap = 5 * usual if max_step is None else duration("max_step", max_step)
    starts, ends, _ = spans(marked[line.order], line.series)
    places, firsts = group_alerts(line, raised, joined, gap)
    # The first alert at or after each event's start belongs to it where it is not after its end.
    nth = np.searchsorted(places, starts)
    first = np.append(places, len(marked))[nth]
    hit = first <= ends
    late = line.seconds[first[hit]] - line.seconds[starts[hit]]
    true_alerts = np.add.reduceat(marked[line.order][places].astype(np.int64), firsts) > 0 if len(places) else np.empty(0, np.bool_)
    normal = (watched & ~marked)[line.order]
    watch = float(np.where(steps <= gap, steps, usual)[normal].sum()) if normal.any() else 0.0
    false = int((~true_alerts).sum())
    return {
        "events": len(starts),
        "found": int(hit.sum()),
        "event_recall": float(hit.mean()) if len(hit) else math.nan,
        "delay_seconds": float(np.median(late)) if hit.any() else math.nan,
        "delay_readings": float(np.median(first[hit] - starts[hit])) if hit.any() else math.nan,
        "alerts": len(firsts),
        "false_alarms": false,
        "false_alarms_per_day": false / (watch / DAY) if watch > 0 else math.nan,
    }


def leaderboard(truth: Any, flags: Any, series: Any, train: int = 400) -> dict[str, float]:
    """Outlier detection as the leaderboard of SKAB counts it (Katser & Kozitsin 2020).

    Of each experiment the first `train` readings are to train on and the others are test; right and false alarms of all experiments
    are added up, readings by themselves. `false_alarm_rate` is FP / (FP + TN), `missed_alarm_rate` FN / (FN + TP), both shares.

    Args:
        truth: (N,) 0 or 1, the experiments' readings in order of time.
        flags: (N,) which readings raise an alert.
        series: (N,) whose reading it is; those of an experiment stand together.
        train: readings of each experiment that are left out.
    """
    marked = flags_of("leaderboard", truth, np.size(truth))
    raised = flags_of("leaderboard", flags, len(marked))
    codes = together(series, len(marked))
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    short = np.diff(np.append(begins, len(codes))) <= train
    if short.any() or not len(begins):
        told = f"experiment {int(short.argmax())} has no reading beyond" if len(begins) else "there is no reading beyond"
        raise RaeflowError(f"leaderboard: {told} its first {train}, which are to train on")
    test = np.arange(len(codes)) - begins[codes] >= train
    hits, false = (int((raised & kind & test).sum()) for kind in (marked, ~marked))
    missed, quiet = (int((~raised & kind & test).sum()) for kind in (marked, ~marked))
    return {
        "true_positives": hits,
        "false_positives": false,
        "false_negatives": missed,
        "true_negatives": quiet,
        "f1": 2 * hits / (2 * hits + false + missed) if hits + false + missed else math.nan,
        "false_alarm_rate": false / (false + quiet) if false + quiet else math.nan,
        "missed_alarm_rate": missed / (missed + hits) if missed + hits else math.nan,
    }
