"""Figures of signals over time: several lines of the same traces, such as noisy, true and recovered ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import ANOMALY, NORMAL, styled
from raeflow.report.canvas import panels as figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = npt.NDArray[Any]

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#8a8f98", "linewidth": 0.6, "alpha": 0.8},
    {"color": NORMAL, "linewidth": 1.4},
    {"color": ANOMALY, "linewidth": 1.1, "linestyle": "--"},
)
"""Of the first, second and third set: what lies behind is paler."""


@styled
def traces(lines: Mapping[str, Values], titles: Sequence[str], labels: tuple[str, str] = ("sample", ""), rate: float = 1.0) -> Figure:
    """Up to three named sets of the same N traces, (N, L) or (N, 1, L) each, drawn over one another; one panel a trace.

    Args:
        lines: name to traces; the first is drawn palest and behind the others.
        titles: of the N panels.
        labels: of the horizontal and of the vertical axis.
        rate: samples per unit of the horizontal axis.

    Raises RaeflowError on other shapes, on none, or where they differ.
    """
    sets = {name: np.asarray(v)[:, 0] if np.ndim(v) == 3 and np.shape(v)[1] == 1 else np.asarray(v) for name, v in lines.items()}
    shapes = {v.shape for v in sets.values()}
    if len(shapes) != 1 or not 1 <= len(sets) <= len(LOOKS) or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        told = ", ".join(f"{name} {np.shape(v)}" for name, v in lines.items()) or "none"
        raise RaeflowError(f"traces: one to {len(LOOKS)} sets of signals of one shape (N, L) or (N, 1, L) are needed, got {told}")
    count, length = next(iter(shapes))
    figure, panels = figure_of(count, (9.0, 1.9), columns=2)
    time = np.arange(length) / rate
    for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for look, (name, values) in zip(LOOKS, sets.items(), strict=False):
            axes.plot(time, values[number], label=name, **look)
        axes.set_title(title, fontsize=9, fontweight="normal")
        axes.set(xlim=(0, time[-1]), ylabel=labels[1] if number % 2 == 0 else "")
        if number >= count - 2:
            axes.set_xlabel(labels[0])
    panels[0].legend(loc="best", ncols=len(sets), fontsize=8)
    return figure
