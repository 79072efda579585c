"""Wasserstein GAN with gradient penalty, and after the game an encoder for its frozen generator.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028 (Algorithm 1); the encoder
is izi_f of Schlegl et al. 2019 (see `_adversarial.py`).

The paper draws new real rows for each of the critic's steps; here a call of `turns` brings one batch, so
the critic takes its steps on those real rows with new codes and new points on the lines between real and
generated rows each time, or, with `fresh_rows`, each on a share of its own. The generator then moves once a
batch, which small tables need, and no count has to be carried from batch to batch.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raeflow.variants import _adversarial
from raeflow.variants._contract import Batch, Shape


@dataclass(frozen=True, kw_only=True)
class Hyper(_adversarial.Game):
    """Hyperparameters of `wgan_gp`; critic and encoder share the encoder's layers, the generator mirrors them."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "penalty")


def published(shape: Shape) -> Hyper:
    """Lambda 10, five critic steps and Adam(1e-4, 0, 0.9) of Gulrajani et al. 2017, kappa 1 and the two thirds of
    f-AnoGAN; networks of `_adversarial.published_layers`, the paper's in kind, narrower."""
    return Hyper(**_adversarial.published_layers(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, lambda, kappa and learning rates."""
    return Hyper(**_adversarial.suggest(trial, shape), penalty=trial.suggest_float("penalty", 0.1, 30.0, log=True))


class Model(_adversarial.Wasserstein[Hyper]):
    """The critic's slope is held near one on the lines between real and generated rows."""

    player = "wgan_gp"

    def penalty(self, batch: Batch, fake: Tensor) -> Tensor:
        """Lambda times the mean of (|gradient of the critic| - 1)^2 between real and generated rows (eq. 3)."""
        return self.hyper.penalty * self.steepness(batch, fake)
