"""Where a synthetic anomaly changes a row: parts, by corner and size, and values looked up elsewhere in a row.

N rows, C channels, D directions of the space S of a channel: (L,) of a signal, (H, W) of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from raeflow.synthetic._draws import log_uniform


def grid(space: torch.Size) -> Tensor:
    """(*S, D) coordinates."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in space), indexing="ij"), -1)


def sizes(count: int, space: torch.Size, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(N, D) sides of parts, from one value, as shares of the row's within bounds; something of the row is always left."""
    share = log_uniform((count, len(space)), bounds, generator)
    whole = torch.tensor(space)
    return torch.minimum((share * whole).round(), (whole - 1).float()).clamp_min(1).long()


def anywhere(size: Tensor, space: torch.Size, generator: torch.Generator) -> Tensor:
    """(N, D) corners of parts that lie within the row."""
    return (torch.rand(size.shape, generator=generator) * (torch.tensor(space) - size + 1)).long()


def corners(rows: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """(N, D) corners of parts whose middle is likely where rows vary (the empty rim of a picture tells nothing)."""
    space = rows.shape[2:]
    spread = rows.var(0, correction=0).mean(0).flatten()
    weights = spread if float(spread.sum()) > 0 else torch.ones_like(spread)
    middle = grid(space).reshape(-1, len(space))[torch.multinomial(weights, len(size), replacement=True, generator=generator)]
    return torch.minimum((middle - size // 2).clamp_min(0), torch.tensor(space) - size)


def inside(places: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """(N, *S) bool: which places lie in each row's part."""
    lead = (len(corner), *(1,) * (places.dim() - 1), places.shape[-1])
    offset = places - corner.view(lead)
    return ((offset >= 0) & (offset < size.view(lead))).all(-1)


def fetch(x: Tensor, source: Tensor) -> Tensor:
    """(N, C, *S) values found at whole coordinates `source` (N, *S, D)."""
    space = x.shape[2:]
    index = source[..., 0] if len(space) == 1 else source[..., 0] * space[1] + source[..., 1]
    return x.flatten(2).gather(2, index.reshape(len(x), 1, -1).expand(-1, x.shape[1], -1)).view_as(x)


def sample(x: Tensor, source: Tensor) -> Tensor:
    """(N, C, *S) values interpolated linearly at `source` (N, *S, D), edges repeated."""
    space = torch.tensor(x.shape[2:])
    unit = (2 * source + 1) / space - 1  # grid_sample's coordinates, last axis first
    if x.dim() == 3:
        at = torch.stack([unit[..., 0], torch.zeros_like(unit[..., 0])], -1).unsqueeze(1)
        return functional.grid_sample(x.unsqueeze(2), at, padding_mode="border", align_corners=False).squeeze(2)
    return functional.grid_sample(x, unit.flip(-1), padding_mode="border", align_corners=False)
