"""How well scores tell anomalies from normal rows; thin calls into scikit-learn.

`truth` (N,) is True or 1 for anomalies, `scores` (N,) are higher for stranger rows; numpy or torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def auroc(truth: Any, scores: Any) -> float:
    """Area under the ROC curve: the chance that an anomaly scores above a normal row, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_checked("AUROC", truth, scores)))


def average_precision(truth: Any, scores: Any) -> float:
    """Area under the precision-recall curve as a step function (no interpolation)."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_checked("average precision", truth, scores)))


def at_threshold(truth: Any, scores: Any, threshold: float) -> dict[str, float]:
    """accuracy, precision, recall, f1 of `scores > threshold`; precision is 0 where nothing is flagged."""
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    flags, values = _checked("accuracy, precision and recall", truth, scores)
    flagged = values > threshold
    precision, recall, f1, _ = precision_recall_fscore_support(flags, flagged, average="binary", zero_division=0)
    return {
        "accuracy": float(accuracy_score(flags, flagged)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def bootstrap(metric: Any, truth: Any, scores: Any, draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of `metric(truth, scores)` (Efron 1979), drawn within each class so that both stay."""
    flags, values = _checked("bootstrap", truth, scores)
    random = np.random.default_rng(seed)
    groups = np.flatnonzero(flags), np.flatnonzero(~flags)
    drawn = []
    for _ in range(draws):
        index = np.concatenate([random.choice(group, len(group)) for group in groups])
        drawn.append(metric(flags[index], values[index]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(what: str, truth: Any, scores: Any) -> tuple[Flags, Floats]:
    """Both as numpy arrays, refused where no figure can be had from them."""
    flags, values = np.asarray(_host(truth)), np.asarray(_host(scores), dtype=np.float64)
    if flags.shape != values.shape or values.ndim != 1:
        raise RaeflowError(f"{what}: truth {flags.shape} and scores {values.shape} must be one value per row each")
    strange = ~np.isin(flags, (0, 1))
    if strange.any():
        raise RaeflowError(f"{what}: truth must be 0/1 or boolean, but row {int(strange.argmax())} has {flags[strange.argmax()]}")
    flags = flags.astype(bool)
    nan = np.isnan(values)
    if nan.any():
        raise RaeflowError(f"{what}: the score of row {int(nan.argmax())} is NaN ({int(nan.sum())} of {len(values)} are)")
    if flags.all() or not flags.any():
        only = "anomalies" if len(flags) and flags[0] else "normal rows"
        raise RaeflowError(f"{what} needs normal rows and anomalies, but the {len(flags)} rows are all {only}")
    # sklearn takes no infinite scores; only order matters to it, so the largest float stands for them.
    return flags, np.clip(values, np.finfo(np.float64).min, np.finfo(np.float64).max)


def _host(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values
