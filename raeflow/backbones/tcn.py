"""Temporal convolutional networks over signals (C, L): residual blocks of dilated convolutions, mirrored by a decoder.

The block is that of Bai, Kolter & Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks
for Sequence Modeling", arXiv:1803.01271, section 3.3: two dilated convolutions with weight normalisation (Salimans &
Kingma 2016, arXiv:1602.07868), each followed by the activation, are added to the block's input, which passes through a
convolution of kernel 1 where channels or lengths differ; the activation follows the sum. Dilations double from block to
block. As an autoencoder for signals Thill, Konen, Wang & Back 2021, "Temporal convolutional autoencoder for unsupervised
anomaly detection in time series", Applied Soft Computing 112.

Rows are whole signals, so convolutions look to both sides of a sample where the first paper's look back only (as in the
second). No connection goes around the code. There is no dropout.

`strides` above 1 shorten the map in a block's first convolution, as in residual networks of images (He et al. 2016,
arXiv:1512.03385), and give the code fewer steps. Dilations start again at 1 after such a block: the steps of the shorter
map are already further apart. The decoder has transposed convolutions for the encoder's, block by block; any length is
rebuilt exactly.

Some networks, of signals of 500 samples:

    8 blocks of 25 channels, kernel 7 (the authors', for pixels)    Layers(backbone="tcn", channels=25, depth=8, kernels=(7,) * 8)
    to 48 x 125 by a stride of 4, dilations 1, 1, 2               Layers(backbone="tcn", layers=(48, 48, 48), kernels=(9, 3, 3),
                                                                         strides=(4, 1, 1), latent=0)

Shapes: B rows, C channels of a row, L its samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from raeflow.backbones._record import Backbone, Layers, activation
from raeflow.errors import RaeflowError


@dataclass(frozen=True)
class _Stage:
    """One block: channels and lengths on both of its sides."""

    inner: int
    outer: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def same(self) -> bool:
        """Whether what comes out has the shape of what went in, so that the shortcut needs no weights."""
        return self.inner == self.outer and self.stride == 1


def backbone(shape: tuple[int, ...], layers: Layers) -> Backbone:
    """(B, C, L) -> blocks -> (B, c_k * L_k) and back; without blocks the features are the flat row."""
    stages = _stages(shape, layers)
    inmost = (stages[-1].outer, stages[-1].after) if stages else shape

    def encoder() -> nn.Sequential:
        last = len(stages) - 1
        blocks = [_Block(_convolutions(s), layers.activation, i < last or layers.feature_activation) for i, s in enumerate(stages)]
        return nn.Sequential(*blocks, nn.Flatten())

    def decoder() -> nn.Sequential:
        # A code that is the last map itself (latent=0) brings its activation along.
        bend = [activation(layers.activation)] if stages and layers.feature_activation and layers.latent else []
        blocks = [_Block(_transposed(s), layers.activation, i > 0) for i, s in reversed(list(enumerate(stages)))]
        return nn.Sequential(nn.Unflatten(1, inmost), *bend, *blocks)

    return Backbone(math.prod(inmost), encoder, decoder)


class _Block(nn.Module):
    """Two convolutions beside a shortcut, (B, C, L) -> (B, C', L'); unless `bent`, what comes out is linear in the sum's parts."""

    branch: nn.Module
    shortcut: nn.Module

    def __init__(self, convolutions: tuple[nn.Module, nn.Module, nn.Module | None], kind: str, bent: bool) -> None:
        super().__init__()
        first, second, shortcut = convolutions
        parts = {
            "branch": nn.Sequential(first, activation(kind), second, *([activation(kind)] if bent else [])),
            "shortcut": shortcut or nn.Identity(),
        }
        # The two halves list their parts in opposite orders, so that a decoder's layers can be paired with those they mirror.
        for name in reversed(parts) if isinstance(first, nn.ConvTranspose1d) else parts:
            self.add_module(name, parts[name])
        self.bend = activation(kind) if bent else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bend(self.branch(x) + self.shortcut(x))
        return y


def _convolutions(s: _Stage) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """First, second and the shortcut's, of the encoder."""
    reach = s.dilation * (s.kernel // 2)
    first = nn.Conv1d(s.inner, s.outer, s.kernel, s.stride, reach, s.dilation)
    second = nn.Conv1d(s.outer, s.outer, s.kernel, 1, reach, s.dilation)
    return weight_norm(first), weight_norm(second), None if s.same else nn.Conv1d(s.inner, s.outer, 1, s.stride)


def _transposed(s: _Stage) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """The same of the decoder, from the encoder block's outer side to its inner one."""
    reach, rest = s.dilation * (s.kernel // 2), (s.before - 1) % s.stride
    first = nn.ConvTranspose1d(s.outer, s.outer, s.kernel, 1, reach, dilation=s.dilation)
    second = nn.ConvTranspose1d(s.outer, s.inner, s.kernel, s.stride, reach, rest, dilation=s.dilation)
    shortcut = None if s.same else nn.ConvTranspose1d(s.outer, s.inner, 1, s.stride, 0, rest)
    return weight_norm(first, dim=1), weight_norm(second, dim=1), shortcut


def _stages(shape: tuple[int, ...], layers: Layers) -> list[_Stage]:
    for name, only in (("pooling", "none"), ("upsampling", "transposed")):
        if getattr(layers, name) != only:
            raise RaeflowError(f"{name}={getattr(layers, name)!r}: backbone='tcn' shortens signals by its strides alone; choose {only!r}")
    if not all(k % 2 for k in layers.kernels):
        raise RaeflowError(f"kernels={layers.kernels!r}: backbone='tcn' needs odd kernels, which have a sample in their middle")
    channels = layers.layers or (layers.channels,) * layers.depth
    kernels = layers.kernels or (3,) * len(channels)
    strides = layers.strides or (1,) * len(channels)
    stages: list[_Stage] = []
    inner, length, dilation = shape[0], shape[1], 1
    for outer, kernel, stride in zip(channels, kernels, strides, strict=True):
        dilation = dilation if stride == 1 else 1
        after = (length - 1) // stride + 1
        stages.append(_Stage(inner, outer, kernel, stride, dilation, length, after))
        inner, length, dilation = outer, after, 2 * dilation if stride == 1 else 1
    return stages
