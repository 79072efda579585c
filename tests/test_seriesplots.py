"""Pictures of series show the strangest ones with their readings, alerts and true events."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from raeflow.errors import RaeflowError
from raeflow.events import find_events
from raeflow.report.canvas import save, svg
from raeflow.report.seriesplots import scored_series

COUNT = 9000
NAMES = ["flow", "heat"]


def drawn(most=2):
    random = np.random.default_rng(0)
    time = np.datetime64("2024-01-01", "s") + np.tile(np.arange(COUNT // 3), 3) * np.timedelta64(60, "s")
    time[2500:3000] += np.timedelta64(5, "D")  # a gap in the first series
    names = np.repeat(["calm", "odd", "worst"], COUNT // 3)
    errors = random.gamma(2, 1, (COUNT, 2))
    errors[4000:4050, 0] += 30
    errors[8000, 1] += 300
    score = errors.mean(1)
    truth = np.zeros(COUNT)
    truth[3990:4040] = 1
    events = find_events(time, score, 12.0, names, joined=timedelta(minutes=30), channels=errors, names=NAMES)
    mixed = random.permutation(COUNT)
    rows = time[mixed], score[mixed], 12.0, events, truth[mixed], names[mixed]
    return scored_series(*rows, values=errors[mixed], names=NAMES, most=most)


def test_the_strangest_series_come_first_with_readings_alerts_and_true_events(tmp_path):
    figure = drawn()
    panels = figure.axes
    assert [a.get_title(loc="left") for a in panels[::2]] == [
        "worst: 1 event, the strangest by heat 99 %",
        "odd: 1 event, the strangest by flow 94 %",
    ]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["flow", "heat"]  # from below: the cause is on top
    labels = [panels[3].get_legend_handles_labels()[1], panels[1].get_legend_handles_labels()[1]]
    assert labels == [["score", "threshold", "alert", "true event"], ["score", "threshold", "alert"]]
    line = panels[1].lines[0]
    assert len(line.get_ydata()) <= 2000
    assert np.nanmax(line.get_ydata()) > 150  # thinning keeps the peak
    assert save(figure, tmp_path / "series.png", dpi=40).stat().st_size > 5000
    assert "true event" in svg(figure)


def test_a_gap_breaks_the_line_and_calm_series_are_left_out():
    calm = np.arange(100.0)
    calm[50:] += 1000
    score = np.ones(100)
    figure = scored_series(calm, score, 2.0, find_events(calm, score, 2.0))
    assert figure.axes[0].get_title(loc="left") == "no event"
    assert np.flatnonzero(np.isnan(figure.axes[0].lines[0].get_ydata())).tolist() == [50]
    assert figure.axes[0].get_xlabel() == "time"
    assert len(drawn(most=5).axes) == 4  # two of three series have an event


def test_what_cannot_be_drawn_is_refused():
    nothing = find_events([0, 1], [0.0, 0.0], 1.0)
    with pytest.raises(RaeflowError, match="none of the 2 readings has a score"):
        scored_series([0, 1], [np.nan, np.nan], 1.0, nothing)
    with pytest.raises(RaeflowError, match=r"values \(2, 1\) must be"):
        scored_series([0, 1], [0.0, 0.0], 1.0, nothing, values=np.zeros((2, 1)))
