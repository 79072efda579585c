"""Synthetic anomalies made from normal rows, so that models can be compared without labels.

N base rows; a row is (F,), (C, L) or (C, H, W), scaled. Everything is drawn from one generator on the
CPU, so the same rows and seed give the same anomalies on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Maker = Callable[[Tensor, torch.Generator], Tensor]


def make(rows: Tensor, count: int, seed: int) -> dict[str, Tensor]:
    """`count` anomalies (count, *shape) of each kind from normal rows (N, *shape), by name of the kind."""
    generator = torch.Generator().manual_seed(seed)
    makers = TABLE
    made = {}
    for name, maker in makers.items():
        base = rows[torch.randint(len(rows), (count,), generator=generator)]
        made[name] = maker(base.reshape(count, -1), generator).reshape(base.shape)
    return made


def _chosen(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random share of each row's features, at least one: (N, F) bool."""
    share = torch.rand((len(x), 1), generator=generator)
    draws = torch.rand(x.shape, generator=generator)
    return (draws < share) | (draws == draws.amin(1, keepdim=True))


def permuted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Chosen entries come from other rows: each value is usual, their combination is not."""
    other = torch.randint(len(x), x.shape, generator=generator)
    return torch.where(_chosen(x, generator), x.gather(0, other), x)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Chosen entries move by normal noise of half to four standard deviations."""
    size = 0.5 * 8 ** torch.rand((len(x), 1), generator=generator)
    step = torch.randn(x.shape, generator=generator) * size * x.std(0)
    return torch.where(_chosen(x, generator), x + step, x)


def scaled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Chosen entries move away from, or towards, their mean by a factor up to four."""
    factor = 4 ** (2 * torch.rand((len(x), 1), generator=generator) - 1)
    centre = x.mean(0)
    return torch.where(_chosen(x, generator), centre + (x - centre) * factor, x)


TABLE: dict[str, Maker] = {"permuted": permuted, "shifted": shifted, "scaled": scaled}
