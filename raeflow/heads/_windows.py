"""Small pieces of rows and of feature maps, place by place: what `patches` compares.

Shapes: B rows, D values of a piece, P places; a row is (C, L) or (C, H, W).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

MOST = {1: 256, 2: 1024}
"""Places of a signal, or of an image, at most: a larger row is looked at every second value, or third, and so on."""
SIDE = {1: 9, 2: 5}
"""Values along each direction of a piece."""


def step(shape: tuple[int, ...]) -> int:
    """Values from one piece of a row of this shape to the next."""
    found = 1
    while math.prod(-(-n // found) for n in shape[1:]) > MOST[len(shape) - 1]:
        found += 1
    return found


def grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Places along each direction of a row of this shape."""
    return tuple(-(-n // step(shape)) for n in shape[1:])


def pieces(rows: Tensor) -> Tensor:
    """(B, *shape) -> (B, P, D): the values about each place; beyond its edges a row goes on as it ends."""
    shape = tuple(rows.shape[1:])
    side, every = SIDE[len(shape) - 1], step(shape)
    half = side // 2
    if len(shape) == 2:
        wide = functional.pad(rows, (half, half), mode="replicate").unsqueeze(2)
        return functional.unfold(wide, (1, side), stride=(1, every)).transpose(1, 2)
    wide = functional.pad(rows, (half,) * 4, mode="replicate")
    return functional.unfold(wide, side, stride=every).transpose(1, 2)
