"""How well the test split's anomalies are told from its normal rows.

N rows of the test split; nothing here is ever seen by a search, a training or a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raeflow import heads, metrics
from raeflow.data.rows import Resident
from raeflow.data.scaling import scaled_rows
from raeflow.data.windows import Windows
from raeflow.detector import Detector
from raeflow.graph import Graph, scores
from raeflow.report.readings import figures, last_readings
from raeflow.stored import load_fitted

if TYPE_CHECKING:
    from raeflow.data.rows import RowSource, Splits
    from raeflow.selection import Trial

BLOCK = 1 << 14
"""Test rows that are scaled at a time."""
FOREST_ROWS = 200_000
"""Train rows that the forest is given of a stream; each of its trees draws 256 of them."""
FOREST_VALUES = 1 << 26
"""Values of all the windows that it is given, which lie in memory once, at most."""
NEIGHBOURS = 5
KNN_ROWS = 1_000, 20_000
"""Train rows, chosen by chance, whose distances kNN measures: fewest and most."""
KNN_WORK = 1 << 36
"""Products that all its distances may take, as long as there are the fewest rows: a dozen seconds."""
FOREST, KNN = "IsolationForest", f"kNN (k = {NEIGHBOURS})"

Floats = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


def truth(splits: Splits) -> Flags | None:
    """(N,) which test rows are anomalies; None where that is not known or only one kind is there.

    A window stands for its last reading, whose score a detector gives it.
    """
    test = splits.test
    if test is None or test.anomaly is None or not len(test):
        return None
    flags: Flags = test.anomaly.cpu().numpy().astype(bool)
    if isinstance(test, Windows) and test.readings.anomaly is not None:
        flags = test.readings.anomaly.numpy()[last_readings(test)]
    return flags if flags.any() and not flags.all() else None


def judge_test(detector: Detector, splits: Splits) -> dict[str, float]:
    """AUROC, average precision, and accuracy, precision, recall, F1 and alert rates at the threshold, on the test split.

    `alert_rate` is the share of all rows flagged, `false_alarm_rate` that of the normal ones; `rows` and
    `anomalies` are counts. Of readings in order of time also the figures of `raeflow.series_metrics`.
    Empty where no truth is known, or all test rows are of one kind.
    """
    flags = truth(splits)
    if flags is None or splits.test is None:
        return {}
    strange = detector.score(splits.test)
    return {**judged(detector, flags, strange), **figures(detector, splits, strange)}


def judged(detector: Detector, flags: Flags, strange: Floats) -> dict[str, float]:
    """`judge_test` of scores (N,) that are there already."""
    alerts = detector.flags(strange)
    return {
        **ranked(flags, strange),
        **metrics.at_threshold(flags, strange, detector.threshold.value),
        "alert_rate": float(alerts.mean()),
        "false_alarm_rate": float(alerts[~flags].mean()),
        "rows": float(len(flags)),
        "anomalies": float(flags.sum()),
    }


def isolation_forest(splits: Splits, seed: int = 0) -> dict[str, float]:
    """AUROC and average precision of scikit-learn's IsolationForest (Liu et al. 2008) on the same test split.

    Its parameters are scikit-learn's own; it sees the same scaled train rows, flattened. Empty where no
    truth is known.
    """
    flags = truth(splits)
    if flags is None or splits.test is None:
        return {}
    return ranked(flags, forest_scores(splits, splits.test, seed))


def peers(splits: Splits, seed: int = 0) -> dict[str, Floats]:
    """(N,) scores of the test rows by each baseline, by its name: scikit-learn's IsolationForest and kNN on the same rows as the
    model sees them. Empty where no truth is known."""
    if truth(splits) is None or splits.test is None:
        return {}
    return {FOREST: forest_scores(splits, splits.test, seed), KNN: neighbour_scores(splits, splits.test, seed)}


def baselines(splits: Splits, scored: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """AUROC and average precision of what `peers` gave, by name."""
    flags = truth(splits)
    return {} if flags is None else {name: ranked(flags, values) for name, values in scored.items()}


def ranked(flags: Flags, strange: Floats) -> dict[str, float]:
    """The metrics that need no threshold."""
    return {"auroc": metrics.auroc(flags, strange), "average_precision": metrics.average_precision(flags, strange)}


def forest_scores(splits: Splits, rows: Resident, seed: int = 0) -> Floats:
    """(N,) scores that the baseline, fitted on train, gives to rows; higher is stranger."""
    from sklearn.ensemble import IsolationForest

    train = splits.train.most(FOREST_VALUES) if isinstance(splits.train, Resident) else splits.train
    forest = IsolationForest(random_state=seed).fit(_first(splits, train, FOREST_ROWS))
    return np.concatenate([-forest.score_samples(part) for part in _flat(splits, rows)])


def neighbour_scores(splits: Splits, rows: Resident, seed: int = 0) -> Floats:
    """(N,) mean distances of rows to their nearest among some train rows (Angiulli & Pizzuti 2002), by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    least, most = KNN_ROWS
    count = max(least, min(most, KNN_WORK // (max(len(rows), 1) * math.prod(splits.spec.shape))))
    known = scaled_rows(splits.encoding, splits.some_train(count, seed).values()).flatten(1).numpy()
    found = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known))).fit(known)
    return np.concatenate([found.kneighbors(part)[0].mean(1) for part in _flat(splits, rows)])


def judge_trial(trial: Trial, splits: Splits) -> dict[str, float]:
    """AUROC and average precision of a trial's own weights under its head on the test split; empty without truth or weights."""
    flags = truth(splits)
    if flags is None or splits.test is None or trial.folder is None:
        return {}
    fitted = load_fitted(trial.folder)
    parts = (raw.x for raw in splits.test.batches(BLOCK))
    model, head = fitted.model(), fitted.scorer()
    if isinstance(splits.test, Windows):
        alone = Graph(splits.encoding, [model], [None], scorers=[head]).eval()
        strange = torch.cat(list(scores(alone, splits.test))).numpy()
    else:
        strange = torch.cat([heads.scored(model, head, scaled_rows(splits.encoding, part)) for part in parts]).numpy()
    # Where the arithmetic overflows a row is as strange as can be, as a detector has it.
    return ranked(flags, np.nan_to_num(strange, nan=np.inf, posinf=np.inf, neginf=-np.inf))


def _flat(splits: Splits, rows: RowSource) -> Iterator[Floats]:
    """Scaled rows (n, values), piece by piece."""
    for raw in rows.batches(BLOCK):
        scaled = splits.encoding(raw.x.cpu())
        yield scaled.reshape(len(scaled), -1).numpy()


def _first(splits: Splits, rows: RowSource, most: int) -> Floats:
    """The first scaled rows (n, values), at most so many."""
    parts, count = [], 0
    for part in _flat(splits, rows):
        parts.append(part)
        count += len(part)
        if count >= most:
            break
    return np.concatenate(parts)[:most]
