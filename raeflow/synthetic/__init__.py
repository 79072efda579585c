"""Synthetic anomalies made from normal rows, so that models can be compared without labels.

N base rows, F features, C channels; S is the space of a channel: (L,) of a signal, (H, W) of an image.
A row is (F,), (C, L) or (C, H, W), scaled. Every anomaly is a normal row changed subtly or
grossly: the size of the part that changes and the strength are drawn anew for each.

Tables: rows too far out, beyond the hull of two rows, between two rows, and out of place for where they are (Han et al. 2022,
ADBench, make local anomalies likewise, from a mixture of Gaussians). Kinds that change single entries were tried and left out:
they like models that copy (docs/selection.md has the figures). Signals and images: see `_patches`.
Everything comes from one generator on the CPU, so the same rows and seed give the same anomalies everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raeflow.errors import RaeflowError
from raeflow.synthetic._draws import Maker, log_uniform, other
from raeflow.synthetic._patches import IMAGE, SIGNAL

STRETCHES, BEYOND, STEPS = (1.0, 4.0), (0.1, 2.0), (1.0, 8.0)
"""Least and greatest factor of what a row of a table is moved by; drawn so that each octave is as likely."""
BETWEEN = (0.25, 0.75)
"""Shares of the way to another row, evenly."""
NEAR = 10
"""Neighbours of a row that tell in which directions rows vary where it is."""
WEIGHTS = {"bent": 4.0, "delayed": 2.0}
"""What a kind counts where it is not 1: those that change a whole signal, or small defects alone would choose."""


def make(rows: Tensor, count: int, seed: int) -> dict[str, Tensor]:
    """Up to `count` anomalies (n, *shape) of each kind from scaled normal rows (N, *shape), by name of the kind.

    Rows that a change left as they were (a swap of two equal values) are left out, and so is a kind
    that changes nothing. Raises RaeflowError where no kind changes anything: all rows are one constant.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = rows.detach().to("cpu", torch.float32)
    made = {}
    for name, maker in kinds(normal.shape[1:]).items():
        base = normal[torch.randint(len(normal), (count,), generator=generator)]
        changed = keep_changed(base, maker(base, normal, generator), normal)
        if len(changed):
            made[name] = changed
    return not_none(made, rows)


def keep_changed(base: Tensor, changed: Tensor, normal: Tensor) -> Tensor:
    """Those of the changed rows (n, *shape) that differ from what they were made of by more than rounding."""
    least = 1e-4 * normal.std(0, correction=0) + 1e-6 * base.abs()
    return changed[((changed - base).abs() > least).flatten(1).any(1)]


def not_none(made: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """What was made, refused where it is nothing."""
    if not made:
        raise RaeflowError(
            f"the {len(rows)} validation rows are all the same constant, so no synthetic anomalies can be made from them; "
            "choose Search(selection='validation_loss')"
        )
    return made


def kinds(shape: Sequence[int]) -> dict[str, Maker]:
    """Kinds of anomalies for rows of this shape."""
    return {1: TABLE, 2: SIGNAL, 3: IMAGE}[len(shape)]


def stretched(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Whole rows (N, F) moved out to one to four times their distance from the mean row: every dependency holds, the size does not."""
    mean = rows.mean(0)
    return mean + (x - mean) * log_uniform((len(x), 1), STRETCHES, generator)


def beyond(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, F) moved away from another row, by a tenth to twice what lies between the two: outside the hull of both."""
    return x + (x - other(x, rows, generator)) * log_uniform((len(x), 1), BEYOND, generator)


def between(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, F) a quarter to three quarters of the way to another row: within the hull of all rows, and off the sheets that they fill.

    A model that copies everything, or is little more than linear, rebuilds them as well as real rows.
    """
    return x + (other(x, rows, generator) - x) * halfway(len(x), generator)


def local(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, F) moved by one to eight times the difference of two of their near neighbours: out of place for where they are."""
    first, second = neighbours(x, rows, generator)
    return x + (first - second) * log_uniform((len(x), 1), STEPS, generator)


def halfway(count: int, generator: torch.Generator) -> Tensor:
    """(N, 1): shares of the way from one row to another."""
    low, high = BETWEEN
    return low + (high - low) * torch.rand((count, 1), generator=generator)


def neighbours(x: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two of each row's nearest rows, by chance, each (N, F)."""
    near = torch.cdist(x, rows).topk(min(NEAR, len(rows)), largest=False).indices
    drawn = torch.randint(near.shape[1], (2, len(x), 1), generator=generator)
    return rows[near.gather(1, drawn[0]).squeeze(1)], rows[near.gather(1, drawn[1]).squeeze(1)]


TABLE: dict[str, Maker] = {"stretched": stretched, "beyond": beyond, "between": between, "local": local}

__all__ = [
    "BETWEEN",
    "BEYOND",
    "NEAR",
    "STEPS",
    "STRETCHES",
    "TABLE",
    "WEIGHTS",
    "Maker",
    "between",
    "beyond",
    "halfway",
    "keep_changed",
    "kinds",
    "local",
    "log_uniform",
    "make",
    "neighbours",
    "not_none",
    "other",
    "stretched",
]  # fmt: skip
