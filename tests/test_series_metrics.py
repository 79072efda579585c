"""Figures of series agree with the published definitions, with the authors' own code and with counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from raeflow import metrics
from raeflow.errors import RaeflowError
from raeflow.series_metrics import affiliation, alarms, leaderboard, measures, vus

# Printed by the authors' own code on `case`, flags being scores above 0.9: VUS-ROC and VUS-PR by the package vus 0.0.5
# (`metricor().RangeAUC_volume_opt(truth, score, buffer, 250)`), the same by vus 0.0.6, affiliation precision and recall by the
# `affiliation` module that it brings (`pr_from_events(..., (0, N))`). 60 random cases agreed with them to 1e-14 besides.
REFERENCE = [
    (120, 37, 101, [(20, 29), (60, 62), (110, 119)], 8,
     [0.8471858062, 0.6965774991, 0.8736837525, 0.7302027041, 0.728624382, 0.9910935949]),
    (300, 113, 307, [(0, 4), (40, 40), (50, 57), (250, 270)], 21,
     [0.8041802918, 0.5430302743, 0.8721024208, 0.6245967544, 0.6498782726, 0.9827268551]),
    (90, 29, 17, [(30, 44)], 0,
     [0.7902222222, 0.593710778, 0.7902222222, 0.6001543799, 0.7944444444, 0.992962963]),
    (400, 211, 401, [(100, 109), (118, 127), (300, 349)], 40,
     [0.8141975927, 0.6407437675, 0.8707739053, 0.7015893671, 0.6986510079, 0.9975493303]),
]  # fmt: skip


def case(count, a, b, events):
    truth = np.zeros(count, int)
    for start, end in events:
        truth[start : end + 1] = 1
    return truth, (np.arange(count) * a % b) / b + 0.4 * truth


@pytest.mark.parametrize(("count", "a", "b", "events", "buffer", "expected"), REFERENCE)
def test_surfaces_and_affiliation_agree_with_the_authors_code(count, a, b, events, buffer, expected):
    truth, score = case(count, a, b, events)
    paper, package = (vus(truth, score, buffer, edition=edition) for edition in ("paper", "package"))
    found = [paper["vus_roc"], paper["vus_pr"], package["vus_roc"], package["vus_pr"], *affiliation(truth, score > 0.9)]
    assert found == pytest.approx(expected, abs=2e-10)


def test_surface_without_buffer_and_with_one_event_is_the_plain_curve():
    random = np.random.default_rng(0)
    truth = (np.arange(200) >= 150).astype(int)
    score = random.normal(size=200) + truth
    score[160] = 9  # the event is known from the first threshold on
    assert vus(truth, score, 0, thresholds=None)["vus_roc"] == pytest.approx(metrics.auroc(truth, score))
    assert vus(truth, score, 0, thresholds=None, edition="package")["vus_pr"] == pytest.approx(metrics.average_precision(truth, score))


def by_definition(truth, score, buffer):
    """One buffer size of the published surface, in plain loops over readings and every threshold."""
    events = [(s, max(e for e in range(s, len(truth)) if truth[s : e + 1].all())) for s in np.flatnonzero(np.diff(truth, prepend=0) == 1)]
    weight, half = truth.astype(float), buffer // 2
    for start, end in events:
        for d in range(1, half + 1):
            for place in (start - d, end + d):
                if 0 <= place < len(truth):
                    weight[place] += math.sqrt(1 - d / buffer)
    weight = np.minimum(weight, 1)
    parts = [[max(events[0][0] - half, 0), events[0][1] + half]]
    for start, end in events[1:]:
        if parts[-1][1] < start - half:
            parts.append([start - half, end + half])
        parts[-1][1] = end + half
    positives = (truth.sum() + weight.sum()) / 2
    curve = [(0.0, 0.0, 1.0)]
    for threshold in np.unique(score)[::-1]:
        flags = score >= threshold
        known = np.mean([flags[low : high + 1].any() for low, high in parts])
        hits = (weight * flags).sum()
        curve.append((min(hits / positives, 1) * known, (flags.sum() - hits) / (len(truth) - positives), hits / flags.sum()))
    recall, alarm, precision = map(np.array, zip(*curve, strict=True))
    return np.trapezoid(np.append(recall, 1), np.append(alarm, 1)), np.trapezoid(precision, recall)


def test_surface_of_every_threshold_agrees_with_its_definition():
    random = np.random.default_rng(3)
    for _ in range(5):
        truth = np.zeros(70, int)
        for start in random.integers(0, 65, 4):
            truth[start : start + random.integers(1, 6)] = 1
        score = random.normal(size=70).round(1) + truth
        expected = np.mean([by_definition(truth, score, w) for w in range(13)], axis=0)
        assert list(vus(truth, score, 12, thresholds=None).values()) == pytest.approx(list(expected))


def test_buffers_forgive_a_shift_and_end_with_their_series():
    truth, score = np.zeros(400, int), np.zeros(400)
    truth[200:220] = 1
    score[206:226] = 1  # six readings late
    near = vus(truth, score, 40)["vus_pr"]
    score[:] = 0
    score[306:326] = 1
    assert near > vus(truth, score, 0)["vus_pr"] + 0.3
    assert vus(truth, score, 40)["vus_pr"] < near - 0.3
    edge = np.zeros(40, int)
    edge[15:20] = 1  # the last readings of the first of two series
    late = np.zeros(40)
    late[20:25] = 1
    assert vus(edge, late, 10, ["a"] * 20 + ["b"] * 20)["vus_pr"] < vus(edge, late, 10)["vus_pr"] - 0.1


def test_readings_without_a_score_count_nowhere_in_the_surface():
    truth, score = case(120, 37, 101, [(20, 29), (60, 62)])
    padded = np.concatenate([np.full(15, np.nan), score]), np.concatenate([np.zeros(15, int), truth])
    assert vus(padded[1], padded[0], 6) == pytest.approx(vus(truth, score, 6))
    padded[1][:3] = 1  # an event that nobody scored
    assert vus(padded[1], padded[0], 6) == pytest.approx(vus(truth, score, 6))


def test_affiliation_of_the_papers_example():
    """Table of the paper: event 50-70 min in its zone of 30-120 min; alerts 40-60 and 115-120."""
    truth, flags = np.zeros(180, int), np.zeros(180, int)
    for start, end in ((0, 10), (50, 70), (170, 175)):
        truth[start:end] = 1
    for start, end in ((5, 6), (7, 10), (11, 12), (40, 60), (115, 130), (135, 140), (165, 170)):
        flags[start:end] = 1
    assert affiliation(truth[30:120], flags[30:120]) == pytest.approx((0.672222222, 0.944444444))
    # The README of the authors' code.
    assert affiliation([0, 0, 0, 1, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0, 0, 1, 0]) == pytest.approx((9 / 11, 0.8442760942760943))


def test_affiliation_knows_series_and_alerts_at_random():
    truth, score = case(300, 113, 307, [(50, 57), (250, 270)])
    flags = score > 0.95
    alone = affiliation(truth, flags)
    double = affiliation(np.tile(truth, 2), np.tile(flags, 2), np.repeat([0, 1], 300))
    assert double == pytest.approx(alone)
    assert affiliation(truth, truth) == (1, 1)
    precision, recall = affiliation(truth, np.zeros(300))
    assert math.isnan(precision)
    assert recall == 0
    middle = np.zeros(2001, int)
    middle[1000] = 1
    assert affiliation(middle, np.ones(2001))[0] == pytest.approx(0.5, abs=1e-3)


def test_alarms_by_hand():
    minute = np.timedelta64(60, "s")
    time = np.datetime64("2024-01-01") + np.arange(1440) * minute
    truth, flags = np.zeros(1440, int), np.zeros(1440, int)
    truth[100:110] = truth[500:520] = truth[900:905] = 1
    flags[103:106] = flags[519] = 1  # 3 and 19 minutes late; the third is missed
    flags[95] = flags[200] = flags[202] = flags[1000:1010] = 1
    found = alarms(truth, flags, time)
    assert (found["events"], found["found"], found["alerts"], found["false_alarms"]) == (3, 2, 6, 4)
    assert found["event_recall"] == pytest.approx(2 / 3)
    assert (found["delay_seconds"], found["delay_readings"]) == (11 * 60, 11)
    normal_days = (1440 - 35 - 0) / 1440
    assert found["false_alarms_per_day"] == pytest.approx(4 / normal_days)
    joined = alarms(truth, flags, time, joined=10 * minute)
    assert (joined["alerts"], joined["false_alarms"], joined["found"]) == (4, 2, 2)  # 95 joins the alert of the first event


def test_alarms_count_series_and_gaps_apart_in_any_order():
    time = np.concatenate([np.arange(50.0), np.arange(50.0) + 5000, np.arange(100.0)])
    series = np.array(["a"] * 100 + ["b"] * 100)
    truth, flags = np.zeros(200, int), np.zeros(200, int)
    truth[95:105] = 1  # an event at the end of one series and one at the start of the next
    flags[99:101] = flags[49:51] = 1
    found = alarms(truth, flags, time, series)
    assert (found["events"], found["found"], found["alerts"], found["false_alarms"]) == (2, 2, 4, 2)
    assert found["delay_seconds"] == 2  # 4 and 0
    assert found["false_alarms_per_day"] == pytest.approx(2 / (190 / 86400))  # a gap counts as one step
    mixed = np.random.default_rng(0).permutation(200)
    assert alarms(truth[mixed], flags[mixed], time[mixed], series[mixed]) == found
    unseen = np.ones(200, bool)
    unseen[:50] = False
    assert alarms(truth, flags, time, series, scored=unseen)["false_alarms_per_day"] == pytest.approx(2 / (140 / 86400))
    nothing = alarms(truth, np.zeros(200), time, series)
    assert (nothing["found"], nothing["alerts"]) == (0, 0)
    assert math.isnan(nothing["delay_seconds"])
    single = alarms([0, 1], [1, 1], [0, 0], ["a", "b"])  # no step is known, so no rate
    assert (single["found"], single["false_alarms"]) == (1, 1)
    assert math.isnan(single["false_alarms_per_day"])


def test_measures_takes_rows_in_any_order_and_readings_without_a_score():
    truth, score = case(300, 113, 307, [(50, 57), (250, 270)])
    score = np.where(np.arange(300) < 7, np.nan, score)
    found = measures(truth, score, 0.95, np.arange(300), buffer=10)
    assert found["vus_pr"] == vus(truth, score, 10)["vus_pr"]
    assert (found["affiliation_precision"], found["affiliation_recall"]) == affiliation(truth, score > 0.95)
    mixed = np.random.default_rng(0).permutation(300)
    assert measures(truth[mixed], score[mixed], 0.95, np.arange(300)[mixed], buffer=10) == pytest.approx(found)
    assert found["events"] == 2


def test_leaderboard_adds_up_what_follows_the_train_rows():
    truth = np.array([0, 1, 0, 1, 1, 0, 0, 0, 1, 0])
    flags = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 0])
    found = leaderboard(truth, flags, ["a"] * 5 + ["b"] * 5, train=2)
    counts = [found[k] for k in ("true_positives", "false_positives", "false_negatives", "true_negatives")]
    assert counts == [2, 2, 1, 1]
    assert found["f1"] == pytest.approx(4 / 7)
    assert (found["false_alarm_rate"], found["missed_alarm_rate"]) == pytest.approx((2 / 3, 1 / 3))
    with pytest.raises(RaeflowError, match="experiment 1 has no reading beyond its first 3"):
        leaderboard(truth[:8], flags[:8], ["a"] * 5 + ["b"] * 3, train=3)


def test_flagging_all_of_skab_is_worth_what_the_leaderboard_says(real_data):
    table = pq.read_table(real_data / "skab" / "skab_experiments.parquet", columns=["series", "anomaly"])
    found = leaderboard(table["anomaly"].to_numpy(), np.ones(len(table)), table["series"])
    assert (round(found["f1"], 2), found["false_alarm_rate"], found["missed_alarm_rate"]) == (0.70, 1, 0)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: vus([0, 0], [1.0, 2.0], 2), "of 2 scored readings 0 are of events"),
        (lambda: vus([1, 1], [1.0, 2.0], 2), "of 2 scored readings 2 are of events"),
        (lambda: vus([0, 1], [1.0, 2.0], -1), "buffer=-1"),
        (lambda: vus([0, 1], [1.0, 2.0], 1, edition="new"), "edition='new'"),
        (lambda: vus([0, 2], [1.0, 2.0], 1), "reading 1 has 2"),
        (lambda: vus([0, 1, 0], [1.0, 2.0, 3.0], 1, ["a", "b", "a"]), "must stand together"),
        (lambda: affiliation([0, 0], [0, 1]), "at least one event, but none of the 2"),
        (lambda: affiliation([0, 1], [0, 1, 1]), r"\(3,\)"),
        (lambda: leaderboard([], [], []), "no reading beyond"),
        (lambda: alarms([0, 1], [0, 3], [0, 1]), "reading 1 has 3"),
    ],
)
def test_refuses(call, told):
    with pytest.raises(RaeflowError, match=told):
        call()
