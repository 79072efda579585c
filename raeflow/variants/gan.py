"""Generative adversarial network: a generator learns to draw rows that a discriminator takes for real ones.

Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661, with the non-saturating loss of its section 3:
the generator maximises log D(G(z)). Two remedies against collapse to a few rows are fields: experience replay, which
shows the discriminator earlier generated rows too (Pfau & Vinyals 2016, arXiv:1610.01945; Shrivastava et al. 2017,
arXiv:1612.07828), and mini-batch discrimination, which shows it how close the rows of a batch lie to one another
(Salimans et al. 2016, arXiv:1606.03498, section 3.2). The encoder is izi_f of Schlegl et al. 2019 (`_adversarial.py`).

On several workers replay and mini-batch discrimination take each worker's own share of the batch.

Shapes: B rows of a batch, Z codes, R rows of the replay buffer, K kernels of D values; x_B* is (B, F), (B, C, L) or
(B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow.backbones import Backbone
from raeflow.variants import _adversarial
from raeflow.variants._contract import Batch, Shape

_KERNEL_VALUES = 3  # of each kernel of mini-batch discrimination; 50 kernels of 5 at 32 x 32 x 3 in Salimans et al.


@dataclass(frozen=True, kw_only=True)
class Hyper(_adversarial.Game):
    """Hyperparameters of `gan`; discriminator and encoder share the encoder's layers, the generator mirrors them."""

    replay: int = 0
    """Earlier generated rows that are kept for the discriminator, 0 to 4096; 0 is the plain game."""
    batch_kernels: int = 0
    """Kernels of mini-batch discrimination, 0 to 64; 0 is the plain game."""
    smooth: float = 0.0
    """One-sided label smoothing: real rows aim at 1 - smooth, 0 to 0.3; 0.1 in Salimans et al. 2016."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "replay", "batch_kernels", "smooth")
        self.whole("replay", "batch_kernels")
        self.below(1, "smooth")


def published(shape: Shape) -> Hyper:
    """The plain game with one step of the discriminator for each of the generator, as in Goodfellow et al. 2014; Adam of
    Radford et al. 2016 in place of momentum; networks of `_adversarial.published_layers`."""
    return Hyper(**_adversarial.published_layers(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, the two remedies, kappa and learning rates."""
    return Hyper(
        **_adversarial.suggest(trial, shape),
        replay=trial.suggest_categorical("replay", [0, 512]),
        batch_kernels=trial.suggest_categorical("batch_kernels", [0, 16]),
    )


class Model(_adversarial.Adversarial[Hyper]):
    """Discriminator and generator in turn, both by binary cross-entropy."""

    player = "gan"
    critic_name = "discriminator"

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__(shape, hyper)
        if hyper.replay:
            self.register_buffer("replay", torch.zeros(hyper.replay, *shape))
            self.register_buffer("kept", torch.zeros((), dtype=torch.int64))  # rows ever written

    def build(self, net: Backbone) -> None:
        """The networks; the discriminator's last layer also sees the closeness of a batch's rows where asked."""
        super().build(net)
        if self.hyper.batch_kernels:
            self.critic = Closeness(net.features, self.hyper.batch_kernels, _KERNEL_VALUES)

    def play(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 - only growing games ask
        """`critic_steps` turns of the discriminator, one of the generator."""
        for part in self.rounds(batch):
            with torch.no_grad():
                fake = self.mixed(part, self.drawn(part)) if self.hyper.replay else self.drawn(part)
            yield self.critic_name, self.told_apart(part.x, 1 - self.hyper.smooth) + self.told_apart(fake, 0.0)
        yield "generator", self.told_apart(self.drawn(part), 1.0)

    def told_apart(self, x: Tensor, truth: float) -> Tensor:
        """Scalar: cross-entropy between the discriminator's chance that rows are real and `truth`."""
        logits_B = self.judge(x)
        return functional.binary_cross_entropy_with_logits(logits_B, torch.full_like(logits_B, truth))

    def number_alone(self, features: Tensor) -> Tensor:
        """(B, A) -> (B, 1): the logit of each row by itself, with no other row close to it."""
        if not isinstance(self.critic, Closeness):
            return super().number_alone(features)
        return self.critic.alone(features)

    def mixed(self, batch: Batch, fake: Tensor) -> Tensor:
        """(B, *shape): new generated rows, each with an even chance replaced by an earlier one; new rows enter the buffer.

        Rows leave the buffer in the order in which they came.
        """
        replay, kept = self.get_buffer("replay"), self.get_buffer("kept")
        size = len(replay)
        place_B = (kept + torch.arange(len(fake), device=fake.device)) % size
        draws = batch.uniform(2)
        filled = kept.clamp(max=size)
        index_B = (draws[:, 0] * filled).long().clamp(max=size - 1)
        earlier = (draws[:, 1] < 0.5) & (filled > 0)
        chosen = torch.where(earlier.view(-1, *(1,) * (fake.dim() - 1)), replay[index_B], fake)
        replay[place_B[-size:]] = fake[-size:]
        kept += len(fake)
        return chosen


class Closeness(nn.Module):
    """Mini-batch discrimination and a last linear layer: features (B, A) to logits (B, 1).

    Each row's features give K kernels of D values; to every kernel belongs the sum over the other rows of
    exp(-L1 distance), which is large where the rows of a batch resemble one another.
    """

    def __init__(self, features: int, kernels: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.project = nn.Linear(features, kernels * values, bias=False)
        self.last = nn.Linear(features + kernels, 1)

    def forward(self, features_BA: Tensor) -> Tensor:
        """(B, A) -> (B, 1)."""
        # Value by value: one tensor of all differences would be far slower on a CPU.
        m_DKB = self.project(features_BA).unflatten(1, (-1, self.values)).permute(2, 1, 0).contiguous()
        distance_KBB = sum((m_KB[:, :, None] - m_KB[:, None]).abs() for m_KB in m_DKB)
        close_BK = torch.exp(-distance_KBB).sum(2).T - 1  # a row's closeness to itself is 1
        logits_B1: Tensor = self.last(torch.cat([features_BA, close_BK], 1))
        return logits_B1

    def alone(self, features_BA: Tensor) -> Tensor:
        """(B, A) -> (B, 1): of each row as a batch of its own."""
        none_BK = features_BA.new_zeros(len(features_BA), self.last.in_features - features_BA.shape[1])
        logits_B1: Tensor = self.last(torch.cat([features_BA, none_BK], 1))
        return logits_B1
