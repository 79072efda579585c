"""What a backbone is told (`Layers`) and what it gives back (`Backbone`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from raeflow.errors import RaeflowError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # In place: activations follow only linear maps, convolutions and pooling, whose backward passes do not need their outputs.
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}

MONOTONE = ("relu", "leaky_relu", "elu", "selu", "tanh", "identity")
"""Activations that never fall, so that the largest of a window stays the largest."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Hyperparameters that shape a network; every variant's `Hyper` has them.

    The encoder is described from the row inwards, the decoder mirrors it.
    """

    backbone: str = "auto"
    """auto (mlp for tables, conv for signals and images), mlp (any row, flattened), conv, recurrent (any row, step by step), or
    tcn (signals: residual blocks of dilated convolutions)."""
    latent: int = 8
    """Size of the code, from 1; a code as large as the row learns to copy it. 0, where a variant takes it: no dense
    layers between the hidden ones and the code, which is then the last hidden layer (or feature map) itself."""
    width: int = 64
    """Neurons of the first layer of an mlp, or units of the first LSTM; each further one has half as many. 8 to 512 are common."""
    channels: int = 16
    """Channels of the first convolution; each further one has twice as many (blocks of a tcn as many). 4 to 64 are common."""
    depth: int = 2
    """Hidden layers (of a tcn: blocks) of encoder and decoder each; 0 leaves the linear maps to the code and back."""
    layers: tuple[int, ...] = ()
    """Sizes of the hidden layers (neurons, or channels) in place of `width`, `channels` and `depth`."""
    kernels: tuple[int, ...] = ()
    """Kernel of each convolution, default 3; 0 covers the whole map without padding, others are padded by k // 2. Odd in a tcn."""
    strides: tuple[int, ...] = ()
    """Stride of each convolution, default 2 (1 in a tcn); under pooling the window's size, while the convolution has
    stride 1."""
    pooling: str = "none"
    """none (convolutions stride), or convolutions of stride 1, each followed by max-pooling over `strides`: max leaves out
    a last window that the map does not fill (7 to 3 by 2), max_same takes what there is of it (7 to 4)."""
    upsampling: str = "transposed"
    """How the decoder enlarges its maps: transposed (a transposed convolution for each convolution), or nearest (a
    convolution at the code's size, then for each stage each pixel repeated, followed by a convolution of stride 1)."""
    activation: str = "relu"
    """relu, leaky_relu (0.2), elu, selu, gelu, silu, tanh; identity makes the whole network linear."""
    feature_activation: bool = True
    """Whether the activation also follows the layers next to the code (with latent=0: the code); False leaves them linear."""

    def __post_init__(self) -> None:
        self.at_least(1, "width", "channels")
        self.at_least(0, "latent", "depth")
        self.one_of("backbone", ("auto", "mlp", "conv", "recurrent", "tcn"))
        self.one_of("activation", tuple(ACTIVATIONS))
        self.one_of("pooling", ("none", "max", "max_same"))
        self.one_of("upsampling", ("transposed", "nearest"))
        for name, least in (("layers", 1), ("kernels", 0), ("strides", 1)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(isinstance(v, int) and v >= least for v in values):
                raise RaeflowError(f"{name}={values!r}: {name} must be a tuple of whole numbers from {least}")
        for name in ("kernels", "strides"):
            if getattr(self, name) and len(getattr(self, name)) != self.count:
                raise RaeflowError(f"{name}={getattr(self, name)!r}: one value for each of the {self.count} layers")

    @property
    def count(self) -> int:
        """Hidden layers on each side of the code."""
        return len(self.layers) or self.depth

    def at_least(self, least: float, *names: str) -> None:
        """Refuse fields below `least`."""
        for name in names:
            if not getattr(self, name) >= least:
                raise RaeflowError(f"{name}={getattr(self, name)!r}: {name} must be at least {least}")

    def whole(self, *names: str) -> None:
        """Refuse fields that are no whole numbers."""
        for name in names:
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise RaeflowError(f"{name}={getattr(self, name)!r}: {name} must be a whole number")

    def above(self, bound: float, *names: str) -> None:
        """Refuse fields that are not greater than `bound`."""
        for name in names:
            if not getattr(self, name) > bound:
                raise RaeflowError(f"{name}={getattr(self, name)!r}: {name} must be greater than {bound}")

    def below(self, bound: float, *names: str) -> None:
        """Refuse fields that are not less than `bound`."""
        for name in names:
            if not getattr(self, name) < bound:
                raise RaeflowError(f"{name}={getattr(self, name)!r}: {name} must be less than {bound}")

    def one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        """Refuse a field whose value is not one of `allowed`."""
        if getattr(self, name) not in allowed:
            raise RaeflowError(f"{name}={getattr(self, name)!r}: {name} must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Backbone:
    """Builders of the two halves of a network; each call builds one with weights of its own."""

    features: int
    """Values that the encoder gives and the decoder takes for each row."""
    encoder: Callable[[], nn.Sequential]
    """Builds (B, *shape) -> (B, features)."""
    decoder: Callable[[], nn.Sequential]
    """Builds (B, features) -> (B, *shape), linear at its end."""


def activation(name: str) -> nn.Module:
    """A fresh activation module."""
    return ACTIVATIONS[name]()
