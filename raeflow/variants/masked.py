"""Masked autoencoder: most of a row is hidden, and the rest must tell what it was.

He, Chen, Xie, Li, Dollar & Girshick 2022, "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.
Tokens are patches of an image, patches of steps of a signal, or the columns of a table (Du, Melis & Wang 2023,
"ReMasker: Imputing Tabular Data with Masked Autoencoding", arXiv:2309.13793). The encoder is given the visible
tokens alone; a lighter decoder gets their encodings and one learnt vector in place of each hidden token, and the
loss is the squared error of the hidden tokens. Rows are scored under fixed masks which hide each token in turn.

Shapes: B rows of a batch, N tokens of a row (V of them visible), P values of a token, K masks of the score, W and D the
widths of encoder and decoder, Z codes of a token; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from raeflow.backbones import Layers
from raeflow.errors import RaeflowError
from raeflow.variants import _transformer
from raeflow.variants._contract import Batch, Shape, Variant

_TOKENS = {"cpu": 1 << 12, "cuda": 1 << 20}
"""Tokens that go through the network at a time when rows are scored: on a CPU what its caches hold."""


@dataclass(frozen=True, kw_only=True)
class Hyper(Layers):
    """Hyperparameters of `masked`; `channels`, `layers`, `kernels`, `strides` and `feature_activation` have no meaning here."""

    backbone: str = "auto"
    """auto alone: the network is a transformer for every shape of row."""
    latent: int = 0
    """Values of the code of one visible token, between encoder and decoder; 0, as in the paper, hands on the encoder's width."""
    width: int = 64
    """Width of the encoder's tokens, 16 to 768 (the paper's ViT-B)."""
    depth: int = 2
    """Blocks of the encoder, 1 to 12 (the paper's ViT-B)."""
    activation: str = "gelu"
    """Non-linearity of the blocks' MLPs; the paper's is gelu."""
    patch: int = 0
    """Steps of a signal, or rows and columns of an image, in a token; 0 derives it from the row. A table's token is a column."""
    heads: int = 4
    """Attention heads of each block, or the next fewer that divide the width evenly."""
    decoder_width: int = 0
    """Width of the decoder's tokens, from 8; 0 takes half the encoder's."""
    decoder_depth: int = 1
    """Blocks of the decoder, 1 to 8 (the paper's default; 1 is nearly as good for fine-tuning, table 1a)."""
    mask_ratio: float = 0.75
    """Share of the tokens that is hidden, between 0 and 1: 0.75 for images in the paper, 0.5 for tables in ReMasker."""
    normalise_patches: bool = False
    """Whether each hidden patch is to be told after its own mean and deviation are taken out (the paper's section 3)."""
    score_masks: int = 4
    """Least number of fixed masks that score a row; rounded up, so that each token is visible equally often or once more."""
    lr: float = 3e-3
    """AdamW's highest learning rate, 1e-4 to 5e-3."""
    warm_up: float = 0.2
    """Share of training, 0 to 1, over which the learning rate rises from 0; then it falls along half a cosine. The paper's
    40 epochs of 800 are 12,500 steps; where all of a training has fewer, a larger share teaches more."""
    weight_decay: float = 0.05
    """AdamW's decay of the linear maps' weights, 0 to 0.1; 0.05 in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone != "auto":
            raise RaeflowError(f"backbone={self.backbone!r}: masked is a transformer for rows of every shape; leave backbone='auto'")
        self.at_least(8, "width")
        self.at_least(1, "depth", "heads", "decoder_depth", "score_masks")
        self.at_least(0, "patch", "decoder_width", "warm_up", "weight_decay")
        if 0 < self.decoder_width < 8:
            raise RaeflowError(f"decoder_width={self.decoder_width!r}: decoder_width must be at least 8, or 0 for half of width")
        self.above(0, "mask_ratio", "lr")
        self.below(1, "mask_ratio", "warm_up")


def published(shape: Shape) -> Hyper:
    """He et al. 2022: 75 % hidden, AdamW (0.9, 0.95) with decay 0.05, warm-up and cosine; for tables ReMasker's 50 %.

    The network is sized to the row: the paper's ViT is made for 14 x 14 patches of 224 x 224 pixels and millions of them.
    """
    return Hyper(patch=side(shape), mask_ratio=0.5 if len(shape) == 1 else 0.75)


def space(trial: Any, shape: Shape) -> Hyper:
    """Code, widths, depth, patch, share hidden and learning rate."""
    found: dict[str, Any] = {"patch": 0}
    if len(shape) > 1:
        middle = side(shape)
        largest = max(shape[1:]) - 1
        sizes = sorted({max(1, middle // 2), middle, max(1, min(2 * middle, largest))})
        found["patch"] = trial.suggest_categorical("patch", sizes)
    return Hyper(
        **found,
        latent=trial.suggest_categorical("latent", [0, 4, 16]),
        width=trial.suggest_categorical("width", [32, 64, 96, 128]),
        depth=trial.suggest_int("depth", 1, 6),
        decoder_depth=trial.suggest_int("decoder_depth", 1, 3),
        mask_ratio=trial.suggest_float("mask_ratio", 0.3, 0.85),
        lr=trial.suggest_float("lr", 3e-4, 5e-3, log=True),
    )


def side(shape: Shape) -> int:
    """Side of a patch: about 4 x 4 of them for images up to 64 pixels (beyond, the paper's side of 16), 32 for signals."""
    if len(shape) == 1:
        return 1
    if len(shape) == 2:
        return max(1, min(-(-shape[1] // 32), shape[1] // 4))
    return max(1, min(max(2, -(-max(shape[1:]) // 4)), max(shape[1:]) // 2, 16))


class Model(Variant):
    """Encoder of visible tokens, decoder of all; a row of a single token is told by a learnt constant."""

    overcomplete = True
    order: Tensor
    """(K, N): the score's masks, as `_transformer.covering` makes them."""
    mean: Tensor
    """(C, 1, ...): of each channel of the first batch; of all columns together for tables."""
    deviation: Tensor
    """(C, 1, ...): likewise; the network works on standardised values, as the paper's on those of ImageNet."""
    positions: Tensor
    decoder_positions: Tensor

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__()
        self.hyper = hyper
        self.cut = _transformer.Cut(shape, hyper.patch or side(shape))
        tokens, values, width = self.cut.tokens, self.cut.values, hyper.width
        if tokens == 1 and max(self.cut.size) > 1:
            raise RaeflowError(f"patch={hyper.patch}: rows of shape {shape} are one patch, of which nothing could stay visible")
        if hyper.normalise_patches and values == 1:
            raise RaeflowError(f"normalise_patches=True: tokens of rows of shape {shape} hold one value, which would always be 0")
        narrow = hyper.decoder_width or max(8, width // 2)
        self.embed = _transformer.Columns(tokens, width) if len(shape) == 1 else _transformer.Patches(values, width)
        self.encoder = _transformer.blocks(hyper.depth, width, hyper.heads, hyper.activation)
        self.project = nn.Linear(width, hyper.latent) if hyper.latent else nn.Identity()
        self.widen = nn.Linear(hyper.latent or width, narrow)
        self.mask_token = nn.Parameter(torch.empty(narrow).normal_(std=0.02))
        self.decoder = _transformer.blocks(hyper.decoder_depth, narrow, hyper.heads, hyper.activation)
        self.predict = nn.Linear(narrow, values)
        _transformer.initialise(self)
        self.seen = _transformer.visible(tokens, hyper.mask_ratio)
        self.register_buffer("order", _transformer.covering(tokens, self.seen, hyper.score_masks), persistent=False)
        per_channel = (1,) if len(shape) == 1 else (shape[0], *(1 for _ in shape[1:]))
        self.register_buffer("mean", torch.zeros(per_channel))
        self.register_buffer("deviation", torch.ones(per_channel))
        self.register_buffer("positions", _transformer.positions(self.cut.grid, width), persistent=False)
        self.register_buffer("decoder_positions", _transformer.positions(self.cut.grid, narrow), persistent=False)
        self._optimizer: Optimizer | None = None

    def optimizers(self) -> dict[str, Optimizer]:
        """One player, AdamW with betas (0.9, 0.95); biases, norms and lone vectors do not decay."""
        h = self.hyper
        matrices = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        groups = [
            {"params": [p for p in self.parameters() if id(p) in matrices], "weight_decay": h.weight_decay},
            {"params": [p for p in self.parameters() if id(p) not in matrices], "weight_decay": 0.0},
        ]
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters())
        self._optimizer = AdamW(groups, lr=h.lr, betas=(0.9, 0.95), fused=fused)
        return {"masked": self._optimizer}

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the squared error of the hidden tokens of masks drawn for each row, mean over row, then batch."""
        if progress == 0:
            self.standardise(batch)
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = self.rate(progress)
        order_BN = batch.uniform(self.cut.tokens).argsort(1)
        yield "masked", self.loss(batch.x, order_BN)

    @torch.no_grad()
    def standardise(self, batch: Batch) -> None:
        """Take mean and deviation of each channel from the first batch of a training, the same on every worker."""
        axes = tuple(range(1, batch.x.dim()))[-max(1, batch.x.dim() - 2) :]
        self.mean.copy_(batch.mean(batch.x.mean(axes, keepdim=True)))
        deviation = batch.mean((batch.x - self.mean).square().mean(axes, keepdim=True)).sqrt()
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def rate(self, progress: float) -> float:
        """The learning rate: a straight line up over `warm_up`, then half a cosine down to 0."""
        h = self.hyper
        if progress < h.warm_up:
            return h.lr * progress / h.warm_up
        return h.lr * 0.5 * (1 + math.cos(math.pi * (progress - h.warm_up) / (1 - h.warm_up)))

    def loss(self, x: Tensor, order_BN: Tensor) -> Tensor:
        """Scalar: mean squared error of the hidden tokens, where each row has its own order (visible tokens first)."""
        patches_BNP = self._patches(x)
        hidden = order_BN[:, self.seen :]
        tokens_BVW = _take(self.embed(patches_BNP) + self.positions, order_BN[:, : self.seen])
        told = self._tell(self._encode(tokens_BVW), self.decoder_positions[order_BN])
        wanted = _take(self._target(patches_BNP), hidden)
        error = (told.float() - wanted).square() * self._units()[hidden]
        return (error.sum((1, 2)) / self.cut.valid[hidden].sum((1, 2))).mean()

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, K V Z): codes of the visible tokens under each fixed mask.

        With `normalise_patches` the mean and deviation of each patch follow, which the network is not asked to tell.
        """
        return self._in_parts(self._codes, x)

    def decode(self, z: Tensor) -> Tensor:
        """Codes to (B, *shape): each token the mean of what is told of it under the masks that hide it."""
        return self._in_parts(self._rows, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, *shape); no value is told from itself."""
        return self._in_parts(lambda part: self._rows(self._codes(part)), x)

    def score(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B,): squared error of each token, mean over the masks that hide it, then over the row."""
        return self._in_parts(self._score, x)

    def features(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, W): the encodings of all tokens, nothing hidden, pooled by their mean, as for the paper's probes."""
        tokens_BNW: Tensor = self.encoder(self.embed(self._patches(x)) + self.positions)
        return tokens_BNW.mean(1)

    def _patches(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, N, P), standardised; padding is 0."""
        return self.cut.cut((x - self.mean) / self.deviation)

    def _units(self) -> Tensor:
        """(N, P): what takes a squared error of the network to the row's units; 0 for padding."""
        if self.hyper.normalise_patches:
            return self.cut.valid
        return self.cut.cut(self.deviation.square().expand(1, *self.cut.shape))[0]

    def _codes(self, x: Tensor) -> Tensor:
        patches_BNP = self._patches(x)
        tokens_BNW = self.embed(patches_BNP) + self.positions
        tokens_BKVW = tokens_BNW[:, self.order[:, : self.seen]]
        codes = self._encode(tokens_BKVW.flatten(0, 1)).reshape(x.shape[0], self._visible_size)
        if not self.hyper.normalise_patches:
            return codes
        return torch.cat([codes, *(m.flatten(1).to(codes.dtype) for m in self._moments(patches_BNP))], 1)

    @property
    def code_size(self) -> int:
        """Values of a row's code: K V Z, and two for each token with `normalise_patches`."""
        return self._visible_size + 2 * self.cut.tokens * self.hyper.normalise_patches

    @property
    def _visible_size(self) -> int:
        return len(self.order) * self.seen * (self.hyper.latent or self.hyper.width)

    def _rows(self, z: Tensor) -> Tensor:
        patches_BNP = torch.einsum("bknp,kn->bnp", self._told(z), self._weights())
        if self.hyper.normalise_patches:
            mean_BN1, deviation_BN1 = z[:, self._visible_size :].float().reshape(-1, 2, self.cut.tokens, 1).unbind(1)
            patches_BNP = patches_BNP * deviation_BN1 + mean_BN1
        return self.cut.paste(patches_BNP) * self.deviation + self.mean

    def _score(self, x: Tensor) -> Tensor:
        target_BNP = self._target(self._patches(x)).float()
        error_BKNP = (self._told(self._codes(x)) - target_BNP[:, None]).square()
        error_BNP = torch.einsum("bknp,kn->bnp", error_BKNP, self._weights()) * self._units()
        return error_BNP.sum((1, 2)) / self.cut.valid.sum()

    def _told(self, z: Tensor) -> Tensor:
        """Codes to (B, K, N, P): what is told of each token under each mask, float32; anything where it was visible."""
        masks, tokens = self.order.shape
        codes = z[:, : self._visible_size].reshape(z.shape[0] * masks, self.seen, self.hyper.latent or self.hyper.width)
        places = self.decoder_positions[self.order].repeat(z.shape[0], 1, 1)
        told = self._tell(codes, places).float().reshape(z.shape[0], masks, tokens - self.seen, self.cut.values)
        shown = told.new_zeros(()).expand(z.shape[0], masks, self.seen, self.cut.values)
        restore_KN = self.order.argsort(1)
        index = restore_KN + tokens * torch.arange(masks, device=z.device)[:, None]
        return torch.cat([shown, told], 2).flatten(1, 2)[:, index]

    def _weights(self) -> Tensor:
        """(K, N): 1 / (masks that hide the token) where it is hidden, 0 where it is visible."""
        hidden = (self.order.argsort(1) >= self.seen).float()
        return hidden / hidden.sum(0)

    def _encode(self, tokens_BVW: Tensor) -> Tensor:
        """Visible tokens to their codes, (B, V, Z); nothing is visible of a row of one token."""
        codes: Tensor = self.project(self.encoder(tokens_BVW) if self.seen else tokens_BVW)
        return codes

    def _tell(self, codes_BVZ: Tensor, places_BND: Tensor) -> Tensor:
        """Codes and the places of all tokens, visible ones first, to the hidden tokens (B, N - V, P)."""
        wide_BVD = self.widen(codes_BVZ)
        masks = self.mask_token.expand(places_BND.shape[0], self.cut.tokens - self.seen, -1)
        tokens_BND = self.decoder(torch.cat([wide_BVD, masks], 1) + places_BND)
        told: Tensor = self.predict(tokens_BND[:, self.seen :])
        return told

    def _target(self, patches_BNP: Tensor) -> Tensor:
        """What is to be told of each token."""
        if not self.hyper.normalise_patches:
            return patches_BNP
        mean_BN1, deviation_BN1 = self._moments(patches_BNP)
        return (patches_BNP - mean_BN1) / deviation_BN1

    def _moments(self, patches_BNP: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the values of each patch, each (B, N, 1); padding counts nowhere."""
        count = self.cut.valid.sum(1, keepdim=True)
        mean = (patches_BNP * self.cut.valid).sum(2, keepdim=True) / count
        spread = ((patches_BNP - mean).square() * self.cut.valid).sum(2, keepdim=True) / (count - 1).clamp(min=1)
        return mean, (spread + 1e-6).sqrt()

    def _in_parts(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """`function` of a few rows at a time, as all masks of a row go through the network together."""
        size = max(1, _TOKENS.get(rows.device.type, _TOKENS["cuda"]) // self.order.numel())
        if torch.compiler.is_exporting() or len(rows) <= size:
            return function(rows)
        return torch.cat([function(part) for part in torch.split(rows, size)])


def _take(tokens_BNP: Tensor, index: Tensor) -> Tensor:
    """The tokens of each row that its own line of `index` names."""
    return tokens_BNP.gather(1, index[:, :, None].expand(-1, -1, tokens_BNP.shape[2]))
