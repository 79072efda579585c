"""The rows of the test split that a person should look at: the strangest, and what the detector got wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raeflow.report import markup, plots, tablerows
from raeflow.report.tablerows import TOP_COLUMNS, Group

if TYPE_CHECKING:
    from raeflow.data.rows import Resident
    from raeflow.detector import Detector

MOST = 8

Values = npt.NDArray[Any]


def groups(scores: Values, alerts: Values, truth: Values | None, most: int = MOST) -> list[Group]:
    """Rows to show, from scores (N,), alerts (N,) and, where known, truth (N,)."""
    found = [
        Group("Most anomalous rows", "The highest scores of the test split, highest first.", np.argsort(-scores, kind="stable")[:most])
    ]
    if truth is None:
        return found
    missed, alarms = np.flatnonzero(truth & ~alerts), np.flatnonzero(~truth & alerts)
    missed, alarms = missed[np.argsort(scores[missed], kind="stable")], alarms[np.argsort(-scores[alarms], kind="stable")]
    if len(missed):
        said = f"{len(missed):,} of {int(truth.sum()):,} anomalies lie below the threshold; these lie lowest."
        found.append(Group("Anomalies it missed", said, missed[:most]))
    if len(alarms):
        said = f"{len(alarms):,} of {int((~truth).sum()):,} normal rows lie above the threshold; these lie highest."
        found.append(Group("False alarms", said, alarms[:most]))
    return found


def shown(group: Group, detector: Detector, test: Resident, scores: Values, truth: Values | None) -> str:
    """One group as HTML: images in strips, signals as lines, tables by the features that carry the error."""
    x = test.values(torch.from_numpy(group.index)).cpu()
    known = None if truth is None else truth[group.index]
    if detector.spec.held:
        return f"<h3>{group.title}</h3>" + tablerows.grid(group, detector, x, scores, known)
    rows, rebuilt, errors = x.numpy(), detector.expected(x), detector.explain(x)
    shape = detector.spec.shape
    head = f"<h3>{group.title}</h3>"
    said = f"{group.title}: {len(group.index)} test rows with their reconstructions"
    if len(shape) == 3:
        titles = [_title(scores[i], None if known is None else bool(known[n])) for n, i in enumerate(group.index)]
        return head + markup.picture(plots.strip(rows, rebuilt, errors, titles), said, group.caption)
    if len(shape) == 2:
        kinds = [""] * len(group.index) if known is None else [", anomaly" if k else ", normal" for k in known]
        titles = [f"row {i}, score {scores[i]:.3g}{kind}" for i, kind in zip(group.index, kinds, strict=True)]
        return head + markup.picture(plots.signals(rows, rebuilt, titles), said, group.caption)
    return head + _table(group, rows, rebuilt, errors, feature_names(detector), scores, known)


def feature_names(detector: Detector) -> list[str]:
    """Names of a table's columns, or of the entries of a list."""
    if detector.spec.kind in ("columns", "mixed"):
        return list(detector.spec.columns)
    return [f"{detector.spec.columns[0]}[{i}]" for i in range(detector.spec.shape[0])]


def _table(group: Group, rows: Values, rebuilt: Values, errors: Values, names: list[str], scores: Values, known: Values | None) -> str:
    lines = []
    for n, i in enumerate(group.index):
        total = float(errors[n].sum()) or 1.0
        top = np.argsort(-errors[n])[:TOP_COLUMNS]
        told = [f"{names[f]} = {rows[n, f]:.4g}, expected {rebuilt[n, f]:.4g} ({errors[n, f] / total:.0%})" for f in top]
        kind = [] if known is None else ["anomaly" if known[n] else "normal"]
        lines.append([str(i), f"{scores[i]:.4g}", *kind, "; ".join(told)])
    heads = ["test row", "score", *([] if known is None else ["truth"]), "features that carry the error (share of it)"]
    return markup.grid(heads, lines, group.caption, numbers=(0, 1))


def _title(score: float, anomaly: bool | None) -> str:
    kind = "" if anomaly is None else "\nanomaly" if anomaly else "\nnormal"
    return f"{score:.3g}{kind}"
