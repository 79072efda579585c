"""Layers of networks that grow: equalised maps, normalisation of pixels, deviation over a mini-batch, resampling to exact sizes.

Karras, Aila, Laine & Lehtinen 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
arXiv:1710.10196, sections 3 and 4.

Shapes: B rows of a batch, C channels, G rows of a group; x_BC* is (B, C), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = tuple[int, ...]

HE = math.sqrt(2)
"""Gain of layers that a rectifier follows (He et al. 2015); linear ones have 1."""
GROUP = 4
"""Rows of a mini-batch that are compared, at most; 4 in the authors' code."""
_EPS = 1e-8


class Equalised(nn.Module):
    """A linear map or convolution of stride 1 whose weights start from N(0, 1) and are scaled at run time (section 4.1).

    The scale is He's constant gain / sqrt(fan_in), so that under Adam all weights learn at one speed, whatever their range.

    Args:
        inner: channels in.
        outer: channels out.
        size: of the map, whose dimensions choose the convolution; () is a linear map.
        kernel: odd, and the map keeps its size.
        gain: sqrt(2) before a rectifier, else 1.
        rate: multiplier of the learning rate: weights start from N(0, 1 / rate^2), and weights and biases count times rate.
    """

    def __init__(self, inner: int, outer: int, size: Sizes = (), kernel: int = 3, gain: float = HE, rate: float = 1.0) -> None:
        super().__init__()
        taps = (kernel,) * len(size)
        self.weight = nn.Parameter(torch.randn(outer, inner, *taps) / rate)
        self.bias = nn.Parameter(torch.zeros(outer))
        self.scale = rate * gain / math.sqrt(inner * math.prod(taps))
        self.rate, self.padding = rate, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, *size) -> (B, outer, *size)."""
        weight = self.weight * self.scale
        bias = self.bias if self.rate == 1 else self.bias * self.rate
        if weight.dim() == 2:
            return functional.linear(x, weight, bias)
        convolve = functional.conv2d if weight.dim() == 4 else functional.conv1d
        return convolve(x, weight, bias, padding=self.padding if weight.shape[2] > 1 else 0)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, scale={self.scale:.4g}"


class PixelNorm(nn.Module):
    """Each position's vector of channels brought to mean square 1 (section 4.2)."""

    def forward(self, x_BC: Tensor) -> Tensor:
        """x / sqrt(mean over channels of x^2 + 1e-8), of x's shape and type."""
        length = torch.linalg.vector_norm(x_BC, dim=1, keepdim=True, dtype=torch.float32)
        return x_BC * torch.rsqrt(length.square() / x_BC.shape[1] + _EPS).to(x_BC.dtype)


class BatchDeviation(nn.Module):
    """Mini-batch standard deviation (section 3): one more channel, which tells how far the rows of a group differ.

    Groups are of `GROUP` rows that follow one another, so that workers with whole groups see what one would; where the
    rows do not divide, of the largest number below that divides them.
    """

    def forward(self, x_BC: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C + 1, ...)."""
        rows = len(x_BC)
        group = next(size for size in range(min(GROUP, rows), 0, -1) if rows % size == 0)
        groups = x_BC.reshape(-1, group, *x_BC.shape[1:])
        deviation = torch.sqrt(groups.float().var(1, correction=0) + _EPS)
        mean_M = deviation.flatten(1).mean(1)
        wide = mean_M.repeat_interleave(group).to(x_BC.dtype).view(-1, *(1,) * (x_BC.dim() - 1))
        return torch.cat([x_BC, wide.expand(-1, 1, *x_BC.shape[2:])], 1)

    def alone(self, x_BC: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C + 1, ...): each row as a batch of its own, which differs from nothing."""
        return torch.cat([x_BC, torch.full_like(x_BC[:, :1], math.sqrt(_EPS))], 1)


def shrink(x: Tensor, size: Sizes) -> Tensor:
    """(B, C, ...) -> (B, C, *size): means over the windows of values."""
    if x.shape[2:] == size:
        return x
    if len(size) == 1:
        return functional.adaptive_avg_pool1d(x, size[0])
    return functional.adaptive_avg_pool2d(x, cast(tuple[int, int], size))


def enlarge(x: Tensor, size: Sizes) -> Tensor:
    """(B, C, ...) -> (B, C, *size): nearest neighbours."""
    return x if x.shape[2:] == size else functional.interpolate(x, size=size)


def smooth_shrink(x: Tensor, size: Sizes) -> Tensor:
    """(B, C, ...) -> (B, C, *size): each value a mean weighted by a triangle; at half the size of weights 1, 3, 3, 1, which a
    blur by 1, 2, 1 before a mean over pairs gives too."""
    if x.shape[2:] == size:
        return x
    if len(size) == 1:
        return smooth_shrink(x.unsqueeze(2), (1, *size)).squeeze(2)
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def smooth_enlarge(x: Tensor, size: Sizes) -> Tensor:
    """(B, C, ...) -> (B, C, *size): straight lines between values; at twice the size, but for the border, what nearest
    neighbours and a blur by 1, 2, 1 give."""
    if x.shape[2:] == size:
        return x
    return functional.interpolate(x, size=size, mode="linear" if len(size) == 1 else "bilinear", align_corners=False)


def channels_last(x: Tensor) -> Tensor:
    """Images on a CPU with their channels last in memory: the order that its convolutions, pooling and resizing are quick in."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 and x.device.type == "cpu" else x
