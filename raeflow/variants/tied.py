"""Tied autoencoder: the decoder's weights are the encoder's, transposed; only its biases are its own.

Half the weights, which is quicker to learn and harder to overfit. Vincent et al. 2010, "Stacked Denoising Autoencoders",
JMLR 11, section 2.2; Hinton & Salakhutdinov 2006, Science 313, unroll a stack whose two halves start tied.

Dense layers are tied by the transposed matrix, convolutions (strided or pooled) by the transposed convolution with the
same kernels, which for a strided one is exactly the transposed linear map.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow.backbones import Backbone
from raeflow.errors import RaeflowError
from raeflow.variants import _layers, _rebuild
from raeflow.variants._contract import Batch, Shape


@dataclass(frozen=True, kw_only=True)
class Hyper(_rebuild.Rebuild):
    """Hyperparameters of `tied`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone == "recurrent":
            raise RaeflowError("backbone='recurrent': an LSTM has no transpose that a decoder could be tied to; choose mlp or conv")
        if self.upsampling != "transposed":
            raise RaeflowError(
                f"upsampling={self.upsampling!r}: the decoder then has a convolution more than the encoder; tied needs 'transposed'"
            )


def published(shape: Shape) -> Hyper:
    """Dense selu layers of 100 and 30, the code being the second, binary cross-entropy on images and mean squared error
    elsewhere, as in the tied stack of the sources; tables: 64-32 and a code of 1 + sqrt(F) (Cao, Nicolau & McDermott 2019)."""
    if len(shape) == 1:
        return Hyper(**_rebuild.published_layers(shape), activation="selu")
    stack: dict[str, Any] = {"backbone": "mlp", "layers": (100,), "latent": _layers.below_size(30, shape), "activation": "selu"}
    return Hyper(**stack, code_activation=True, loss="bce" if len(shape) == 3 else "mse")


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, activation and learning rate."""
    return Hyper(**_rebuild.suggest(trial, shape))


class Model(_rebuild.Rebuilder):
    """Trained for the reconstruction alone."""

    player = "tied"

    def halves(self, net: Backbone, latent: int) -> tuple[nn.Module, nn.Module]:
        """The encoder, and a decoder that reads the encoder's weights."""
        encoder, decoder = super().halves(net, latent)
        tie(encoder, decoder)
        return encoder, decoder

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the reconstruction loss, mean over batch and row."""
        self.check(batch, progress)
        yield self.player, self.misfit(self.decoder(self.encode(batch.x)), batch.x)


def tie(encoder: nn.Module, decoder: nn.Module) -> None:
    """Put the transpose of each of the encoder's linear maps in the place of its mirror in the decoder."""
    maps = [m for m in encoder.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    mirrors = [(name, m) for name, m in decoder.named_modules() if isinstance(m, (nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d))]
    for source, (name, mirror) in zip(reversed(maps), mirrors, strict=True):
        decoder.set_submodule(name, Transposed(source, mirror))


class Transposed(nn.Module):
    """A decoder's layer with the weight of another layer, transposed, and a bias of its own that starts at zero."""

    def __init__(self, source: nn.Module, mirror: nn.Linear | nn.ConvTranspose1d | nn.ConvTranspose2d) -> None:
        super().__init__()
        # In a tuple torch does not see it: the weight is the encoder's, owned, counted and saved once. Copies of
        # the whole model keep the two together, and a device is changed in place.
        self.source = (source,)
        self.bias = nn.Parameter(torch.zeros_like(mirror.get_parameter("bias")))
        self.transposed: Callable[..., Tensor] | None = None
        if not isinstance(mirror, nn.Linear):
            self.transposed = functional.conv_transpose1d if isinstance(mirror, nn.ConvTranspose1d) else functional.conv_transpose2d
            self.geometry = (mirror.stride, mirror.padding, mirror.output_padding)

    @property
    def weight(self) -> Tensor:
        """In the shape that a mirrored layer has: that of a convolution serves its transpose as it is."""
        weight: Tensor = self.source[0].get_parameter("weight")
        return weight.t() if self.transposed is None else weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs of the source) -> (B, inputs of the source)."""
        if self.transposed is None:
            return functional.linear(x, self.weight, self.bias)
        return self.transposed(x, self.weight, self.bias, *self.geometry)
