"""The canvas of all figures: one style, panels, and the ways out of it.

Figures are made without pyplot, so nothing global is touched and nothing needs closing.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

INK = "#010203"
"""Text and axes: next to black on paper, and what `svg` turns into the colour of the page's text."""
NORMAL, ANOMALY = "#2b7fc4", "#d9601a"
"""Blue and vermilion: told apart with every kind of colour vision, and at 3:1 or more on white and on near-black."""
CYCLE = (NORMAL, "#d9601a", "#2a9a6c", "#9a6dd7", "#b58900", "#c8508f", "#5b8c9e", "#8a7a5c")
MOST_POINTS = 2000
"""Points of a curve or cloud; more would only make a page heavy."""
DASHES = ("-", "--", "-.", ":")


def style() -> Any:
    """matplotlib settings that all figures share."""
    from cycler import cycler

    return {
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.prop_cycle": cycler(color=CYCLE), "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
        "axes.grid": True, "grid.color": "#8a8f98", "grid.alpha": 0.25, "grid.linewidth": 0.6, "axes.axisbelow": True,
        "font.family": "sans-serif", "font.size": 10, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False,
        "lines.linewidth": 1.6, "svg.fonttype": "none", "savefig.facecolor": "white", "figure.constrained_layout.use": True,
    }  # fmt: skip


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw` under the shared settings, which matplotlib reads while it draws as well as when it saves."""

    @functools.wraps(draw)
    def drawn(*arguments: P.args, **named: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(style()):
            return draw(*arguments, **named)

    return drawn


@styled
def save(figure: Figure, path: str | Path, dpi: int = 144) -> Path:
    """Write a figure on white, in the format of the path's suffix; folders are made."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=dpi)
    return place


@styled
def svg(figure: Figure) -> str:
    """Inline markup that fills the width it is given up to its own, without background, in the page's text colour and font."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, dpi=120)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Groups have the same ids in every figure; only definitions are referred to.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = text.replace(INK, "currentColor").replace("font: 10px 'sans-serif'", "font-size: 10px").replace("'sans-serif'", "inherit")
    width = float(re.search(r'width="([\d.]+)pt"', text)[1]) * 4 / 3  # type: ignore[index]
    text = re.sub(r' width="[\d.]+pt"', "", re.sub(r' height="[\d.]+pt"', "", text, count=1), count=1)
    return text.replace("<svg ", f'<svg aria-hidden="true" style="width:100%;max-width:{width:.0f}px;height:auto" ', 1)


def panels(
    count: int, size: tuple[float, float], columns: int | None = None, *, sharey: bool = False, whole: bool = False
) -> tuple[Figure, list[Axes]]:
    """`count` panels in `columns`; `size` in inches, of the width of all and the height of one line, or with `whole` of all."""
    from matplotlib.figure import Figure

    across = min(count, columns or count)
    lines = -(-count // across)
    height = size[1] if whole else size[1] * lines
    figure = Figure(figsize=(size[0], height))
    grid = figure.subplots(lines, across, squeeze=False, sharey=sharey)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]
