"""Which of a search's models vote together: as many as the judge says, up to a stated cost of scoring.

Greedy forward selection (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble Selection from Libraries of Models",
ICML), each model once and all with one vote: it starts from the best model and adds the one with which the committee is
judged best, for as long as that is better than before. The judge hears the members' scores of its own rows, so nothing is
trained and nothing but validation rows and what was made of them is read.

M rows of the judge, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raeflow import heads
from raeflow.calibration import combine, log_moments
from raeflow.selection import FAILURES, RowJudge, ValidationLoss
from raeflow.selection import Judge as Judge
from raeflow.training import Fitted

CANDIDATES = 10
"""Best trials that may be members."""
MOST = 6
"""Members, at most."""
COST, FREE = 8.0, 4e6
"""A committee's floating-point operations a row: so many times those of the best model alone, or so many where that is more."""
LOOKUP = 200.0
"""Operations that one look-up of a tree takes the time of."""
GAIN = 1e-4
"""Value that one more member must add, at least."""


@dataclass(frozen=True)
class Committee:
    """Who votes, and what it is worth and costs."""

    places: tuple[int, ...]
    """Places of the members among the candidates, in the order in which they came in."""
    value: float
    """What the judge says of them together; of a single one, its own value."""
    alone: float
    """What it says of the first alone."""
    cost: float
    """Floating-point operations of scoring a row, over those of the first alone."""

    def told(self) -> str:
        """One line for the terminal."""
        if len(self.places) == 1:
            return f"one model: the judge finds no committee better ({self.alone:.4f})"
        worth = f"judged {self.value:.4f}, the best alone {self.alone:.4f}"
        return f"a committee of {len(self.places)}: {worth}; scoring costs {self.cost:.1f} times as much"


def elected(candidates: Sequence[Fitted], judge: Judge) -> Committee:
    """The committee that the judge prefers; `candidates` come best first."""
    if not isinstance(judge, RowJudge) or isinstance(judge, ValidationLoss) or len(candidates) == 1:
        return Committee((0,), math.nan, math.nan, 1.0)
    votes: dict[int, Tensor] = {}
    costs: dict[int, float] = {}
    for place, fitted in enumerate(candidates):
        try:
            votes[place] = heads.scored(fitted.model(), fitted.scorer(), judge.x)
            costs[place] = flops(fitted, judge.x)
        except FAILURES:
            continue  # it has no vote
    return elect(votes, costs, judge)


def elect(votes: Mapping[int, Tensor], costs: Mapping[int, float], judge: RowJudge) -> Committee:
    """The same of the candidates' scores (M,) of the judge's rows and their operations a row, both by their places."""
    known = {place: (own, log_moments(judge.normal(own))) for place, own in votes.items()}

    def value(members: list[int]) -> float:
        heard = [known[m] for m in members]
        return judge.value(combine([s for s, _ in heard], [m for _, m in heard]))

    first = min(votes)
    members, best = [first], value([first])
    alone, allowed = best, max(COST * costs[first], FREE)
    while len(members) < MOST:
        able = [m for m in votes if m not in members and costs[m] + sum(costs[o] for o in members) <= allowed]
        if not able:
            break
        found, new = max((value([*members, m]), -m) for m in able)
        if found < best + GAIN:
            break
        members.append(-new)
        best = found
    return Committee(tuple(members), best, alone, sum(costs[m] for m in members) / max(costs[first], 1.0))


def flops(fitted: Fitted, x: Tensor) -> float:
    """Operations of scoring one row of (M, *shape), counted rather than timed, so that they are the same anywhere."""
    model, head = fitted.model(), fitted.scorer()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head(heads.outputs(model, x[:1], head.needs))
    return float(counter.get_total_flops()) + LOOKUP * model.lookups
