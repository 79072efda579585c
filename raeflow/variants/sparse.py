"""Sparse autoencoder: a wide code of which each row may use only a little.

Two penalties on the code, a choice. `l1`: the sum of absolute activations of a row, mean over the rows, as in sparse
coding (Olshausen & Field 1996, Nature 381). `kl`: Ng 2011, "Sparse autoencoder", CS294A lecture notes, after Lee,
Ekanadham & Ng 2008: every unit of the code shall be active a share rho of the time, so the penalty is the sum over the
units of the Kullback-Leibler divergence of a coin of chance rho_hat (the unit's mean activation over the batch) from
one of chance rho. Each row then takes a few units, and each unit its rows; the code may have more values than the row.

Keras divides an activity regulariser by the rows of a batch, which makes a mean over rows of the L1 sum, as here; the
KL of the batch's means is no sum over rows, and is not divided here, as in Ng's notes.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raeflow.errors import RaeflowError
from raeflow.variants import _layers, _rebuild
from raeflow.variants._contract import Batch, Shape

_EDGE = 1e-6  # a mean activation of exactly 0 or 1, as a saturated sigmoid gives it, has no finite divergence


@dataclass(frozen=True, kw_only=True)
class Hyper(_rebuild.Rebuild):
    """Hyperparameters of `sparse`."""

    latent: int = 300
    """Size of the code, from 1; it may exceed the row's. 300 in the source, behind hidden layers of 100."""
    sparsity: str = "kl"
    """kl (mean activation of each code near `activity`; Ng 2011) or l1 (sum of absolute activations)."""
    l1: float = 1e-3
    """Weight of the L1 penalty, 1e-5 to 1e-1; 1e-3 in the source."""
    kl: float = 0.05
    """Weight of the KL penalty, 1e-3 to 3; 0.05 in the source."""
    activity: float = 0.1
    """Rho, the mean activation of each code that kl aims at, above 0 and below 1; 0.1 in the source, 0.05 in Ng's notes."""
    code_activation: bool = True
    """Whether a sigmoid follows the code, as in the sources; False leaves it linear, which l1 allows and kl does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("sparsity", ("kl", "l1"))
        self.at_least(0, "l1", "kl")
        self.above(0, "activity")
        self.below(1, "activity")
        if self.sparsity == "kl" and not self.code_activation:
            raise RaeflowError("code_activation=False: sparsity='kl' compares activations in 0-1, so a sigmoid must follow the code")


def published(shape: Shape) -> Hyper:
    """Dense 100 selu, a code of 300 sigmoid, 100 selu; KL of weight 0.05 to a mean activation of 0.1; Adam(1e-3).
    Images: sigmoid output and cross-entropy. Tables and signals: the same layers, linear output and squared error."""
    loss = "bce" if len(shape) == 3 else "mse"
    return Hyper(backbone="mlp", layers=(100,), latent=300, activation="selu", loss=loss)


def space(trial: Any, shape: Shape) -> Hyper:
    """Code of 32 to 512, network, penalty and its weight, activation and learning rate."""
    network = _rebuild.suggest(trial, shape, (32, 512), overcomplete=True)
    sparsity = trial.suggest_categorical("sparsity", ["kl", "l1"])
    if sparsity == "l1":
        return Hyper(**network, sparsity=sparsity, l1=trial.suggest_float("l1", 1e-5, 1e-1, log=True))
    weight, activity = trial.suggest_float("kl", 1e-3, 1.0, log=True), trial.suggest_float("activity", 0.02, 0.3, log=True)
    return Hyper(**network, sparsity=sparsity, kl=weight, activity=activity)


class Model(_rebuild.Rebuilder[Hyper]):
    """Trained for the reconstruction and for the sparsity of its codes; scored by the reconstruction alone."""

    player = "sparse"
    overcomplete = True

    def activate_code(self) -> nn.Module:
        """A sigmoid, whose values can be read as chances."""
        return nn.Sigmoid() if self.hyper.code_activation else nn.Identity()

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the reconstruction loss, mean over batch and row, plus the penalty on the batch's codes."""
        self.check(batch, progress)
        z_BZ = self.encode(batch.x)
        yield self.player, self.misfit(self.decoder(z_BZ), batch.x) + self.penalty(z_BZ, batch)

    def penalty(self, z_BZ: Tensor, batch: Batch) -> Tensor:
        """Scalar: the weighted penalty on the codes of the whole global batch, float32."""
        if self.hyper.sparsity == "l1":
            return self.hyper.l1 * _layers.row_sum(z_BZ.abs()).mean()
        return self.hyper.kl * divergence(self.hyper.activity, batch.mean(z_BZ.float()))


def divergence(rho: float, mean_Z: Tensor) -> Tensor:
    """Scalar: sum over the units of KL(coin of chance rho || coin of chance mean) (Ng 2011, section 3)."""
    q_Z = mean_Z.clamp(_EDGE, 1 - _EDGE)
    return (rho * (math.log(rho) - q_Z.log()) + (1 - rho) * (math.log1p(-rho) - (-q_Z).log1p())).sum()
