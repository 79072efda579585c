"""Deep convolutional GAN: the game of `gan` with networks that keep it stable.

Radford, Metz & Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", arXiv:1511.06434, section 3: strided convolutions in place of pooling, no dense hidden layers, batch
normalisation everywhere but in the generator's output and the discriminator's input layer, ReLU in the generator with a
tanh at its end, LeakyReLU of slope 0.2 in the discriminator; section 4: weights from N(0, 0.02), Adam(2e-4, 0.5). Gains of
the normalisation start from N(1, 0.02), as in the authors' code. Tables get dense layers by the same rules. The
discriminator judges real and generated rows as two batches. The encoder is izi_f of Schlegl et al. 2019
(`_adversarial.py`), without normalisation.

A tanh gives -1 to 1 and rows are in 0-1: the generator's rows are brought there, and the discriminator sees 2x - 1.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from raeflow.backbones import ACTIVATIONS, Backbone, backbone
from raeflow.errors import RaeflowError
from raeflow.variants import _adversarial, _layers, gan
from raeflow.variants._contract import Shape
from raeflow.variants._norm import MAPS, BatchNorm, normalised

_DEVIATION = 0.02  # of fresh weights (section 4)


@dataclass(frozen=True, kw_only=True)
class Hyper(gan.Hyper):
    """Hyperparameters of `dcgan`; discriminator and encoder share the encoder's layers, the generator mirrors them."""

    outputs: ClassVar[tuple[str, ...]] = ("identity", "sigmoid", "tanh")
    activation: str = "leaky_relu"
    """relu, leaky_relu (0.2), elu, selu, gelu, silu, tanh; of discriminator and encoder; leaky_relu in the paper."""
    generator_activation: str = "relu"
    """The same for the generator; relu in the paper."""
    output: str = "identity"
    """Last non-linearity of the generator: identity (any scaling), or tanh or sigmoid (rows scaled to 0-1); tanh in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("backbone", ("auto", "mlp", "conv"))
        self.one_of("generator_activation", tuple(ACTIVATIONS))
        self.one_of("pooling", ("none",))
        self.one_of("upsampling", ("transposed",))
        if 0 in self.kernels:
            raise RaeflowError(f"kernels={self.kernels!r}: a kernel of 0, over the whole map, is a dense layer, and a dcgan hides none")


def published(shape: Shape) -> Hyper:
    """The paper's rules and Adam(2e-4, 0.5, 0.999), kernels of 5 and a tanh for images; networks of
    `_adversarial.published_layers` (the paper's have four stages up to 1024 channels, and a code of 100)."""
    return Hyper(**{**_adversarial.published_layers(shape), "output": _output(shape)})


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, label smoothing, kappa and learning rates."""
    return Hyper(
        **{**_adversarial.suggest(trial, shape, dense=False), "output": _output(shape)},
        smooth=trial.suggest_categorical("smooth", [0.0, 0.1]),
    )


def _output(shape: Shape) -> str:
    return "tanh" if len(shape) == 3 else "identity"


class Model(gan.Model):
    """The game of `gan` between batch-normalised networks."""

    hyper: Hyper
    player = "dcgan"

    def build(self, net: Backbone) -> None:
        """The networks, normalised, with weights from N(0, 0.02); the encoder as any game's."""
        if len(self.shape) > 1 and self.hyper.backbone == "mlp":
            raise RaeflowError(f"{self.player} with backbone='mlp': rows of shape {self.shape} take convolutions; gan has dense layers")
        super().build(net)
        features = normalised(net.encoder(), first=False)
        self.features = nn.Sequential(_Signed(), *features) if self.hyper.output == "tanh" else features
        drawing = backbone(self.shape, dataclasses.replace(self.hyper, activation=self.hyper.generator_activation))
        self.generator = normalised(_layers.decoder(drawing, self.inputs), last=False)
        for network in (self.features, self.critic, self.generator):
            network.apply(small)

    @property
    def inputs(self) -> int:
        """Values that the generator makes a row of."""
        return self.hyper.latent


def small(layer: nn.Module) -> None:
    """Fresh weights from N(0, 0.02) and gains from N(1, 0.02), biases zero."""
    if isinstance(layer, (*MAPS, BatchNorm)):
        nn.init.normal_(layer.weight, 1.0 if isinstance(layer, BatchNorm) else 0.0, _DEVIATION)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class _Signed(nn.Module):
    """Rows in 0-1 to -1 to 1, the range of a tanh."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1
