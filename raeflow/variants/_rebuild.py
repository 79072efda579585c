"""What all variants that rebuild a row through an encoder and a decoder share: hyperparameters, losses, score.

Not a variant: a subclass says in `turns` what it is trained for.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from raeflow.backbones import Backbone, Layers, activation, backbone
from raeflow.variants import _layers
from raeflow.variants._contract import Batch, Shape, Variant
from raeflow.variants._maps import EncoderMaps


@dataclass(frozen=True, kw_only=True)
class Rebuild(Layers):
    """Hyperparameters of every variant that rebuilds a row."""

    output: str = "identity"
    """Last non-linearity of the decoder: identity (any scaling) or sigmoid (rows scaled to 0-1)."""
    loss: str = "mse"
    """mse, or bce: binary cross-entropy with sigmoid output, for rows scaled to 0-1."""
    code_activation: bool = False
    """Whether the activation also follows the code itself, as in stacked dense networks whose code is one more layer."""
    optimizer: str = "adam"
    """adam (Kingma & Ba 2015), or sgd: plain stochastic gradient descent."""
    lr: float = 1e-3
    """Learning rate of the optimiser, 1e-4 to 1e-2 for adam, to 1 for sgd."""
    weight_decay: float = 0.0
    """The optimiser's L2 penalty on the weights, 0 to 1e-3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("output", ("identity", "sigmoid"))
        self.one_of("loss", ("mse", "bce"))
        self.one_of("optimizer", ("adam", "sgd"))
        self.above(0, "lr")
        self.at_least(0, "weight_decay")


H = TypeVar("H", bound=Rebuild)


class Rebuilder(EncoderMaps, Variant, Generic[H]):
    """Encoder, code, decoder; score (B,) is the mean squared error of a row."""

    player: ClassVar[str]
    """The one player's name, which is the variant's."""

    def __init__(self, shape: Shape, hyper: H) -> None:
        super().__init__()
        self.hyper = hyper
        self.output = "sigmoid" if hyper.loss == "bce" else hyper.output
        self.code_activation = self.activate_code()
        self.encoder, self.decoder = self.halves(backbone(shape, hyper), hyper.latent)

    def halves(self, net: Backbone, latent: int) -> tuple[nn.Module, nn.Module]:
        """The encoder (B, *shape) -> (B, Z) and the decoder back, both linear at their ends."""
        return _layers.encoder(net, latent), _layers.decoder(net, latent)

    def activate_code(self) -> nn.Module:
        """What follows the encoder's last linear map."""
        return activation(self.hyper.activation) if self.hyper.code_activation else nn.Identity()

    def optimizers(self) -> dict[str, Optimizer]:
        """One player."""
        h = self.hyper
        if h.optimizer == "sgd":
            return {self.player: torch.optim.SGD(self.parameters(), lr=h.lr, weight_decay=h.weight_decay)}
        return {self.player: _layers.adam(self.parameters(), h.lr, weight_decay=h.weight_decay)}

    def check(self, batch: Batch, progress: float) -> None:
        """Refuse rows that the last non-linearity cannot rebuild, in the first step."""
        if self.output == "sigmoid":
            _layers.check_unit(batch, progress, f"{self.player} with a sigmoid output", "output='identity' and loss='mse'")

    def misfit(self, logits: Tensor, x: Tensor) -> Tensor:
        """The reconstruction loss, mean over batch and row, of the decoder's linear output."""
        if self.hyper.loss == "bce":
            return functional.binary_cross_entropy_with_logits(logits.float(), x)
        return functional.mse_loss(_layers.squash(logits, self.output).float(), x)

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


def published_layers(shape: Shape) -> dict[str, Any]:
    """Networks of the sources, where a variant's own source names none for a row of this shape.

    Images: convolutions 16-32-64 with strides 2, 2 and a last one over the whole map, a linear code of 20, sigmoid,
    as in the convolutional autoencoder on MNIST (at 28 x 28 its very layers). Signals: the same, wider kernels,
    no sigmoid. Tables: dense 64-32 and a code of 1 + sqrt(F) (Cao, Nicolau & McDermott 2019).
    """
    if len(shape) == 1:
        return {"latent": _layers.table_latent(shape[0]), "layers": (64, 32)}
    latent = _layers.below_size(20, shape)
    if len(shape) == 2:
        return {"latent": latent, "layers": (16, 32, 64), "kernels": (7, 7, 7), "strides": (2, 2, 2)}
    convolutions = {"layers": (16, 32, 64), "kernels": (3, 3, 0), "strides": (2, 2, 1)}
    return {"latent": latent, **convolutions, "feature_activation": False, "output": "sigmoid"}


def published_stack(shape: Shape) -> dict[str, Any]:
    """The sources' dense stack: selu layers of 100 and 30, the code being the second, binary cross-entropy on images and
    mean squared error elsewhere; tables: 64-32 and a code of 1 + sqrt(F) (Cao, Nicolau & McDermott 2019)."""
    if len(shape) == 1:
        return {**published_layers(shape), "activation": "selu"}
    stack: dict[str, Any] = {"backbone": "mlp", "layers": (100,), "latent": _layers.below_size(30, shape), "activation": "selu"}
    return {**stack, "code_activation": True, "loss": "bce" if len(shape) == 3 else "mse"}


def suggest(trial: Any, shape: Shape, latent: tuple[int, int] | None = None, overcomplete: bool = False) -> dict[str, Any]:
    """The part of a search space that all rebuilding variants share: latent size, network, activation and learning rate."""
    return {
        **_layers.suggest_layers(trial, shape, latent, overcomplete),
        "activation": trial.suggest_categorical("activation", ["relu", "elu", "tanh", "gelu"]),
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "output": "sigmoid" if len(shape) == 3 else "identity",
    }
