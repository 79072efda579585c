"""Held-out scores of normal rows to an alarm threshold, and scores of several models to one.

Scores (N,) are higher for stranger rows; a row is flagged where its score exceeds the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raeflow.errors import RaeflowError
from raeflow.study import Calibration

LEVEL = 0.95
"""Confidence of the interval of the alert rate."""

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Threshold:
    """Where the alarm starts, how it was found, and how often normal rows will trip it."""

    value: float
    """A row whose score is greater is flagged."""
    method: str
    """mean_std: mean + k std. quantile: the conformal quantile. median_mad: median + k MAD (MAD unscaled)."""
    k: float
    quantile: float
    per: str
    """row, or batch: losses are means over `batch_size` consecutive rows."""
    batch_size: int
    count: int
    """Losses (rows, or batches) that were calibrated on."""
    mean: float
    """Mean of the losses."""
    std: float
    """Standard deviation of the losses (of the population, as numpy's)."""
    alert_rate: float
    """Share of normal *rows* expected above the threshold, whatever `per` is."""
    alert_low: float
    alert_high: float
    """Its 95 % interval."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Threshold:
        """The threshold that `to_json` told."""
        return cls(**values)


def calibrate(chunks: Iterable[Tensor], calibration: Calibration) -> Threshold:
    """Scores (n,) of the calibrate split, chunk by chunk, to a threshold.

    mean_std (k = 1 as in the source) and median_mad: the alert rate is the share of calibrate rows
    above the threshold, with the exact interval of Clopper and Pearson (1934).

    quantile: plugging in the empirical quantile alarms too often on new rows, because the threshold
    saw the rows that it is judged by. The split-conformal rank ceil((n + 1) q) does not (Vovk et al.
    2005; Lei et al. 2018): of n scores in order, at most 1 - q of new normal rows exceed it, on
    average over calibrate splits. Given one split, the share that does is Beta(n + 1 - r, r)
    distributed for rank r, which gives the interval.

    With per='batch' the losses are means over `batch_size` consecutive rows, the last batch as it
    comes, as a data loader gives them; the alert rate stays that of single rows.

    Memory: 4 bytes a row. Raises RaeflowError on scores that are not finite, on fewer than two losses,
    and on too few rows for the quantile asked for.
    """
    rows = _collect(chunks)
    losses = rows if calibration.per == "row" else _batch_means(rows, calibration.batch_size)
    if len(losses) < 2:
        raise RaeflowError(
            f"Calibration(per={calibration.per!r}): the calibrate split gives {len(losses)} "
            f"{'rows' if calibration.per == 'row' else f'batches of {calibration.batch_size} rows'}, a threshold needs at least 2"
        )
    mean, std = moments(losses)
    rank = 0
    if calibration.method == "mean_std":
        value = mean + calibration.k * std
    elif calibration.method == "median_mad":
        middle = float(np.median(losses))
        value = middle + calibration.k * float(np.median(np.abs(losses - np.float32(middle))))
    else:
        rank = _conformal_rank(len(losses), calibration.quantile)
        value = float(np.partition(losses, rank - 1)[rank - 1])
    if calibration.method == "quantile" and calibration.per == "row":
        rate, low, high = _conformal_rate(len(rows), rank)
    else:
        rate, low, high = clopper_pearson(int((rows > value).sum()), len(rows))
    return Threshold(
        value, calibration.method, calibration.k, calibration.quantile, calibration.per, calibration.batch_size,
        len(losses), mean, std, rate, low, high,
    )  # fmt: skip


def moments(values: Scores, size: int = 1 << 20) -> tuple[float, float]:
    """Mean and population standard deviation in float64, chunks merged as by Chan et al. (1979)."""
    count, mean, square = 0, 0.0, 0.0
    for start in range(0, len(values), size):
        part = values[start : start + size].astype(np.float64)
        own = float(part.mean())
        delta, total = own - mean, count + len(part)
        square += float(((part - own) ** 2).sum()) + delta * delta * count * len(part) / total
        mean += delta * len(part) / total
        count = total
    return mean, math.sqrt(square / max(count, 1))


def clopper_pearson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float, float]:
    """Rate and exact binomial interval (Clopper and Pearson 1934): never covers less than `level`."""
    from scipy.special import betaincinv  # the quantile of a beta distribution; scipy.stats takes a second to import

    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return hits / count, low, high


class Moments(NamedTuple):
    """What a member's scores are standardised by; plain numbers, so that JSON keeps it."""

    mean: float
    std: float
    floor: float | None
    """Scores are taken as log(max(score, floor)); None: scores are taken as they are (some were negative)."""


def log_moments(scores: Tensor | npt.ArrayLike) -> Moments:
    """Mean and standard deviation of the log-scores of normal rows (N,).

    Reconstruction errors are positive and skewed, and models differ in scale: their logarithms are
    close to normal and can be averaged. A score that goes below zero on normal rows (a negative ELBO,
    a log-likelihood) is a logarithm already and is left alone. Zeros (a row reproduced exactly) count
    as a millionth of the median, so that one of them cannot carry the standard deviation away.
    """
    values = torch.as_tensor(scores).detach().double().cpu()
    finite = int(torch.isfinite(values).sum())
    if values.numel() < 2 or finite < values.numel():
        raise RaeflowError(f"scores of a member are standardised by at least 2 finite ones, got {finite} finite of {values.numel()}")
    floor = None if float(values.min()) < 0 else max(1e-6 * float(values.median()), torch.finfo(torch.float32).tiny)
    logs = _log(values, floor)
    std = float(logs.std(correction=0))
    return Moments(float(logs.mean()), std if std > 1e-12 else 1.0, floor)


def combine(scores: Sequence[Tensor], moments: Sequence[Moments]) -> Tensor:
    """Scores (N,) of each member to the committee's (N,): the mean of their standardised log-scores.

    Monotone in every member's score; 0 is the average normal row and 1 lies one standard deviation
    above it. `moments` are `log_moments` of each member, in the same order,
    on normal rows that it was not trained on; plain sequences of their three values, as from JSON, will do.
    """
    if len(scores) != len(moments) or not scores:
        raise RaeflowError(f"a committee of {len(scores)} members' scores cannot be standardised by {len(moments)} moments")
    parts = [(_log(own, m.floor) - m.mean) / m.std for own, m in zip(scores, (Moments(*m) for m in moments), strict=True)]
    return torch.stack(parts).mean(0)


def _log(scores: Tensor, floor: float | None) -> Tensor:
    return scores if floor is None else scores.clamp_min(floor).log()


def _collect(chunks: Iterable[Tensor]) -> Scores:
    """All scores in one float32 array; refuses what is not finite, with its row."""
    parts = list(_finite(chunks))
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _finite(chunks: Iterable[Tensor]) -> Iterator[Scores]:
    seen = 0
    for chunk in chunks:
        part: Scores = torch.as_tensor(chunk).detach().to("cpu", torch.float32).reshape(-1).numpy()
        bad = ~np.isfinite(part)
        if bad.any():
            row = int(bad.argmax())
            raise RaeflowError(f"row {seen + row} of the calibrate split has score {part[row]}, so no threshold can be set")
        seen += len(part)
        yield part


def _batch_means(rows: Scores, size: int) -> Scores:
    starts = np.arange(0, len(rows), size)
    if not len(starts):
        return rows
    sums = np.add.reduceat(rows.astype(np.float64), starts)
    return (sums / np.diff(np.append(starts, len(rows)))).astype(np.float32)


def _conformal_rank(count: int, quantile: float) -> int:
    # The tiny step undoes rounding: (99 + 1) * 0.99 must not become 100.
    rank = math.ceil((count + 1) * quantile - 1e-9)
    if rank > count:
        needed = math.ceil(quantile / (1 - quantile) - 1e-9)
        raise RaeflowError(
            f"Calibration(quantile={quantile}): this quantile needs at least {needed} losses, the calibrate split gives {count}"
        )
    return rank


def _conformal_rate(count: int, rank: int) -> tuple[float, float, float]:
    from scipy.special import betaincinv

    tail, above = (1 - LEVEL) / 2, (count + 1 - rank, rank)
    return (count + 1 - rank) / (count + 1), float(betaincinv(*above, tail)), float(betaincinv(*above, 1 - tail))
