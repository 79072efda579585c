"""The air-shower simulator: what it promises of spectra, amplitudes, arrival times and seeds."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from raeflow.data.sets import airshower
from raeflow.data.sets.airshower import BAND, NOISES, RATE, SAMPLES, simulate
from raeflow.errors import RaeflowError
from raeflow.metrics import peak_accuracy, rmse
from raeflow.study import Training
from studies import airshower_denoise

FREQUENCY = np.fft.rfftfreq(SAMPLES, 1 / RATE)


def spectrum(traces):
    """Mean power by frequency, each trace's adding up to 1; the window keeps leakage below what is tested."""
    power = np.abs(np.fft.rfft(traces * np.hanning(SAMPLES), axis=1)) ** 2
    return (power / power.sum(axis=1, keepdims=True)).mean(axis=0)


def share_in_band(traces):
    inside = np.abs(FREQUENCY - sum(BAND) / 2) < (BAND[1] - BAND[0]) / 2 + 4
    return spectrum(traces)[inside].sum()


@pytest.fixture(scope="module")
def drawn():
    return {noise: simulate(3000, noise, seed=1) for noise in NOISES}


@pytest.mark.parametrize("noise", NOISES)
def test_shapes_types_and_additivity(drawn, noise):
    one = drawn[noise]
    assert one.noisy.shape == one.clean.shape == (3000, 500) and one.snr.shape == one.label.shape == (3000,)
    assert one.noisy.dtype == one.clean.dtype == one.snr.dtype == np.float32
    assert np.isfinite(one.noisy).all()
    alone = one.label == 0
    assert 0.45 < alone.mean() < 0.55
    assert not one.clean[alone].any() and np.abs(one.clean[~alone]).max(axis=1).min() > 0


@pytest.mark.parametrize("noise", NOISES)
def test_peak_over_noise_rms_is_the_snr(drawn, noise):
    one = drawn[noise]
    rms = np.sqrt(np.mean((one.noisy - one.clean).astype(np.float64) ** 2, axis=1))
    assert np.allclose(np.abs(one.clean).max(axis=1) / rms, one.snr, rtol=1e-4)
    with_shower = one.snr[one.label == 1]
    assert with_shower.min() >= 2 and with_shower.max() <= 20
    assert np.isclose(np.median(np.log(with_shower)), np.log(np.sqrt(2 * 20)), atol=0.1)
    fixed = simulate(50, noise, snr=3.0, seed=4, showers=1.0)
    assert np.all(fixed.snr == np.float32(3))


def test_showers_lie_in_the_band_are_bipolar_and_short(drawn):
    clean = drawn["realistic"].clean[drawn["realistic"].label == 1].astype(np.float64)
    assert share_in_band(clean) > 0.999
    peak = np.abs(clean).max(axis=1)
    weaker_side = np.minimum(clean.max(axis=1), -clean.min(axis=1)) / peak
    assert weaker_side.min() > 0.3 and np.median(weaker_side) > 0.6
    assert np.all(np.abs(clean.mean(axis=1)) < 1e-3 * peak)
    power = np.sort(clean**2, axis=1)[:, ::-1].cumsum(axis=1)
    samples_of_most = (power < 0.9 * power[:, -1:]).sum(axis=1)
    assert np.median(samples_of_most) < 15  # 83 ns of 2.78 us
    assert np.mean(clean[np.arange(len(clean)), np.abs(clean).argmax(axis=1)] > 0) == pytest.approx(0.5, abs=0.05)


def test_arrival_times_fill_the_window(drawn):
    clean = drawn["realistic"].clean[drawn["realistic"].label == 1]
    arrival = np.abs(clean).argmax(axis=1) / SAMPLES
    assert arrival.min() > 0.08 and arrival.max() < 0.92
    assert np.histogram(arrival, bins=4, range=(0.1, 0.9))[0].min() > 0.2 * len(arrival)


def test_realistic_noise_is_galactic_and_in_the_band(drawn):
    noise = drawn["realistic"].noisy - drawn["realistic"].clean
    assert share_in_band(noise) > 0.999
    rms = np.sqrt(np.mean(noise**2))
    assert 10 < airshower.galactic_rms() < 20  # uV/m under a quiet Galactic sky
    assert airshower.galactic_rms() < rms < 1.6 * airshower.galactic_rms()  # transmitters add to it
    assert np.std(np.sqrt(np.mean(noise**2, axis=1))) > 0.1 * rms  # so that energy alone does not tell a shower


def test_the_sky_is_brighter_at_low_frequencies():
    """Field power of the sky goes as f^-0.55: at 35 MHz 1.5 times that at 75 MHz, in densities and in traces without transmitters."""
    density = airshower._galactic_density()
    at = {f: density[np.abs(airshower._FREQUENCY - f).argmin()] for f in (35, 75)}
    assert at[35] / at[75] == pytest.approx((75 / 35) ** 0.55, rel=0.02)
    noise = simulate(3000, "realistic", seed=2, showers=0.0).noisy
    power = np.abs(np.fft.rfft(noise * np.hanning(SAMPLES), axis=1)) ** 2
    median = np.median(power, axis=0)  # a transmitter is in few traces at any one frequency
    low, high = (median[np.abs(FREQUENCY - f) < 3].mean() for f in (36, 74))
    assert low / high == pytest.approx((74 / 36) ** 0.55, rel=0.1)


def test_uniform_noise_is_white_and_bounded(drawn):
    noise = drawn["uniform"].noisy - drawn["uniform"].clean
    power = spectrum(noise)[5:-5]
    assert power.max() / power.min() < 1.6
    edge = np.abs(noise).max(axis=1) / np.sqrt(np.mean(noise**2, axis=1))
    assert np.all((edge > 1.5) & (edge < 2.0))  # sqrt(3) for a uniform distribution


def test_cosine_noise_is_one_tone(drawn):
    noise = drawn["cosine"].noisy[drawn["cosine"].label == 0]
    power = np.abs(np.fft.rfft(noise * np.hanning(SAMPLES), axis=1)) ** 2
    peak = power.argmax(axis=1)
    near = np.abs(np.arange(power.shape[1]) - peak[:, None]) <= 2
    assert np.all((power * near).sum(axis=1) > 0.999 * power.sum(axis=1))
    assert FREQUENCY[peak].min() >= BAND[0] - 1 and FREQUENCY[peak].max() <= BAND[1] + 1


def test_seeds_repeat_and_differ():
    first, again, other = (simulate(300, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.noisy, again.noisy) and np.array_equal(first.clean, again.clean)
    assert not np.array_equal(first.noisy, other.noisy)
    assert len(np.unique(simulate(3000, seed=0).noisy[:, 0])) > 2990  # blocks do not repeat one another


def test_the_same_showers_come_under_each_noise(drawn):
    reference = drawn["realistic"]
    for one in drawn.values():
        assert np.array_equal(one.snr, reference.snr)
        with_shower = one.label == 1
        shape, other = (t / np.abs(t).max(axis=1, keepdims=True) for t in (one.clean[with_shower], reference.clean[with_shower]))
        assert np.allclose(shape, other, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"noise": "pink"}, {"rows": 0}, {"snr": 0.0}, {"snr": (3.0, 2.0)}, {"showers": 1.5}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(RaeflowError, match=repr(next(iter(wrong.values()))).replace("(", r"\(").replace(")", r"\)")):
        simulate(**({"rows": 10} | wrong))


def test_the_table_serves_denoising_and_detection():
    table = airshower.table("uniform")
    assert table.column_names == ["noisy", "clean", "label", "snr", "split"]
    assert table.schema.metadata[b"shape"] == b"1,500" and table.num_rows == airshower.ROWS
    assert table["split"].value_counts().to_pylist() == [{"values": "train", "counts": 8000}, {"values": "test", "counts": 2000}]
    label, snr = np.asarray(table["label"]), np.asarray(table["snr"])
    assert np.array_equal(label == 1, snr > 0)
    assert table["noisy"].type.list_size == table["clean"].type.list_size == 500


@pytest.mark.parametrize("noise", NOISES)
def test_the_peak_of_a_strong_shower_shows_and_that_of_a_faint_one_does_not(noise):
    strong, faint = (simulate(300, noise, snr=ratio, seed=8, showers=1.0) for ratio in (10.0, 0.1))
    assert peak_accuracy(strong.noisy, strong.clean) == 1
    assert airshower_denoise.matched(noise, strong) == 1
    if noise == "cosine":  # whose crests are all of one height, so that the least pulse lifts one above the others
        return
    assert peak_accuracy(faint.noisy, faint.clean) < 0.3
    assert airshower_denoise.matched(noise, faint) < 0.2


def test_a_matched_filter_is_best_where_noise_is_gaussian():
    """Under coloured Gaussian noise nobody who does not know the pulse does better than one who does."""
    test = simulate(400, "realistic", snr=3.0, seed=8, showers=1.0)
    assert airshower_denoise.matched("realistic", test) > peak_accuracy(test.noisy, test.clean) + 0.1


@pytest.mark.parametrize("name", sorted(airshower_denoise.BOTH))
def test_the_study_trains_on_other_traces_than_it_judges_by(name):
    recipe = dataclasses.replace(airshower_denoise.BOTH[name], rows=2000)
    splits = airshower_denoise.drawn_for(recipe, "uniform")
    judged = simulate(50, "uniform", airshower_denoise.JUDGED, seed=airshower_denoise.SEED, showers=1.0)
    again = simulate(2200, "uniform", recipe.ratios, seed=recipe.seed, showers=recipe.showers)
    assert splits.train.x.shape == splits.train.target.shape == (2000, 1, SAMPLES)
    assert len(splits.validate) == 200
    noise = (again.noisy - again.clean)[:2000]
    level = np.sqrt((again.noisy**2).mean(1, keepdims=True))[:2000] if recipe.own_units else 1
    assert np.allclose((splits.train.x - splits.train.target)[:, 0].numpy() * level, noise, atol=1e-3)
    known = {row.tobytes() for row in noise[:, :8].round(2)}
    assert not known & {row.tobytes() for row in (judged.noisy - judged.clean)[:, :8].round(2)}


@pytest.mark.parametrize("name", sorted(airshower_denoise.BOTH))
def test_a_recipe_s_denoiser_gives_traces_in_the_units_that_it_was_given(name):
    """A few hundred steps of a small network on a tone, which leaves the pulse at its height whatever the trace's level."""
    recipe = airshower_denoise.BOTH[name]
    small = {**recipe.network, "layers": (8, 8), "kernels": (9, 9), "lr": 1e-2}
    small["strides"] = (4, 1) if small["backbone"] == "tcn" else ()
    quick = dataclasses.replace(
        recipe, network=small, rows=800, ratios=(4.0, 10.0), showers=1.0, training=Training(epochs=6, batch_size=32, patience=None)
    )
    test = simulate(100, "cosine", (4.0, 10.0), seed=9, showers=1.0)
    recovered = airshower_denoise.trained(quick, "cosine", 0)(test.noisy[:, None])
    assert recovered.shape == (100, 1, SAMPLES)
    assert rmse(recovered[:, 0], test.clean) < 0.5 * rmse(test.noisy, test.clean)
    assert peak_accuracy(recovered[:, 0], test.clean) > 0.9


def test_the_study_puts_both_networks_beside_the_noisy_trace_under_each_noise(monkeypatch):
    few = {
        name: dataclasses.replace(recipe, rows=64, training=Training(epochs=1, batch_size=32, patience=None))
        for name, recipe in airshower_denoise.BOTH.items()
    }
    monkeypatch.setattr(airshower_denoise, "BOTH", few)
    monkeypatch.setattr(airshower_denoise, "RATIOS", (3.0, 10.0))
    monkeypatch.setattr(airshower_denoise, "TRACES", 40)
    pictures = []
    outcome = SimpleNamespace(
        detector=SimpleNamespace(reconstruct=lambda noisy: noisy),
        study=SimpleNamespace(seed=0),
        picture=lambda name, figure: pictures.append(name) or name,
    )
    told = airshower_denoise.conclude(outcome).splitlines()
    rows = {line.split("  ")[0]: line.split() for line in told}
    test = simulate(40, "realistic", 3.0, seed=airshower_denoise.SEED, showers=1.0)
    raw = f"{peak_accuracy(test.noisy, test.clean):.1%}"
    # What returns its rows finds what the noisy trace shows.
    realistic = next(line.split() for line in told if line.startswith("realistic  "))
    assert realistic[1] == "69.0%" and realistic[2] == realistic[4] == raw
    assert {f"{noise}, {name}" for noise in NOISES for name in (*few, "noisy trace", "pulse known")} <= set(rows)
    assert sum("s of processor time" in line for line in told) == 5
    assert {"accuracy", "traces_realistic_pooled", "spectra_cosine_residual"} <= set(pictures)
