"""Readings of the test split: figures of series, events, and a picture of the strangest series.

R readings, N windows, each of which stands for its last reading; C columns of a reading.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raeflow.data.clock import Kind
from raeflow.data.windows import Windows
from raeflow.errors import RaeflowError
from raeflow.events import find_events
from raeflow.readings import by_column, columns_of
from raeflow.report import markup
from raeflow.series_metrics import measures
from raeflow.timeline import PER_SECOND

if TYPE_CHECKING:
    from raeflow.data.rows import Splits
    from raeflow.detector import Detector

Values = npt.NDArray[Any]

TILE = 4096
"""Windows that are explained at a time."""
MOST_EVENTS = 20
"""Events that the page lists."""
FIGURES = {
    "events": "events in truth", "found": "events found", "event_recall": "share of events found", "delay_seconds": "median delay, seconds",
    "delay_readings": "median delay, readings", "alerts": "alerts", "false_alarms": "false alerts",
    "false_alarms_per_day": "false alerts a day", "vus_roc": "VUS-ROC", "vus_pr": "VUS-PR",
    "affiliation_precision": "affiliation precision", "affiliation_recall": "affiliation recall",
}  # fmt: skip
COUNTS = ("events", "found", "alerts", "false_alarms")


@dataclass(frozen=True)
class Tested:
    """The readings of a test split with their scores."""

    time: pa.Array
    series: list[str] | None
    scores: Values
    """(R,), NaN where no window ends with the reading."""
    truth: Values | None
    """(R,) bool, where it is known."""
    windows: Windows
    own: Values
    """(N,) number of each window's last reading."""


def last_readings(test: Windows) -> npt.NDArray[np.int64]:
    """(N,) number of each window's last reading."""
    return test.starts.cpu().numpy().astype(np.int64) + test.length - 1


def tested(splits: Splits, scores: Values) -> Tested | None:
    """Readings from the scores (N,) of the test split's windows; None where rows are no readings in order of time."""
    test, how = splits.test, splits.spec.windows
    if not isinstance(test, Windows) or how is None or test.readings.ticks is None:
        return None
    ticks = test.readings.ticks.numpy()
    time = Kind(how.unit, how.zoned).times(ticks)
    names, bounds = test.readings.names, test.readings.bounds.numpy()
    series = None if names == ("",) else [name for name, count in zip(names, np.diff(bounds), strict=True) for _ in range(int(count))]
    own, every = last_readings(test), np.full(len(ticks), np.nan, np.float32)
    every[own] = scores
    truth = None if test.readings.anomaly is None else test.readings.anomaly.numpy()
    return Tested(time, series, every, truth, test, own)


def figures(detector: Detector, splits: Splits, scores: Values) -> dict[str, float]:
    """`raeflow.series_metrics.measures` of the test split's readings; empty where no truth is known, or all are of one kind."""
    found = tested(splits, scores)
    if found is None or found.truth is None:
        return {}
    known = found.truth[~np.isnan(found.scores)]
    if not known.any() or known.all():
        return {}
    length = found.windows.length
    return measures(
        found.truth, found.scores, detector.threshold.value, found.time, found.series, buffer=length, max_step=_gap(splits) or None
    )


def _gap(splits: Splits) -> float:
    """Seconds above which a step is a gap."""
    how = splits.spec.windows
    assert how is not None  # noqa: S101 - callers have readings
    return how.max_gap * how.step / (PER_SECOND[how.unit] if how.unit else 1)


def events(detector: Detector, found: Tested) -> pa.Table:
    """Alerts of the test split as events, with the columns that caused them."""
    flags = detector.flags(found.scores)
    flagged = flags[found.own]
    index = np.flatnonzero(flagged)
    errors = [np.empty((0, len(columns_of(detector.spec))), np.float32)]
    for start in range(0, len(index), TILE):
        part = found.windows.take(torch.from_numpy(index[start : start + TILE]))
        errors.append(by_column(detector.graph, detector.explain(part)[:, :, -1]))
    rows = found.own[index]
    return find_events(
        found.time.take(pa.array(rows)), found.scores[rows], np.ones(len(rows)), _some(found.series, rows), position=rows,
        channels=np.concatenate(errors), names=columns_of(detector.spec), usual=detector.usual or None,
    )  # fmt: skip


def section(detector: Detector, splits: Splits, scores: Values, metrics: dict[str, float]) -> str:
    """The page's part on readings: figures, picture, events; nothing where rows are no readings."""
    from raeflow.report.seriesplots import scored_series

    found = tested(splits, scores)
    if found is None:
        return ""
    parts, listed = [], events(detector, found)
    rows = [[said, _number(name, metrics[name])] for name, said in FIGURES.items() if name in metrics]
    if rows:
        parts.append(markup.grid(["figure of the series", "detector"], rows, "Of readings and events, no point adjusted.", numbers=(1,)))
    without = int(np.isnan(found.scores).sum())
    told = f"{len(found.scores):,} test readings, {listed.num_rows:,} events"
    told += f"; {without:,} readings have no full window behind them, and so no score" if without else ""
    try:
        drawn = scored_series(
            found.time, found.scores, detector.threshold.value, listed, found.truth, found.series, values=_decoded(splits, found),
            names=columns_of(detector.spec),
        )  # fmt: skip
    except RaeflowError as error:
        parts.append(markup.paragraph(str(error), "soft"))
    else:
        parts.append(markup.picture(drawn, told, f"{told}. Each score sees nothing later than its reading."))
    if listed.num_rows:
        parts.append(_listed(listed))
    return markup.section("Readings and events", *parts)


def _listed(listed: pa.Table) -> str:
    strangest = listed.sort_by([("peak_score", "descending")]).slice(0, MOST_EVENTS).to_pylist()
    lines = []
    for e in strangest:
        causes = ", ".join(f"{c['channel']} {100 * c['share']:.0f} %" for c in e["channels"])
        own = [] if e["series"] is None else [e["series"]]
        lines.append([*own, str(e["start"]), str(e["end"]), f"{e['readings']:,}", f"{e['peak_score']:.4g}", causes])
    heads = [*(["series"] if strangest[0]["series"] is not None else []), "start", "end", "readings", "peak score", "columns it is due to"]
    at = len(heads) - 3
    return markup.grid(heads, lines, f"The {len(lines)} strangest of {listed.num_rows:,} events.", numbers=(at, at + 1))


def _decoded(splits: Splits, found: Tested) -> Values:
    """(R, C) the readings in their own units."""
    reading = splits.spec.windows.reading  # type: ignore[union-attr]
    held, encoding = found.windows.readings, splits.encoding
    bounds = itertools.pairwise(held.bounds.tolist())
    parts = [encoding.decode(held.values[a:b], encoding.place(name)) for name, (a, b) in zip(held.names, bounds, strict=True)]
    stored: Values = torch.cat(parts).numpy()
    return stored[:, list(reading.places)] if reading.table else stored


def _some(series: list[str] | None, rows: Values) -> list[str] | None:
    return None if series is None else [series[row] for row in rows]


def _number(name: str, value: float) -> str:
    return f"{value:,.0f}" if name in COUNTS else "-" if np.isnan(value) else f"{value:.4g}"
