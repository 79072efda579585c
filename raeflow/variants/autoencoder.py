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

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from raeflow.backbones import Layers, activation, backbone
from raeflow.variants import _layers
from raeflow.variants._contract import Batch, Shape, Variant


@dataclass(frozen=True, kw_only=True)
class Hyper(Layers):
    """Hyperparameters of `autoencoder`."""

    output: str = "identity"
    """Last non-linearity of the decoder: identity (any scaling) or sigmoid (rows scaled to 0-1)."""
    loss: str = "mse"
    """mse, or bce: binary cross-entropy with sigmoid output, for rows scaled to 0-1."""
    code_activation: bool = False
    """Whether the activation also follows the code itself, as in stacked dense networks whose code is one more layer."""
    lr: float = 1e-3
    """Adam's learning rate, 1e-4 to 1e-2."""
    weight_decay: float = 0.0
    """Adam's L2 penalty on the weights, 0 to 1e-3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("output", ("identity", "sigmoid"))
        self.one_of("loss", ("mse", "bce"))
        self.above(0, "lr")
        self.at_least(0, "weight_decay")


def published(shape: Shape) -> Hyper:
    """Images: convolutions 16-32-64 with strides 2, 2 and a last one over the whole map, code of 20, sigmoid,
    as in the convolutional autoencoder on MNIST (at 28 x 28 its very layers). Signals: the same, wider kernels,
    no sigmoid. Tables: dense 64-32 and a code of 1 + sqrt(F) (Cao, Nicolau & McDermott 2019)."""
    if len(shape) == 1:
        return Hyper(latent=_layers.table_latent(shape[0]), layers=(64, 32))
    if len(shape) == 2:
        return Hyper(latent=_layers.below_size(20, shape), layers=(16, 32, 64), kernels=(7, 7, 7), strides=(2, 2, 2))
    return Hyper(
        latent=_layers.below_size(20, shape),
        layers=(16, 32, 64),
        kernels=(3, 3, 0),
        strides=(2, 2, 1),
        feature_activation=False,
        output="sigmoid",
    )


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, activation and learning rate."""
    return Hyper(
        **_layers.suggest_layers(trial, shape),
        activation=trial.suggest_categorical("activation", ["relu", "elu", "tanh", "gelu"]),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        output="sigmoid" if len(shape) == 3 else "identity",
    )


class Model(Variant):
    """Encoder, code, decoder; score (B,) is the mean squared error of a row."""

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__()
        self.hyper = hyper
        net = backbone(shape, hyper)
        self.encoder = _layers.encoder(net, hyper.latent)
        self.decoder = _layers.decoder(net, hyper.latent)
        self.code_activation = activation(hyper.activation) if hyper.code_activation else nn.Identity()
        self.output = "sigmoid" if hyper.loss == "bce" else hyper.output

    def optimizers(self) -> dict[str, Optimizer]:
        """One player, Adam."""
        return {"autoencoder": _layers.adam(self.parameters(), self.hyper.lr, weight_decay=self.hyper.weight_decay)}

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the reconstruction loss, mean over batch and row."""
        if self.output == "sigmoid":
            _layers.check_unit(batch.x, progress, "autoencoder with a sigmoid output", "output='identity' and loss='mse'")
        logits = self.decoder(self.encode(batch.x))
        if self.hyper.loss == "bce":
            yield "autoencoder", functional.binary_cross_entropy_with_logits(logits.float(), batch.x)
        else:
            yield "autoencoder", functional.mse_loss(_layers.squash(logits, self.output).float(), batch.x)

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, Z)."""
        z_BZ: Tensor = self.code_activation(self.encoder(x))
        return z_BZ

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, *shape)."""
        return _layers.squash(self.decoder(z), self.output)

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, *shape)."""
        return self.decode(self.encode(x))

    def score(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B,): mean squared error."""
        return _layers.square_error(x, self.reconstruct(x))
