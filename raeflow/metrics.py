"""How well scores tell anomalies from normal rows, how near cleaned rows come to clean ones, and drawn rows to real ones.

Thin calls into scikit-learn and torchmetrics. `truth` (N,) is True or 1 for anomalies, `scores` (N,) are higher
for stranger rows; rows are (N, *shape); numpy or torch.
"""

from __future__ import annotations

from typing import Any, cast

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


def psnr(rows: Any, clean: Any, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, mean over the images: 10 log10(peak^2 / mean squared error) of each.

    Args:
        rows: (N, C, H, W), noisy or cleaned.
        clean: (N, C, H, W), what they should be.
        peak: largest value a pixel can take.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    one, other = _images("PSNR", rows, clean)
    return float(peak_signal_noise_ratio(one, other, data_range=peak, dim=(1, 2, 3)))


def ssim(rows: Any, clean: Any, peak: float = 1.0) -> float:
    """Structural similarity, mean over the images (Wang, Bovik, Sheikh & Simoncelli 2004); 1 where they are the same.

    Gaussian window of 11 x 11 pixels and deviation 1.5, constants 0.01 and 0.03, as published.

    Args:
        rows: (N, C, H, W), noisy or cleaned.
        clean: (N, C, H, W), what they should be.
        peak: largest value a pixel can take.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, other = _images("SSIM", rows, clean)
    size = max(1, _SSIM_VALUES // one[0].numel())  # it keeps several maps of every image at once
    total = 0.0
    for a, b in zip(one.split(size), other.split(size), strict=True):
        found = structural_similarity_index_measure(a, b, data_range=peak, reduction="sum")
        total += float(cast(torch.Tensor, found))
    return total / len(one)


def rmse(rows: Any, clean: Any) -> float:
    """Root of the mean squared error over all values of all rows."""
    one, other = _pairs("RMSE", rows, clean)
    return float(np.sqrt(np.mean(np.square(one - other))))


def peak_accuracy(recovered: Any, clean: Any, tolerance: float = 0.02, by: str = "location") -> float:
    """Share of signals whose recovered peak, the largest absolute value, lies within `tolerance` of the true one.

    Args:
        recovered: (N, L) or (N, 1, L).
        clean: the same shape; every row must hold a signal.
        tolerance: share of the window's length L for `location`, of the true peak's height for `amplitude`.
        by: `location`, where the peak is, or `amplitude`, how high it is.
    """
    one, other = _pairs("peak accuracy", recovered, clean)
    if one.ndim != 2 and not (one.ndim == 3 and one.shape[1] == 1):
        raise RaeflowError(f"peak accuracy: signals of one channel are needed, (N, L) or (N, 1, L), got {one.shape}")
    one, other = (np.abs(v.reshape(len(v), -1)) for v in (one, other))
    silent = ~other.any(1)
    if silent.any():
        raise RaeflowError(
            f"peak accuracy: clean row {int(silent.argmax())} holds no signal ({int(silent.sum())} of {len(other)} hold none)"
        )
    if by == "location":
        near = np.abs(one.argmax(1) - other.argmax(1)) <= tolerance * one.shape[1]
    elif by == "amplitude":
        near = np.abs(one.max(1) - other.max(1)) <= tolerance * other.max(1)
    else:
        raise RaeflowError(f"peak accuracy: by={by!r} must be 'location' or 'amplitude'")
    return float(near.mean())


def frechet_distance(real: Any, drawn: Any) -> float:
    """Frechet distance of two Gaussians fitted to features: |m - n|^2 + tr(S + T - 2 (S T)^(1/2)).

    Heusel, Ramsauer, Unterthiner, Nessler & Hochreiter 2017, "GANs Trained by a Two Time-Scale Update Rule",
    arXiv:1706.08500; there the features are Inception's, here whatever is given. 0 where means and covariances agree. Its
    bias grows as rows become few: compare figures of as many rows.

    Args:
        real: (N, D) features of real rows, N at least 2.
        drawn: (M, D) features of drawn rows, M at least 2.
    """
    from torch import nn
    from torchmetrics.image.fid import FrechetInceptionDistance

    one, other = _features("Frechet distance", real, drawn, least=2)
    as_they_are: Any = nn.Identity()
    as_they_are.num_features = one.shape[1]
    measure = FrechetInceptionDistance(feature=as_they_are, sync_on_compute=False)  # workers measure alone
    measure.update(one, real=True)
    measure.update(other, real=False)
    return max(0.0, float(measure.compute()))  # rounding may leave it just below


def _apart(one: Any, other: Any) -> Any:
    """(N, M): distances between rows. By differences: the faster matrix product loses small ones where rows lie far from 0."""
    import torch

    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def manifold(real: Any, drawn: Any, k: int = 5) -> dict[str, float]:
    """How much of the drawn rows looks real, and how much of the real rows is drawn, by balls out to k-th neighbours.

    precision, recall (Kynkaanniemi, Karras, Laine, Lehtinen & Aila 2019, arXiv:1904.06991): share of drawn rows in the
    ball of some real row, of real rows in the ball of some drawn row. density, coverage (Naeem, Oh, Uh, Choi & Yoo 2020,
    arXiv:2002.09797): mean number of real balls around a drawn row over k, share of real rows whose ball holds a drawn row.
    For drawn rows of the real law density is 1 in the mean and coverage 1 - prod (N - i) / (M + N - i) for i from 1 to k.

    Args:
        real: (N, D) features, N above k.
        drawn: (M, D) features, M above k.
        k: neighbours; 5 in the second paper, 3 in the first.
    """
    one, other = _features("precision and coverage", real, drawn, least=k + 1)
    # A row is its own nearest neighbour.
    real_radius_N, drawn_radius_M = (_apart(rows, rows).kthvalue(k + 1, dim=1).values for rows in (one, other))
    apart_NM = _apart(one, other)
    in_real_NM, in_drawn_NM = apart_NM <= real_radius_N[:, None], apart_NM <= drawn_radius_M[None]
    return {
        "precision": float(in_real_NM.any(0).double().mean()),
        "recall": float(in_drawn_NM.any(1).double().mean()),
        "density": float(in_real_NM.double().sum(0).mean()) / k,
        "coverage": float(in_real_NM.any(1).double().mean()),
    }


_SSIM_VALUES = 1 << 20


def _images(what: str, rows: Any, clean: Any) -> Any:
    """Both as float32 tensors of images."""
    import torch

    one, other = (torch.as_tensor(v, dtype=torch.float32) for v in (_host(rows), _host(clean)))
    if one.shape != other.shape or one.dim() != 4 or not len(one):
        raise RaeflowError(
            f"{what}: rows {tuple(one.shape)} and clean {tuple(other.shape)} must be images (N, C, H, W) of one shape, N above 0"
        )
    return one, other


def _features(what: str, real: Any, drawn: Any, least: int) -> Any:
    """Both as float32 tensors of finite features."""
    import torch

    one, other = (torch.as_tensor(_host(v), dtype=torch.float32) for v in (real, drawn))
    if one.dim() != 2 or other.dim() != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < least:
        raise RaeflowError(
            f"{what}: features (N, D) and (M, D) of at least {least} rows each are needed, got {tuple(one.shape)} and {tuple(other.shape)}"
        )
    for name, rows in (("real", one), ("drawn", other)):
        wrong = ~rows.isfinite().all(1)
        if wrong.any():
            raise RaeflowError(f"{what}: {int(wrong.sum())} of {len(rows)} {name} rows have a feature that is not finite")
    return one, other


def _pairs(what: str, rows: Any, clean: Any) -> tuple[Floats, Floats]:
    """Both as numpy arrays of one shape."""
    one, other = (np.asarray(_host(v), dtype=np.float64) for v in (rows, clean))
    if one.shape != other.shape or one.ndim < 2 or not len(one):
        raise RaeflowError(f"{what}: rows {one.shape} and clean {other.shape} must be (N, ...) of one shape, N above 0")
    return one, other


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
