"""Thresholds keep what they promise on rows that they never saw."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from raeflow.calibration import Moments, Threshold, calibrate, clopper_pearson, combine, log_moments
from raeflow.data import splits
from raeflow.errors import RaeflowError
from raeflow.study import Calibration


def errors() -> torch.Tensor:
    """Reconstruction errors of real rows: PCA on digits, fitted on half, (898,)."""
    rows = load_digits().data / 16
    pca = PCA(10).fit(rows[::2])
    held = rows[1::2]
    return torch.from_numpy(((pca.inverse_transform(pca.transform(held)) - held) ** 2).mean(1)).float()


def test_mean_std_and_median_mad_by_numpy() -> None:
    scores = errors()
    plain = scores.double().numpy()
    found = calibrate(scores.split(100), Calibration(k=2.0))
    assert found.value == pytest.approx(plain.mean() + 2 * plain.std(), rel=1e-6)
    assert (found.count, found.mean, found.std) == (len(scores), pytest.approx(plain.mean()), pytest.approx(plain.std()))
    robust = calibrate([scores], Calibration(method="median_mad", k=3.0))
    assert robust.value == pytest.approx(np.median(plain) + 3 * np.median(np.abs(plain - np.median(plain))), rel=1e-5)


@pytest.mark.parametrize("method", ["mean_std", "quantile", "median_mad"])
def test_the_cut_of_the_chunks_does_not_matter(method: str) -> None:
    scores = errors()
    whole = calibrate([scores], Calibration(method=method))
    for size in (1, 7, 500):
        assert calibrate(scores.split(size), Calibration(method=method)) == whole


def test_moments_survive_a_large_offset() -> None:
    scores = errors() * 10 + 4096.0  # a sum of squares in float32 would lose the spread altogether
    found = calibrate(scores.split(64), Calibration())
    assert found.std == pytest.approx(scores.double().numpy().std(), rel=1e-6)
    assert found.std > 0


def test_per_batch_takes_means_of_consecutive_rows() -> None:
    scores = errors()
    means = [float(part.double().mean()) for part in scores.split(64)]
    found = calibrate(scores.split(50), Calibration(per="batch", batch_size=64))
    assert found.count == len(means) == 15
    assert found.value == pytest.approx(np.mean(means) + np.std(means), rel=1e-5)
    assert found.alert_rate == pytest.approx(float((scores > found.value).float().mean()))  # of rows, not of batches
    assert found.std < calibrate([scores], Calibration()).std


def test_quantile_keeps_its_share_on_new_rows_where_the_plain_quantile_does_not() -> None:
    random = np.random.default_rng(0)
    calibration = Calibration(method="quantile", quantile=0.9)
    conformal, plain, covered = [], [], 0
    for _ in range(2000):
        held = torch.from_numpy(random.gamma(2.0, size=19)).float()
        fresh = random.gamma(2.0, size=2000)
        found = calibrate([held], calibration)
        above = (fresh > found.value).mean()
        conformal.append(above)
        plain.append((fresh > np.quantile(held.numpy(), 0.9)).mean())
        covered += found.alert_low <= above <= found.alert_high
    assert np.mean(conformal) == pytest.approx(found.alert_rate, abs=0.005)
    assert found.alert_rate <= 0.1 + 1e-9
    assert np.mean(plain) > 0.12
    assert covered / 2000 == pytest.approx(0.95, abs=0.03)


def test_interval_of_mean_std_covers_the_rate_on_new_rows() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        found = calibrate([torch.from_numpy(random.lognormal(size=300)).float()], Calibration())
        covered += found.alert_low <= (random.lognormal(size=5000) > found.value).mean() <= found.alert_high
    assert covered / 400 > 0.9


COPIES = {
    "none": np.ones(20_000),
    "equal": np.full(1000, 20.0),
    "uneven": np.arange(1, 1001) ** -0.5,
    "zipf": 1 / np.arange(1, 1001),
}
WAYS = [
    Calibration(),
    Calibration(per="batch"),
    Calibration(method="median_mad", k=3.0),
    Calibration(method="quantile", quantile=0.9),
    Calibration(method="quantile", quantile=0.9, per="batch"),
]


def drawn(copies: str, random: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, splits.Keys, np.ndarray]:
    """Scores of the calibrate split of 20,000 rows, its rows' keys, and the scores and weights of all different rows."""
    weight = COPIES[copies]
    count = np.maximum(1, np.round(20_000 * weight / weight.sum())).astype(int)
    different = random.normal(size=(len(count), 3)).astype(np.float32)
    scores = (different**2).sum(1)  # a fixed function of the row
    keys = splits.row_keys(torch.from_numpy(different))
    codes, ends = splits.shares((0.6, 0.1, 0.1, 0.2), ())
    here = np.flatnonzero(splits.assign(keys, codes, ends) == splits.CALIBRATE)
    order = random.permutation(np.repeat(here, count[here]))
    return torch.from_numpy(scores[order]), scores, keys[order], count


@pytest.mark.parametrize("copies", COPIES)
def test_the_interval_covers_the_rate_however_often_rows_repeat(copies: str) -> None:
    random = np.random.default_rng(2)
    covered, blind, rates = np.zeros(len(WAYS)), np.zeros(len(WAYS)), np.zeros((len(WAYS), 2))
    draws = 250
    for _ in range(draws):
        held, scores, keys, count = drawn(copies, random)
        for place, way in enumerate(WAYS):
            found = calibrate([held], way, keys)
            true = count[scores > np.float64(found.value)].sum() / count.sum()
            covered[place] += found.alert_low <= true <= found.alert_high
            rates[place] += true / draws, found.alert_rate / draws
            old = calibrate([held], way)  # as if all rows differed
            blind[place] += old.alert_low <= count[scores > np.float64(old.value)].sum() / count.sum() <= old.alert_high
    assert (covered / draws >= 0.93).all(), covered / draws
    if copies == "none":
        assert (covered == blind).all()
    else:
        assert (blind / draws < 0.8).all(), "rows that repeat were one draw all along"
    assert rates[3][0] <= 0.1 + 0.005, "the conformal promise holds over draws of the splits"
    assert rates[3][0] <= rates[3][1] + 0.005


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.method}-{way.per}")
def test_where_no_row_repeats_counting_them_changes_nothing(way: Calibration) -> None:
    scores = errors()
    keys = np.arange(len(scores), dtype=np.uint64)
    plain, counted = calibrate([scores], way), calibrate([scores], way, keys)
    assert plain.distinct is None
    assert counted.distinct == len(scores)
    assert {**counted.to_json(), "distinct": 0} == {**plain.to_json(), "distinct": 0}


@pytest.mark.parametrize("way", WAYS[:4], ids=lambda way: f"{way.method}-{way.per}")
def test_copies_of_every_row_are_worth_the_rows_alone(way: Calibration) -> None:
    scores = errors()
    once = calibrate([scores], way, np.arange(len(scores), dtype=np.uint64))
    many = calibrate([scores.repeat(7)], way, np.tile(np.arange(len(scores), dtype=np.uint64), 7))
    assert many.distinct == once.distinct
    if way.per == "row":
        assert many.value == pytest.approx(once.value, rel=1e-6)
        assert (many.alert_rate, many.alert_high) == (pytest.approx(once.alert_rate), pytest.approx(once.alert_high, rel=0.01))
    blind = calibrate([scores.repeat(7)], way)
    assert many.alert_high - many.alert_low > 2 * (blind.alert_high - blind.alert_low)


def test_a_quantile_that_the_different_rows_cannot_keep_is_told_by_the_rate() -> None:
    scores = torch.arange(50.0).repeat_interleave(40)
    found = calibrate([scores], Calibration(method="quantile", quantile=0.99), np.arange(50, dtype=np.uint64).repeat(40))
    assert found.value == 49
    assert found.alert_rate == pytest.approx(1 / 51)
    assert found.alert_high > 0.05
    alone = calibrate([torch.tensor([1.0] * 200)], Calibration(), np.zeros(200, np.uint64))
    assert (alone.alert_rate, alone.alert_low, alone.alert_high) == (0, 0, pytest.approx(1, abs=0.01))


def test_a_threshold_from_before_rows_were_counted_still_loads() -> None:
    values = calibrate([errors()], Calibration()).to_json()
    assert "distinct" not in values  # so that the id of a saved detector stays what it was
    assert Threshold.from_json(values).distinct is None


def test_clopper_pearson_by_its_definition() -> None:
    from scipy.stats import binom

    rate, low, high = clopper_pearson(7, 50)
    assert rate == 0.14
    assert binom.sf(6, 50, low) == pytest.approx(0.025)
    assert binom.cdf(7, 50, high) == pytest.approx(0.025)
    assert clopper_pearson(0, 50)[1] == 0
    assert clopper_pearson(50, 50)[2] == 1


def test_threshold_comes_back_from_json() -> None:
    found = calibrate([errors()], Calibration(method="quantile", quantile=0.95))
    assert Threshold.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("scores", "calibration", "told"),
    [
        ([], Calibration(), "gives 0 rows"),
        ([1.0], Calibration(), "gives 1 rows"),
        ([1.0] * 64, Calibration(per="batch", batch_size=64), "gives 1 batches of 64"),
        ([1.0] * 98, Calibration(method="quantile", quantile=0.99), "at least 99 losses, the calibrate split gives 98"),
        ([1.0, 2.0, math.nan, 3.0], Calibration(), "row 2 .* nan"),
        ([1.0, math.inf], Calibration(), "row 1 .* inf"),
    ],
)
def test_refuses(scores: list[float], calibration: Calibration, told: str) -> None:
    with pytest.raises(RaeflowError, match=told):
        calibrate(torch.tensor(scores).split(2) if scores else [], calibration)


def test_ninety_nine_rows_are_enough_for_the_99th_percentile() -> None:
    assert calibrate([torch.arange(99.0)], Calibration(method="quantile", quantile=0.99)).value == 98


def test_combine_ignores_scale_and_keeps_order() -> None:
    scores = errors()
    other = scores.flip(0)
    one = combine([scores, other], [log_moments(scores), log_moments(other)])
    assert torch.allclose(one, combine([scores * 1000, other], [log_moments(scores * 1000), log_moments(other)]), atol=1e-4)
    assert float(one.mean()) == pytest.approx(0, abs=1e-4)
    alone = combine([scores], [log_moments(scores)])
    assert torch.equal(alone.argsort(), scores.argsort())
    assert float(alone.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_combine_takes_scores_below_zero_and_zeros() -> None:
    scores = errors()
    elbo = -50 + 100 * scores / scores.max()  # crosses zero: a logarithm already, left alone
    assert log_moments(elbo).floor is None
    single = combine([elbo], [log_moments(elbo)])
    assert torch.equal(single.argsort(), elbo.argsort())
    zeros = torch.cat([torch.zeros(1), scores])
    assert log_moments(zeros).std < 2 * log_moments(scores).std
    strange = combine([torch.tensor([0.0, -1.0, 1e9])], [log_moments(scores)])
    assert bool(torch.isfinite(strange).all())
    assert float(strange[2]) > float(strange[0]) == float(strange[1])


def test_constant_scores_do_not_divide_by_zero() -> None:
    flat = torch.full((10,), 0.5)
    assert combine([flat], [log_moments(flat)]).tolist() == pytest.approx([0.0] * 10, abs=1e-6)


def test_moments_survive_json() -> None:
    scores = errors()
    told = json.loads(json.dumps(log_moments(scores)))
    assert torch.equal(combine([scores], [Moments(*told)]), combine([scores], [told]))


def test_combine_and_moments_refuse() -> None:
    with pytest.raises(RaeflowError, match="2 members"):
        combine([torch.ones(3), torch.ones(3)], [Moments(0.0, 1.0, None)])
    with pytest.raises(RaeflowError, match="2 finite of 3"):
        log_moments(torch.tensor([1.0, 2.0, math.nan]))
