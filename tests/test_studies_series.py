"""The studies of series in a small form: their protocols, the events that are put in, and what their scores may know."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from studies import beijing_air, skab
from tests.series import assert_sees_no_future

SECOND = np.datetime64("2020-03-01T10:00:00", "us") + np.arange(1000) * np.timedelta64(1, "s")


def pump(name: str, seed: int = 0, shift: float = 3.0, gap: bool = False) -> skab.Experiment:
    """Noise on seven sensors, one that wanders, and between readings 560 and 900 a shift of the flow."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(len(SECOND), len(skab.SENSORS)))
    values[:, 4] = np.cumsum(random.normal(size=len(SECOND))) * 0.3
    truth = np.zeros(len(SECOND), np.bool_)
    truth[560:900] = True
    values[truth, 7] += shift
    time = SECOND + np.where(np.arange(len(SECOND)) >= 700, np.timedelta64(60 if gap else 0, "s"), np.timedelta64(0, "s"))
    return skab.Experiment(name, time, values.astype(np.float32), truth)


def test_a_sensor_that_wanders_raises_no_alert_and_one_that_stands_still_does() -> None:
    runs = [pump(f"pump/{seed}", seed) for seed in range(4)]
    scores = [skab.in_units(skab.drift_scores(run.values.astype(np.float64))) for run in runs]
    found = skab.board(runs, scores)
    assert found["missed_alarm_rate"] < 0.05 and found["false_alarm_rate"] < 0.1
    plain = skab.board(runs, [skab.in_units(skab.error_scores(run.values.astype(np.float64))) for run in runs])
    assert plain["f1"] < found["f1"]  # what the wandering sensor does there drowns the others


def test_scores_of_drift_know_no_later_reading_than_their_own() -> None:
    residual = pump("pump").values.astype(np.float64)
    for score in (skab.drift_scores, skab.error_scores):
        assert_sees_no_future(lambda values, score=score: skab.in_units(score(values)), residual, [420, 600, 998])


def test_residuals_of_windows_stop_at_a_gap_and_are_each_reading_s_own() -> None:
    run = pump("pump", gap=True)
    found = skab.residuals_of("knn")(run, 0)
    missing = np.isnan(found).all(1)
    assert np.flatnonzero(missing).tolist() == [*range(skab.WINDOW - 1), *range(700, 700 + skab.WINDOW - 1)]
    other = dataclasses.replace(run, values=run.values.copy())
    other.values[800] += 100
    changed = (np.nan_to_num(skab.residuals_of("knn")(other, 0)) != np.nan_to_num(found)).any(1)
    assert changed[800] and not changed[:800].any() and not changed[800 + skab.WINDOW :].any()


def test_an_alert_of_the_leaderboard_s_rule_needs_every_window_that_holds_a_reading() -> None:
    errors = np.ones(900)
    errors[500:600] = 9.0  # windows that begin at readings 500 to 599
    score = skab.published_scores(errors, 0.99, 1.5)
    assert len(score) == 900 + 59 and np.isnan(score[:59]).all() and np.isnan(score[-118:]).all() and not np.isnan(score[59:-118]).any()
    assert np.flatnonzero(np.nan_to_num(score) > 1).tolist() == list(range(559, 601))
    assert score[580] == pytest.approx(6.0)


def test_the_leaderboard_s_network_gives_one_map_and_learns() -> None:
    import torch

    windows = torch.sin(torch.arange(60.0)).expand(40, 8, 60).clone()
    networks = [skab.published_network(windows, 0, epochs) for epochs in (0, 6)]
    with torch.no_grad():
        before, after = (network(windows) for network in networks)
    assert after.shape == (40, 1, 60) and float((after - windows).square().mean()) < 0.8 * float((before - windows).square().mean())


def test_the_protocol_s_table_has_all_and_the_others_and_takes_up_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: skab.CONTESTANTS[name] for name in ("drift of readings", "error of conv. autoencoder", "flag everything")}
    monkeypatch.setattr(skab, "CONTESTANTS", few)
    monkeypatch.setattr(skab, "TRAINING", dataclasses.replace(skab.TRAINING, epochs=1))
    runs = [pump("other/1"), pump("valve1/3", 1)]
    told = skab.report(tmp_path, runs, seeds=(0, 1))
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 2 * (1 + 2)  # readings once for two contestants, the autoencoder with two seeds
    assert skab.report(tmp_path, runs, seeds=(0, 1)) == told
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    everything = next(line for line in told.splitlines() if line.startswith("flag everything")).split()
    share = 340 / 600  # of the readings behind the first 400
    assert everything[2:6] == [f"{2 * share / (1 + share):.3f}", "+-0.000", "100.0%", "0.0%"]


def weather(hours: int = 6000) -> beijing_air.Air:
    random = np.random.default_rng(0)
    time = np.datetime64("2010-01-01", "us") + np.arange(hours) * np.timedelta64(1, "h")
    day, year = np.sin(2 * np.pi * np.arange(hours) / 24), np.sin(2 * np.pi * np.arange(hours) / 8766)
    values = np.stack([10 * year + 4 * day, 8 * year, -6 * year + day, 50 + 5 * day], 1) + random.normal(size=(hours, 4))
    values[random.random(hours) < 0.05, 3] = np.nan
    return beijing_air.Air(time, values)


def test_events_lie_apart_in_the_test_part_alone_and_are_what_they_are_called() -> None:
    clean = weather()
    told = beijing_air.with_events(clean, seed=1, each=1)
    test = clean.block(3)
    assert sorted(e.kind for e in told.events) == sorted(beijing_air.KINDS) and told.truth.sum() == sum(beijing_air.KINDS.values())
    changed = ((told.values != clean.values) & ~np.isnan(clean.values)).any(1)
    assert not changed[~told.truth].any() and not changed[: test.start + beijing_air.WINDOW].any()
    ordered = sorted(told.events, key=lambda e: e.start)
    assert all(b.start - a.end >= beijing_air.APART for a, b in itertools.pairwise(ordered)) and ordered[-1].end <= test.stop
    by_kind = {e.kind: slice(e.start, e.end) for e in told.events}
    stuck, season = by_kind["stuck"], by_kind["season"]
    assert (told.values[stuck] == told.values[stuck.start - 1]).all(0).sum() == 1
    earlier = slice(season.start - beijing_air.HALF_YEAR, season.stop - beijing_air.HALF_YEAR)
    np.testing.assert_array_equal(told.values[season, :3], clean.values[earlier, :3])
    assert max(idle[len(idle) - (test.stop - stuck.stop) - 1].max() for idle in [beijing_air.unchanged(told)[1]]) == 36


def test_blocks_of_the_study_are_those_of_the_splits_and_its_table_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beijing_air, "TRAINING", dataclasses.replace(beijing_air.TRAINING, epochs=1))
    lines = beijing_air.report(weather(), seeds=(0,), each=1).splitlines()  # `modelled` compares the blocks
    assert len(lines) == 1 + 4 + 2 + 1
    assert all(len(line.split()) >= 1 + len(beijing_air.SHOWN) for line in lines[1:])
    random = next(line for line in lines if line.startswith("scores at random")).split()
    assert float(random[3]) < 0.6  # events found


def test_a_share_of_calibrate_hours_sets_the_threshold_of_every_question() -> None:
    random = np.random.default_rng(0)
    calibrate, test = random.normal(size=(4000, 4)), random.normal(size=(4000, 4))
    test[2000:2100, 1] += 1.5  # nothing by itself, much for a day
    score = beijing_air.scored(calibrate, test)
    raised = np.nan_to_num(score) > 1
    assert raised[2012:2100].mean() > 0.8 and np.delete(raised, slice(2000, 2124)).mean() < 0.005
