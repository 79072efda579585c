"""Variational autoencoder: the code of a row is a distribution, kept near the standard normal one.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114; the weight of the KL term is
beta of Higgins et al. 2017 (beta-VAE), its warm-up Sonderby et al. 2016 (Ladder VAE). With the Gaussian
likelihood of unit variance, beta is also the noise variance that rows are assumed to have. The score `elbo` is a lower
bound of the log-likelihood at beta of 1 or more; below, under that likelihood, beta times the bound under noise of variance
beta, but for constants.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from raeflow.backbones import Layers, backbone
from raeflow.variants import _layers
from raeflow.variants._contract import Batch, Shape, Variant
from raeflow.variants._maps import EncoderMaps

_LOG_VARIANCE = (-30.0, 20.0)  # exp stays finite in float32
_SEED = 0  # of the draws that the lower bound is averaged over, the same for every model


@dataclass(frozen=True, kw_only=True)
class Hyper(Layers):
    """Hyperparameters of `vae`."""

    beta: float = 1.0
    """Weight of the KL term, 1e-3 to 10; 1 is the evidence lower bound of Kingma & Welling, 0 leaves the code free."""
    warm_up: float = 0.0
    """Share of training, 0 to 1, over which the weight of the KL term rises from 0 to beta."""
    likelihood: str = "gaussian"
    """gaussian (unit variance) or bernoulli, for rows scaled to 0-1; bernoulli has a sigmoid output."""
    output: str = "identity"
    """Last non-linearity of the decoder under the gaussian likelihood: identity or sigmoid (rows scaled to 0-1)."""
    anomaly_score: str = "reconstruction"
    """reconstruction (mean squared error at the mean code) or elbo (negative lower bound, a mean over `samples` codes)."""
    samples: int = 16
    """Codes of a row over which the score `elbo` is averaged, 1 to 256: always the same draws; its error falls as 1 / sqrt(samples)."""
    lr: float = 1e-3
    """Adam's learning rate, 1e-4 to 1e-2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "latent", "samples")
        self.whole("samples")
        self.one_of("likelihood", ("gaussian", "bernoulli"))
        self.one_of("output", ("identity", "sigmoid"))
        self.one_of("anomaly_score", ("reconstruction", "elbo"))
        self.at_least(0, "beta", "warm_up")
        self.above(0, "lr")


def published(shape: Shape) -> Hyper:
    """Kingma & Welling 2014: one hidden layer of 500 tanh units, a code of 20, Bernoulli images and Gaussian
    rows elsewhere; Adam in place of Adagrad. Tables: a code of 1 + sqrt(F) (Cao, Nicolau & McDermott 2019)."""
    latent = _layers.table_latent(shape[0]) if len(shape) == 1 else _layers.below_size(20, shape)
    likelihood = "bernoulli" if len(shape) == 3 else "gaussian"
    return Hyper(backbone="mlp", layers=(500,), latent=latent, activation="tanh", likelihood=likelihood)


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, KL weight, activation and learning rate."""
    return Hyper(
        **_layers.suggest_layers(trial, shape),
        activation=trial.suggest_categorical("activation", ["relu", "elu", "tanh", "gelu"]),
        beta=trial.suggest_float("beta", 1e-3, 2.0, log=True),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        output="sigmoid" if len(shape) == 3 else "identity",
    )


class Model(EncoderMaps, Variant):
    """Encoder to mean and log-variance (B, 2 Z), decoder from a drawn code; rows are rebuilt from the mean code."""

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__()
        self.hyper = hyper
        net = backbone(shape, hyper)
        self.encoder = _layers.encoder(net, 2 * hyper.latent)
        self.decoder = _layers.decoder(net, hyper.latent)
        self.output = "sigmoid" if hyper.likelihood == "bernoulli" else hyper.output
        # While the KL weight rises, rows are rebuilt better than the whole weight will allow.
        self.settled_from = min(hyper.warm_up, 1.0)
        if hyper.anomaly_score == "elbo":
            # Not of the state: what is loaded anywhere has the same draws.
            self.register_buffer("draws", draws(hyper.samples, hyper.latent), persistent=False)

    def optimizers(self) -> dict[str, Optimizer]:
        """One player, Adam."""
        return {"vae": _layers.adam(self.parameters(), self.hyper.lr)}

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the negative evidence lower bound with one drawn code a row, mean over the batch."""
        if self.output == "sigmoid":
            _layers.check_unit(batch, progress, "vae with a sigmoid output", "likelihood='gaussian' and output='identity'")
        mean_BZ, log_variance_BZ = self._posterior(batch.x)
        z_BZ = mean_BZ + torch.exp(0.5 * log_variance_BZ) * batch.normal(self.hyper.latent)
        beta = self.hyper.beta * (min(1.0, progress / self.hyper.warm_up) if self.hyper.warm_up else 1.0)
        yield "vae", (self._misfit(self.decoder(z_BZ), batch.x) + beta * divergence(mean_BZ, log_variance_BZ)).mean()

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, Z): the mean code."""
        return self._posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, *shape): the expected row."""
        return _layers.squash(self.decoder(z), self.output)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, *shape): the expected rows of codes drawn from the standard normal prior."""
        return self.decode(_layers.prior(self, count, self.hyper.latent, generator))

    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, *shape), from the mean code."""
        return self.decode(self.encode(x))

    def score(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B,): mean squared error at the mean code, or the negative lower bound, without the Gaussian's constant.

        The bound is the expectation of the misfit over a row's codes. The misfit at the mean code is no bound: it leaves out
        what the spread of the codes costs, and may lie below the negative log-likelihood.
        """
        if self.hyper.anomaly_score == "reconstruction":
            return _layers.square_error(x, self.reconstruct(x))
        mean_BZ, log_variance_BZ = self._posterior(x)
        deviation_BZ, draws_SZ = torch.exp(0.5 * log_variance_BZ), self.get_buffer("draws")
        misfit_B = sum(self._misfit(self.decoder(mean_BZ + deviation_BZ * draw_Z), x) for draw_Z in draws_SZ) / len(draws_SZ)
        return misfit_B + self.hyper.beta * divergence(mean_BZ, log_variance_BZ)

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of each row's code, each (B, Z) float32."""
        mean_BZ, log_variance_BZ = self.encoder(x).float().chunk(2, dim=1)
        return mean_BZ, log_variance_BZ.clamp(*_LOG_VARIANCE)

    def _misfit(self, logits: Tensor, x: Tensor) -> Tensor:
        """(B,): negative log-likelihood of each row, without the Gaussian's constant."""
        if self.hyper.likelihood == "bernoulli":
            return _layers.row_sum(functional.binary_cross_entropy_with_logits(logits.float(), x, reduction="none"))
        return 0.5 * _layers.row_sum((_layers.squash(logits, self.output).float() - x).square())


def draws(samples: int, latent: int) -> Tensor:
    """(samples, latent) standard normal values, the same on every machine; the second half is the first with its signs turned,
    so that what is odd in a draw cancels."""
    half = torch.randn(-(-samples // 2), latent, generator=torch.Generator().manual_seed(_SEED), device="cpu")
    return torch.cat([half, -half])[:samples]


def divergence(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """(B,): KL divergence of each row's code from the standard normal (Kingma & Welling 2014, appendix B)."""
    return -0.5 * (1 + log_variance_BZ - mean_BZ.square() - log_variance_BZ.exp()).sum(1)
