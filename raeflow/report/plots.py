"""Figures of one style, for the report and for studies; each function returns a matplotlib `Figure`.

`save(figure, path)` writes a PNG (or what the path's suffix says), `svg(figure)` gives markup whose text
takes the colour of the page around it.

N rows; a row is (F,), (C, L) or (C, H, W). `truth` (N,) is True for anomalies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import ANOMALY, CYCLE, DASHES, INK, NORMAL, save, styled, svg
from raeflow.report.canvas import panels as figure_of

__all__ = [
    "features", "history", "latent_scatter", "loss_histogram", "roc_and_precision", "save", "score_histogram", "signals", "strip", "svg",
    "trials_by_hyper", "trials_by_number",
]  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from raeflow.selection import Trial

MOST_BINS, FEWEST_BINS = 60, 15
MOST_POINTS = 2000
"""Points of a curve or cloud; more would only make the page heavy."""

Values = npt.NDArray[Any]


@styled
def score_histogram(scores: Values, threshold: float, truth: Values | None = None) -> Figure:
    """Scores (N,) of normal rows and anomalies, each as shares of their own number, and the threshold."""
    groups = {"rows": (scores, NORMAL)}
    if truth is not None:
        groups = {"normal": (scores[~truth], NORMAL), "anomalies": (scores[truth], ANOMALY)}
    figure, (axes,) = figure_of(1, (7.4, 3.2))
    _histogram(axes, {f"{name} ({len(part):,})": (part, colour) for name, (part, colour) in groups.items()}, [threshold])
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.4g}")
    axes.set(xlabel="anomaly score", ylabel="share of rows (%)")
    axes.legend()
    return figure


@styled
def loss_histogram(losses: Values, thresholds: Mapping[str, float], label: str = "held-out rows") -> Figure:
    """Losses (N,) with several named thresholds, as one sets them side by side: per row and per batch, say."""
    figure, (axes,) = figure_of(1, (7.4, 3.2))
    _histogram(axes, {f"{label} ({len(losses):,})": (losses, NORMAL)}, list(thresholds.values()))
    for number, (name, value) in enumerate(thresholds.items(), 1):
        dash = DASHES[number % len(DASHES)]
        axes.axvline(value, color=CYCLE[number % len(CYCLE)], linestyle=dash, label=f"{name}: {value:.4g}")
    axes.set(xlabel="loss", ylabel="share of rows (%)")
    axes.legend()
    return figure


@styled
def roc_and_precision(truth: Values, scored: Mapping[str, Values], threshold: float | None = None) -> Figure:
    """ROC and precision-recall curves of one or more named scores (N,); the first one's point at the threshold is marked."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (left, right) = figure_of(2, (7.4, 3.5))
    for number, (name, values) in enumerate(scored.items()):
        finite = np.clip(values.astype(np.float64), np.finfo(np.float64).min, np.finfo(np.float64).max)
        look: dict[str, Any] = {"label": name, "linestyle": DASHES[number % len(DASHES)], "color": CYCLE[number % len(CYCLE)]}
        alarm, found, _ = roc_curve(truth, finite)
        left.plot(*_thinned(alarm, found), **look)
        precision, recall, _ = precision_recall_curve(truth, finite)
        right.step(*_thinned(recall[:-1], precision[:-1]), where="post", **look)  # the last point is made up
    first = next(iter(scored.values()))
    if threshold is not None:
        flagged = first > threshold
        hits = float(flagged[truth].mean())
        left.plot(float(flagged[~truth].mean()), hits, "o", color=INK, label="threshold")
        if flagged.any():
            right.plot(hits, float(truth[flagged].mean()), "o", color=INK)
    left.plot([0, 1], [0, 1], color="#8a8f98", linewidth=0.8, linestyle=":")
    right.axhline(float(truth.mean()), color="#8a8f98", linewidth=0.8, linestyle=":")
    left.set(title="ROC", xlabel="false alarms (share of normal rows)", ylabel="anomalies found", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    right.set(title="Precision and recall", xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.legend(loc="lower right")
    return figure


@styled
def history(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training and validation losses by epoch, a panel for each named run (records of `Fitted.history`)."""
    if not histories:
        raise RaeflowError("history: there is no run to draw")
    figure, panels = figure_of(len(histories), (7.4, 2.6), columns=3)
    for axes, (name, records) in zip(panels, histories.items(), strict=False):
        epochs = [r.get("epoch", i) for i, r in enumerate(records, 1)]
        keys = [k for k in dict.fromkeys(k for r in records for k in r) if k != "epoch"]
        keys.sort(key=lambda k: k != "validation_loss")
        every = [v for r in records for k, v in r.items() if k != "epoch" and v is not None]
        for number, key in enumerate(keys):
            label = "validation" if key == "validation_loss" else key.removeprefix("loss_").replace("_", " ")
            axes.plot(epochs, [r.get(key, math.nan) for r in records], DASHES[number % len(DASHES)], label=label)
        if every and min(every) > 0 and max(every) / min(every) > 20:
            axes.set_yscale("log")
        axes.set(title=name, xlabel="epoch")
        axes.legend()
    panels[0].set_ylabel("loss")
    return figure


@styled
def trials_by_number(trials: Sequence[Trial]) -> Figure:
    """Selection score of each trial, by variant, and the best so far; pruned ones are hollow."""
    figure, (axes,) = figure_of(1, (7.4, 3.2))
    judged = [t for t in sorted(trials, key=lambda t: t.number) if t.value is not None and t.status != "failed"]
    for number, variant in enumerate(dict.fromkeys(t.variant for t in judged)):
        own = [t for t in judged if t.variant == variant]
        colours = [CYCLE[number % len(CYCLE)] if t.status == "complete" else "none" for t in own]
        axes.scatter(
            [t.number for t in own], [float(t.value or 0.0) for t in own], c=colours, edgecolors=CYCLE[number % len(CYCLE)],
            marker="osD^vP"[number % 6], s=34, label=variant, zorder=3,
        )  # fmt: skip
    complete = [t for t in judged if t.status == "complete"]
    if complete:
        reached = np.maximum.accumulate([float(t.value or 0.0) for t in complete])
        axes.step([t.number for t in complete], reached, where="post", color=INK, linewidth=0.9, label="best so far")
    _whole_numbers(axes)
    axes.set(xlabel="trial", ylabel="selection score")
    axes.legend(loc="best")
    return figure


@styled
def trials_by_hyper(trials: Sequence[Trial], variant: str, names: Sequence[str]) -> Figure:
    """Selection score against each named hyperparameter of one variant, a panel each."""
    own = [t for t in trials if t.variant == variant and t.value is not None and t.status != "failed"]
    figure, panels = figure_of(len(names), (7.4, 2.3), columns=4, sharey=True)
    colour = CYCLE[list(dict.fromkeys(t.variant for t in trials)).index(variant) % len(CYCLE)]
    for axes, name in zip(panels, names, strict=False):
        values = [t.hyper.get(name) for t in own]
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        if numeric:
            across: list[Any] = values
            if min(across) > 0 and max(across) / min(across) > 20:
                axes.set_xscale("log")
            elif all(isinstance(v, int) for v in across):
                _whole_numbers(axes)
        else:
            kinds = sorted({_short(v) for v in values})
            across = [kinds.index(_short(v)) for v in values]
            axes.set_xticks(range(len(kinds)), kinds, rotation=30 if max(map(len, kinds)) > 4 else 0)
            axes.set_xlim(-0.5, len(kinds) - 0.5)
        axes.scatter(across, [float(t.value or 0.0) for t in own], s=22, color=colour, alpha=0.85)
        axes.set_xlabel(name)
    panels[0].set_ylabel("selection score")
    return figure


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
    low, top = _range(rows)
    maps = errors.mean(1)
    ceiling = float(np.quantile(maps, 0.999)) or 1.0
    magma = colormaps["magma"](np.clip(maps / ceiling, 0, 1))[..., :3]
    figure, lines = figure_of(3, (max(2.4, 0.92 * count), 0.95 * high / wide * 3 + 0.45), columns=1, whole=True)
    shown = {"row": _grey(rows, low, top), "rebuilt": _grey(rebuilt, low, top), "error": magma}
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
def latent_scatter(codes: Values, groups: Values | None = None) -> Figure:
    """Codes (N, Z) in the plane: as they are for Z = 2, else their first two principal components; coloured by group (N,)."""
    if codes.ndim != 2 or codes.shape[1] < 1 or len(codes) == 0:
        raise RaeflowError(f"latent_scatter: codes of shape (N, Z) with N > 0 are needed, got {codes.shape}")
    plane, labels = _plane(np.asarray(codes, np.float64))
    kinds = [] if groups is None else sorted(set(np.asarray(groups).tolist()))
    colours = _many(len(kinds))
    figure, (axes,) = figure_of(1, (5.4, 4.6))
    keep = np.random.default_rng(0).permutation(len(plane))[: 2 * MOST_POINTS]
    size = 14 if len(keep) < 600 else 6
    if groups is None:
        axes.scatter(plane[keep, 0], plane[keep, 1], s=size, color=NORMAL, alpha=0.7, linewidths=0, rasterized=True)
    else:
        own = np.asarray(groups)[keep]
        for kind, colour in zip(kinds, colours, strict=True):
            axes.scatter(
                plane[keep, 0][own == kind],
                plane[keep, 1][own == kind],
                s=size,
                color=colour,
                alpha=0.8,
                linewidths=0,
                label=str(kind),
                rasterized=True,
            )
        axes.legend(markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(kinds) // 13)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def _histogram(axes: Axes, groups: Mapping[str, tuple[Values, str]], marks: Sequence[float]) -> None:
    """Shares of each group over common bins, on a logarithmic axis where the scores span decades."""
    parts = {name: part[np.isfinite(part)].astype(np.float64) for name, (part, _) in groups.items()}
    every = np.concatenate([*parts.values(), np.asarray(marks, np.float64)])
    low, high = float(every.min()), float(np.quantile(every, 0.999) if len(every) > 2000 else every.max())
    high = max(high, *marks) if marks else high
    wide = low > 0 and high / low > 30
    if not high > low:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(3 * math.sqrt(min(map(len, parts.values()))), FEWEST_BINS, MOST_BINS))
    edges = np.geomspace(low, high, bins + 1) if wide else np.linspace(low, high, bins + 1)
    for name, (part, colour) in groups.items():
        values = np.clip(parts[name], edges[0], edges[-1])
        shares = 100 * np.histogram(values, edges)[0] / max(len(part), 1)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.4)
        axes.stairs(shares, edges, color=colour, linewidth=1.2, label=name)
    if wide:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)


def _thinned(*values: Values) -> list[Values]:
    if len(values[0]) <= MOST_POINTS:
        return list(values)
    keep = np.unique(np.linspace(0, len(values[0]) - 1, MOST_POINTS).astype(int))
    return [v[keep] for v in values]


def _plane(codes: Values) -> tuple[Values, tuple[str, str]]:
    if codes.shape[1] == 1:
        return np.column_stack([codes[:, 0], np.zeros(len(codes))]), ("code 1", "")
    if codes.shape[1] == 2:
        return codes, ("code 1", "code 2")
    centred = codes - codes.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    share = 100 * spread**2 / max(float((spread**2).sum()), 1e-300)
    return centred @ axes[:2].T, (f"principal component 1 ({share[0]:.0f} %)", f"principal component 2 ({share[1]:.0f} %)")


def _grey(images: Values, low: float, high: float) -> Values:
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


def _range(rows: Values) -> tuple[float, float]:
    """Black and white of the pixels: a byte's or a unit's range where the rows keep to one, else their own."""
    if rows.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(rows.min()), float(rows.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high if high > low else low + 1)


def _many(count: int) -> list[Any]:
    from matplotlib import colormaps

    return list(CYCLE[:count]) if count <= len(CYCLE) else [colormaps["turbo"]((i + 0.5) / count) for i in range(count)]


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _short(value: Any) -> str:
    return "x".join(map(_short, value)) if isinstance(value, (list, tuple)) else str(value)
