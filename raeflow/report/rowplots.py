"""Figures of rows: images, signals, features and codes beside what a model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import ANOMALY, CYCLE, MOST_POINTS, NORMAL, styled
from raeflow.report.canvas import panels as figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = npt.NDArray[Any]


@styled
def strip(rows: Values, rebuilt: Values, errors: Values, titles: Sequence[str]) -> Figure:
    """Images (N, C, H, W), what the model makes of them, and the error of each pixel, (N, C, H, W); one column a row.

    Row and reconstruction share one grey or colour scale; error maps share one scale over all columns.
    """
    from matplotlib import colormaps

    count = len(rows)
    if count == 0 or rows.ndim != 4:
        raise RaeflowError(f"strip: images of shape (N, C, H, W) with N > 0 are needed, got {rows.shape}")
    high, wide = rows.shape[2:]
    gap = max(1, wide // 10)
    low, top = intensity(rows)
    maps = errors.mean(1)
    ceiling = float(np.quantile(maps, 0.999)) or 1.0
    magma = colormaps["magma"](np.clip(maps / ceiling, 0, 1))[..., :3]
    figure, lines = figure_of(3, (max(2.4, 0.92 * count), 0.95 * high / wide * 3 + 0.45), columns=1, whole=True)
    shown = {"row": grey(rows, low, top), "rebuilt": grey(rebuilt, low, top), "error": magma}
    for axes, (name, images) in zip(lines, shown.items(), strict=True):
        axes.imshow(_mosaic(images, gap), interpolation="nearest")
        axes.set(xticks=[], yticks=[], ylabel=name)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    for column, title in enumerate(titles):
        middle = column * (wide + gap) + (wide - 1) / 2
        lines[0].text(middle, -0.5 - 0.06 * high, title, ha="center", va="bottom", fontsize=8.5)
    return figure


@styled
def signals(rows: Values, rebuilt: Values, titles: Sequence[str]) -> Figure:
    """Signals (N, C, L) and what the model makes of them, one panel a row; up to four channels are drawn."""
    count = len(rows)
    if count == 0 or rows.ndim != 3:
        raise RaeflowError(f"signals: signals of shape (N, C, L) with N > 0 are needed, got {rows.shape}")
    figure, panels = figure_of(count, (7.4, 1.7), columns=2)
    time = np.arange(rows.shape[2])
    for axes, row, model, title in zip(panels, rows, rebuilt, titles, strict=False):
        for channel in range(min(4, len(row))):
            first = channel == 0
            axes.fill_between(time, row[channel], model[channel], color=ANOMALY, alpha=0.25, linewidth=0, label="error" if first else None)
            axes.plot(time, row[channel], color=NORMAL, linewidth=1.2, label="row" if first else None)
            axes.plot(time, model[channel], color=ANOMALY, linewidth=1.0, linestyle="--", label="rebuilt" if first else None)
        axes.set_title(title, fontsize=9, fontweight="normal")
    panels[0].legend(loc="best", ncols=3, fontsize=8)
    return figure


@styled
def features(errors: Values, names: Sequence[str], most: int = 15) -> Figure:
    """Which features (N, F) of squared errors carry the error: mean share of each, the largest `most`."""
    totals = errors.sum(1, keepdims=True)
    share = (errors / np.where(totals > 0, totals, 1)).mean(0)
    order = np.argsort(share)[::-1][:most][::-1]
    figure, (axes,) = figure_of(1, (7.4, 0.6 + 0.24 * len(order)))
    axes.barh([names[i] for i in order], 100 * share[order], color=ANOMALY, height=0.7)
    axes.set(xlabel="share of the error (%)")
    axes.grid(axis="y", visible=False)
    return figure


@styled
def latent_scatter(codes: Values, groups: Values | None = None, names: Sequence[str] = ()) -> Figure:
    """Codes (N, Z) in the plane: as they are for Z = 2, else their first two principal components.

    Coloured by group (N,), where there are any; `names` of the groups 0, 1, ... in place of their values.
    """
    if codes.ndim != 2 or codes.shape[1] < 1 or len(codes) == 0:
        raise RaeflowError(f"latent_scatter: codes of shape (N, Z) with N > 0 are needed, got {codes.shape}")
    plane, labels = _plane(np.asarray(codes, np.float64))
    keep = np.random.default_rng(0).permutation(len(plane))[: 2 * MOST_POINTS]
    return scatter(plane[keep], None if groups is None else np.asarray(groups)[keep], labels, names)


def scatter(plane: Values, groups: Values | None, labels: tuple[str, str], names: Sequence[str] = (), *, ticks: bool = True) -> Figure:
    """Points (N, 2) on equal scales, coloured by group (N,); `names` of the groups 0, 1, ... in place of their values.

    Each group's name also stands at its middle, where there are enough of them that a legend alone is hard to read.
    """
    kinds = [] if groups is None else sorted(set(groups.tolist()))
    if names and not all(isinstance(kind, int) and 0 <= kind < len(names) for kind in kinds):
        raise RaeflowError(f"scatter: {len(names)} names for groups {kinds}, which must be 0 to {len(names) - 1}")
    figure, (axes,) = figure_of(1, (6.2, 4.8))
    size = 14 if len(plane) < 600 else 6
    look: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0, "rasterized": True}
    if groups is None:
        axes.scatter(plane[:, 0], plane[:, 1], color=NORMAL, **look)
    for kind, colour in zip(kinds, _many(len(kinds)), strict=True):
        own = plane[groups == kind]
        name = names[kind] if names else str(kind)
        axes.scatter(own[:, 0], own[:, 1], color=colour, label=name, **look)
        if len(kinds) > 2:
            _tag(axes, np.median(own, 0), name)
    if kinds:
        axes.legend(markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(kinds) // 13)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if np.ptp(plane, 0).min() > 0:
        axes.set_aspect("equal", adjustable="datalim")
    if not ticks:
        axes.set(xticks=[], yticks=[])
    return figure


def _tag(axes: Axes, place: Values, name: str) -> None:
    """A name on white, so that it is read over any points."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]
    axes.annotate(name, (float(place[0]), float(place[1])), ha="center", va="center", fontsize=9, fontweight="bold", path_effects=halo)


def _plane(codes: Values) -> tuple[Values, tuple[str, str]]:
    if codes.shape[1] == 1:
        return np.column_stack([codes[:, 0], np.zeros(len(codes))]), ("code 1", "")
    if codes.shape[1] == 2:
        return codes, ("code 1", "code 2")
    centred = codes - codes.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    share = 100 * spread**2 / max(float((spread**2).sum()), 1e-300)
    return centred @ axes[:2].T, (f"principal component 1 ({share[0]:.0f} %)", f"principal component 2 ({share[1]:.0f} %)")


def grey(images: Values, low: float, high: float) -> Values:
    """(N, C, H, W) to (N, H, W, 3) between black and white; three channels are colours, others are averaged."""
    pixels = np.clip((images.astype(np.float32) - low) / (high - low), 0, 1)
    colours: Values = pixels if pixels.shape[1] == 3 else pixels.mean(1, keepdims=True).repeat(3, 1)
    return colours.transpose(0, 2, 3, 1)


def _mosaic(images: Values, gap: int) -> Values:
    """(N, H, W, 3) side by side as (H, N W + (N - 1) gap, 4), with nothing between: one image draws faster than many."""
    count, high, wide, _ = images.shape
    out = np.zeros((high, count, wide + gap, 4), np.float32)
    out[:, :, :wide, :3] = images.transpose(1, 0, 2, 3)
    out[:, :, :wide, 3] = 1
    return out.reshape(high, -1, 4)[:, :-gap]


def intensity(rows: Values) -> tuple[float, float]:
    """Black and white of the pixels: a byte's or a unit's range where the rows keep to one, else their own."""
    if rows.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(rows.min()), float(rows.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high if high > low else low + 1)


def _many(count: int) -> list[Any]:
    from matplotlib import colormaps

    if len(CYCLE) < count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return list(CYCLE[:count]) if count <= len(CYCLE) else [colormaps["turbo"]((i + 0.5) / count) for i in range(count)]
