"""Histograms of oriented gradients: how strongly, and in which directions, a signal or an image changes, place by place.

Dalal & Triggs 2005, "Histograms of Oriented Gradients for Human Detection", CVPR: differences of the two neighbours without
smoothing, of the channel that changes most, as votes that are shared between neighbouring directions and places (section 6.3),
and overlapping blocks of 2 x 2 cells, each normalised on its own by L1-sqrt (section 6.4): Euclidean distances of such blocks are
Hellinger distances of their histograms (Arandjelovic & Zisserman 2012, "Three Things Everyone Should Know to Improve Object
Retrieval", CVPR). Directions are signed: a stroke's two sides differ. A signal's only two directions are up and down, in each
channel by itself.

Shapes: B rows, D bins of direction, N cells along a side, L values of a signal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FLOOR = 0.1
"""Of the usual change of a block, added to each block's own: where next to nothing changes, noise must not count for much."""


def cells(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Cells along each side of a row (C, *shape) with `count` along the shortest, two values wide at least; (N,) or (N, N)."""
    sides = shape[1:]
    size = max(min(sides) / count, 2.0)
    return tuple(max(1, round(side / size)) for side in sides)


def blocks(x: Tensor, grid: tuple[int, ...], bins: int) -> Tensor:
    """Votes of each block, before normalising.

    Args:
        x: (B, C, L) or (B, C, H, W).
        grid: cells along L, or along H and W (`cells`).
        bins: directions of an image's gradients.

    Returns:
        (B, P, V): P blocks of V votes, none negative.
    """
    votes = _slopes(x) if x.dim() == 3 else _directions(x, bins)
    for axis, count in enumerate(grid, 2):
        votes = (votes.movedim(axis, -1) @ _shares(count, votes.shape[axis], votes.device).to(votes.dtype)).movedim(-1, axis)
    for axis, count in enumerate(grid, 2):
        votes = votes.unfold(axis, min(2, count), 1)
    if x.dim() == 3:  # (B, 2 C, blocks, cells): a block holds one channel's ups and downs
        rows, _, places, size = votes.shape
        found: Tensor = votes.reshape(rows, -1, 2, places, size).transpose(2, 3).reshape(rows, -1, 2 * size)
    else:
        found = votes.movedim(1, 3).flatten(1, 2).flatten(2)
    return found


def described(votes: Tensor, usual: Tensor) -> Tensor:
    """(B, P, V) votes and how many a block usually has, () -> (B, P V): L1-sqrt of each block."""
    mass = votes.sum(2, keepdim=True) + (FLOOR * usual).clamp_min(1e-12)
    found: Tensor = (votes / mass).sqrt().flatten(1)
    return found


def _slopes(x: Tensor) -> Tensor:
    """(B, C, L) -> (B, 2 C, L): how much each channel rises, and how much it falls."""
    wide = functional.pad(x, (1, 1), mode="replicate")
    change = wide[..., 2:] - wide[..., :-2]
    return torch.stack([change.relu(), (-change).relu()], 2).flatten(1, 2)


def _directions(x: Tensor, bins: int) -> Tensor:
    """(B, C, H, W) -> (B, D, H, W): the length of the gradient, shared between the two nearest of D directions."""
    wide = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    across = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]
    down = wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    length = torch.hypot(across, down)
    if x.shape[1] > 1:
        length, channel = length.max(1, keepdim=True)
        across, down = across.gather(1, channel), down.gather(1, channel)
    place = torch.atan2(down, across) * (bins / (2 * math.pi))
    apart = (place - torch.arange(bins, device=x.device, dtype=x.dtype).view(-1, 1, 1) + bins / 2).remainder(bins) - bins / 2
    return length * (1 - apart.abs()).relu()


def _shares(count: int, side: int, device: torch.device) -> Tensor:
    """(side, count): what each place gives to each cell, falling linearly from the cell's middle to its neighbours' middles."""
    size = side / count
    places, middles = torch.arange(side, device=device) + 0.5, (torch.arange(count, device=device) + 0.5) * size
    return (1 - (places[:, None] - middles).abs() / size).relu() / size
