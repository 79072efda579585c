"""Held-out scores of normal rows to an alarm threshold, and scores of several models to one.

Scores (N,) are higher for stranger rows; a row is flagged where its score exceeds the threshold.

Rows that are equal fall in one split together, so a thousand copies of a row are one draw, not a thousand.
Where rows repeat, the alert rate is told with as many draws as the different rows are worth (`_Draws`). Windows of a series
that begin within one stretch of a window's length share most of their readings, and count as one draw likewise.
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

from raeflow.data.splits import Keys
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
    distinct: int | None = None
    """Different rows of the calibrate split, of windows the stretches that they begin in; None where nobody counted them."""
    set_aside: int | None = None
    """Calibrate rows that cleaning set aside, whose scores count for the alert rate alone; None where nothing was cleaned."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; what nobody counted is left out, so that a detector from before there was a count keeps its id."""
        return {name: value for name, value in asdict(self).items() if name not in ("distinct", "set_aside") or value is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Threshold:
        """The threshold that `to_json` told."""
        return cls(**values)


@dataclass(frozen=True)
class Removed:
    """What cleaning did to the calibrate rows (`raeflow.data.cleaning`): some were set aside, others stay in doubt."""

    scores: Tensor
    """(R,) of the calibrate rows that were set aside."""
    keys: Keys
    """(R,) theirs, as those of the rows that stay."""
    doubted: npt.NDArray[np.bool_]
    """(n,) which of the rows that stay look as strange as those that train lost."""
    share: float | None
    """Share of anomalies that the user believes in; None: nothing is believed."""


def calibrate(chunks: Iterable[Tensor], calibration: Calibration, keys: Keys | None = None, removed: Removed | None = None) -> Threshold:
    """Scores (n,) of the calibrate split, chunk by chunk, to a threshold.

    `keys` (n,) are equal where rows count as one draw (`raeflow.data.resident.Resident.draws`); without them all rows count
    as different.

    mean_std (k = 1 as in the source) and median_mad: the alert rate is the share of calibrate rows
    above the threshold, with the exact interval of Clopper and Pearson (1934).

    quantile: plugging in the empirical quantile alarms too often on new rows, because the threshold
    saw the rows that it is judged by. The split-conformal rank ceil((n + 1) q) does not (Vovk et al.
    2005; Lei et al. 2018): of n scores in order, at most 1 - q of new normal rows exceed it, on
    average over calibrate splits. Given one split, the share that does is Beta(n + 1 - r, r)
    distributed for rank r, which gives the interval.

    Where rows repeat, the interval is that of Clopper and Pearson for as many rows as the different ones are
    worth, and the quantile's rank leaves room for one more row that is as frequent as these: the rate then holds
    over the draws that split the data. Where even the highest score cannot keep the quantile asked for, it is the
    threshold, and `alert_rate` says what it keeps.

    With `removed`, scores and keys are those of rows that cleaning left, and the threshold is theirs; but cleaning took
    normal rows too, the strangest of them, which will trip it. So the alert rate is that of all calibrate rows, from which
    anomalies are subtracted: for its lower end all flagged rows that are in doubt (set aside or not), and as many as the user
    believes in if that is more; for its upper end none. For the rate itself the anomalies that the user believes in are taken
    out, of which as many are flagged as of the rows set aside; where nothing is believed none, so it is an upper estimate.
    The interval so spans what cannot be known and chance.

    With per='batch' the losses are means over `batch_size` consecutive rows, the last batch as it
    comes, as a data loader gives them; the alert rate stays that of single rows.

    Memory: 4 bytes a row, and where keys are given some 40 more.

    Raises RaeflowError on scores that are not finite, on fewer than two losses, and on too few rows for the
    quantile asked for.
    """
    rows = _collect(chunks)
    losses = rows if calibration.per == "row" else _batch_means(rows, calibration.batch_size)
    if len(losses) < 2:
        raise RaeflowError(
            f"Calibration(per={calibration.per!r}): the calibrate split gives {len(losses)} "
            f"{'rows' if calibration.per == 'row' else f'batches of {calibration.batch_size} rows'}, a threshold needs at least 2"
        )
    mean, std = moments(losses)
    draws = None if keys is None else _Draws(keys)
    repeated = draws is not None and draws.distinct < len(rows)
    rank = 0
    if calibration.method == "mean_std":
        value = mean + calibration.k * std
    elif calibration.method == "median_mad":
        middle = float(np.median(losses))
        value = middle + calibration.k * float(np.median(np.abs(losses - np.float32(middle))))
    else:
        rank = _conformal_rank(len(losses), calibration.quantile)
        if draws is not None and repeated and calibration.per == "row":
            rank = draws.rank(calibration.quantile)
        value = float(np.partition(losses, rank - 1)[rank - 1])
    conformal = calibration.method == "quantile" and calibration.per == "row"
    if removed is not None:
        rate, low, high = _cleaned_rate(rows, value, keys, removed, conformal)
    elif draws is not None and repeated:
        rate, low, high = draws.rate(rows > value, conformal)
    elif conformal:
        rate, low, high = _conformal_rate(len(rows), rank)
    else:
        rate, low, high = clopper_pearson(int((rows > value).sum()), len(rows))
    return Threshold(
        value, calibration.method, calibration.k, calibration.quantile, calibration.per, calibration.batch_size,
        len(losses), mean, std, rate, low, high, None if draws is None else draws.distinct,
        None if removed is None else len(removed.scores),
    )  # fmt: skip


def _cleaned_rate(rows: Scores, value: float, keys: Keys | None, removed: Removed, conformal: bool) -> tuple[float, float, float]:
    """Alert rate of normal rows and its interval, where anomalies are taken out of all calibrate rows by three readings."""
    scores = np.concatenate([rows, _collect([removed.scores])])
    above = scores > value
    doubted = above & np.concatenate([removed.doubted, np.ones(len(removed.scores), np.bool_)])
    every = np.arange(len(scores), dtype=np.uint64) if keys is None else np.concatenate([keys, removed.keys])
    flagged, in_doubt = int(above.sum()), int(doubted.sum())
    believed = 0 if removed.share is None else round(removed.share * len(scores))
    # Those in doubt are the first to be taken for anomalies, then the highest scores.
    normal = np.lexsort((-scores, ~doubted, ~above))[min(flagged, max(believed, in_doubt)) :]
    low = _flagged(above[normal], every[normal], conformal)[1]
    high = _flagged(above, every, conformal)[2]
    # Of the anomalies believed in, as many are flagged as of the rows that were set aside for them.
    share = float(above[len(rows) :].mean()) if len(removed.scores) else 1.0
    rate = (flagged - min(share * believed, in_doubt) + conformal) / (len(scores) - believed + conformal)
    return min(max(rate, low), high), low, high


def _flagged(above: npt.NDArray[np.bool_], keys: Keys, conformal: bool) -> tuple[float, float, float]:
    """Share of rows above a threshold and its interval, whether rows repeat or not; all is possible where there is no row."""
    if not len(above):
        return 0.0, 0.0, 1.0
    draws = _Draws(keys)
    if draws.distinct < len(above):
        return draws.rate(above, conformal)
    hits = int(above.sum())
    return _conformal_rate(len(above), len(above) - hits) if conformal and hits < len(above) else clopper_pearson(hits, len(above))


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


def clopper_pearson(hits: float, count: float, level: float = LEVEL) -> tuple[float, float, float]:
    """Rate and exact binomial interval (Clopper and Pearson 1934): never covers less than `level`.

    Counts may be fractions, as those of an effective sample are.
    """
    from scipy.special import betaincinv  # the quantile of a beta distribution; scipy.stats takes a second to import

    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return hits / count, low, high


class _Draws:
    """Rows of which equal ones were drawn together, and what a share of them is worth.

    A share of n rows is worth as many independent ones as would estimate it as well: Kish's (1965) size, n^2 over
    the sum of squared multiplicities, or, where frequent rows are the flagged ones, the size that follows from the
    share's own variance over the different rows (Korn and Graubard 1998, with their correction by Student's t).
    """

    def __init__(self, keys: Keys) -> None:
        _, self.group, copies = np.unique(keys, return_inverse=True, return_counts=True)
        self.copies = copies.astype(np.float64)
        self.rows, self.distinct = len(keys), len(copies)
        self.size = self.rows**2 / float((self.copies**2).sum())
        """Kish's size: the count of different rows where all are equally frequent."""

    def rank(self, quantile: float) -> int:
        """Rank among the rows of the conformal threshold; the last where no score is high enough.

        One more row would bring `rows / size` copies of itself, as many as the average row has: of all these a
        share of `quantile` shall lie at or below the threshold, the new copies above it. Without copies it is
        ceil((n + 1) q).
        """
        return min(self.rows, math.ceil(self.rows * quantile * (1 + 1 / self.size) - 1e-9))

    def rate(self, above: npt.NDArray[np.bool_], conformal: bool) -> tuple[float, float, float]:
        """Share of rows above the threshold and its interval; `conformal` counts one more draw, which is above."""
        share = float(above.mean())
        size = self._worth(above, share)
        _, low, high = clopper_pearson(share * size, size)
        return (share * self.size + 1) / (self.size + 1) if conformal else share, low, high

    def _worth(self, above: npt.NDArray[np.bool_], share: float) -> float:
        from scipy.special import ndtri, stdtrit  # quantiles of the normal and of Student's distribution

        size = self.size
        if 0 < share < 1 and self.distinct > 1:
            off = np.bincount(self.group, above.astype(np.float64), self.distinct) - share * self.copies
            variance = float((off**2).sum()) / self.rows**2 * self.distinct / (self.distinct - 1)
            size = min(size, share * (1 - share) / max(variance, 1e-300))
        tail = (1 + LEVEL) / 2
        return float(size * (ndtri(tail) / stdtrit(max(self.size - 1, 1.0), tail)) ** 2)


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
