"""Contractive autoencoder: a code that moves little when the row does, except along what rows have in common.

Rifai, Vincent, Muller, Glorot & Bengio 2011, "Contractive Auto-Encoders: Explicit Invariance During Feature
Extraction", ICML. The penalty is the squared Frobenius norm of the encoder's Jacobian, sum of (dz_j / dx_i)^2, mean
over the rows. For one layer z = phi(W x + b) it is the paper's closed form, sum_j phi'(a_j)^2 |W_j|^2, for the price
of the layer itself. For any other encoder it is exact by one backward pass for each code, or estimated without bias
by a few: E |v^T J|^2 = |J|^2 for a random v of signs (Hutchinson 1990), differentiated once more for the weights.

The decoder is tied to the encoder, as in the paper: with weights of its own it could make up for an encoder that merely
shrinks its codes, and the penalty would say nothing.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raeflow.backbones import ACTIVATIONS, Backbone, activation
from raeflow.errors import RaeflowError
from raeflow.variants import _rebuild
from raeflow.variants._contract import Batch, Shape
from raeflow.variants._tied import tie

_EXACT_UP_TO = 4  # codes, for which `auto` takes a backward pass each
_ELEMENTWISE: tuple[type[nn.Module], ...] = (nn.Sigmoid, *(type(activation(name)) for name in ACTIVATIONS))


@dataclass(frozen=True, kw_only=True)
class Hyper(_rebuild.Rebuild):
    """Hyperparameters of `contractive`."""

    contraction: float = 0.1
    """Lambda, the weight of the penalty beside a reconstruction error summed over the row, 1e-4 to 10; 0.1 in the authors' code."""
    jacobian: str = "auto"
    """auto (closed form for one layer, exact up to four codes, else the estimate), exact, or estimate."""
    probes: int = 1
    """Random vectors of the estimate for each row, 1 to 8; its variance falls by as many."""
    tied: bool = True
    """Whether the decoder's weights are the encoder's, transposed, as in the paper."""
    code_activation: bool = True
    """Whether a sigmoid follows the code, as in the paper; False leaves it linear."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("jacobian", ("auto", "exact", "estimate"))
        self.at_least(0, "contraction")
        self.at_least(1, "probes")
        if self.tied and (self.backbone == "recurrent" or self.upsampling != "transposed"):
            raise RaeflowError(
                f"tied=True: with backbone={self.backbone!r} and upsampling={self.upsampling!r} the decoder does not mirror the "
                "encoder's layers; choose tied=False"
            )


def published(shape: Shape) -> Hyper:
    """One hidden layer of sigmoids that is the code, tied weights: 1000 of them at 28 x 28, elsewhere as many for each value of the
    row (at most 1000). Images: sigmoid output and cross-entropy; tables and signals: linear output and squared error.
    Lambda 0.1 and Adam(1e-3), where the authors searched lambda and the rate of plain gradient descent."""
    latent = max(1, min(1000, round(math.prod(shape) * 1000 / 784)))
    return Hyper(backbone="mlp", depth=0, latent=latent, loss="bce" if len(shape) == 3 else "mse")


def space(trial: Any, shape: Shape) -> Hyper:
    """Code of 16 to 512, network, lambda, activation and learning rate."""
    network = _rebuild.suggest(trial, shape, (16, 512), overcomplete=True)
    return Hyper(**network, contraction=trial.suggest_float("contraction", 1e-3, 3.0, log=True))


class Model(_rebuild.Rebuilder[Hyper]):
    """Trained for the reconstruction and for a small Jacobian of the encoder; scored by the reconstruction alone."""

    player = "contractive"
    overcomplete = True

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__(shape, hyper)
        self.weight = hyper.contraction / math.prod(shape)  # the paper's objective, divided by the values of a row
        self.exact = hyper.jacobian == "exact" or (hyper.jacobian == "auto" and hyper.latent in range(1, _EXACT_UP_TO + 1))
        self.only = self._only_layer() if hyper.jacobian != "estimate" else None  # in a tuple, where modules are not owned twice

    def halves(self, net: Backbone, latent: int) -> tuple[nn.Module, nn.Module]:
        """The encoder, and a decoder that reads the encoder's weights."""
        encoder, decoder = super().halves(net, latent)
        if self.hyper.tied:
            tie(encoder, decoder)
        return encoder, decoder

    def activate_code(self) -> nn.Module:
        """A sigmoid, as in the paper."""
        return nn.Sigmoid() if self.hyper.code_activation else nn.Identity()

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the reconstruction loss, mean over batch and row, plus lambda / row size times the penalty."""
        self.check(batch, progress)
        if not self.hyper.contraction:
            yield self.player, self.misfit(self.decoder(self.encode(batch.x)), batch.x)
            return
        z_BZ, squares_B = self.contracted(batch)
        yield self.player, self.misfit(self.decoder(z_BZ), batch.x) + self.weight * squares_B.mean()

    def contracted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Codes (B, Z) and |J|^2 (B,), or its estimate, both with gradients for the weights.

        Always float32: a second derivative under autocast loses what it is to measure.
        """
        with torch.autocast(batch.x.device.type, enabled=False):
            if self.only is not None:
                return self._closed_form(*self.only, batch.x)
            x = batch.x.detach().requires_grad_()
            z_BZ = self.encode(x)
            directions = list(self._directions(z_BZ, batch))
            squares_B = torch.stack([_pulled_back(z_BZ, x, v_BZ) for v_BZ in directions]).sum(0)
            return z_BZ, squares_B if self.exact else squares_B / len(directions)

    def _directions(self, z_BZ: Tensor, batch: Batch) -> Iterator[Tensor]:
        """(B, Z) each: the axes of the code, or random signs."""
        if self.exact:
            for axis_Z in torch.eye(z_BZ.shape[1], device=z_BZ.device):
                yield axis_Z.expand_as(z_BZ)
            return
        for half_BZ in batch.uniform(self.hyper.probes, z_BZ.shape[1]).unbind(1):
            yield torch.where(half_BZ < 0.5, -1.0, 1.0)

    def _only_layer(self) -> tuple[nn.Linear, nn.Sequential] | None:
        """The encoder's linear map and the elementwise functions that follow it, where it is no more than that."""
        parts = [part for part in _chain(self.encoder, self.code_activation) if not isinstance(part, (nn.Flatten, nn.Identity))]
        if parts and isinstance(parts[0], nn.Linear) and all(isinstance(part, _ELEMENTWISE) for part in parts[1:]):
            return parts[0], nn.Sequential(*parts[1:])
        return None

    @staticmethod
    def _closed_form(linear: nn.Linear, follows: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
        """|J|^2 = sum_j phi'(a_j)^2 |W_j|^2 (Rifai et al. 2011, section 3)."""
        a_BZ: Tensor = linear(x.flatten(1))
        norms_Z = linear.weight.square().sum(1)
        if [type(part) for part in follows] == [nn.Sigmoid]:  # phi' = phi (1 - phi), without a pass through the graph
            z_BZ: Tensor = follows(a_BZ)
            return z_BZ, (z_BZ * (1 - z_BZ)).square() @ norms_Z
        z_BZ = follows(a_BZ.clone())  # some functions work in place
        (slope_BZ,) = torch.autograd.grad(z_BZ.sum(), a_BZ, create_graph=True)
        return z_BZ, slope_BZ.square() @ norms_Z


def _pulled_back(z_BZ: Tensor, x: Tensor, v_BZ: Tensor) -> Tensor:
    """(B,): |v^T J|^2 of each row."""
    (row,) = torch.autograd.grad(z_BZ, x, v_BZ, create_graph=True)
    return row.square().flatten(1).sum(1)


def _chain(*modules: nn.Module) -> Iterator[nn.Module]:
    """Modules in the order in which they are applied, sequences unfolded."""
    for module in modules:
        if isinstance(module, nn.Sequential):
            yield from _chain(*module)
        else:
            yield module
