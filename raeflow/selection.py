"""How trials are compared: without labels by default, by validation loss, or by labels when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raeflow import synthetic
from raeflow.data.rows import Rows, Splits
from raeflow.errors import RaeflowError
from raeflow.training import SCORE_BATCH, scores
from raeflow.variants._contract import Variant


@dataclass(frozen=True)
class Trial:
    """One model that a search tried."""

    number: int
    variant: str
    hyper: dict[str, Any]
    value: float | None
    """What the judge said, higher is better; None where the trial failed."""
    validation_loss: float | None
    epochs: int
    seconds: float
    status: Literal["complete", "pruned", "failed"]
    folder: str | None = None
    """Where its fitted weights lie."""
    message: str = ""
    """Why it failed."""
    history: Sequence[dict[str, float]] = ()


class Judge(ABC):
    """Says how good a model is; higher is better, and values of all trials of a search compare."""

    @abstractmethod
    def __call__(self, model: Variant, scaling: nn.Module) -> float:
        """Judge a model as it stands, on its own device; it is left in evaluation mode."""


def judge(kind: str, splits: Splits, seed: int) -> Judge:
    """`synthetic`, `validation_loss` or `labels`; made once and used for every trial of a search.

    Reads the validation split alone: `splits.for_search()` is all it needs.
    """
    if kind == "synthetic":
        return Synthetic(splits, seed)
    if kind == "validation_loss":
        return ValidationLoss(splits)
    if kind == "labels":
        return Labels(splits)
    raise RaeflowError(f"Search(selection={kind!r}): selection must be one of 'synthetic', 'validation_loss', 'labels'")


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


class ValidationLoss(Judge):
    """Minus the mean score of validation rows; compares trials of one variant only."""

    def __init__(self, splits: Splits) -> None:
        self.rows = _some(splits.validate)

    def __call__(self, model: Variant, scaling: nn.Module) -> float:
        return -float(scores(model, scaling, self.rows).mean())


class Labels(Judge):
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
        self.rows, self.anomaly = rows, rows.anomaly.bool()

    def __call__(self, model: Variant, scaling: nn.Module) -> float:
        found = scores(model, scaling, self.rows).cpu()
        return auroc(found[~self.anomaly], found[self.anomaly])


class Synthetic(Judge):
    """Mean over kinds of synthetic anomalies of the AUROC against validation rows."""

    def __init__(self, splits: Splits, seed: int) -> None:
        self.rows = _some(splits.validate)
        with torch.no_grad():
            scaling = splits.scaling.cpu()
            scaled = scaling(self.rows.x.cpu())
        self.anomalies = synthetic.make(scaled, max(256, min(len(self.rows), 1024)), seed)

    def __call__(self, model: Variant, scaling: nn.Module) -> float:
        normal = scores(model, scaling, self.rows)
        values = [auroc(normal, scaled_scores(model, x)) for x in self.anomalies.values()]
        return sum(values) / len(values)


@torch.no_grad()
def scaled_scores(model: Variant, x: Tensor) -> Tensor:
    """Scores (N,) of rows that are scaled already."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model.score(part.to(device)).float() for part in x.split(SCORE_BATCH)])


def auroc(normal: Tensor, strange: Tensor) -> float:
    """Mann-Whitney's U over both counts: the chance that a strange row scores above a normal one, ties counting half."""
    ordered = normal.sort().values
    below = torch.searchsorted(ordered, strange) + torch.searchsorted(ordered, strange, right=True)
    return float(below.double().mean()) / (2 * len(normal))


def _some(rows: Rows) -> Rows:
    if len(rows) < 2:
        raise RaeflowError(f"the validation split has {len(rows)} rows; models cannot be compared on fewer than 2")
    return rows
