"""Feature maps of convolutional encoders: what an encoder sees where, for heads that compare rows place by place.

Shapes: B rows of a batch, D channels of the maps; a row is (C, L) or (C, H, W), its places (l,) or (h, w).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 2
"""Maps that are put together, from the code outwards; as many as in PatchCore (Roth et al. 2022, section 3.1)."""
MOST = {1: 256, 2: 16}
"""Places along each direction of a signal's maps, or of an image's, at most; 28 in PatchCore, of larger images."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


class EncoderMaps:
    """The ability `_contract.Mapped` of a variant whose `encoder` is a chain of layers; dense and recurrent ones have no maps."""

    encoder: nn.Module

    @property
    def has_maps(self) -> bool:
        """Whether there are convolutions."""
        return bool(stages(self.encoder))

    def feature_maps(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, D, *places): the last maps before the code, the larger brought to `MOST` by means, the others to its size.

        A map of a single place counts only where there is no other.
        """
        maps = []
        for stage in stages(self.encoder):
            for part in stage:
                x = part(x)
            maps.append(x)
        kept = ([m for m in maps if math.prod(m.shape[2:]) > 1] or maps)[-LEVELS:]
        kept[0] = _reduced(kept[0])
        places = kept[0].shape[2:]
        mode = "linear" if len(places) == 1 else "bilinear"
        return torch.cat([m if m.shape[2:] == places else functional.interpolate(m, places, mode=mode) for m in kept], 1)


def _reduced(maps: Tensor) -> Tensor:
    """(B, D, *places) -> (B, D, *places): means over windows of as many places as bring it to `MOST`."""
    window = -(-max(maps.shape[2:]) // MOST[maps.dim() - 2])
    pool = functional.avg_pool1d if maps.dim() == 3 else functional.avg_pool2d
    return maps if window == 1 else pool(maps, window, ceil_mode=True)


def stages(encoder: nn.Module) -> list[list[nn.Module]]:
    """The parts of an encoder up to its last map, each convolution (or block of them) with what follows it."""
    found: list[list[nn.Module]] = []
    first: list[nn.Module] = []  # what comes before the first convolution
    for part in encoder.children():
        if isinstance(part, (nn.Flatten, nn.Linear)):
            break
        if any(isinstance(own, _CONVOLUTIONS) for own in part.modules()):
            found.append([*first, part])
            first = []
        else:
            (found[-1] if found else first).append(part)
    return found
