"""LSTMs that read a row step by step into a vector, and write it step by step from that vector repeated.

Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9; as an autoencoder Srivastava et al. 2015,
"Unsupervised Learning of Video Representations using LSTMs", arXiv:1502.04681. The forget gates start open, at a bias
of 1 (Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures").

The encoder is one LSTM for each of `layers`, the last one's last output its features. The decoder mirrors it map by
map, as dense layers do: the features are repeated for each step, then come LSTMs back through the inner sizes to the
first one, and a linear map for each step in place of the first LSTM. So

    Layers(backbone="recurrent", layers=(100, 30), latent=0)

is LSTM 100 - LSTM 30 (last output: the code) - repeat - LSTM 100 - dense for each step. A single layer of n is written
back by an LSTM of n. Gates and outputs have the cell's own sigmoid and tanh; `activation` follows the dense layer from
a `latent` code to the features, where there is one. No weight depends on the number of steps.

Steps: of a signal (C, L) its L samples of C values, of an image (C, H, W) its H rows of C * W values, of a table (F,)
its F columns of one value. Each step waits for the one before: long rows take long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raeflow.backbones._record import Backbone, Layers, activation


def backbone(shape: tuple[int, ...], layers: Layers) -> Backbone:
    """(B, *shape) -> LSTMs over the steps -> (B, n_k) and back; without hidden layers the features are the flat row."""
    sizes = layers.layers or tuple(max(layers.width >> i, layers.latent) for i in range(layers.depth))
    if not sizes:
        return Backbone(math.prod(shape), lambda: nn.Sequential(nn.Flatten()), lambda: nn.Sequential(nn.Unflatten(1, shape)))
    steps, values = (shape[0], 1) if len(shape) == 1 else (shape[-1], shape[0]) if len(shape) == 2 else (shape[1], shape[0] * shape[2])

    def encoder() -> nn.Sequential:
        return nn.Sequential(_Steps(shape), _Reader((values, *sizes)))

    def decoder() -> nn.Sequential:
        inwards = [activation(layers.activation)] if layers.feature_activation and layers.latent else []
        back = sizes[::-1] if len(sizes) > 1 else sizes * 2
        return nn.Sequential(*inwards, _Writer(back, steps), nn.Linear(sizes[0], values), _Row(shape))

    return Backbone(sizes[-1], encoder, decoder)


def _cell(inner: int, outer: int) -> nn.LSTM:
    """An LSTM with open forget gates: its biases are kept twice, in the order input, forget, cell, output."""
    cell = nn.LSTM(inner, outer, batch_first=True)
    with torch.no_grad():
        cell.get_parameter("bias_ih_l0")[outer : 2 * outer] = 1.0
        cell.get_parameter("bias_hh_l0")[outer : 2 * outer] = 0.0
    return cell


class _Cells(nn.Module):
    """LSTMs one after the other, (B, T, n_0) -> (B, T, n_k)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(_cell(inner, outer) for inner, outer in itertools.pairwise(sizes))

    def run(self, x_BTN: Tensor) -> Tensor:
        for cell in self.cells:
            x_BTN, _ = cell(x_BTN)
        return x_BTN


class _Reader(_Cells):
    """(B, T, n_0) -> (B, n_k): the outputs of the last step.

    A gradient penalty differentiates twice through an encoder. A CPU's kernels allow that, cuDNN's do not, so rows
    that themselves want a gradient are read by torch's own kernels on CUDA (written without a CUDA device at hand).
    """

    def forward(self, x_BTN: Tensor) -> Tensor:
        if x_BTN.is_cuda and x_BTN.requires_grad and torch.is_grad_enabled():
            with torch.backends.cudnn.flags(enabled=False):
                return self.run(x_BTN)[:, -1]
        return self.run(x_BTN)[:, -1]


class _Writer(_Cells):
    """(B, n_0) -> (B, T, n_k), the same vector being given to every step."""

    def __init__(self, sizes: Sequence[int], steps: int) -> None:
        super().__init__(sizes)
        self.steps = steps

    def forward(self, x_BN: Tensor) -> Tensor:
        return self.run(x_BN[:, None].expand(-1, self.steps, -1))


class _Steps(nn.Module):
    """(B, *shape) -> (B, T, N): steps and their values."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        if len(self.shape) == 1:
            return x[:, :, None]
        return x.transpose(1, 2).flatten(2)  # (B, L, C), or (B, H, C * W)


class _Row(nn.Module):
    """(B, T, N) -> (B, *shape), the inverse of `_Steps`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x_BTN: Tensor) -> Tensor:
        if len(self.shape) == 1:
            return x_BTN[:, :, 0]
        if len(self.shape) == 2:
            return x_BTN.transpose(1, 2)
        return x_BTN.reshape(-1, self.shape[1], self.shape[0], self.shape[2]).transpose(1, 2)
