"""Figures of series: readings, scores, the threshold, alerts and true events over time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import ANOMALY, CYCLE, INK, MOST_POINTS, NORMAL, styled
from raeflow.timeline import Flags, Floats, Index, Timeline, of_length

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = npt.NDArray[Any]

TRUE = CYCLE[2]
MOST_LANES = 4
"""Channels drawn of each series; those that its strangest event is due to come first."""
LEAST_SHARE = 0.1
"""Of a channel that a title names."""


@styled
def scored_series(
    time: Any, score: npt.ArrayLike, threshold: float, events: pa.Table, truth: npt.ArrayLike | None = None, series: Any = None, *,
    values: npt.ArrayLike | None = None, names: Sequence[str] = (), most: int = 3,
) -> Figure:  # fmt: skip
    """The series with the strangest events: readings in lanes, the score below them with threshold, alerts and true events.

    Args:
        time: (N,) timestamps or numbers, in any order.
        score: (N,) NaN where a reading has none.
        threshold: a reading raises an alert where its score exceeds it.
        events: what `raeflow.events.find_events` made of these readings.
        truth: (N,) 0 or 1: the true events, as a bar along the time axis.
        series: (N,) whose reading it is.
        values: (N, C) readings, of which each series shows those channels that its strangest event is due to.
        names: of the C channels.
        most: series drawn, those with the highest peaks first.

    Raises RaeflowError where there is nothing to draw or shapes do not fit.
    """
    from matplotlib.figure import Figure

    line = Timeline.of(time, series)
    scores = of_length("score", score, len(line.order))
    marked = None if truth is None else of_length("truth", truth, len(scores)) > 0
    if not np.isfinite(scores).any():
        raise RaeflowError(f"scored_series: none of the {len(scores)} readings has a score to draw")
    readings = None if values is None else np.asarray(values)
    if readings is not None and readings.shape != (len(scores), len(names)):
        raise RaeflowError(f"scored_series: values {readings.shape} must be (N, C) of {len(scores)} readings and {len(names)} channels")
    chosen = _strangest(line, scores, events, most)
    lanes = 0 if readings is None else min(MOST_LANES, len(names))
    figure = Figure(figsize=(9.0, (1.9 + 0.42 * lanes) * len(chosen) + 0.35))
    heights = [0.42 * lanes, 1.5] if lanes else [1.5]
    drawn: Axes | None = None
    for code, part in zip(chosen, np.atleast_1d(np.asarray(figure.subfigures(len(chosen), 1))), strict=True):
        places = line.order[line.series == code]
        own = [e for e in events.to_pylist() if e["series"] == line.names[code]]
        axes = part.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        axes[0].set_title(_told(line.names[code], own), fontsize=9.5)
        if readings is not None and lanes:
            _lanes(axes[0], line, places, readings, _causes(own, names)[:lanes], names)
        drawn = axes[-1]
        _scores(axes[-1], line, places, scores, threshold)
        for panel in axes:
            _alerts(panel, own)
        if marked is not None:
            _true_events(axes[-1], _clock(line)[places], marked[places])
    if drawn is not None:
        if not _is_clock(line):
            drawn.set_xlabel("time")
        handles, labels = drawn.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _strangest(line: Timeline, scores: Floats, events: pa.Table, most: int) -> list[int]:
    """Numbers of the series to draw: by the peaks of their events, then by their highest scores."""
    finite = np.where(np.isfinite(scores), scores, -np.inf)[line.order]
    highest = np.full(len(line.names), -np.inf)
    np.maximum.at(highest, line.series, finite)
    peaks: dict[Any, float] = {}
    for name, peak in zip(events["series"].to_pylist(), events["peak_score"].to_pylist(), strict=True):
        peaks[name] = max(peak, peaks.get(name, -np.inf))
    numbers = sorted(range(len(line.names)), key=lambda n: (-peaks.get(line.names[n], -np.inf), -highest[n]))
    alerted = [n for n in numbers if line.names[n] in peaks]
    return (alerted or numbers[:1])[:most]


def _told(name: str | None, events: list[dict[str, Any]]) -> str:
    """Title of one series: its name, how many events, what the strangest is due to."""
    count = f"{len(events):,} event{'' if len(events) == 1 else 's'}" if events else "no event"
    told = count if name is None else f"{name}: {count}"
    causes = max(events, key=lambda e: e["peak_score"])["channels"] if events else []
    due = ", ".join(f"{c['channel']} {100 * c['share']:.0f} %" for c in causes[:2] if c["share"] >= LEAST_SHARE)
    return f"{told}, the strangest by {due}" if due else told


def _causes(events: list[dict[str, Any]], names: Sequence[str]) -> list[int]:
    """Channels in order of their share in the strangest event, the others behind."""
    causes = max(events, key=lambda e: e["peak_score"])["channels"] if events else []
    first = [names.index(c["channel"]) for c in causes if c["channel"] in names]
    return first + [n for n in range(len(names)) if n not in first]


def _lanes(axes: Axes, line: Timeline, places: Index, readings: Values, channels: list[int], names: Sequence[str]) -> None:
    """Each channel in a lane of its own, from its 0.005 to its 0.995 quantile."""
    for lane, channel in enumerate(reversed(channels)):
        own = np.asarray(readings[places, channel], np.float64)
        known = own[np.isfinite(own)]
        low, high = np.quantile(known, [0.005, 0.995]) if len(known) else (0.0, 1.0)
        scaled = 0.5 if high <= low else np.clip((own - low) / (high - low), -0.05, 1.05)
        axes.plot(*_thinned(line, places, lane + 0.85 * scaled + 0 * own, MOST_POINTS // 3), color="#5f6670", linewidth=0.8)
    axes.set_yticks(np.arange(len(channels)) + 0.42, [names[c] for c in reversed(channels)], fontsize=8)
    axes.set_ylim(-0.1, len(channels))
    axes.grid(visible=False)
    axes.tick_params(axis="x", length=0)


def _scores(axes: Axes, line: Timeline, places: Index, scores: Floats, threshold: float) -> None:
    from matplotlib import dates

    own = np.where(np.isfinite(scores[places]), scores[places], np.nan)
    axes.plot(*_thinned(line, places, own), color=NORMAL, linewidth=0.9, label="score")
    axes.axhline(threshold, color=INK, linestyle="--", linewidth=1.0, label="threshold")
    known = own[np.isfinite(own)]
    if len(known) and known.min() > 0 and known.max() / known.min() > 30:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("score")
    axes.margins(x=0.01)
    if _is_clock(line):
        untyped: Any = dates
        locator = untyped.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))


def _alerts(axes: Axes, events: list[dict[str, Any]]) -> None:
    from matplotlib.colors import to_rgba

    for number, event in enumerate(events):
        # The edge keeps an alert of one reading visible.
        look: dict[str, Any] = {"facecolor": to_rgba(ANOMALY, 0.25), "edgecolor": to_rgba(ANOMALY, 0.6), "linewidth": 0.7, "zorder": 1}
        axes.axvspan(_plain(event["start"]), _plain(event["end"]), label="" if number else "alert", **look)


def _true_events(axes: Axes, clock: Values, marked: Flags) -> None:
    """A bar at the foot for each unbroken run of marked readings."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    for number, (first, stop) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        label = "" if number else "true event"
        axes.axvspan(clock[first], clock[stop - 1], 0, 0.05, color=TRUE, linewidth=0.8, zorder=3, label=label)


def _thinned(line: Timeline, places: Index, values: Floats, most: int = MOST_POINTS) -> tuple[Values, Values]:
    """Times and values with at most `most` points, lowest and highest of each piece kept; a gap in time breaks the line."""
    times = _clock(line)[places]
    ticks = times.astype(np.float64)
    steps = np.diff(ticks)
    usual = float(np.median(steps)) if len(steps) else 0.0
    broken = values.astype(np.float64).copy()
    broken[1:][steps > 5 * usual] = np.nan
    if len(broken) <= most:
        return times, broken
    pieces = np.array_split(np.arange(len(broken)), most // 3)
    kept: set[int] = set()
    for piece in pieces:
        part = broken[piece]
        gaps = np.isnan(part)
        if gaps.any():
            kept.add(int(piece[gaps.argmax()]))
        if not gaps.all():
            kept |= {int(piece[np.nanargmin(part)]), int(piece[np.nanargmax(part)])}
    index = np.array(sorted(kept))
    return times[index], broken[index]


def _is_clock(line: Timeline) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(line.time.type))


def _clock(line: Timeline) -> Values:
    """(N,) times as matplotlib draws them, in the order in which they were given; zones are left to UTC."""
    times: Values = line.time.to_numpy(zero_copy_only=False)
    return times


def _plain(time: Any) -> Any:
    """A time of an event as `_clock` has it."""
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None)) if getattr(time, "tzinfo", None) else time
