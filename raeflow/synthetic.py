"""Synthetic anomalies made from normal rows, so that models can be compared without labels.

N base rows, F features, C channels; S is the space of a channel: (L,) of a signal, (H, W) of an image.
A row is (F,), (C, L) or (C, H, W), scaled. Every anomaly is a normal row changed subtly or
grossly: the share of the row, or the size of the patch, and the strength are drawn anew for each.

Tables: rows too far out, beyond the hull of two rows, between two rows, and out of place for where they are (Han et al. 2022,
ADBench, make local anomalies likewise, from a mixture of Gaussians). Kinds that change single entries were tried and left out:
they like models that copy (docs/selection.md has the figures). Signals and images: the patches of self-supervised anomaly
detection (Li et al. 2021, CutPaste; Tan et al. 2020, Foreign Patch Interpolation; Carmona et al. 2022,
contextual outlier exposure). Everything comes from one generator on the CPU, so the same rows and seed
give the same anomalies everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from raeflow.errors import RaeflowError

Maker = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(base rows to change, all normal rows, generator) -> changed base rows."""

STRETCHES, BEYOND, STEPS = (1.0, 4.0), (0.1, 2.0), (1.0, 8.0)
"""Least and greatest factor of what a row of a table is moved by; drawn so that each octave is as likely."""
BETWEEN = (0.25, 0.75)
"""Shares of the way to another row, evenly."""
NEAR = 10
"""Neighbours of a row that tell in which directions rows vary where it is."""
PATCHES = (0.125, 0.5)
"""Least and greatest side of a patch as a share of the row's."""


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
    return TABLE if len(shape) == 1 else PATCH


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


def other(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """(N, *): another row for each of x, by chance."""
    return rows[torch.randint(len(rows), (len(x),), generator=generator)]


def halfway(count: int, generator: torch.Generator) -> Tensor:
    """(N, 1): shares of the way from one row to another."""
    low, high = BETWEEN
    return low + (high - low) * torch.rand((count, 1), generator=generator)


def neighbours(x: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two of each row's nearest rows, by chance, each (N, F)."""
    near = torch.cdist(x, rows).topk(min(NEAR, len(rows)), largest=False).indices
    drawn = torch.randint(near.shape[1], (2, len(x), 1), generator=generator)
    return rows[near.gather(1, drawn[0]).squeeze(1)], rows[near.gather(1, drawn[1]).squeeze(1)]


def swapped(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Two patches of a row trade places (where they overlap, the second is the one that is pasted)."""
    space = x.shape[2:]
    size = _sizes(len(x), space, generator)
    first, second = _corners(rows, size, generator), _anywhere(size, space, generator)
    grid = _grid(space)
    step = (second - first).view(len(x), *(1,) * len(space), -1)
    source = torch.where(_inside(grid, first, size)[..., None], grid + step, grid)
    source = torch.where(_inside(grid, second, size)[..., None], grid - step, source)
    return _fetch(x, source)


def occluded(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A patch is blanked by one value of each channel, drawn from the values that rows have."""
    mask = _patch(x, rows, generator)
    values = rows.transpose(0, 1).flatten(1)  # (C, N * S)
    drawn = torch.randint(values.shape[1], (x.shape[1], len(x)), generator=generator)
    fill = values.gather(1, drawn).T.reshape(len(x), x.shape[1], *(1,) * (x.dim() - 2))
    return torch.where(mask, fill, x)


def noisy(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A burst of white noise in a patch, of an eighth to two standard deviations; images keep to the range of their values."""
    mask = _patch(x, rows, generator)
    strength = log_uniform((len(x), *(1,) * (x.dim() - 1)), (0.125, 2.0), generator) * rows.std(correction=0)
    changed = x + torch.randn(x.shape, generator=generator) * strength
    if x.dim() == 4:
        changed = changed.clamp(float(rows.min()), float(rows.max()))
    return torch.where(mask, changed, x)


def warped(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A patch is drawn aside, most at its middle and not at its edge, by up to 0.3 of its size (more would fold it)."""
    space = x.shape[2:]
    size = _sizes(len(x), space, generator)
    corner = _corners(rows, size, generator)
    lead = (len(x), *(1,) * len(space), len(space))
    grid = _grid(space)
    # A raised cosine, one at the middle of the patch and zero at its edge, along every axis.
    along = (grid - corner.view(lead) + 0.5) / size.view(lead)
    bump = torch.where((along > 0) & (along < 1), 0.5 - 0.5 * torch.cos(2 * math.pi * along), 0.0).prod(-1, keepdim=True)
    pull = (torch.rand((len(x), len(space)), generator=generator) - 0.5) * 0.6 * size
    return _sample(x, grid + bump * pull.view(lead))


TABLE: dict[str, Maker] = {"stretched": stretched, "beyond": beyond, "between": between, "local": local}
PATCH: dict[str, Maker] = {"swapped": swapped, "occluded": occluded, "noisy": noisy, "warped": warped}


def log_uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Numbers between bounds, each octave as likely."""
    low, high = bounds
    return low * (high / low) ** torch.rand(shape, generator=generator)


def _grid(space: torch.Size) -> Tensor:
    """(*S, D) coordinates."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in space), indexing="ij"), -1)


def _sizes(count: int, space: torch.Size, generator: torch.Generator) -> Tensor:
    """(N, D) sides of patches, from one value."""
    share = log_uniform((count, len(space)), PATCHES, generator)
    return (share * torch.tensor(space)).round().clamp_min(1).long()


def _anywhere(size: Tensor, space: torch.Size, generator: torch.Generator) -> Tensor:
    """(N, D) corners of patches that lie within the row."""
    return (torch.rand(size.shape, generator=generator) * (torch.tensor(space) - size + 1)).long()


def _corners(rows: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """(N, D) corners of patches whose middle is likely where rows vary (the empty rim of a picture tells nothing)."""
    space = rows.shape[2:]
    spread = rows.var(0, correction=0).mean(0).flatten()
    weights = spread if float(spread.sum()) > 0 else torch.ones_like(spread)
    middle = _grid(space).reshape(-1, len(space))[torch.multinomial(weights, len(size), replacement=True, generator=generator)]
    return torch.minimum((middle - size // 2).clamp_min(0), torch.tensor(space) - size)


def _inside(grid: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """(N, *S) bool: which places lie in each row's patch."""
    lead = (len(corner), *(1,) * (grid.dim() - 1), grid.shape[-1])
    offset = grid - corner.view(lead)
    return ((offset >= 0) & (offset < size.view(lead))).all(-1)


def _patch(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 1, *S) bool mask of one patch a row."""
    size = _sizes(len(x), x.shape[2:], generator)
    return _inside(_grid(x.shape[2:]), _corners(rows, size, generator), size).unsqueeze(1)


def _fetch(x: Tensor, source: Tensor) -> Tensor:
    """(N, C, *S) values found at whole coordinates `source` (N, *S, D)."""
    space = x.shape[2:]
    index = source[..., 0] if len(space) == 1 else source[..., 0] * space[1] + source[..., 1]
    return x.flatten(2).gather(2, index.reshape(len(x), 1, -1).expand(-1, x.shape[1], -1)).view_as(x)


def _sample(x: Tensor, source: Tensor) -> Tensor:
    """(N, C, *S) values interpolated linearly at `source` (N, *S, D), edges repeated."""
    space = torch.tensor(x.shape[2:])
    unit = (2 * source + 1) / space - 1  # grid_sample's coordinates, last axis first
    if x.dim() == 3:
        at = torch.stack([unit[..., 0], torch.zeros_like(unit[..., 0])], -1).unsqueeze(1)
        return functional.grid_sample(x.unsqueeze(2), at, padding_mode="border", align_corners=False).squeeze(2)
    return functional.grid_sample(x, unit.flip(-1), padding_mode="border", align_corners=False)
