"""Figures over one axis: spectra of signals, and curves such as accuracy over signal-to-noise ratio.

N signals of C channels and L samples, (N, L) or (N, C, L); M points of a curve, (M,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import CYCLE, DASHES, styled
from raeflow.report.canvas import panels as figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = npt.NDArray[Any]

WIDE = 30
"""Ratio of largest to smallest amplitude from which a spectrum is drawn on a logarithmic axis."""
MOST_DECADES = 5
"""Of a logarithmic axis; what lies deeper is rounding."""
MARKERS = "osD^vP"


def amplitudes(signals: Values, rate: float = 1.0) -> tuple[Values, Values]:
    """Frequencies (L // 2 + 1,) and the mean amplitude there over all signals (N, L) or (N, C, L), float64.

    One-sided and in the signals' own units: a cosine of amplitude A that fits the window has A at its
    frequency. `rate` is samples per unit of time; 1 gives cycles per sample.
    """
    values = np.asarray(signals, np.float64)
    if values.ndim not in (2, 3) or values.size == 0:
        raise RaeflowError(f"spectra: signals of shape (N, L) or (N, C, L) with N > 0 are needed, got {values.shape}")
    length = values.shape[-1]
    # All frequencies but 0 and, for even lengths, the highest one appear twice in the full transform.
    twice = np.full(length // 2 + 1, 2.0)
    twice[0] = 1
    if length % 2 == 0:
        twice[-1] = 1
    mean = np.abs(np.fft.rfft(values, axis=-1)).reshape(-1, len(twice)).mean(0)
    return np.fft.rfftfreq(length, 1 / rate), mean * twice / length


@styled
def spectra(signals: Mapping[str, Values], rate: float = 1.0, unit: str = "cycles per sample", log: bool | None = None) -> Figure:
    """Mean amplitude spectrum of each named set of signals, (N, L) or (N, C, L), over frequency.

    Args:
        signals: name to signals, such as true, noisy and recovered; all of one length L, drawn in this order.
        rate: samples per unit of time.
        unit: of the frequencies that `rate` makes, MHz, say.
        log: logarithmic amplitudes; None where they span more than a factor of 30.

    Raises RaeflowError on other shapes, on none, or where lengths differ.
    """
    if not signals:
        raise RaeflowError("spectra: there is no signal to draw")
    lengths = {name: np.shape(values)[-1:] for name, values in signals.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {np.shape(values)}" for name, values in signals.items())
        raise RaeflowError(f"spectra: all signals must have one length, got {told}")
    found = {name: amplitudes(values, rate) for name, values in signals.items()}
    figure, (axes,) = figure_of(1, (7.4, 3.2))
    # The mean level is no oscillation, and would hide the rest of the scale.
    for number, (name, (frequency, height)) in enumerate(found.items()):
        axes.plot(frequency[1:], height[1:], DASHES[number % len(DASHES)], color=CYCLE[number % len(CYCLE)], linewidth=1.4, label=name)
    every = np.concatenate([height[1:] for _, height in found.values()])
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 0.0)
    if log or (log is None and high > WIDE * low > 0):
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(low, high / 10**MOST_DECADES) * 0.7)
    else:
        axes.set_ylim(bottom=0)
    last = float(next(iter(found.values()))[0][-1])
    axes.set(xlabel=f"frequency ({unit})", ylabel="mean amplitude", xlim=(0, last or 1))
    axes.legend(ncols=min(4, len(found)))
    return figure


@styled
def curves(
    across: Sequence[float] | Values,
    lines: Mapping[str, Sequence[float] | Values],
    labels: tuple[str, str],
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Named curves (M,) over common points (M,), each point marked: accuracy over signal-to-noise ratio, say.

    Args:
        across: where the points lie; NaN in a curve leaves a gap.
        lines: name to heights.
        labels: of the horizontal and of the vertical axis.
        levels: name to a height that a dotted line marks, such as a published figure; in the curves' colours, in their order.

    Raises RaeflowError on other shapes, or on none.
    """
    points = np.asarray(across, np.float64)
    if not lines or points.ndim != 1 or len(points) == 0:
        raise RaeflowError(f"curves: a curve over points of shape (M,) with M > 0 is needed, got {len(lines)} over {points.shape}")
    for name, heights in lines.items():
        if np.shape(heights) != points.shape:
            raise RaeflowError(f"curves: {name!r} has shape {np.shape(heights)}, the points have {points.shape}")
    order = np.argsort(points)
    figure, (axes,) = figure_of(1, (7.4, 3.4))
    for number, (name, heights) in enumerate(lines.items()):
        look: dict[str, Any] = {"color": CYCLE[number % len(CYCLE)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
        axes.plot(points[order], np.asarray(heights, np.float64)[order], DASHES[number % len(DASHES)], label=name, **look)
    for number, (name, height) in enumerate((levels or {}).items()):
        axes.axhline(height, color=CYCLE[number % len(CYCLE)], linestyle=":", linewidth=1.1, label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend()
    return figure
