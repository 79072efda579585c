"""Simulated radio traces of cosmic-ray air showers, noisy and clean.

The task is that of Erdmann, Schlueter, Smida, "Classification and Recovery of Radio Signals from Cosmic
Ray Induced Air Showers with Deep Learning" (JINST 14 P04005, 2019, arXiv:1901.04079), and of exercise 9.2
of Erdmann, Glombitza, Kasieczka, Klemradt, "Deep Learning for Physics Research" (2021), whose traces are
500 samples long, hold a shower or noise alone, and carry coloured noise. Their traces come from CoREAS
and a detector simulation; these come from the closed forms below, so that no download is needed.

Shower: a short coherent pulse of electric field. Its amplitude spectrum falls exponentially with
frequency, slowly near the Cherenkov ring and fast away from it (Martinelli et al., arXiv:2407.18662), its
phase is an offset (which sets polarity and makes it bipolar), a delay (the arrival time) and a
quadratic term (the dispersion of antenna and filters).

Noise: `realistic` is the sky of the Galaxy, Gaussian and coloured, with narrow-band transmitters;
`uniform` is white and uniformly distributed; `cosine` is one tone. All three have about the same RMS.

Band 30-80 MHz, sampled at 180 MHz, as at the Auger Engineering Radio Array (AERA): 500 samples are 2.78 us.
Electric field in uV/m, time in ns, frequency in MHz. SNR is the largest absolute value of the clean trace over the
RMS of the noise of the same trace (the exercise divides by the RMS of the whole trace, which differs by
the little energy of the pulse). The ranges of pulse shapes and interference are this module's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raeflow.data.writing import describe, fixed_lists
from raeflow.errors import RaeflowError

NOISES = ("realistic", "uniform", "cosine")
SAMPLES = 500
RATE = 180.0
"""Samples per microsecond."""
BAND = (30.0, 80.0)
"""MHz, at half of the amplitude."""
VERSION = 1
"""Counts changes of what the simulator returns for a seed; part of the cached file's name."""

_LONG = 1024
"""Traces are made on a longer circle and cut, so that they do not close on themselves."""
_START = (_LONG - SAMPLES) // 2
_FREQUENCY = np.fft.rfftfreq(_LONG, 1 / RATE)
_EDGE = 4.0
_BLOCK = 2048
_LINES = 4

Rng = np.random.Generator
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class AirShower:
    """Traces, one row each, in uV/m."""

    noisy: NDArray[np.float32]
    """(N, 500) float32: noise, and the shower where there is one."""
    clean: NDArray[np.float32]
    """(N, 500) float32: the shower alone, zero where there is none."""
    snr: NDArray[np.float32]
    """(N,) float32: peak of the clean trace over the RMS of the noise; 0 where there is no shower."""

    @property
    def label(self) -> NDArray[np.int32]:
        """(N,) int32: 1 where a shower is present, 0 for noise alone."""
        return (self.snr > 0).astype(np.int32)


def simulate(
    rows: int, noise: str = "realistic", snr: float | tuple[float, float] = (2.0, 20.0), seed: int = 0, showers: float = 0.5
) -> AirShower:
    """Draw `rows` traces, of which a share of `showers` holds a shower.

    `snr` is one value for all, or the ends of a log-uniform range. The same `seed` gives the same
    traces, and showers of the same shape, time and SNR under each of the three noises.
    Raises RaeflowError for values outside their range.
    """
    low, high = (snr, snr) if isinstance(snr, (int, float)) else snr
    if noise not in NOISES:
        raise RaeflowError(f"airshower noise {noise!r} is not one of {', '.join(NOISES)}")
    if not (rows > 0 and 0 <= showers <= 1 and 0 < low <= high):
        raise RaeflowError(f"airshower(rows={rows!r}, snr={snr!r}, showers={showers!r}): rows and snr lie above 0, showers in 0-1")
    shower_rng, noise_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    noisy, clean = np.empty((2, rows, SAMPLES), np.float32)
    ratio = np.empty(rows, np.float32)
    for start in range(0, rows, _BLOCK):
        block = slice(start, min(start + _BLOCK, rows))
        count = block.stop - block.start
        background = _NOISE[noise](count, noise_rng)
        drawn = np.exp(shower_rng.uniform(np.log(low), np.log(high), count))
        drawn = np.where(shower_rng.random(count) < showers, drawn, 0.0)
        level = np.sqrt(np.mean(background**2, axis=1))
        signal = pulses(count, shower_rng) * (drawn * level)[:, None]
        noisy[block], clean[block], ratio[block] = background + signal, signal, drawn
    return AirShower(noisy, clean, ratio)


def pulses(rows: int, rng: Rng) -> Floats:
    """(rows, 500) band-limited bipolar pulses whose largest absolute value is 1.

    Amplitude falls as exp(-f / slope), slope 15-150 MHz; arrival anywhere but in the outer tenths.
    """
    slope = np.exp(rng.uniform(np.log(15), np.log(150), (rows, 1)))
    offset = rng.uniform(0, 2 * np.pi, (rows, 1))
    dispersion = rng.uniform(-np.pi / 2, np.pi / 2, (rows, 1))
    arrival = (_START + rng.uniform(0.1 * SAMPLES, 0.9 * SAMPLES, (rows, 1))) / RATE
    within = _band() > 0
    f = _FREQUENCY[within]
    centre, half = sum(BAND) / 2, (BAND[1] - BAND[0]) / 2
    phase = offset + dispersion * ((f - centre) / half) ** 2 - 2 * np.pi * f * arrival
    spectrum = np.zeros((rows, len(_FREQUENCY)), np.complex128)
    spectrum[:, within] = _band()[within] * np.exp(-(f - BAND[0]) / slope + 1j * phase)
    trace = _cut(np.fft.irfft(spectrum, _LONG))
    unit: Floats = trace / np.abs(trace).max(axis=1, keepdims=True)
    return unit


def _band() -> Floats:
    """Amplitude response of the filter: 1 in the band, cosine edges 4 MHz wide."""
    rise = np.clip((_FREQUENCY - BAND[0]) / _EDGE + 0.5, 0, 1)
    fall = np.clip((BAND[1] - _FREQUENCY) / _EDGE + 0.5, 0, 1)
    response: Floats = np.sin(np.pi / 2 * rise) ** 2 * np.sin(np.pi / 2 * fall) ** 2
    return response


def _cut(trace: Floats) -> Floats:
    return trace[:, _START : _START + SAMPLES]


def _galactic_density() -> Floats:
    """Spectral density of one component of the electric field under the Galactic sky, (uV/m)^2 per MHz.

    Sky temperature 60 K (wavelength / m)^2.55 (van Haarlem et al. 2013, LOFAR) in Rayleigh-Jeans
    brightness 2 k T / wavelength^2 over the upper hemisphere gives
    <E_x^2> = (2 pi / 3) Z0 * 2 k T / wavelength^2 per Hz: about 13 uV/m in the band.
    """
    boltzmann, impedance, light = 1.380649e-23, 376.730, 299.792458
    wave = light / np.maximum(_FREQUENCY, 1.0)
    temperature = 60.0 * wave**2.55
    per_hertz = 2 * np.pi / 3 * impedance * 2 * boltzmann * temperature / wave**2
    density: Floats = per_hertz * 1e12 * 1e6 * _band() ** 2
    return density


def galactic_rms() -> float:
    """RMS of the Galactic noise in the band, uV/m; the other noises are given the same."""
    return float(np.sqrt(_galactic_density().sum() * RATE / _LONG))


def _realistic(rows: int, rng: Rng) -> Floats:
    """Galactic noise, whose power follows the sky's daily course by 20 %, and up to four transmitters."""
    deviation = np.sqrt(_galactic_density() * RATE * _LONG / 4)
    spectrum = rng.normal(size=(rows, len(deviation))) + 1j * rng.normal(size=(rows, len(deviation)))
    hour = rng.uniform(0, 2 * np.pi, (rows, 1))
    sky = _cut(np.fft.irfft(spectrum * deviation, _LONG)) * np.sqrt(1 + 0.2 * np.cos(hour))
    trace: Floats = sky + _interference(rows, rng)
    return trace


def _interference(rows: int, rng: Rng) -> Floats:
    """Narrow-band transmitters: 1.5 a trace on average, amplitude-modulated below 1 MHz, 0.1-1.5 of the sky's RMS."""
    time = np.arange(SAMPLES) / RATE
    present = np.minimum(rng.poisson(1.5, rows), _LINES)
    total = np.zeros((rows, SAMPLES))
    for line in range(_LINES):
        carrier, tone = rng.uniform(BAND[0] + 2, BAND[1] - 2, (rows, 1)), rng.uniform(0.1, 1.0, (rows, 1))
        phases = rng.uniform(0, 2 * np.pi, (2, rows, 1))
        depth = rng.uniform(0, 0.5, (rows, 1))
        strength = np.exp(rng.uniform(np.log(0.1), np.log(1.5), (rows, 1))) * galactic_rms() * np.sqrt(2)
        envelope = 1 + depth * np.cos(2 * np.pi * tone * time + phases[0])
        total += (present > line)[:, None] * strength * envelope * np.cos(2 * np.pi * carrier * time + phases[1])
    return total


def _uniform(rows: int, rng: Rng) -> Floats:
    """White noise, uniform in +-sqrt(3) RMS; its level differs from trace to trace by up to 20 %."""
    half = np.sqrt(3) * galactic_rms() * rng.uniform(0.8, 1.2, (rows, 1))
    trace: Floats = rng.uniform(-1, 1, (rows, SAMPLES)) * half
    return trace


def _cosine(rows: int, rng: Rng) -> Floats:
    """One tone of the band; its level differs from trace to trace by up to 20 %."""
    peak = np.sqrt(2) * galactic_rms() * rng.uniform(0.8, 1.2, (rows, 1))
    frequency, phase = rng.uniform(*BAND, (rows, 1)), rng.uniform(0, 2 * np.pi, (rows, 1))
    trace: Floats = peak * np.cos(2 * np.pi * frequency * (np.arange(SAMPLES) / RATE) + phase)
    return trace


_NOISE = {"realistic": _realistic, "uniform": _uniform, "cosine": _cosine}

ROWS = 10_000
_TRAIN = 8_000


def table(noise: str) -> pa.Table:
    """The named set `airshower/<noise>`: `noisy`, `clean`, `label`, `snr` and `split` (8,000 train, 2,000 test)."""
    drawn = simulate(ROWS, noise)
    columns = {
        "noisy": fixed_lists(drawn.noisy),
        "clean": fixed_lists(drawn.clean),
        "label": pa.array(drawn.label),
        "snr": pa.array(drawn.snr),
        "split": pa.array(["train"] * _TRAIN + ["test"] * (ROWS - _TRAIN)),
    }
    source = f"raeflow.data.sets.airshower.simulate(rows={ROWS}, noise={noise!r}, seed=0), version {VERSION}"
    return describe(
        pa.table(columns), shape=(1, SAMPLES), classes=("noise alone", "shower"), source=source, licence="Apache-2.0 (made by raeflow)"
    )
