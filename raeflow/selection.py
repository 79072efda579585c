"""How trials are compared: without labels by default, by validation loss, or by labels when asked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from raeflow import heads as heads_
from raeflow import synthetic, synthetic_tables
from raeflow.data.rows import Resident, Splits
from raeflow.data.scaling import scaled_rows
from raeflow.devices import device_of, score_batch
from raeflow.errors import RaeflowError
from raeflow.health import Gauge
from raeflow.metrics import frechet_distance
from raeflow.training import Diverged, Fitted, Run
from raeflow.variants._contract import Variant

NORMAL = 2048
"""Validation rows that are scored against the synthetic anomalies, at most."""
MOST, FEWEST = 512, 128
"""Synthetic anomalies of a kind."""
DRAWN = 2048
"""Rows that a model draws to be judged by."""
BYTES = 1 << 26
"""Memory that all of them may take, as long as there are `FEWEST` of a kind."""
SEEN, SEEN_VALUES = 8192, 1 << 25
"""Train rows that heads are fitted on, and values of them all, at most."""
HELD = 1 << 26
"""Values of all rows that a judge makes of rows that are views, at most."""

FAILURES = (RaeflowError, RuntimeError, ValueError, TypeError, ArithmeticError)
"""What a hopeless configuration raises, out-of-memory among them: such a trial failed, and its process lives on."""


@dataclass(frozen=True)
class Trial:
    """One model that a search tried."""

    number: int
    variant: str
    hyper: dict[str, Any]
    value: float | None
    """What the judge said of the model under its head, higher is better; None where the trial failed."""
    validation_loss: float | None
    epochs: int
    seconds: float
    status: Literal["complete", "pruned", "failed"]
    folder: str | None = None
    """Where its fitted weights lie."""
    message: str = ""
    """Why it failed."""
    history: Sequence[dict[str, float]] = ()
    head: dict[str, Any] | None = None
    """Name and settings of the head that the judge preferred; None is `error`."""
    heads: dict[str, float] = field(default_factory=dict)
    """What the judge said of each head, by its title; empty where `error` alone was judged."""


class Judge(ABC):
    """Says how good a model is; higher is better, and values of all trials of a search compare."""

    @abstractmethod
    def __call__(self, model: Variant, scaling: nn.Module) -> float:
        """Judge a model as it stands by its own score, on its own device; it is left in evaluation mode."""


class RowJudge(Judge):
    """Judges whatever gives rows a score: models by their own, heads, committees."""

    x: Tensor
    """(M, *shape): the rows that it wants scores of, scaled, on the CPU."""

    def __call__(self, model: Variant, scaling: nn.Module) -> float:  # noqa: ARG002 - its rows are scaled already
        """What the model's own scores are worth."""
        return self.value(scaled_scores(model, self.x))

    @abstractmethod
    def value(self, scores: Tensor) -> float:
        """What scores (M,) of its rows are worth."""

    @abstractmethod
    def normal(self, scores: Tensor) -> Tensor:
        """Those of scores (M,) that normal rows have."""

    def spread(self, scores: Tensor) -> float:  # noqa: ARG002 - for judges that can tell
        """Standard error of the value of scores (M,), over other rows of the same kinds; 0 where it is not known."""
        return 0.0


def judge(kind: str, splits: Splits, seed: int) -> Judge:
    """`synthetic`, `validation_loss`, `labels` or `generation`; made once and used for every trial of a search.

    Reads the validation split alone, `generation` train rows too: `splits.for_search()` is all they need.
    """
    if kind == "synthetic":
        return Synthetic(splits, seed)
    if kind == "validation_loss":
        return ValidationLoss(splits)
    if kind == "labels":
        return Labels(splits)
    if kind == "generation":
        return Generation(splits, seed)
    raise RaeflowError(f"Search(selection={kind!r}): selection must be one of 'synthetic', 'validation_loss', 'labels', 'generation'")


@dataclass(frozen=True)
class Judged:
    """A trained model under the head that suits it best."""

    fitted: Fitted
    value: float
    heads: dict[str, float]
    """The value of each head, by its title; empty where `error` alone was judged."""


def judged(run: Run, judge: Judge, asked: Sequence[str] | None = None) -> Judged:
    """The model that a user would get of a run, under its best head; the run is left with that model's weights.

    `asked` names the heads that may be chosen; None: all that the model can take. Raises RaeflowError where the value is
    not finite.
    """
    fitted = run.fitted()
    run.model.load_state_dict(fitted.weights)
    return headed(fitted, run.model, run.splits, judge, asked)


def headed(fitted: Fitted, model: Variant, splits: Splits, judge: Judge, asked: Sequence[str] | None = None) -> Judged:
    """A trained model (`model` holds its weights) under the head that the judge prefers, fitted on train rows.

    All heads are judged on one pass over train rows and one over the judge's; a judge that compares losses, or what is
    drawn, knows `error` alone. Raises RaeflowError where no value is finite.
    """
    found = candidates(model, splits, asked) if isinstance(judge, RowJudge) else []
    if not isinstance(judge, RowJudge) or [head.name for head in found] == [heads_.ERROR]:
        return Judged(fitted, _finite(judge(model, splits.encoding), fitted), {})
    best, values = _best_head(found, model, splits, judge)
    kept = fitted
    if best.name != heads_.ERROR:
        weights = {name: t.cpu() for name, t in best.state_dict().items()}
        kept = replace(fitted, head=heads_.described(best), head_weights=weights)
    return Judged(kept, _finite(max(values.values(), default=math.nan), fitted), values)


def candidates(model: Variant, splits: Splits, asked: Sequence[str] | None = None) -> list[heads_.Head]:
    """The heads that may be chosen for a model of these rows."""
    unclean = min(_most(splits), len(splits.train)) if splits.unclean else None
    return heads_.candidates(model, splits.spec.shape, asked, unclean)


def _best_head(found: list[heads_.Head], model: Variant, splits: Splits, judge: RowJudge) -> tuple[heads_.Head, dict[str, float]]:
    """The best of some heads, and the values of all that could be fitted."""
    seen, told = heads_.collect(model, train_rows(splits), found), heads_.collect(model, judge.x, found)
    best, values = found[0], dict[str, float]()
    for head in found:
        try:
            head.to(seen.x.device).fit(seen)
            value = judge.value(heads_.apply(head, told))
        except FAILURES:  # a head that does not suit leaves the others; a model without one is refused by the caller
            continue
        if math.isfinite(value):
            best = head if value > max(values.values(), default=-math.inf) else best
            values[heads_.title(heads_.described(head))] = value
    return best, values


def train_rows(splits: Splits) -> Tensor:
    """(N, *shape) scaled train rows that heads are fitted on, the same for all trials of a search."""
    return scaled_rows(splits.encoding, splits.some_train(_most(splits)).values())


def _most(splits: Splits) -> int:
    """Train rows that heads are fitted on, where there are so many."""
    return max(FEWEST, min(SEEN, SEEN_VALUES // math.prod(splits.spec.shape)))


def _finite(value: float, fitted: Fitted) -> float:
    if not math.isfinite(value):
        raise RaeflowError(f"{fitted.variant} was judged {value} after epoch {fitted.best_epoch}")
    return value


def best(trials: Sequence[Trial], n: int) -> list[Trial]:
    """The n best trials, best first: complete ones by value; equal values keep the order of their numbers.

    Trials that were pruned were judged after fewer epochs and step in only where complete ones run out.
    """
    judged = [t for t in trials if t.value is not None and t.value == t.value and t.status != "failed"]
    ranked = sorted(judged, key=lambda t: (t.status != "complete", -(t.value or 0.0), t.number))
    if len(ranked) < n:
        why = next((f": {t.message}" for t in trials if t.status == "failed" and t.message), "")
        raise RaeflowError(f"{n} models were asked for, but only {len(ranked)} of {len(trials)} trials gave one{why}")
    return ranked[:n]


def brief(error: BaseException) -> str:
    """One line of an error, with its type where it is not meant for users."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, RaeflowError) else f"{type(error).__name__}: {line}"


class ValidationLoss(Judge):
    """Minus the mean score of validation rows; compares trials of one variant only, by the variant's own score."""

    def __init__(self, splits: Splits) -> None:
        self.x = scaled_rows(splits.encoding, _some(splits.validate).most(HELD).values())

    def __call__(self, model: Variant, scaling: nn.Module) -> float:  # noqa: ARG002 - its rows are scaled already
        """Minus the mean score, in the score's own units."""
        return -float(_sound(scaled_scores(model, self.x)).mean())


class Labels(RowJudge):
    """AUROC on labelled validation rows."""

    def __init__(self, splits: Splits) -> None:
        rows = splits.labelled
        if rows is None or rows.anomaly is None:
            raise RaeflowError("Search(selection='labels'): the validation split has no labels; name their column in Data(label=...)")
        found = int(rows.anomaly.sum())
        if not 0 < found < len(rows):
            raise RaeflowError(
                f"Search(selection='labels'): the validation split has {found} anomalies among {len(rows)} rows; both kinds are needed"
            )
        rows = rows.most(HELD)
        self.x, self.anomaly = scaled_rows(splits.encoding, rows.values()), cast(Tensor, rows.anomaly).bool()

    def value(self, scores: Tensor) -> float:
        """AUROC, in 0-1."""
        scores = scores.cpu()
        return auroc(scores[~self.anomaly], scores[self.anomaly])

    def spread(self, scores: Tensor) -> float:
        """Standard error over other validation rows (DeLong, DeLong & Clarke-Pearson 1988)."""
        scores = _sound(scores).cpu()
        return _standard_error(scores[~self.anomaly], [scores[self.anomaly]], [1.0])

    def normal(self, scores: Tensor) -> Tensor:
        """Those of rows that are labelled normal."""
        return scores[~self.anomaly.to(scores.device)]


class Synthetic(RowJudge):
    """Mean over the kinds of synthetic anomalies, each by its weight, of the AUROC that scores reach against validation rows.

    The anomalies are made once, in scaled space, from rows and seed alone: every trial meets the same ones.
    """

    def __init__(self, splits: Splits, seed: int) -> None:
        rows = _some(splits.validate)
        if len(rows) > NORMAL:
            rows = rows.some(NORMAL, seed)
        self.rows = rows
        scaled = scaled_rows(splits.encoding, rows.values())
        shape = tuple(scaled.shape[1:])
        room = BYTES // (len(synthetic.kinds(shape)) * 4 * math.prod(shape))
        # More than twice as many anomalies as rows would cost time and add nothing: the rows limit the AUROC then.
        count = max(FEWEST, min(room, MOST, 2 * len(rows)))
        typed = synthetic_tables.typed(splits.encoding)
        self.anomalies = synthetic_tables.make(scaled, splits.encoding, count, seed) if typed else synthetic.make(scaled, count, seed)
        self._scaled = scaled
        weights = {kind: synthetic.WEIGHTS.get(kind, 1.0) for kind in self.anomalies}
        self.shares = {kind: weight / sum(weights.values()) for kind, weight in weights.items()}

    @cached_property
    def x(self) -> Tensor:  # type: ignore[override]
        """Validation rows, then the anomalies kind by kind."""
        return torch.cat([self._scaled, *self.anomalies.values()])

    def value(self, scores: Tensor) -> float:
        """Share of pairs of an anomaly and a normal row that are ranked rightly, in 0-1."""
        found = self.by_kind(scores)
        return sum(self.shares[kind] * own for kind, own in found.items())

    def by_kind(self, scores: Tensor) -> dict[str, float]:
        """That share for each kind of anomaly."""
        normal, strange = self._parts(scores)
        return {kind: auroc(normal, own) for kind, own in zip(self.anomalies, strange, strict=True)}

    def spread(self, scores: Tensor) -> float:
        """Standard error over other validation rows and anomalies (DeLong, DeLong & Clarke-Pearson 1988).

        Anomalies count as drawn independently of the rows that they were made from.
        """
        normal, strange = self._parts(_sound(scores))
        return _standard_error(normal, strange, list(self.shares.values()))

    def _parts(self, scores: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores of the validation rows, and of each kind of anomaly."""
        normal, *strange = torch.split(scores.cpu(), [len(self.rows), *(len(x) for x in self.anomalies.values())])
        return normal, strange

    def normal(self, scores: Tensor) -> Tensor:
        """Those of the validation rows."""
        return scores[: len(self.rows)]


class Generation(Judge):
    """Minus the Frechet distance of drawn rows to real ones, in the features of a small network (see `raeflow.health`).

    For models that shall draw rows; what they detect plays no part.
    """

    def __init__(self, splits: Splits, seed: int) -> None:
        self.gauge = Gauge(splits, seed)

    def __call__(self, model: Variant, scaling: nn.Module) -> float:  # noqa: ARG002 - drawn rows are scaled already
        """Minus the distance, in squared units of the features; 0 at best."""
        features = self.gauge.features(self.gauge.drawn(model, DRAWN))
        return -frechet_distance(self.gauge.real, features)


@torch.no_grad()
def scaled_scores(model: Variant, x: Tensor) -> Tensor:
    """Scores (N,) of rows that are scaled already."""
    model.eval()
    device = device_of(model)
    parts = torch.split(x, score_batch(tuple(x.shape[1:]), device, model.width))
    return torch.cat([model.score(part.to(device)).float() for part in parts])


def auroc(normal: Tensor, strange: Tensor) -> float:
    """Mann-Whitney's U over both counts: the chance that a strange row scores above a normal one, ties counting half."""
    return float(_placements(_sound(normal), _sound(strange)).mean())


def _standard_error(normal: Tensor, strange: Sequence[Tensor], shares: Sequence[float]) -> float:
    """Of the weighted mean of the AUROCs that kinds of strange rows reach against the same normal rows."""
    placed, variance = torch.zeros(len(normal), dtype=torch.double), 0.0
    for share, own in zip(shares, strange, strict=True):
        above, within = _placements(normal, own), _placements(own, normal)
        variance += share**2 * _of_mean(above)
        placed += share * within
    return math.sqrt(variance + _of_mean(placed))


def _placements(known: Tensor, scores: Tensor) -> Tensor:
    """(n,): share of known scores that lie below each of some scores (n,), ties counting half."""
    ordered = known.sort().values
    return (torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)).double() / (2 * len(known))


def _of_mean(values: Tensor) -> float:
    """Variance of the mean of values; of a single one it is not known and counts as none."""
    return float(values.var()) / len(values) if len(values) > 1 else 0.0


def _some(rows: Resident) -> Resident:
    if len(rows) < 2:
        raise RaeflowError(f"the validation split has {len(rows)} rows; models cannot be compared on fewer than 2")
    return rows


def _sound(found: Tensor) -> Tensor:
    nans = int(found.isnan().sum())
    if nans:
        raise Diverged(f"the model gives {nans} of {len(found)} validation rows a score of NaN")
    return found
