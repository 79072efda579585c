"""Which of a search's models vote together, up to a stated cost of scoring.

Models that err differently make up for each other, more than a judge of synthetic anomalies can see: so the best model of
every variant has a vote, then the next best ones, unless the judge finds the committee clearly worse with it, by more than
one standard error of its own value, than the best model alone. (Adding the member that the judge likes best, for as long as
it gains, as in Caruana, Niculescu-Mizil, Crew & Ksikes 2004, stops at one or two members and was worse on real anomalies.)
Some vote in any case (`sure`): those whose worth the judge cannot tell. It hears the members' scores of its own rows: nothing
is trained, and nothing but validation rows is read.

M rows of the judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raeflow import heads
from raeflow import variants as all_variants
from raeflow.calibration import combine, log_moments
from raeflow.errors import RaeflowError
from raeflow.selection import FAILURES, Judge, RowJudge, Trial, best
from raeflow.training import Fitted

MOST = 6
"""Members, at most, where there are not more variants."""
COST, FREE = 8.0, 4e6
"""A committee's floating-point operations a row: so many times those of the best model alone, or so many where that is more."""
LOOKUP = 200.0
"""Operations that one look-up of a tree takes the time of."""
ERRORS = 1.0
"""Standard errors of the judge's value that a committee may be judged below the best model alone."""


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
            return f"one model votes alone: judged {self.alone:.4f}"
        worth = f"judged {self.value:.4f}, the best alone {self.alone:.4f}"
        return f"a committee of {len(self.places)}: {worth}; scoring costs {self.cost:.1f} times as much"


def candidates(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that may vote, in the order in which they are asked: the best of each variant, then the next best, `MOST` at least."""
    whole = [t for t in trials if t.status == "complete" and t.value is not None]
    ranked = best(whole, len(whole)) if whole else []
    firsts = list({t.variant: t for t in reversed(ranked)}.values())
    firsts.sort(key=ranked.index)
    others = [t for t in ranked if t not in firsts]
    return firsts + others[: max(0, MOST - len(firsts))]


def sure(variants: Sequence[str], shape: tuple[int, ...], firm: Sequence[str] = ()) -> list[int]:
    """Places of candidates that vote whatever the judge says: of `firm` variants (`Study.firm`), and of signals and images, where the
    best alone is no network, the best network: a defect of a hundredth of a row is nothing to its neighbours, and much to a residual.
    """
    found = [place for place, name in enumerate(variants) if name in firm]
    if len(shape) > 1 and not _rebuilds(variants[0]):
        found += [place for place, name in enumerate(variants) if _rebuilds(name)][:1]
    return found


def _rebuilds(variant: str) -> bool:
    return bool(all_variants.get(variant).Model.rebuilds)


def elected(fitted: Sequence[Fitted], judge: Judge, firm: Sequence[str] = ()) -> Committee:
    """The committee of trained candidates, which come in the order of `candidates`; `firm` as in `Study`."""
    if not isinstance(judge, RowJudge) or len(fitted) == 1:
        return Committee((0,), math.nan, math.nan, 1.0)
    votes: dict[int, Tensor] = {}
    costs: dict[int, float] = {}
    for place, own in enumerate(fitted):
        try:
            votes[place], costs[place] = heads.scored(own.model(), own.scorer(), judge.x), flops(own, judge.x)
        except FAILURES:
            continue  # it has no vote
    if not votes:
        return Committee((0,), math.nan, math.nan, 1.0)
    places = list(votes)
    asked = sure([fitted[place].variant for place in places], fitted[places[0]].shape, firm)
    return elect(votes, costs, judge, [places[at] for at in asked])


def elect(votes: Mapping[int, Tensor], costs: Mapping[int, float], judge: RowJudge, certain: Sequence[int] = ()) -> Committee:
    """The same of the candidates' scores (M,) of the judge's rows and their operations a row, by their places in order.

    Those in `certain` vote whatever they are worth and cost; they come in last, so that the others are judged without them.
    """
    known = {}
    for place, own in votes.items():
        try:
            known[place] = (own, log_moments(judge.normal(own)))
        except RaeflowError:  # where arithmetic overflows, nothing can be standardised: such a model votes alone or not at all
            if not known:
                worth = judge.value(own)
                return Committee((place,), worth, worth, 1.0)

    def value(members: Sequence[int]) -> float:
        heard = [known[m] for m in members]
        return judge.value(combine([s for s, _ in heard], [m for _, m in heard]))

    first, *others = known
    members, worth = [first], judge.value(votes[first])
    alone, least, allowed = worth, worth - ERRORS * judge.spread(votes[first]), max(COST * costs[first], FREE)
    for place in (p for p in others if p not in certain):
        together = value([*members, place])
        if together >= least and costs[place] + sum(costs[m] for m in members) <= allowed:
            members.append(place)
            worth = together
    last = [place for place in others if place in certain]
    if last:
        members += last
        worth = value(members)
    return Committee(tuple(members), worth, alone, sum(costs[m] for m in members) / max(costs[first], 1.0))


def flops(fitted: Fitted, x: Tensor) -> float:
    """Operations of scoring one row of (M, *shape), counted rather than timed, so that they are the same anywhere."""
    model, head = fitted.model(), fitted.scorer()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head(heads.outputs(model, x[:1], head.needs))
    return float(counter.get_total_flops()) + LOOKUP * model.lookups
