"""Wasserstein divergence GAN: no Lipschitz bound on the critic, a power of its slope is part of the divergence itself.

Wu, Huang, Thoma, Acharya & Van Gool 2018, "Wasserstein Divergence for GANs", ECCV, arXiv:1712.01026: the critic
maximises E f(x) - E f(G(z)) - k E |gradient of f|^p over points between real and generated rows (in the paper with the
sign of f turned round), with k = 2, p = 6. The encoder is izi_f of Schlegl et al. 2019 (see `_adversarial.py`).

For a given direction of f the best size has a closed form: with d = E f(x) - E f(G(z)) and s = E |gradient f|^p of a
critic, the multiple c of it that maximises c d - k c^p s is c = (d / (k p s))^(1 / (p - 1)).

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
    """Hyperparameters of `wgan_div`; critic and encoder share the encoder's layers, the generator mirrors them."""

    k: float = 2.0
    """Weight of the slope's power, 0.1 to 10; 2 in the paper."""
    p: float = 6.0
    """Power of the slope, above 1, 2 to 8; 6 in the paper."""
    critic_steps: int = 5
    """Steps of the critic for each step of the generator, 1 to 10; 5 in Wasserstein GANs."""
    beta1: float = 0.0
    """Adam's decay of the mean gradient of critic and generator, 0 to 0.9; 0 in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.above(0, "k")
        self.above(1, "p")


def published(shape: Shape) -> Hyper:
    """k = 2, p = 6 and Adam(2e-4, 0, 0.999) of Wu et al. 2018; networks of `_adversarial.published_layers`."""
    return Hyper(**_adversarial.published_layers(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, k, p, kappa and learning rates."""
    return Hyper(
        **_adversarial.suggest(trial, shape),
        k=trial.suggest_float("k", 0.1, 10.0, log=True),
        p=trial.suggest_float("p", 2.0, 8.0),
    )


class Model(_adversarial.Wasserstein[Hyper]):
    """The critic's slope costs k times its p-th power."""

    player = "wgan_div"

    def penalty(self, batch: Batch, fake: Tensor) -> Tensor:
        """k times the mean of |gradient of the critic|^p between real and generated rows (Algorithm 1)."""
        return self.hyper.k * self.slopes(self.between(batch, fake)).pow(self.hyper.p).mean()
