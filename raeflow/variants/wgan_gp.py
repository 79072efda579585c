"""Wasserstein GAN with gradient penalty, and after the game an encoder for its frozen generator.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028 (Algorithm 1); the encoder
is izi_f of Schlegl et al. 2019, "f-AnoGAN", Medical Image Analysis 54: it maps a row to the code whose
generated row resembles it, to the eye and to the critic, and the same two errors score the row.

The paper draws new real rows for each of the critic's steps; here a call of `turns` brings one batch, so
the critic takes its steps on those real rows with new codes and new points on the lines between real and
generated rows each time. The generator then moves once a batch, which small tables need, and no count has
to be carried from batch to batch.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raeflow.backbones import Layers, backbone
from raeflow.variants import _layers
from raeflow.variants._contract import Batch, Shape, Variant


@dataclass(frozen=True, kw_only=True)
class Hyper(Layers):
    """Hyperparameters of `wgan_gp`; critic and encoder share the encoder's layers, the generator mirrors them."""

    activation: str = "leaky_relu"
    """relu, leaky_relu (0.2), elu, selu, gelu, silu, tanh; of all three networks."""
    output: str = "identity"
    """Last non-linearity of the generator: identity (any scaling) or sigmoid (rows scaled to 0-1)."""
    penalty: float = 10.0
    """Lambda, the weight of the gradient penalty, 0.1 to 100; 10 in the paper."""
    critic_steps: int = 5
    """Steps of the critic for each step of the generator, 1 to 10; 5 in the paper."""
    lr: float = 1e-4
    """Adam's learning rate of critic and generator, 1e-5 to 1e-3; 1e-4 in the paper."""
    beta1: float = 0.0
    """Adam's decay of the mean gradient of critic and generator, 0 to 0.9; 0 in the paper."""
    beta2: float = 0.9
    """Adam's decay of the squared gradient of critic and generator, 0.9 to 0.999; 0.9 in the paper."""
    game: float = 2 / 3
    """Share of training for the game, above 0 and below 1; the encoder has the rest (100 k and 50 k steps in f-AnoGAN)."""
    encoder_lr: float = 1e-3
    """Adam's learning rate of the encoder, 1e-5 to 1e-2."""
    kappa: float = 1.0
    """Weight of the error between the critic's features, 0 to 10; 1 in f-AnoGAN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "latent")
        self.one_of("output", ("identity", "sigmoid"))
        self.at_least(0, "penalty", "beta1", "beta2", "kappa")
        self.at_least(1, "critic_steps")
        self.above(0, "lr", "encoder_lr", "game")
        self.below(1, "beta1", "beta2", "game")


def published(shape: Shape) -> Hyper:
    """Lambda 10, five critic steps and Adam(1e-4, 0, 0.9) of Gulrajani et al. 2017, kappa 1 and the two thirds of
    f-AnoGAN. Networks are theirs in kind, narrower: images and signals are halved down to maps of about 4 x 4 (at
    most three times, 64 channels there) with a code of 128, or an eighth of a small row; tables get three dense
    layers (of 128 rather than 512) with a code of 1 + sqrt(F)."""
    if len(shape) == 1:
        return Hyper(latent=_layers.table_latent(shape[0]), layers=(128, 128, 128))
    depth = min(3, max(1, math.ceil(math.log2(max(shape[1:]) / 4))))
    return Hyper(
        latent=max(1, min(128, math.prod(shape) // 8)),
        layers=tuple(64 >> (depth - 1 - i) for i in range(depth)),
        kernels=(5 if len(shape) == 3 else 7,) * depth,
        output="sigmoid" if len(shape) == 3 else "identity",
    )


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, lambda, kappa and learning rates."""
    return Hyper(
        **_layers.suggest_layers(trial, shape),
        activation=trial.suggest_categorical("activation", ["leaky_relu", "elu", "tanh"]),
        penalty=trial.suggest_float("penalty", 0.1, 30.0, log=True),
        kappa=trial.suggest_float("kappa", 0.0, 2.0),
        lr=trial.suggest_float("lr", 1e-4, 2e-3, log=True),
        encoder_lr=trial.suggest_float("encoder_lr", 3e-4, 1e-2, log=True),
        output="sigmoid" if len(shape) == 3 else "identity",
    )


class Model(Variant):
    """Critic (features, then a number), generator and encoder; none has batch norm, so each row stands alone."""

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__()
        self.hyper = hyper
        net = backbone(shape, hyper)
        self.features = net.encoder()
        self.critic = nn.Linear(net.features, 1)
        self.generator = _layers.decoder(net, hyper.latent)
        self.encoder = _layers.encoder(net, hyper.latent)
        # An encoder that has only just started says nothing yet: wait for a quarter of its time.
        self.settled_from = hyper.game + (1 - hyper.game) / 4

    def optimizers(self) -> dict[str, Optimizer]:
        """Critic and generator play, the encoder learns after them."""
        h = self.hyper
        return {
            "critic": _layers.adam([*self.features.parameters(), *self.critic.parameters()], h.lr, (h.beta1, h.beta2)),
            "generator": _layers.adam(self.generator.parameters(), h.lr, (h.beta1, h.beta2)),
            "encoder": _layers.adam(self.encoder.parameters(), h.encoder_lr),
        }

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """The game: `critic_steps` turns of the critic, one of the generator. After it: one of the encoder."""
        if self.hyper.output == "sigmoid":
            _layers.check_unit(batch.x, progress, "wgan_gp with a sigmoid output", "output='identity'")
        if progress >= self.hyper.game:
            yield "encoder", self.score(batch.x).mean()
            return
        for _ in range(self.hyper.critic_steps):
            with torch.no_grad():
                fake = self.decode(batch.normal(self.hyper.latent)).float()
            distance = self._judge(batch.x).mean() - self._judge(fake).mean()
            yield "critic", self.hyper.penalty * self._penalty(batch, fake) - distance
        yield "generator", -self._judge(self.decode(batch.normal(self.hyper.latent))).mean()

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, Z)."""
        z_BZ: Tensor = self.encoder(x)
        return z_BZ

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, *shape): the generator."""
        return _layers.squash(self.generator(z), self.hyper.output)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, *shape): generated rows of standard normal codes."""
        return self.decode(_layers.prior(self, count, self.hyper.latent, generator))

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, *shape): the generated row nearest to x that the encoder finds."""
        return self.decode(self.encode(x))

    def score(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B,): mean squared error of the row plus kappa times that of the critic's features."""
        rebuilt = self.reconstruct(x)
        error_B = _layers.square_error(x, rebuilt)
        if not self.hyper.kappa:
            return error_B
        return error_B + self.hyper.kappa * _layers.square_error(self.features(x), self.features(rebuilt))

    def _judge(self, x: Tensor) -> Tensor:
        """(B,): the critic's number for each row, float32."""
        score_B1: Tensor = self.critic(self.features(x))
        return score_B1.float().flatten()

    def _penalty(self, batch: Batch, fake: Tensor) -> Tensor:
        """Mean of (|gradient of the critic| - 1)^2 on straight lines between real and generated rows (eq. 3).

        Always float32: under autocast the error of its gradient is ten times as large.
        """
        with torch.autocast(batch.x.device.type, enabled=False):
            share = batch.uniform(*(1,) * (batch.x.dim() - 1))
            between = torch.lerp(batch.x, fake, share).requires_grad_()
            slope: Tensor = torch.autograd.grad(self._judge(between).sum(), between, create_graph=True)[0]
            penalty: Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            return penalty
