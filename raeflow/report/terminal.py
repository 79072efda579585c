"""What a study found, for a terminal: the best trial of each variant, the detector, the baselines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raeflow import variants
from raeflow.heads import title
from raeflow.report.judge import judge_trial

if TYPE_CHECKING:
    from raeflow.data.rows import Splits
    from raeflow.detector import Detector, Member
    from raeflow.selection import Trial

HEADS = ("selection", "val. loss", "test AUROC", "test AP", "epochs", "seconds")
GAP = "  "
MOST_HYPER = 5


def table(
    trials: Sequence[Trial],
    detector: Detector | None,
    splits: Splits,
    metrics: Mapping[str, float] | None = None,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    width: int = 100,
) -> str:
    """Aligned plain text of at most `width` columns.

    One row for the best trial of each variant, with the hyperparameters that the search varied. With a
    `detector`, also its row (`metrics` are `judge_test`'s), those of the `baselines`, by name, and what the trials'
    own weights reach on the test split where truth is known; a search alone shows nothing of the test split.
    """
    lines = []
    for trial in leaders(trials):
        test = judge_trial(trial, splits) if detector is not None else {}
        cells = (number(trial.value, 4), number(trial.validation_loss), *_judged(test), str(trial.epochs), f"{trial.seconds:.1f}")
        lines.append((trial.variant, hyper_text(trial, trials), cells))
    if detector is not None:
        lines.append(("chosen", chosen_text(detector), ("", "", *_judged(metrics or {}), "", "")))
        lines += [("baseline", name, ("", "", *_judged(found), "", "")) for name, found in (baselines or {}).items()]
    failed = [t for t in trials if t.status == "failed"]
    notes = [f"{len(failed)} of {len(trials)} trials failed, the first of them: {failed[0].message}"] if failed else []
    return "\n".join([*_aligned(lines, width), *(line for note in notes for line in textwrap.wrap(note, width))])


def leaders(trials: Sequence[Trial]) -> list[Trial]:
    """The best trial of each variant, best first."""
    from raeflow.selection import best

    names = list(dict.fromkeys(t.variant for t in trials))
    found = [[t for t in trials if t.variant == name and t.value is not None and t.status != "failed"] for name in names]
    firsts = [best(group, 1)[0] for group in found if group]
    return best(firsts, len(firsts)) if firsts else []


def varied(trial: Trial, trials: Sequence[Trial]) -> list[str]:
    """Names of the hyperparameters that the search varied within the trial's variant and that are not None in this trial.

    `latent` comes first, then the variant's own (those of its objective), then those of its layers; `latent` alone
    where nothing varied.
    """
    peers = [t.hyper for t in trials if t.variant == trial.variant]
    names = [k for k, v in trial.hyper.items() if v is not None and any(p.get(k) != v for p in peers)]
    own = vars(variants.get(trial.variant).Hyper).get("__annotations__", {})
    return sorted(names, key=lambda k: (k != "latent", k not in own)) or [k for k in trial.hyper if k == "latent"]


def hyper_text(trial: Trial, trials: Sequence[Trial]) -> str:
    """`memory of row+residual, latent 8, lr 0.001`: the head, if it is not `error`, and what the search varied, or the first few."""
    names = varied(trial, trials)
    told = [f"{k} {value_text(trial.hyper[k])}" for k in names[:MOST_HYPER]] + (["..."] if len(names) > MOST_HYPER else [])
    return ", ".join(([title(trial.head)] if trial.head else []) + told)


def chosen_text(detector: Detector) -> str:
    """The models of a detector, in words."""
    names = [member_text(m) for m in detector.members]
    if len(names) == 1:
        return f"{names[0]}, calibrated"
    counted = ", ".join(f"{names.count(n)} {n}" for n in dict.fromkeys(names))
    return f"committee of {len(names)}: {counted}"


def member_text(member: Member) -> str:
    """`vae under memory of row+residual`; `vae` under its own score."""
    return f"{member.variant} under {title(member.head)}" if member.head else member.variant


def value_text(value: Any) -> str:
    """A hyperparameter as people write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)):
        return "x".join(value_text(v) for v in value) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def number(value: float | None, digits: int | None = None) -> str:
    """A figure of `digits` decimals, or of four significant digits; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if digits is not None else f"{value:.4g}"


def _judged(metrics: Mapping[str, float]) -> tuple[str, str]:
    return number(metrics.get("auroc"), 4), number(metrics.get("average_precision"), 4)


def _aligned(lines: Sequence[tuple[str, str, tuple[str, ...]]], width: int) -> list[str]:
    """Columns as wide as they must be; empty ones are left out, and the hyperparameters take what is left."""
    kept = [i for i in range(len(HEADS)) if any(cells[i] not in ("", "-") for _, _, cells in lines)]
    sizes = [max(len(HEADS[i]), *(len(cells[i]) for _, _, cells in lines)) for i in kept]
    first = max([len("variant"), *(len(name) for name, _, _ in lines)])
    room = width - first - len(GAP) - sum(s + len(GAP) for s in sizes)
    middle = max(16, min(room, max([len("hyperparameters"), *(len(text) for _, text, _ in lines)])))
    head = GAP.join(
        ["variant".ljust(first), "hyperparameters".ljust(middle), *(HEADS[i].rjust(s) for i, s in zip(kept, sizes, strict=True))]
    )
    out = [head.rstrip(), "-" * len(head)]
    for name, text, cells in lines:
        wrapped = textwrap.wrap(text, middle) or [""]
        figures = [cells[i].rjust(s) for i, s in zip(kept, sizes, strict=True)]
        out.append(GAP.join([name.ljust(first), wrapped[0].ljust(middle), *figures]).rstrip())
        out += [f"{'':{first}}{GAP}{rest}" for rest in wrapped[1:]]
    return out
