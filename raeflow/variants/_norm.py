"""Batch normalisation that N workers do as one does, and networks that carry it.

Ioffe & Szegedy 2015, "Batch Normalization", arXiv:1502.03167: a value of a channel, less the channel's mean over the batch
(and over the map), divided by its deviation there; running estimates of both take their place outside training. Not for a
critic under a gradient penalty: the penalty is on the slope at each row alone (Gulrajani et al. 2017, section 4).

Shapes: B rows of a batch, C channels, W workers; x_BC is (B, C), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
"""Linear maps that normalisation may follow."""


class BatchNorm(nn.Module):
    """Batch normalisation with a gain and a shift for each channel, over the rows of all workers together.

    Values, running mean and running (unbiased) variance are those of torch's own; workers' buffers stay identical. Every
    worker must bring as many rows. A channel with a single value in the batch has no deviation of its own, and takes the
    running estimates.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x_BC: Tensor) -> Tensor:
        """Normalised values, of x's shape and type."""
        world = dist.get_world_size() if self.training and dist.is_initialized() else 1
        count = world * x_BC.numel() // x_BC.shape[1]
        if self.training and world > 1 and count > 1:
            return self._shared(x_BC, world, count)
        own = self.training and count > 1
        return functional.batch_norm(
            x_BC, self.get_buffer("mean"), self.get_buffer("variance"), self.weight, self.bias, own, self.momentum, self.eps
        )

    def _shared(self, x_BC: Tensor, world: int, count: int) -> Tensor:
        """By mean and variance of `count` values a channel, over all workers."""
        x = x_BC.float()
        variance_C, mean_C = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        # Every worker fills its own place, so that one sum brings all moments to all.
        places_W2C = x.new_zeros(world, 2, x.shape[1])
        places_W2C[dist.get_rank()] = torch.stack([mean_C, variance_C])
        means_WC, variances_WC = _Sum.apply(places_W2C).unbind(1)  # type: ignore[no-untyped-call]
        mean_C = means_WC.mean(0)
        variance_C = (variances_WC + (means_WC - mean_C).square()).mean(0)
        with torch.no_grad():
            self.get_buffer("mean").lerp_(mean_C, self.momentum)
            self.get_buffer("variance").lerp_(variance_C * (count / (count - 1)), self.momentum)
        wide = (1, -1, *(1,) * (x.dim() - 2))
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        normalised: Tensor = (x - mean_C.view(wide)) * scale_C.view(wide) + self.bias.view(wide)
        return normalised.to(x_BC.dtype)

    def extra_repr(self) -> str:
        return str(len(self.weight))


class _Sum(torch.autograd.Function):
    """Sum over the workers; what each makes of it comes back to all of them."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *slopes: Tensor) -> Tensor:
        total = slopes[0].clone()
        dist.all_reduce(total)
        return total


def normalised(net: nn.Sequential, *, first: bool = True, last: bool = True) -> nn.Sequential:
    """The same layers with batch normalisation after each linear map or convolution, but the first or the last where told.

    A map before normalisation has no bias, whose mean would be taken away again. A projection to feature maps is
    normalised by the maps' channels.
    """
    layers = list(net)
    maps = [index for index, layer in enumerate(layers) if isinstance(layer, MAPS)]
    chosen = maps[0 if first else 1 : len(maps) if last else -1]
    parts: list[nn.Module] = []
    waiting = 0
    for index, layer in enumerate(layers):
        parts.append(layer)
        if isinstance(layer, MAPS) and index in chosen:
            layer.bias = None
            waiting = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            if index + 1 < len(layers) and isinstance(layers[index + 1], nn.Unflatten):
                continue
        elif isinstance(layer, nn.Unflatten) and waiting:
            waiting = layer.unflattened_size[0]
        if waiting:
            parts.append(BatchNorm(waiting))
            waiting = 0
    return nn.Sequential(*parts)
