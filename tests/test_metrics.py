"""Metrics agree with counting by hand and refuse what has no answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raeflow import metrics
from raeflow.errors import RaeflowError


def test_auroc_counts_pairs() -> None:
    random = np.random.default_rng(0)
    truth = random.random(200) < 0.3
    scores = random.normal(size=200).round(1) + truth  # ties on purpose
    strange, normal = scores[truth][:, None], scores[~truth][None]
    assert metrics.auroc(truth, scores) == pytest.approx(((strange > normal) + 0.5 * (strange == normal)).mean())


def test_average_precision_by_hand() -> None:
    assert metrics.average_precision([0, 1, 0, 1], [0.1, 0.9, 0.8, 0.7]) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_at_threshold_is_strict_and_counts() -> None:
    found = metrics.at_threshold(torch.tensor([0, 0, 1, 1]), torch.tensor([0.1, 0.6, 0.5, 0.9]), 0.5)
    assert found == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert metrics.at_threshold([0, 1], [0.0, 0.1], 1.0)["precision"] == 0


def test_infinite_scores_rank_highest() -> None:
    assert metrics.auroc([0, 0, 1], [1.0, 2.0, math.inf]) == 1


def test_bootstrap_holds_the_figure_and_narrows_with_rows() -> None:
    random = np.random.default_rng(1)

    def width(count: int) -> float:
        truth = np.arange(count) % 2 == 0
        scores = random.normal(size=count) + truth
        low, high = metrics.bootstrap(metrics.auroc, truth, scores, draws=200)
        assert low < metrics.auroc(truth, scores) < high
        return high - low

    assert width(1000) < width(60)


@pytest.mark.parametrize(
    ("truth", "scores", "told"),
    [
        ([0, 0], [1.0, 2.0], "all normal rows"),
        ([1, 1], [1.0, 2.0], "all anomalies"),
        ([], [], "0 rows"),
        ([0, 1], [1.0, math.nan], "row 1 is NaN"),
        ([0, 2], [1.0, 2.0], "row 1 has 2"),
        ([0, 1, 1], [1.0, 2.0], r"\(3,\)"),
    ],
)
def test_refuses(truth: list[int], scores: list[float], told: str) -> None:
    for metric in (metrics.auroc, metrics.average_precision, lambda t, s: metrics.at_threshold(t, s, 0.5)):
        with pytest.raises(RaeflowError, match=told):
            metric(truth, scores)
