"""Greedy layer-wise training: one layer at a time, each on the codes of the one below, then the whole stack.

Bengio et al. 2007, "Greedy Layer-Wise Training of Deep Networks", NIPS 19; Hinton & Salakhutdinov 2006, "Reducing the
Dimensionality of Data with Neural Networks", Science 313 (there with restricted Boltzmann machines in place of shallow
autoencoders).

A layer is one linear map or convolution of the encoder with what follows it (activation, pooling); it makes a shallow
autoencoder with its mirror in the decoder. Phase i trains that pair to rebuild the codes that layers 1 to i - 1, now
frozen, give for the batch: by the reconstruction loss for the first, mean squared error for the others. Then all pairs
are fine-tuned as the deep autoencoder that they stack up to. One player owns all layers: a loss that does not reach a
layer leaves it without a gradient, and its weights, its weight decay and the optimiser's moments stay as they are.

Shapes: B rows of a batch, Z codes, H values of a hidden layer; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow.errors import RaeflowError
from raeflow.variants import _rebuild
from raeflow.variants._contract import Batch, Shape


@dataclass(frozen=True, kw_only=True)
class Hyper(_rebuild.Rebuild):
    """Hyperparameters of `greedy`."""

    fine_tuning: float = 0.5
    """Share of training for the whole stack at the end, from 0 to below 1; the layers share the rest equally."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "fine_tuning")
        self.below(1, "fine_tuning")
        if self.backbone == "recurrent":
            raise RaeflowError(
                "backbone='recurrent': greedy trains dense layers and convolutions one by one, not LSTMs; choose mlp or conv"
            )


def published(shape: Shape) -> Hyper:
    """The sources' dense stack (see `_rebuild.published_stack`), Adam(1e-3)."""
    return Hyper(**_rebuild.published_stack(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, activation, learning rate and the share of fine-tuning."""
    return Hyper(**_rebuild.suggest(trial, shape), fine_tuning=trial.suggest_float("fine_tuning", 0.2, 0.8))


class Model(_rebuild.Rebuilder[Hyper]):
    """A deep autoencoder, trained pair by pair and then as a whole."""

    player = "greedy"

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__(shape, hyper)
        # Before the stack is complete its reconstruction says nothing.
        self.settled_from = 1 - hyper.fine_tuning
        up, down = layers(self.encoder.children()), layers(self.decoder.children())
        up[-1].append(self.code_activation)
        # In tuples torch does not see them a second time: encoder and decoder own the layers.
        self.pairs = tuple(zip(map(tuple, up), map(tuple, reversed(down)), strict=True))

    def phase(self, progress: float) -> int | None:
        """The pair in training, from 0, or None while the whole stack is."""
        if progress >= self.settled_from:
            return None
        return min(int(progress / self.settled_from * len(self.pairs)), len(self.pairs) - 1)

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the loss of the pair in training, or of the whole stack, mean over batch and values."""
        self.check(batch, progress)
        phase = self.phase(progress)
        if phase is None:
            yield self.player, self.misfit(self.decoder(self.encode(batch.x)), batch.x)
            return
        h_BH = batch.x
        with torch.no_grad():
            for encoder, _ in self.pairs[:phase]:
                h_BH = through(encoder, h_BH)
        encoder, decoder = self.pairs[phase]
        rebuilt_BH = through(decoder, through(encoder, h_BH))
        if phase == 0:
            yield self.player, self.misfit(rebuilt_BH, batch.x)
        else:
            yield self.player, functional.mse_loss(rebuilt_BH.float().flatten(1), h_BH.float().flatten(1))


def layers(parts: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """The parts of one half of a network, in as many groups as there are modules with weights.

    What has no weights goes with the layer before it, but what flattens a map with the one after it, so that both halves
    are cut where the same values pass.
    """
    groups: list[list[nn.Module]] = [[]]
    for part in parts:
        begins = weighty(part) or isinstance(part, nn.Flatten)
        if begins and any(map(weighty, groups[-1])):
            groups.append([])
        groups[-1].append(part)
    if len(groups) > 1 and not any(map(weighty, groups[-1])):
        groups[-2:] = [groups[-2] + groups[-1]]
    return groups


def weighty(part: nn.Module) -> bool:
    """Whether a module has weights."""
    return next(part.parameters(), None) is not None


def through(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """One module after the other."""
    for part in parts:
        x = part(x)
    return x
