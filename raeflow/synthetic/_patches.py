"""Synthetic anomalies of signals and images: a small defect, a part from another row, a part or all of a row out of shape.

N base rows, C channels, D directions of the space S of a channel: (L,) of a signal, (H, W) of an image. A row is (C, *S),
scaled. Parts are those of self-supervised anomaly detection: Li, Sohn, Yoon & Pfister 2021, CutPaste; Tan, Hou, Batten, Qiu &
Kainz 2020, Foreign Patch Interpolation; Schlueter, Tan, Hou & Kainz 2022, Natural Synthetic Anomalies. Their blending of
edges was tried and left out, as were the kinds that docs/selection.md names.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from raeflow.synthetic._draws import Maker, either, log_uniform, other
from raeflow.synthetic._places import anywhere, corners, fetch, grid, inside, sample, sizes

BLANKS = (0.125, 0.5)
"""Least and greatest side of a blanked part, as a share of the row's; of these and all below each octave is as likely."""
DEFECT = (0.005, 0.02)
"""Share of a row that a small defect covers."""
STEPS = (0.5, 3.0)
"""What a small defect is moved by, in standard deviations of all values."""
PARTS, LARGE, STRETCH = (0.25, 0.75), (0.4, 0.75), (0.1, 0.6)
"""Sides of parts as shares of the row's: of one that keeps its place, of one that comes from elsewhere, and of a stretch of a signal."""
WEAKER, STRONGER = (0.2, 0.8), (1.25, 3.0)
"""Factors of a stretch's departures from its mean."""
BENDS, DELAYS = (0.03, 0.15), (0.02, 0.25)
"""How far readings are out of time, as a share of the signal's length: standard deviation of a bend, and a delay."""
KNOTS = 4
"""Places of a signal whose bends are drawn; between them bends go over into one another."""
ZOOM, SHEAR = 1.6, 0.4
"""Greatest factor by which a side of an image grows or shrinks, and greatest slant."""


def spotted(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A spike of a signal: one or a few readings in a row, of all channels alike, move up or down."""
    length = x.shape[2]
    reach = (length * log_uniform((len(x), 1), DEFECT, generator) / 2).clamp_min(0.5)
    middle = length * torch.rand((len(x), 1), generator=generator)
    share = (reach + 0.5 - (torch.arange(length) - middle).abs()).clamp(0, 1).unsqueeze(1)
    sign = either((len(x), 1, 1), torch.tensor(-1.0), torch.tensor(1.0), generator)
    return x + share * sign * log_uniform((len(x), 1, 1), STEPS, generator) * rows.std(correction=0)


def chipped(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """About a hundredth of a signal comes from another one, and from another time."""
    return _from_elsewhere(x, rows, DEFECT, generator)


def pasted(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A large part comes from another row, and from another place in it."""
    return _from_elsewhere(x, rows, LARGE, generator)


def spliced(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A part comes from the same place of another row: each part is usual where it is, the two are not usual together."""
    part = _part(x, rows, PARTS, generator)
    return torch.where(part, other(x, rows, generator), x)


def occluded(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """A part is blanked by one value of each channel, drawn from the values that rows have."""
    part = _part(x, rows, BLANKS, generator)
    values = rows.transpose(0, 1).flatten(1)  # (C, N * S)
    drawn = torch.randint(values.shape[1], (x.shape[1], len(x)), generator=generator)
    fill = values.gather(1, drawn).T.reshape(len(x), x.shape[1], *(1,) * (x.dim() - 2))
    return torch.where(part, fill, x)


def amplified(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a maker's
    """A stretch of a signal swings more, or less, about its mean."""
    size = sizes(len(x), x.shape[2:], STRETCH, generator)
    part = inside(grid(x.shape[2:]), anywhere(size, x.shape[2:], generator), size).unsqueeze(1)
    mean = (x * part).sum(2, keepdim=True) / part.sum(2, keepdim=True)
    shape = (len(x), 1, 1)
    factor = either(shape, log_uniform(shape, WEAKER, generator), log_uniform(shape, STRONGER, generator), generator)
    return torch.where(part, mean + (x - mean) * factor, x)


def bent(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a maker's
    """A signal runs faster here and slower there: its readings come from a smooth curve's width before or after."""
    knots = torch.randn((len(x), 1, KNOTS), generator=generator)
    curve = functional.interpolate(knots, x.shape[2], mode="linear", align_corners=True).squeeze(1)
    width = x.shape[2] * log_uniform((len(x), 1), BENDS, generator)
    return sample(x, grid(x.shape[2:]) + (curve * width).unsqueeze(2))


def delayed(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a maker's
    """A signal comes early or late; what it lacks at one end then is its last, or first, reading."""
    step = x.shape[2] * log_uniform((len(x), 1, 1), DELAYS, generator)
    return sample(x, grid(x.shape[2:]) + either((len(x), 1, 1), -step, step, generator))


def reshaped(x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - a maker's
    """A whole image grows or shrinks about its middle, each direction by its own factor, and slants; its rim goes on as it ends."""
    places = grid(x.shape[2:])
    middle = (torch.tensor(x.shape[2:]) - 1) / 2
    turn = torch.diag_embed(log_uniform((len(x), 2), (1 / ZOOM, ZOOM), generator))
    turn[:, 0, 1] = SHEAR * (2 * torch.rand(len(x), generator=generator) - 1)
    return sample(x, torch.einsum("nde,hwe->nhwd", turn, places - middle) + middle)


SIGNAL: dict[str, Maker] = {"spotted": spotted, "chipped": chipped, "amplified": amplified, "bent": bent, "delayed": delayed}
IMAGE: dict[str, Maker] = {"occluded": occluded, "pasted": pasted, "spliced": spliced, "reshaped": reshaped}


def _part(x: Tensor, rows: Tensor, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(N, 1, *S) bool: one part of each row, with sides within bounds."""
    size = sizes(len(x), x.shape[2:], bounds, generator)
    return inside(grid(x.shape[2:]), corners(rows, size, generator), size).unsqueeze(1)


def _from_elsewhere(x: Tensor, rows: Tensor, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """A part with sides within bounds, taken from another row and another place."""
    space = x.shape[2:]
    size = sizes(len(x), space, bounds, generator)
    places, onto, out_of = grid(space), corners(rows, size, generator), corners(rows, size, generator)
    part = inside(places, onto, size)
    step = (out_of - onto).view(len(x), *(1,) * len(space), -1)
    source = torch.where(part.unsqueeze(-1), places + step, places)
    return torch.where(part.unsqueeze(1), fetch(other(x, rows, generator), source), x)
