"""Pictures that studies make: what is drawn, not just that something is."""

from __future__ import annotations

import numpy as np
import pytest

from raeflow.errors import RaeflowError
from raeflow.report import curves

DICE = np.random.default_rng(0)


@pytest.mark.parametrize("length", [64, 65])
def test_a_cosine_has_its_amplitude_at_its_frequency_and_nothing_elsewhere(length: int) -> None:
    time = np.arange(length) / 100.0
    tone = 3.0 * np.cos(2 * np.pi * 5 * 100 / length * time + 0.4)
    frequency, height = curves.amplitudes(np.stack([tone, tone])[:, None], rate=100.0)
    assert frequency.shape == height.shape == (length // 2 + 1,)
    assert frequency[5] == pytest.approx(500 / length)
    assert height[5] == pytest.approx(3.0)
    assert np.delete(height, 5).max() < 1e-9
    constant = curves.amplitudes(np.full((2, length), 7.0))[1]
    assert constant[0] == pytest.approx(7.0)
    # The highest frequency of an even length has no twin.
    if length % 2 == 0:
        assert curves.amplitudes(np.tile([1.0, -1.0], length // 2)[None])[1][-1] == pytest.approx(1.0)


def test_the_spectrum_is_the_mean_over_signals_and_channels() -> None:
    signals = DICE.normal(size=(4, 2, 32))
    each = [curves.amplitudes(one[None])[1] for one in signals.reshape(8, 32)]
    np.testing.assert_allclose(curves.amplitudes(signals)[1], np.mean(each, 0))


def test_spectra_draw_every_named_set_over_the_frequencies() -> None:
    true = np.cos(2 * np.pi * 4 * np.arange(50) / 50)[None].repeat(3, 0)
    noisy = true + DICE.normal(size=true.shape)
    (axes,) = curves.spectra({"true": true, "noisy": noisy}, rate=50.0, unit="MHz", log=False).axes
    assert [line.get_label() for line in axes.lines] == ["true", "noisy"]
    assert axes.get_xlabel() == "frequency (MHz)"
    for line, values in zip(axes.lines, (true, noisy), strict=True):
        frequency, height = curves.amplitudes(values, 50.0)
        np.testing.assert_allclose(line.get_xdata(), frequency[1:])
        np.testing.assert_allclose(line.get_ydata(), height[1:])
    assert axes.get_xlim() == (0, 25)
    assert axes.get_yscale() == "linear"
    assert curves.spectra({"noisy": noisy, "true": 1000 * noisy}).axes[0].get_yscale() == "log"


def test_spectra_of_other_shapes_are_refused() -> None:
    for signals, said in [
        ({}, "no signal"),
        ({"a": np.zeros(9)}, r"got \(9,\)"),
        ({"a": np.zeros((0, 9))}, r"got \(0, 9\)"),
        ({"a": np.zeros((2, 9)), "b": np.zeros((2, 8))}, r"one length, got a \(2, 9\), b \(2, 8\)"),
    ]:
        with pytest.raises(RaeflowError, match=said):
            curves.spectra(signals)


def test_curves_are_drawn_from_left_to_right_with_levels() -> None:
    figure = curves.curves([3, 1, 2], {"ours": [0.9, 0.5, np.nan], "peer": [0.8, 0.4, 0.6]}, ("SNR", "accuracy"), {"published": 0.69})
    (axes,) = figure.axes
    ours, peer, level = axes.lines
    np.testing.assert_array_equal(ours.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(peer.get_ydata(), [0.4, 0.6, 0.8])
    np.testing.assert_array_equal(ours.get_ydata(), [0.5, np.nan, 0.9])
    assert list(level.get_ydata()) == [0.69, 0.69]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["ours", "peer", "published"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("SNR", "accuracy")


def test_curves_of_other_shapes_are_refused() -> None:
    with pytest.raises(RaeflowError, match=r"'ours' has shape \(2,\), the points have \(3,\)"):
        curves.curves([1, 2, 3], {"ours": [1, 2]}, ("x", "y"))
    with pytest.raises(RaeflowError, match="got 0 over"):
        curves.curves([1, 2, 3], {}, ("x", "y"))
