"""Tied autoencoder: the decoder's weights are the encoder's, transposed; only its biases are its own.

Half the weights, which is quicker to learn and harder to overfit. Vincent et al. 2010, "Stacked Denoising Autoencoders",
JMLR 11, section 2.2; Hinton & Salakhutdinov 2006, Science 313, unroll a stack whose two halves start tied.

Dense layers are tied by the transposed matrix, convolutions (strided or pooled) by the transposed convolution with the
same kernels, which for a strided one is exactly the transposed linear map.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raeflow.backbones import Backbone
from raeflow.errors import RaeflowError
from raeflow.variants import _rebuild
from raeflow.variants._contract import Batch, Shape
from raeflow.variants._tied import tie


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
    """The sources' dense stack (see `_rebuild.published_stack`), Adam(1e-3)."""
    return Hyper(**_rebuild.published_stack(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, activation and learning rate."""
    return Hyper(**_rebuild.suggest(trial, shape))


class Model(_rebuild.Rebuilder[Hyper]):
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
