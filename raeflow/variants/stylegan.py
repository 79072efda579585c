"""StyleGAN: a mapping network turns codes into styles, which set the statistics of every layer of a growing generator.

Karras, Laine & Aila 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks", arXiv:1812.04948:
mapping network, learned constant, noise at every layer and adaptive instance normalisation (section 2), style mixing
(3.1), truncation (appendix B), on the growth and the critic of Karras et al. 2018 (`_growing.py`), resampled smoothly as
in their table 1 B. The loss is the non-saturating logistic one of Goodfellow et al. 2014 with R1, the cost of the
critic's slope at real rows: Mescheder, Geiger & Nowozin 2018, arXiv:1801.04406.

The code of a row is its style: `encode` gives the style, as inversions of StyleGAN do, `decode` draws with noise that was
cast once, so that the same code is always the same row, and `sample` draws codes and noise anew.

Shapes: B rows of a batch, Z values of a code and of its style, C channels, A layers that take a style at the stage, N
values of noise in all; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from raeflow.errors import RaeflowError
from raeflow.variants import _growing, _layers
from raeflow.variants._contract import Batch, Shape
from raeflow.variants._equalised import Equalised, PixelNorm, Sizes, channels_last, smooth_enlarge

RATE = 0.01
"""Multiplier of the mapping network's learning rate."""
DECAY = 0.995
"""Of the running mean of styles, for each time that rows are drawn in the game; as in the authors' code."""
_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class Hyper(_growing.Growing):
    """Hyperparameters of `stylegan`; see `_growing.Growing` for what the fields of the layers say."""

    mapping: int = 8
    """Layers of the mapping network, 1 to 8; 8 in the paper."""
    mixing: float = 0.9
    """Share of the rows that are drawn in the game from two styles, 0 to 1; 0.9 in the paper."""
    truncation: float = 1.0
    """Psi, by which styles are drawn towards their mean when rows are sampled, 0 (the mean alone) to 1 (off, as where the paper
    measures distances between distributions); 0.7 in its figures."""
    r1: float = 10.0
    """Gamma: the critic pays gamma / 2 times the mean square of its slope at real rows, 0 to 100; 10 in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "mapping")
        self.whole("mapping")
        self.at_least(0, "mixing", "truncation", "r1")
        for name in ("mixing", "truncation"):
            if getattr(self, name) > 1:
                raise RaeflowError(f"{name}={getattr(self, name)!r}: {name} is at most 1")


def published(shape: Shape) -> Hyper:
    """Eight mapping layers, 90 % mixing, gamma 10, Adam(1e-3, 0, 0.99) and the average of 0.999 of Karras et al. 2019; networks
    of `_growing.published_layers`, the paper's in kind, narrower."""
    return Hyper(**_growing.published_layers(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, gamma, mixing, kappa and learning rates."""
    return Hyper(
        **_growing.suggest(trial, shape),
        r1=trial.suggest_float("r1", 0.1, 30.0, log=True),
        mixing=trial.suggest_categorical("mixing", [0.0, 0.9]),
    )


class Styled(nn.Module):
    """A layer: a convolution (or none, after the constant), noise, the activation, and a style (sections 2 and 2.1).

    Adaptive instance normalisation takes mean and deviation out of each map of each row, and the style gives it others: an
    affine map of w to a scale (about 1) and a shift. Where a map is a single value, as in tables, the values of all
    channels are normalised together. Noise is one map, the same for all channels, times a learned strength of each.
    """

    def __init__(self, latent: int, convolution: nn.Module, width: int, size: Sizes, bend: nn.Module) -> None:
        super().__init__()
        self.convolution, self.bend, self.width, self.size = convolution, bend, width, size
        self.strength = nn.Parameter(torch.zeros(width))
        self.style = Equalised(latent, 2 * width, gain=1.0)
        self.over = list(range(2, 2 + len(size))) if math.prod(size) > 1 else [1]

    def forward(self, h_BC: Tensor, w_BZ: Tensor, noise_BN: Tensor) -> Tensor:
        """(B, C, *size) -> (B, C', *size), noise (B or 1, prod(size))."""
        wide = (1,) * len(self.size)
        noise = noise_BN.reshape(-1, 1, *self.size) * self.strength.view(-1, *wide)
        h = self.convolution(h_BC)
        h = self.bend(h + noise.to(h.dtype))
        scale, shift = self.style(w_BZ).float().unflatten(1, (2, self.width, *wide)).unbind(1)
        variance, mean = torch.var_mean(h.float(), self.over, correction=0, keepdim=True)
        gain = (scale + 1) * torch.rsqrt(variance + _EPS)
        return torch.addcmul((shift - mean * gain).to(h.dtype), h, gain.to(h.dtype))


class Generator(_growing.Grower):
    """Mapping network, and synthesis from a learned constant: two layers a level."""

    def __init__(self, ladder: _growing.Ladder, stage: _growing.Stage, latent: int, depth: int) -> None:
        super().__init__(ladder, stage, smooth_enlarge)
        widths, sizes, bend = ladder.channels, ladder.sizes, ladder.bend
        dense = [part for _ in range(depth) for part in (Equalised(latent, latent, rate=RATE), bend())]
        # A code of one value would keep nothing but its sign.
        self.mapping = nn.Sequential(*([PixelNorm()] if latent > 1 else []), *dense)
        self.constant = nn.Parameter(torch.ones(1, widths[0], *sizes[0]))
        pairs: list[list[tuple[int, int]]] = [[(0, widths[0]), (widths[0], widths[0])]]
        if ladder.table:
            pairs[0].extend(itertools.pairwise(widths))
        else:
            pairs.extend([(i, o), (o, o)] for i, o in itertools.pairwise(widths))
        self.layer = nn.ModuleList()
        self.ends: list[int] = []  # layers up to the end of each level
        self.areas: list[int] = []  # values of noise of each layer
        for level, size in zip(pairs, sizes, strict=True):
            for inner, outer in level:
                convolution = Equalised(inner, outer, size) if inner else nn.Identity()
                self.layer.append(Styled(latent, convolution, outer, size, bend()))
                self.areas.append(math.prod(size))
            self.ends.append(len(self.layer))

    def layers(self) -> int:
        """Layers that take a style, up to the stage's level."""
        return self.ends[self.stage.level]

    def values(self, level: int) -> int:
        """Values of noise that all layers take, up to a level."""
        return sum(self.areas[: self.ends[level]])

    def level(self, number: int, h: Tensor | None, *inputs: Any) -> Tensor:
        """The maps of a level from styles (B, A, Z), a style for each layer, and noise (B or 1, N)."""
        w_BAZ, noise_BN = inputs
        first, end = ([0, *self.ends])[number], self.ends[number]
        place = sum(self.areas[:first])
        if h is None:
            h = channels_last(self.constant.expand(w_BAZ.shape[0], *self.constant.shape[1:]))
        for index in range(first, end):
            h = self.layer[index](h, w_BAZ[:, index], noise_BN[:, place : place + self.areas[index]])
            place += self.areas[index]
        return h


class Model(_growing.Model[Hyper]):
    """The game of `gan` with R1 at a resolution that grows, between a style-based generator and a critic."""

    hyper: Hyper
    player = "stylegan"
    critic_name = "discriminator"
    smooth = True
    generator: Generator
    averaged: Generator

    def __init__(self, shape: Shape, hyper: Hyper) -> None:
        super().__init__(shape, hyper)
        self.register_buffer("mean", torch.zeros(hyper.latent))  # of styles
        self.register_buffer("noise", torch.randn(1, self.generator.values(len(self.ladder.sizes) - 1)))

    def grower(self) -> nn.Module:
        """The generator."""
        return Generator(self.ladder, self.stage, self.hyper.latent, self.hyper.mapping)

    def play(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 - `turns` has set the stage
        """`critic_steps` turns of the discriminator, one of the generator, whose average follows."""
        for shown in self.rounds(self.shown(batch)):
            with torch.no_grad():
                fake = self.drawn(shown)
            real_B, slope_BD = self.numbers_and_slopes(shown.x)
            told = functional.softplus(-real_B).mean() + functional.softplus(self.judge(fake)).mean()
            yield self.critic_name, told + self.hyper.r1 / 2 * slope_BD.square().sum(1).mean()
        yield "generator", functional.softplus(-self.judge(self.drawn(shown))).mean()
        self.follow()

    def drawn(self, batch: Batch) -> Tensor:
        """(B, C, *size): rows that the generator itself makes of new codes, mixed styles and new noise, float32."""
        layers = self.generator.layers()
        first = self.generator.mapping(batch.normal(self.hyper.latent))
        self.remember(first.detach().float().mean(0), batch.world)
        styles = first.unsqueeze(1).expand(-1, layers, -1)
        if self.hyper.mixing and layers > 1:
            second = self.generator.mapping(batch.normal(self.hyper.latent))
            styles = crossed(first, second, crossovers(batch.uniform(2), self.hyper.mixing, layers), layers)
        noise = batch.normal(self.generator.values(self.stage.level))
        return _layers.squash(self.generator(styles, noise), self.hyper.output).float()

    def remember(self, mean_Z: Tensor, world: int) -> None:
        """Move the running mean of styles towards that of the global batch, by this worker's part of it."""
        if world > 1:  # not batch.mean, which keeps each worker's own rounding: buffers are to be the same on all
            dist.all_reduce(mean_Z)
            mean_Z /= world
        self.get_buffer("mean").lerp_(mean_Z, 1 - DECAY)

    def styles(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """(B, Z) -> (B, Z): codes to styles by the averaged mapping network, drawn towards the mean style by psi."""
        w_BZ: Tensor = self.averaged.mapping(z)
        return w_BZ if truncation == 1 else torch.lerp(self.get_buffer("mean"), w_BZ, truncation)

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, *shape): the row of a style, one for all layers, with the noise that was cast once."""
        return self.drawn_of(z.unsqueeze(1).expand(-1, self.averaged.layers(), -1), self.get_buffer("noise"))

    def drawn_of(self, styles: Tensor, noise: Tensor) -> Tensor:
        """(B, A, Z) styles and (B or 1, N) noise to rows (B, *shape), by the averaged generator."""
        return self.enlarged(self.averaged(styles, noise))

    def mixed(self, first: Tensor, second: Tensor, crossover: int) -> Tensor:
        """(B, Z), (B, Z) -> (B, *shape): rows whose layers before `crossover` take the first style, the others the second."""
        layers = self.averaged.layers()
        if not 0 <= crossover <= layers:
            raise RaeflowError(f"crossover={crossover}: the generator has {layers} layers that take a style")
        at = torch.full((len(first),), crossover, device=first.device)
        return self.drawn_of(crossed(first, second, at, layers), self.get_buffer("noise"))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, *shape): rows of new codes, truncated by psi, and of new noise."""
        z = _layers.prior(self, count, self.hyper.latent, generator)
        noise = _layers.prior(self, count, self.averaged.values(self.stage.level), generator)
        w_BZ = self.styles(z, self.hyper.truncation)
        return self.drawn_of(w_BZ.unsqueeze(1).expand(-1, self.averaged.layers(), -1), noise)


def crossovers(chance_B2: Tensor, share: float, layers: int) -> Tensor:
    """(B,): the layer from which each row takes a second style, evenly from 1 to layers - 1 for `share` of the rows, else none."""
    place_B = 1 + (chance_B2[:, 1] * (layers - 1)).long()
    return torch.where(chance_B2[:, 0] < share, place_B, layers)


def crossed(first: Tensor, second: Tensor, at: Tensor, layers: int) -> Tensor:
    """(B, Z), (B, Z), (B,) -> (B, layers, Z): the first style up to the layer `at`, the second from there on."""
    early = torch.arange(layers, device=at.device) < at[:, None]
    return torch.where(early[:, :, None], first[:, None], second[:, None])
