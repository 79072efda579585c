"""Parts of a model's outputs side by side, each on a scale of its own: what `memory` and `mahalanobis` look at.

Shapes: B rows, N train rows, D values of all parts together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from raeflow.errors import RaeflowError
from raeflow.heads._contract import Head, Outputs
from raeflow.heads.standardised import scale
from raeflow.learned import Learned

PARTS = ("row", "code", "residual", "features")
NEEDS = {"row": None, "code": "code", "residual": "rebuilt", "features": "features"}
VALUES = ("row", "residual")
"""Parts that have one value for each value of the row."""
CODE = 0.5
"""Weight of a code of signals and images beside other parts: on ten classes of MNIST and Fashion-MNIST, where codes of 20 join
residuals of 784, it finds more than 1 (mean AUROC 0.939 in place of 0.936)."""


def check_parts(owner: str, of: str) -> None:
    """Refuse a word that names no part, and a part that is named twice."""
    words = of.split("+")
    for word in words:
        if word not in PARTS:
            raise RaeflowError(f"{owner}: of={of!r}: {word!r} is none of {', '.join(PARTS)}")
    if len(set(words)) < len(words):
        raise RaeflowError(f"{owner}: of={of!r} names a part twice")


class Blocks(Learned):
    """(B, D): the parts that `of` names, standardised.

    Tables value by value; of signals and images each part as a whole, or an edge that is empty in train would outweigh all,
    and each part with the same weight, however many values it has, but a code with half of it.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, of: str) -> None:
        super().__init__("mean", "weight")
        self.parts = of.split("+")

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Outputs` that the parts are made of."""
        return frozenset(need for part in self.parts if (need := NEEDS[part]) is not None)

    def fit(self, seen: Outputs) -> None:
        """Mean and scale of each part in train rows."""
        means, weights = [], []
        for part in self.parts:
            values = _part(seen, part)
            mean, deviation = scale(values)
            if seen.x.dim() > 2 and part in VALUES:
                deviation = values.var(0, correction=0).mean().sqrt().clamp_min(1e-6).expand_as(mean)
            means.append(mean)
            share = CODE if part == "code" else 1.0
            weights.append(1 / deviation if seen.x.dim() == 2 else share / (deviation * math.sqrt(len(mean))))
        self.learn(mean=torch.cat(means), weight=torch.cat(weights))

    def forward(self, seen: Outputs) -> Tensor:
        """(B, D)."""
        values = [_part(seen, part) for part in self.parts]
        joined = values[0] if len(values) == 1 else torch.cat(values, 1)
        return (joined - self.mean) * self.weight

    def by_value(self, values: Tensor, seen: Outputs) -> Tensor | None:
        """(B, D) what each value of each part adds -> (B, *shape) by value of the row; None where no part has such values."""
        size, at, found = math.prod(seen.x.shape[1:]), 0, None
        for part in self.parts:
            width = _part(seen, part).shape[1]
            if part in VALUES:
                own = values[:, at : at + size]
                found = own if found is None else found + own
            at += width
        return None if found is None else found.view_as(seen.x)


class OfParts(Head):
    """A head that looks at the parts that its setting `of` names."""

    def __init__(self, hyper: Any, *names: str) -> None:
        super().__init__(hyper, *names)
        self.blocks = Blocks(hyper.of)

    @property
    def needs(self) -> frozenset[str]:
        """As `of` says."""
        return self.blocks.needs


def _part(seen: Outputs, part: str) -> Tensor:
    """(B, *): one part of the outputs."""
    whole = seen.x if part == "row" else seen.residual if part == "residual" else getattr(seen, part)
    assert whole is not None  # noqa: S101 - asked for in `needs`
    values: Tensor = whole.flatten(1).float()
    return values
