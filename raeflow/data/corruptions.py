"""Corruptions: what is done to a row that a denoiser must give back clean.

Pure functions of rows and of noise that was drawn beforehand, so that whoever draws decides where the noise
comes from; both have the rows' shape, (B, *shape).
"""

from __future__ import annotations

from torch import Tensor


def gaussian(x: Tensor, normal: Tensor, deviation: float) -> Tensor:
    """x + deviation * normal, `normal` standard normal: isotropic noise (Vincent et al. 2010, section 4.1).

    Nothing is clipped, so the noise stays independent of the row.
    """
    return x.add(normal, alpha=deviation)


def salt_and_pepper(x: Tensor, uniform: Tensor, share: float, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Values replaced with chance `share`, by `low` or `high` with equal chances (Vincent et al. 2010, section 4.1).

    `uniform` in [0, 1) decides both: its lowest part of share / 2 is pepper, the next salt.
    """
    return x.masked_fill(uniform < share, high).masked_fill_(uniform < share / 2, low)


def masking(x: Tensor, uniform: Tensor, share: float) -> Tensor:
    """Values set to 0 with chance `share`, the others left as they are (Vincent et al. 2008, section 2.3). `uniform` in [0, 1)."""
    return x.masked_fill(uniform < share, 0.0)


def dropout(x: Tensor, uniform: Tensor, share: float) -> Tensor:
    """Values set to 0 with chance `share`, the others divided by 1 - share, so that each keeps its expectation.

    Inverted dropout (Srivastava et al. 2014, section 10): sums over a row are those of whole rows in the mean, but values of
    0-1 may leave that range. `uniform` in [0, 1).
    """
    return x * (uniform >= share).to(x.dtype).div_(1 - share)
