"""Rows cut into tokens, and the transformer blocks that read them.

Tokens are patches of an image, patches of steps of a signal, or the columns of a table. Blocks are those of the
vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929): layer norm first, then attention or MLP, then the sum.

Shapes: B rows of a batch, N tokens of a row, P values of a token, W width, K masks; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow.backbones import activation

EPSILON = 1e-6
"""Of the layer norms, as in the vision transformer (torch's own default is 1e-5)."""

_SEED = 2111_06377
"""Of the score's masks, which are the same for every model of a shape."""


class Cut(nn.Module):
    """Cuts rows into tokens and pastes them together again; holds no weights.

    An axis that `patch` does not divide is padded with zeros at its end; `valid` tells the row's own values.
    """

    valid: Tensor
    """(N, P) float32: 1 where a token holds a value of the row, 0 where it holds padding."""

    def __init__(self, shape: tuple[int, ...], patch: int) -> None:
        super().__init__()
        self.shape = shape
        channels, *size = (1, *shape) if len(shape) == 1 else shape
        self.size = tuple(size)
        self.side = 1 if len(shape) == 1 else patch
        self.channels = channels
        self.grid = tuple(-(-n // self.side) for n in self.size)
        self.tokens = math.prod(self.grid)
        self.values = channels * self.side ** len(self.size)
        self.register_buffer("valid", self.cut(torch.ones(1, *shape))[0], persistent=False)

    def cut(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, N, P); the values of a token run over its places, then its channels."""
        x = x.reshape(x.shape[0], self.channels, *self.size)
        padding = [(g * self.side - n) for g, n in zip(self.grid, self.size, strict=True)]
        if any(padding):
            x = functional.pad(x, [n for after in reversed(padding) for n in (0, after)])
        split = x.reshape(x.shape[0], self.channels, *(n for g in self.grid for n in (g, self.side)))
        order = (0, 2, 3, 1) if len(self.grid) == 1 else (0, 2, 4, 3, 5, 1)
        return split.permute(order).reshape(x.shape[0], self.tokens, self.values)

    def paste(self, patches_BNP: Tensor) -> Tensor:
        """(B, N, P) -> (B, *shape): what `cut` took apart, without its padding."""
        rows = patches_BNP.shape[0]
        split = patches_BNP.reshape(rows, *self.grid, *(self.side,) * len(self.grid), self.channels)
        order = (0, 3, 1, 2) if len(self.grid) == 1 else (0, 5, 1, 3, 2, 4)
        x = split.permute(order).reshape(rows, self.channels, *(g * self.side for g in self.grid))
        for axis, n in enumerate(self.size, start=2):
            x = x.narrow(axis, 0, n)
        return x.reshape(rows, *self.shape)


class Patches(nn.Linear):
    """(B, N, P) -> (B, N, W): the linear map of a patch, its values' weights of variance 1 / P.

    That is about what Xavier's rule gives the paper's patches of 768 values and tokens as wide. Patches of a few values
    would, under that rule, come out faint beside the positions that are added to them.
    """

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)


class Columns(nn.Module):
    """(B, F, 1) -> (B, F, W): each column's value times a vector of its own, plus another of its own.

    The feature tokenizer of Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", arXiv:2106.11959.
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, width))
        self.bias = nn.Parameter(torch.empty(columns, width))
        for p in (self.weight, self.bias):
            nn.init.uniform_(p, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = x * self.weight + self.bias
        return tokens


class Block(nn.Module):
    """(B, N, W) -> (B, N, W): x + attention(norm(x)), then x + mlp(norm(x)), the MLP four times as wide.

    Queries and values have a bias. One of the keys would add the same to all logits of a query, which softmax takes out
    again; its gradient is rounding alone, which Adam would make steps of (left out as in BEiT, Bao et al. 2022).
    """

    def __init__(self, width: int, heads: int, nonlinearity: str) -> None:
        super().__init__()
        self.heads = dividing(width, heads)
        self.attention_norm = nn.LayerNorm(width, EPSILON)
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.outputs = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), activation(nonlinearity), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        tokens: Tensor = x + self.mlp(self.mlp_norm(x))
        return tokens

    def attention(self, x: Tensor) -> Tensor:
        """Multi-head self-attention over all tokens given."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        whole = functional.linear(x, self.inputs.weight, bias).reshape(*x.shape[:2], 3, self.heads, x.shape[2] // self.heads)
        query, key, value = whole.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.outputs(mixed.transpose(1, 2).flatten(2))
        return attended


def blocks(depth: int, width: int, heads: int, nonlinearity: str) -> nn.Sequential:
    """So many blocks and the layer norm after the last."""
    return nn.Sequential(*(Block(width, heads, nonlinearity) for _ in range(depth)), nn.LayerNorm(width, EPSILON))


def dividing(width: int, heads: int) -> int:
    """`heads`, or the next fewer that divide `width` evenly."""
    return next(n for n in range(min(heads, width), 0, -1) if width % n == 0)


def positions(grid: tuple[int, ...], width: int) -> Tensor:
    """(N, W) fixed sines and cosines of each token's place, an equal share of the width for each axis of the grid.

    Vaswani et al. 2017, section 3.5; two axes as in Chen, Xie & He 2021 (MoCo v3), arXiv:2104.02057. Frequencies fall from
    1 towards 1/n of a radian a token, n the tokens of the longest axis: with the 1/10000 of long texts, most of the width
    would hardly tell the few places of a row apart. A width that the axes do not share evenly is cut.
    """
    pairs = -(-width // (2 * len(grid)))
    frequencies = float(max(2, *grid)) ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid)).reshape(-1, len(grid))
    angles_NAK = places[:, :, None] * frequencies
    return torch.cat([angles_NAK.sin(), angles_NAK.cos()], 2).flatten(1)[:, :width].float()


def initialise(module: nn.Module) -> None:
    """Xavier's uniform distribution for the blocks' linear maps, zero for their biases (He et al. 2022, appendix A.1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and not isinstance(part, Patches):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def visible(tokens: int, mask_ratio: float) -> int:
    """Tokens that stay visible: 1 - mask_ratio of them, rounded up, but never all; of a single token none."""
    return min(tokens - 1, math.ceil(round(tokens * (1 - mask_ratio), 6)))


def covering(tokens: int, seen: int, least: int) -> Tensor:
    """(K, N) int64: for each of K >= `least` fixed masks the tokens, the `seen` visible ones first.

    Masks come in rounds, each over one random order of the tokens: the visible ones are a window that moves through
    the order in equal steps, by so few masks that each token is visible and hidden at least once in every round. Where
    `seen` divides `tokens`, the visible quarters (say) of a round are a partition of the row.
    """
    if not seen:
        return torch.zeros(1, tokens, dtype=torch.int64)
    dice = random.Random(_SEED)  # noqa: S311 - its random() is the same in all versions of Python; torch's dice promise no such thing
    masks = max(-(-tokens // seen), -(-tokens // (tokens - seen)))
    rounds = [torch.tensor(sorted(range(tokens), key=lambda _: dice.random())) for _ in range(-(-least // masks))]
    return torch.stack([order.roll(-(k * tokens // masks)) for order in rounds for k in range(masks)])
