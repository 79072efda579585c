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
from raeflow.report.canvas import ANOMALY, CYCLE, DASHES, INK, MOST_POINTS, NORMAL, save, styled, svg
from raeflow.report.canvas import panels as figure_of
from raeflow.report.rowplots import features, latent_scatter, signals, strip

__all__ = [
    "features", "health", "history", "latent_scatter", "loss_histogram", "roc_and_precision", "save", "score_histogram", "signals",
    "strip", "svg", "trials_by_hyper", "trials_by_number",
]  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from raeflow.selection import Trial

MOST_BINS, FEWEST_BINS = 60, 15

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
        keys = [k for k in dict.fromkeys(k for r in records for k in r) if k == "validation_loss" or k.startswith("loss_")]
        keys.sort(key=lambda k: k != "validation_loss")
        every = [r[k] for r in records for k in keys if k in r]
        for number, key in enumerate(keys):
            label = "validation" if key == "validation_loss" else key.removeprefix("loss_").replace("_", " ")
            axes.plot(epochs, [r.get(key, math.nan) for r in records], DASHES[number % len(DASHES)], label=label)
        if every and min(every) > 0 and max(every) / min(every) > 20:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
        axes.set(title=name, xlabel="epoch")
        axes.legend()
    panels[0].set_ylabel("loss")
    return figure


HEALTH = {
    "frechet_distance": "Frechet distance", "coverage": "coverage", "density": "density", "precision": "precision", "recall": "recall",
    "modes": "classes drawn", "critic_slope": "slope of the critic",
}  # fmt: skip
"""Measures of a game (see `raeflow.health`), as a figure names them."""


@styled
def health(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """What was measured of games while they lasted, by epoch: a panel for each measure, a line for each named run."""
    told = {name: [r for r in records if "frechet_distance" in r] for name, records in histories.items()}
    told = {name: records for name, records in told.items() if records}
    if not told:
        raise RaeflowError("health: no run has been measured")
    keys = [key for key in HEALTH if any(key in r for records in told.values() for r in records)]
    figure, panels = figure_of(len(keys), (7.4, 1.9), columns=4)
    for axes, key in zip(panels, keys, strict=True):
        for number, (name, records) in enumerate(told.items()):
            look: dict[str, Any] = {"color": CYCLE[number % len(CYCLE)], "linestyle": DASHES[number % len(DASHES)], "label": name}
            own = [r for r in records if key in r]
            axes.plot([r["epoch"] for r in own], [r[key] for r in own], marker=".", **look)
        every = [r[key] for records in told.values() for r in records if key in r]
        if key in ("frechet_distance", "critic_slope") and min(every) > 0 and max(every) / min(every) > 20:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
        elif key in ("coverage", "precision", "recall"):
            axes.set_ylim(-0.03, 1.03)
        else:
            axes.set_ylim(bottom=0)
        _whole_numbers(axes)
        axes.set(title=HEALTH[key], xlabel="epoch")
    if len(told) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(told)))
    return figure


@styled
def trials_by_number(trials: Sequence[Trial]) -> Figure:
    """Selection score of each trial, by variant, and the best so far; pruned ones are hollow."""
    figure, (axes,) = figure_of(1, (7.4, 3.2))
    judged = [t for t in sorted(trials, key=lambda t: t.number) if t.value is not None and t.status != "failed"]
    for number, (variant, colour) in enumerate(_colours(trials).items()):
        own = [t for t in judged if t.variant == variant]
        colours = [colour if t.status == "complete" else "none" for t in own]
        marker = "osD^vP"[number % 6]
        axes.scatter(
            [t.number for t in own], [float(t.value or 0.0) for t in own], c=colours, edgecolors=colour, marker=marker, s=34, zorder=3
        )
        axes.plot([], [], marker, color=colour, label=variant)
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
    colour = _colours(trials)[variant]
    for axes, name in zip(panels, names, strict=False):
        values = [t.hyper.get(name) for t in own]
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        if numeric:
            across: list[Any] = values
            if min(across) > 0 and max(across) / min(across) > 20:
                axes.set_xscale("log")
                axes.xaxis.set_minor_formatter("")
            else:
                _few_ticks(axes, whole=all(isinstance(v, int) for v in across))
        else:
            kinds = sorted({_short(v) for v in values})
            across = [kinds.index(_short(v)) for v in values]
            axes.set_xticks(range(len(kinds)), kinds, rotation=30 if sum(map(len, kinds)) > 12 else 0)
            axes.set_xlim(-0.5, len(kinds) - 0.5)
        axes.scatter(across, [float(t.value or 0.0) for t in own], s=22, color=colour, alpha=0.85)
        axes.set_xlabel(name)
    panels[0].set_ylabel("selection score")
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
        axes.xaxis.set_minor_formatter("")
    axes.set_ylim(bottom=0)


def _thinned(*values: Values) -> list[Values]:
    if len(values[0]) <= MOST_POINTS:
        return list(values)
    keep = np.unique(np.linspace(0, len(values[0]) - 1, MOST_POINTS).astype(int))
    return [v[keep] for v in values]


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _few_ticks(axes: Axes, *, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=whole))


def _colours(trials: Sequence[Trial]) -> dict[str, str]:
    """The colour of each variant, the same in every figure of a study."""
    names = dict.fromkeys(t.variant for t in sorted(trials, key=lambda t: t.number))
    return {name: CYCLE[number % len(CYCLE)] for number, name in enumerate(names)}


def _short(value: Any) -> str:
    return ("x".join(map(_short, value)) or "none") if isinstance(value, (list, tuple)) else str(value)
