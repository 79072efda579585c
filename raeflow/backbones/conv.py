"""Convolutions over signals (C, L) and images (C, H, W), strided or pooled, mirrored by a decoder of as many stages.

Any size is rebuilt exactly. What a stride or a pooling window rounds away on the way in, padding and output
padding of the mirrored transposed convolution give back; `upsampling="nearest"` enlarges to the very size.

Some stacks of the literature (Keras' "same" convolutions are those of odd kernels here):

    strided, whole map, 28-14-7-1       Layers(layers=(16, 32, 64), kernels=(3, 3, 0), strides=(2, 2, 1))
    pooled and transposed, 28-14-7-3    Layers(layers=(16, 32, 64), pooling="max", activation="selu", latent=0)
    pooled and upsampled, 28-14-7-4     Layers(layers=(64, 32, 16), pooling="max_same", upsampling="nearest", latent=0)
    signals of 500, code 16 x 31        Layers(layers=(64, 64, 32, 16), pooling="max", upsampling="nearest", latent=0)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow.backbones._record import MONOTONE, Backbone, Layers, activation
from raeflow.errors import RaeflowError

Sizes = tuple[int, ...]
Build = Callable[..., nn.Module]


@dataclass(frozen=True)
class _Stage:
    """One convolution, and the pooling after it: channels and map sizes on both of its sides."""

    inner: int
    outer: int
    kernel: Sizes
    stride: int
    padding: Sizes
    window: Sizes
    """Of the pooling, 1 along each direction that has none."""
    before: Sizes
    after: Sizes

    @property
    def whole(self) -> bool:
        """Whether the kernel covers the whole map, once."""
        return self.kernel == self.before and not any(self.padding)

    @property
    def pooled(self) -> bool:
        return any(w > 1 for w in self.window)

    @property
    def mirror(self) -> tuple[Sizes, Sizes, Sizes]:
        """Stride, padding and output padding of the transposed convolution from `after` back to `before`."""
        if not self.pooled:
            rest = tuple((n + 2 * p - k) % self.stride for n, p, k in zip(self.before, self.padding, self.kernel, strict=True))
            return (self.stride,) * len(rest), self.padding, rest
        # Values that the transposed convolution makes without any padding, beyond those wanted.
        excess = [(m - 1) * w + k - n for m, w, k, n in zip(self.after, self.window, self.kernel, self.before, strict=True)]
        padding = tuple(max(0, (e + 1) // 2) for e in excess)
        rest = tuple(2 * p - e for p, e in zip(padding, excess, strict=True))
        if any(r >= w > 1 for r, w in zip(rest, self.window, strict=True)):
            raise RaeflowError(
                f"kernels: a transposed convolution of kernel {min(self.kernel)} cannot undo max-pooling by {max(self.window)} of a map "
                f"of {' x '.join(map(str, self.before))}; choose kernels of at least {max(self.window)}, or upsampling='nearest'"
            )
        return self.window, padding, rest


def backbone(shape: tuple[int, ...], layers: Layers) -> Backbone:
    """(B, C, *size) -> stages -> (B, c_k * prod(size_k)) and back."""
    stages = _stages(shape, layers)
    inmost = (stages[-1].outer, *stages[-1].after) if stages else shape
    for s in stages if layers.upsampling == "transposed" else []:
        _ = s.mirror  # what cannot be mirrored is refused here, not when the decoder is built
    return Backbone(math.prod(inmost), lambda: _encoder(stages, layers), lambda: _decoder(stages, layers, inmost))


def _encoder(stages: list[_Stage], layers: Layers) -> nn.Sequential:
    images = bool(stages) and len(stages[0].before) == 2
    convolution: Build = nn.Conv2d if images else nn.Conv1d
    pooling: Build = nn.MaxPool2d if images else nn.MaxPool1d
    parts: list[nn.Module] = []
    for index, s in enumerate(stages, start=1):
        layer = convolution(s.inner, s.outer, s.kernel, s.stride, s.padding)
        parts.append(_Gather(layer) if s.whole else layer)
        bend = [activation(layers.activation)] if index < len(stages) or layers.feature_activation else []
        if not s.pooled:
            parts.extend(bend)
            continue
        if index == 1 and len(stages) > 1:
            parts.append(_ChannelsLast())
        pool = pooling(s.window, ceil_mode=layers.pooling == "max_same")
        # Under a monotone activation the order changes no value, and pooling first spares most of its work.
        parts.extend([pool, *bend] if layers.activation in MONOTONE else [*bend, pool])
    return nn.Sequential(*parts, nn.Flatten())


def _decoder(stages: list[_Stage], layers: Layers, inmost: Sizes) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Unflatten(1, inmost), _ChannelsLast()]
    for index in range(len(stages), 0, -1):
        s = stages[index - 1]
        # A code that is the last map itself (latent=0) brings its activation along.
        if index < len(stages) or (layers.feature_activation and layers.latent):
            parts.append(activation(layers.activation))
        if s.whole:
            parts.extend([_Spread(_transposed(s)), _ChannelsLast()])
        elif layers.upsampling == "transposed":
            parts.append(_transposed(s))
        else:
            # One convolution more, at the code's size, and the stage still is one module of its decoder.
            first = [*_same(s.outer, s.outer, s.after, s.kernel), activation(layers.activation)] if index == len(stages) else []
            parts.append(nn.Sequential(*first, *_same(s.outer, s.inner, s.before, s.kernel)))
    return nn.Sequential(*parts)


def _transposed(s: _Stage) -> nn.Module:
    transposed: Build = nn.ConvTranspose2d if len(s.before) == 2 else nn.ConvTranspose1d
    return transposed(s.outer, s.inner, s.kernel, *s.mirror)


def _same(inner: int, outer: int, size: Sizes, kernel: Sizes) -> list[nn.Module]:
    """A map of any size resized, then a convolution of stride 1 that gives exactly `size`."""
    convolution: Build = nn.Conv2d if len(kernel) == 2 else nn.Conv1d
    # Padded by (k - 1) // 2, even kernels take one value from a map.
    resized = tuple(n + (k + 1) % 2 for n, k in zip(size, kernel, strict=True))
    return [_Resize(resized), convolution(inner, outer, kernel, padding=tuple((k - 1) // 2 for k in kernel))]


class _Resize(nn.Module):
    """Nearest-neighbour resize of a map (B, C, ...) to (B, C, *size)."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[2:] == self.size else functional.interpolate(x, size=self.size)

    def extra_repr(self) -> str:
        return str(self.size)


class _Gather(nn.Module):
    """A convolution over a whole map, as the matrix product that it is: (B, C, *size) -> (B, C', 1, ...).

    Same weights and same values; on a CPU it takes a third of the time.
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.convolution.get_parameter("weight")
        flat = functional.linear(x.flatten(1), weight.flatten(1), self.convolution.get_parameter("bias"))
        return flat.reshape(*flat.shape, *(1,) * (x.dim() - 2))


class _Spread(nn.Module):
    """A transposed convolution from one point to a whole map, as a matrix product: (B, C', 1, ...) -> (B, C, *size)."""

    def __init__(self, transposed: nn.Module) -> None:
        super().__init__()
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        # Not get_parameter: the weight may be another layer's (variant `tied`).
        weight, bias = cast(Tensor, self.transposed.weight), cast(Tensor, self.transposed.bias)
        flat = functional.linear(x.flatten(1), weight.flatten(1).t())
        return flat.view(-1, *weight.shape[1:]) + bias.view(-1, *(1,) * (x.dim() - 2))


class _ChannelsLast(nn.Module):
    """Images on a CPU with their channels last in memory, which spares transposed convolutions a copy of what they make
    and is the quicker order for pooling, resizing and the convolutions after the first."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 and x.device.type == "cpu" else x


def _stages(shape: tuple[int, ...], layers: Layers) -> list[_Stage]:
    channels = layers.layers or tuple(layers.channels << i for i in range(layers.depth))
    kernels = layers.kernels or (3,) * len(channels)
    strides = layers.strides or (2,) * len(channels)
    stages: list[_Stage] = []
    inner, size = shape[0], shape[1:]
    for outer, k, factor in zip(channels, kernels, strides, strict=True):
        kernel = tuple(k or n for n in size)
        padding = tuple(k // 2 for _ in size)
        stride, widest = (factor, 1) if layers.pooling == "none" else (1, factor)
        after = tuple((n + 2 * p - w) // stride + 1 for n, p, w in zip(size, padding, kernel, strict=True))
        # A map is never pooled to nothing: the window is at most the map.
        window = tuple(min(widest, n) for n in after)
        part = layers.pooling == "max_same"  # a window that the map fills in part counts
        after = tuple((n + part * (w - 1)) // w for n, w in zip(after, window, strict=True))
        stages.append(_Stage(inner, outer, kernel, stride, padding, window, size, after))
        inner, size = outer, after
    return stages
