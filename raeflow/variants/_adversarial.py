"""What all games of a generator and a critic share: networks, the encoder that learns after the game, and the score.

Not a variant: a subclass says in `play` what the game is. After the first `game` share of training, generator and critic
are frozen and an encoder learns to map a row to the code whose generated row resembles it, to the eye and to the critic:
izi_f of Schlegl et al. 2019, "f-AnoGAN", Medical Image Analysis 54. The same two errors score the row.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raeflow.backbones import Backbone, Layers, backbone
from raeflow.errors import RaeflowError
from raeflow.variants import _layers
from raeflow.variants._contract import Batch, Shape, Variant
from raeflow.variants._maps import EncoderMaps


@dataclass(frozen=True, kw_only=True)
class Game(Layers):
    """Hyperparameters of every game; critic and encoder share the encoder's layers, the generator mirrors them."""

    outputs: ClassVar[tuple[str, ...]] = ("identity", "sigmoid")
    """What `output` may be."""
    activation: str = "leaky_relu"
    """relu, leaky_relu (0.2), elu, selu, gelu, silu, tanh; of all three networks."""
    output: str = "identity"
    """Last non-linearity of the generator: identity (any scaling) or sigmoid (rows scaled to 0-1)."""
    critic_steps: int = 1
    """Steps of the critic for each step of the generator, 1 to 10."""
    fresh_rows: bool = False
    """Whether each step of the critic looks at rows of its own, a share of the batch, as in the papers; else each looks at
    the whole batch. For the papers' rows a step the batch is `critic_steps` times theirs."""
    lr: float = 2e-4
    """Adam's learning rate of critic and generator, 1e-5 to 2e-3."""
    beta1: float = 0.5
    """Adam's decay of the mean gradient of critic and generator, 0 to 0.9."""
    beta2: float = 0.999
    """Adam's decay of the squared gradient of critic and generator, 0.9 to 0.999."""
    game: float = 2 / 3
    """Share of training for the game, above 0, at most 1; the encoder has the rest (100 k and 50 k steps in f-AnoGAN), and
    with 1 it never learns: for drawing rows alone."""
    decay: float = 0.0
    """Share of the game, at its end, over which both players' learning rates fall to 0 along a straight line, 0 to 1; 0 is
    none, 1 in Gulrajani et al. 2017 for larger networks."""
    encoder_lr: float = 1e-3
    """Adam's learning rate of the encoder, 1e-5 to 1e-2."""
    kappa: float = 1.0
    """Weight of the error between the critic's features, 0 to 10; 1 in f-AnoGAN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "latent", "critic_steps")
        self.whole("latent", "critic_steps")
        if not isinstance(self.fresh_rows, bool):
            raise RaeflowError(f"fresh_rows={self.fresh_rows!r}: fresh_rows is True or False")
        self.one_of("output", self.outputs)
        self.at_least(0, "beta1", "beta2", "kappa", "decay")
        self.above(0, "lr", "encoder_lr", "game")
        self.below(1, "beta1", "beta2")
        if self.game > 1:
            raise RaeflowError(f"game={self.game!r}: game is a share of training, at most 1")
        if self.decay > 1:
            raise RaeflowError(f"decay={self.decay!r}: decay is a share of the game, at most 1")


H = TypeVar("H", bound=Game)


class Adversarial(EncoderMaps, Variant, Generic[H]):
    """Critic (features, then a number), generator and encoder; rows stand alone as soon as the game is over."""

    player: ClassVar[str]
    """The variant's name."""
    critic_name: ClassVar[str] = "critic"
    """What the source calls the generator's opponent."""
    whole: bool = True
    """Whether what is drawn has all its detail; a game that grows draws coarse rows at first, which resemble one another."""
    _players: Sequence[Optimizer] = ()

    def __init__(self, shape: Shape, hyper: H) -> None:
        super().__init__()
        self.hyper, self.shape = hyper, shape
        self.build(backbone(shape, hyper))
        # An encoder that has only just started says nothing yet: wait for a quarter of its time.
        self.settled_from = hyper.game + (1 - hyper.game) / 4
        self.game_share = hyper.game

    def build(self, net: Backbone) -> None:
        """The networks of critic (`features`, `critic`), generator and encoder."""
        self.features: nn.Module = net.encoder()
        self.critic: nn.Module = nn.Linear(net.features, 1)
        self.generator: nn.Module = _layers.decoder(net, self.hyper.latent)
        self.encoder: nn.Module = _layers.encoder(net, self.hyper.latent)

    def optimizers(self) -> dict[str, Optimizer]:
        """Critic and generator play, the encoder learns after them."""
        h = self.hyper
        found: dict[str, Optimizer] = {
            self.critic_name: _layers.adam([*self.features.parameters(), *self.critic.parameters()], h.lr, (h.beta1, h.beta2)),
            "generator": _layers.adam(self.generator.parameters(), h.lr, (h.beta1, h.beta2)),
            "encoder": _layers.adam(self.encoder.parameters(), h.encoder_lr),
        }
        self._players = [found[self.critic_name], found["generator"]]
        return found

    def rate(self, progress: float) -> float:
        """Learning rate of both players in the game."""
        left = 1 - progress / self.hyper.game
        return self.hyper.lr * min(1.0, left / self.hyper.decay) if self.hyper.decay else self.hyper.lr

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """The game's turns; after it, one of the encoder."""
        if self.hyper.output != "identity":
            _layers.check_unit(batch, progress, f"{self.player} with a {self.hyper.output} output", "output='identity'")
        if progress >= self.hyper.game:
            for part in (self.features, self.critic, self.generator):
                _layers.frozen(part)  # what they know of a batch's statistics stays as the game left it
            yield "encoder", self.score(batch.x).mean()
        else:
            if self.hyper.decay:
                for group in [group for player in self._players for group in player.param_groups]:
                    group["lr"] = self.rate(progress)
            yield from self.play(batch, progress)

    @abstractmethod
    def play(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """Turns of critic and generator on one batch."""

    def rounds(self, batch: Batch) -> list[Batch]:
        """What each step of the critic looks at; the generator's step draws as many rows as the last.

        One process shows a batch of fewer rows than steps whole. Several workers must be able to share theirs evenly.
        """
        steps, rows = self.hyper.critic_steps, len(batch.x)
        if self.hyper.fresh_rows and batch.world > 1 and rows % steps:
            raise RaeflowError(
                f"critic_steps={steps} with fresh_rows: a batch brings {rows} rows to each of {batch.world} workers, which these "
                f"steps cannot share evenly; choose a multiple of {steps * batch.world} as Training(batch_size=...)"
            )
        if not self.hyper.fresh_rows or rows < steps:
            return [batch] * steps
        # Every steps-th row of an even number: the same share whether one worker or several hold the batch.
        return [batch.part(slice(first, None, steps)) for first in range(steps)]

    def drawn(self, batch: Batch) -> Tensor:
        """(B, *shape): generated rows of new codes, float32."""
        return self.decode(batch.normal(self.hyper.latent)).float()

    def judge(self, x: Tensor) -> Tensor:
        """(B,): the critic's number for each row, float32."""
        number_B1: Tensor = self.critic(self.features(x))
        return number_B1.float().flatten()

    def numbers_and_slopes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B,), (B, D): the critic's numbers for rows (B, *shape) and its gradient there, with a gradient for its weights.

        Always float32: under autocast the error of its gradient is ten times as large.
        """
        with torch.autocast(rows.device.type, enabled=False):
            at = rows.detach().requires_grad_()
            number_B = self.judge(at)
            slope: Tensor = torch.autograd.grad(number_B.sum(), at, create_graph=True)[0]
            return number_B, slope.flatten(1)

    def slopes(self, rows: Tensor) -> Tensor:
        """(B,): norm of the critic's gradient at rows."""
        norm_B: Tensor = self.numbers_and_slopes(rows)[1].norm(dim=1)
        return norm_B

    @staticmethod
    def between(batch: Batch, fake: Tensor) -> Tensor:
        """(B, *shape): points on straight lines between real and generated rows, one uniformly drawn for each pair."""
        share = batch.uniform(*(1,) * (batch.x.dim() - 1))
        return torch.lerp(batch.x, fake, share)

    def steepness(self, batch: Batch, fake: Tensor) -> Tensor:
        """Scalar: mean of (|gradient of the critic| - 1)^2 between real and generated rows (Gulrajani et al. 2017, eq. 3)."""
        return (self.slopes(self.between(batch, fake)) - 1).square().mean()

    def criticise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> (B, D), (B,): the critic's features, and minus its number, which is high for rows that look real."""
        features = self.features(x)
        return features.flatten(1), -self.number_alone(features).flatten()

    def number_alone(self, features: Tensor) -> Tensor:
        """(B, ...) -> (B, 1): the critic's number of each row by itself, from its features; a critic that compares rows sees one."""
        number_B1: Tensor = self.critic(features)
        return number_B1

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


class Wasserstein(Adversarial[H]):
    """Critic steps that maximise a distance less a penalty on the critic's slope, then one step of the generator."""

    def play(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 - only growing games ask
        """`critic_steps` turns of the critic with new codes and points each, one of the generator."""
        for part in self.rounds(batch):
            with torch.no_grad():
                fake = self.drawn(part)
            distance = self.judge(part.x).mean() - self.judge(fake).mean()
            yield self.critic_name, self.penalty(part, fake) - distance
        yield "generator", -self.judge(self.drawn(part)).mean()

    @abstractmethod
    def penalty(self, batch: Batch, fake: Tensor) -> Tensor:
        """Scalar: what the critic's slope costs, generated rows (B, *shape) given."""


def published_layers(shape: Shape) -> dict[str, Any]:
    """Networks of the Wasserstein GANs' papers in kind, narrower: images and signals are halved down to maps of about
    4 x 4 (at most three times, 64 channels there) with a code of 128, or an eighth of a small row; tables get three
    dense layers (of 128 rather than 512) with a code of 1 + sqrt(F)."""
    if len(shape) == 1:
        return {"latent": _layers.table_latent(shape[0]), "layers": (128, 128, 128)}
    depth = min(3, max(1, math.ceil(math.log2(max(shape[1:]) / 4))))
    return {
        "latent": max(1, min(128, math.prod(shape) // 8)),
        "layers": tuple(64 >> (depth - 1 - i) for i in range(depth)),
        "kernels": (5 if len(shape) == 3 else 7,) * depth,
        "output": "sigmoid" if len(shape) == 3 else "identity",
    }


def suggest(trial: Any, shape: Shape, dense: bool = True) -> dict[str, Any]:
    """The part of a search space that all games share: latent size, network (a dense one too, unless not `dense`), kappa and
    learning rates."""
    return {
        **_layers.suggest_layers(trial, shape, dense=dense),
        "activation": trial.suggest_categorical("activation", ["leaky_relu", "elu", "tanh"]),
        "kappa": trial.suggest_float("kappa", 0.0, 2.0),
        "lr": trial.suggest_float("lr", 1e-4, 2e-3, log=True),
        "encoder_lr": trial.suggest_float("encoder_lr", 3e-4, 1e-2, log=True),
        "output": "sigmoid" if len(shape) == 3 else "identity",
    }
