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


def test_psnr_is_the_mean_of_the_images_own() -> None:
    clean = torch.rand(2, 1, 12, 12)
    noisy = clean.clone()
    noisy[0] += 0.1  # squared error 0.01: 20 dB
    noisy[1] += 0.01  # 40 dB
    assert metrics.psnr(noisy, clean) == pytest.approx(30, abs=1e-3)
    assert metrics.psnr(255 * noisy.numpy(), 255 * clean.numpy(), peak=255) == pytest.approx(30, abs=1e-3)
    assert metrics.psnr(clean, clean) == math.inf


def test_ssim_agrees_with_the_formula_and_takes_images_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = torch.Generator().manual_seed(0)
    clean = torch.rand(5, 1, 16, 16, generator=dice)
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=dice)).clamp(0, 1)
    whole = metrics.ssim(noisy, clean)
    monkeypatch.setattr(metrics, "_SSIM_VALUES", 256)
    assert metrics.ssim(noisy, clean) == pytest.approx(whole, rel=1e-6)
    assert metrics.ssim(clean, clean) == pytest.approx(1)
    # Flat images of levels a and b have no variance: (2ab + c1) / (a^2 + b^2 + c1) remains (Wang et al. 2004, equation 13).
    a, b, c1 = 0.3, 0.6, 0.01**2
    flat = metrics.ssim(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b))
    assert flat == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), rel=1e-3)
    assert metrics.ssim(10 * noisy, 10 * clean, peak=10) == pytest.approx(whole, rel=1e-4)


def test_rmse_by_hand() -> None:
    assert metrics.rmse(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.0], [3.0, 0.0]])) == 2


def test_peak_accuracy_counts_places_and_heights() -> None:
    clean = np.zeros((4, 1, 500))
    clean[:, 0, 250] = -1.0  # polarity does not matter
    found = np.zeros_like(clean)
    found[0, 0, 260], found[1, 0, 240], found[2, 0, 261], found[3, 0, 250] = 1.019, -0.5, 1.03, 0.981
    assert metrics.peak_accuracy(found, clean) == 0.75
    assert metrics.peak_accuracy(found[:, 0], torch.from_numpy(clean[:, 0]), tolerance=0.0) == 0.25
    assert metrics.peak_accuracy(found, clean, by="amplitude") == 0.5


def test_rows_that_cannot_be_compared_are_refused() -> None:
    for metric, one, other, told in [
        (metrics.psnr, torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5), r"\(2, 1, 4, 5\)"),
        (metrics.ssim, torch.zeros(2, 4), torch.zeros(2, 4), r"\(2, 4\)"),
        (metrics.rmse, torch.zeros(0, 4), torch.zeros(0, 4), r"\(0, 4\)"),
        (metrics.peak_accuracy, torch.ones(2, 4), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]), "clean row 1 holds no signal"),
        (metrics.peak_accuracy, torch.ones(2, 2, 4), torch.ones(2, 2, 4), r"one channel.*\(2, 2, 4\)"),
        (lambda a, b: metrics.peak_accuracy(a, b, by="height"), torch.ones(2, 4), torch.ones(2, 4), "by='height'"),
    ]:
        with pytest.raises(RaeflowError, match=told):
            metric(one, other)
