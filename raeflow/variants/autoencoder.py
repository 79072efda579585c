"""Autoencoder: a row through a narrow code and back; what it cannot rebuild is strange.

Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks", Science 313;
Sakurada & Yairi 2014, "Anomaly Detection Using Autoencoders with Nonlinear Dimensionality Reduction".
With `activation="identity"` or `depth=0` its codes span the PCA subspace (Baldi & Hornik 1989).

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raeflow.variants import _rebuild
from raeflow.variants._contract import Batch, Shape


@dataclass(frozen=True, kw_only=True)
class Hyper(_rebuild.Rebuild):
    """Hyperparameters of `autoencoder`."""


def published(shape: Shape) -> Hyper:
    """The sources' networks (see `_rebuild.published_layers`), Adam(1e-3), mean squared error."""
    return Hyper(**_rebuild.published_layers(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, activation and learning rate."""
    return Hyper(**_rebuild.suggest(trial, shape))


class Model(_rebuild.Rebuilder[Hyper]):
    """Trained for the reconstruction alone."""

    player = "autoencoder"

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the reconstruction loss, mean over batch and row."""
        self.check(batch, progress)
        yield self.player, self.misfit(self.decoder(self.encode(batch.x)), batch.x)
