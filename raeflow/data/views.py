"""Views of images that have no up and no handedness, galaxies for one."""

from __future__ import annotations

import torch
from torch import Tensor

VIEWS = 8


def views(rows: Tensor) -> Tensor:
    """(N, C, H, H) -> (8 N, C, H, H): all rows, their three quarter turns, then the mirror images of these four."""
    turns = [torch.rot90(rows, quarter, (2, 3)) for quarter in range(4)]
    return torch.cat([*turns, *(turn.flip(3) for turn in turns)])
