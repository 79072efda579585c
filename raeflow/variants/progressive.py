"""Progressive growing of GANs: both players begin with rows of a few values, and finer levels fade in one by one.

Karras, Aila, Laine & Lehtinen 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
arXiv:1710.10196: growth with fading (section 2), mini-batch standard deviation (3), equalised learning rates (4.1) and
pixel-wise normalisation in the generator (4.2), with the loss of Gulrajani et al. 2017 (WGAN-GP), one step of the critic for
each of the generator, and a small cost of the critic's drift from zero (appendix A.1). Stages and critic: `_growing.py`;
layers: `_equalised.py`. The encoder is izi_f of Schlegl et al. 2019 (`_adversarial.py`), frozen is the averaged generator.

Shapes: B rows of a batch, Z codes, C channels; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raeflow.variants import _growing
from raeflow.variants._contract import Batch, Shape
from raeflow.variants._equalised import HE, Equalised, PixelNorm, channels_last


@dataclass(frozen=True, kw_only=True)
class Hyper(_growing.Growing):
    """Hyperparameters of `progressive`; see `_growing.Growing` for what the fields of the layers say."""

    penalty: float = 10.0
    """Lambda of the gradient penalty, 0.1 to 30; 10 in the paper, as in Gulrajani et al. 2017."""
    drift: float = 1e-3
    """Weight of the mean square of the critic's numbers for real rows, 0 to 0.1; 0.001 in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "penalty", "drift")


def published(shape: Shape) -> Hyper:
    """Lambda 10, drift 0.001, one critic step, Adam(1e-3, 0, 0.99) and the average of 0.999 of Karras et al. 2018; networks of
    `_growing.published_layers`, the paper's in kind, narrower."""
    return Hyper(**_growing.published_layers(shape))


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, lambda, kappa and learning rates."""
    return Hyper(**_growing.suggest(trial, shape), penalty=trial.suggest_float("penalty", 0.1, 30.0, log=True))


class Generator(_growing.Grower):
    """Codes to rows: two convolutions a level, each followed by the activation and by pixel-wise normalisation."""

    def __init__(self, ladder: _growing.Ladder, stage: _growing.Stage, latent: int) -> None:
        super().__init__(ladder, stage)
        widths, sizes, bend = ladder.channels, ladder.sizes, ladder.bend
        # A code of one value would keep nothing but its sign.
        self.codes: nn.Module = PixelNorm() if latent > 1 else nn.Identity()
        if ladder.table:
            dense = itertools.pairwise((latent, *widths))
            self.levels = nn.ModuleList([nn.Sequential(*(part for i, o in dense for part in (Equalised(i, o), bend(), PixelNorm())))])
            return
        area = math.prod(sizes[0])
        # The gain of the authors' code: the dense layer stands for a 4 x 4 convolution of a single value.
        first = [Equalised(latent, widths[0] * area, gain=HE / 4), nn.Unflatten(1, (widths[0], *sizes[0])), bend(), PixelNorm()]
        self.levels = nn.ModuleList(
            [nn.Sequential(*first, _ChannelsLast(), Equalised(widths[0], widths[0], sizes[0]), bend(), PixelNorm())]
        )
        for (inner, outer), size in zip(itertools.pairwise(widths), sizes[1:], strict=True):
            parts = (part for i in (inner, outer) for part in (Equalised(i, outer, size), bend(), PixelNorm()))
            self.levels.append(nn.Sequential(*parts))

    def level(self, number: int, h: Tensor | None, *inputs: Any) -> Tensor:
        """The maps of a level; level 0 begins with the codes (B, Z)."""
        maps: Tensor = self.levels[number](self.codes(inputs[0]) if h is None else h)
        return maps


class Model(_growing.Model[Hyper]):
    """The game of WGAN-GP at a resolution that grows."""

    hyper: Hyper
    player = "progressive"

    def grower(self) -> nn.Module:
        """The generator."""
        return Generator(self.ladder, self.stage, self.hyper.latent)

    def play(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 - `turns` has set the stage
        """`critic_steps` turns of the critic with new codes and points each, one of the generator, whose average follows."""
        for shown in self.rounds(self.shown(batch)):
            with torch.no_grad():
                fake = self.drawn(shown)
            real_B = self.judge(shown.x)
            distance = real_B.mean() - self.judge(fake).mean()
            yield self.critic_name, self.hyper.penalty * self.steepness(shown, fake) - distance + self.hyper.drift * real_B.square().mean()
        yield "generator", -self.judge(self.drawn(shown)).mean()
        self.follow()


class _ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return channels_last(x)
