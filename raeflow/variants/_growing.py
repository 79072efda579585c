"""What games share whose resolution grows while they are played: the ladder of sizes, its stages, critic and averaged generator.

Karras, Aila, Laine & Lehtinen 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
arXiv:1710.10196. Not a variant: a subclass says in `grower` what its generator is, and in `play` what the game is.

The game is cut into equal stages: the innermost level trains; then every further level fades in, its rows blended with
those of the level before, and trains. Rows are halved (rounded up) from level to level, by averages over adaptive windows,
and enlarged to the exact sizes; the critic sees real rows at the resolution and with the blend of the stage. A table has
no resolution, and so a single level of dense layers. Drawn rows are always whole: those of lower levels are enlarged.

Shapes: B rows of a batch, Z codes, C channels; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from raeflow.backbones import ACTIVATIONS, Backbone
from raeflow.errors import RaeflowError
from raeflow.variants import _adversarial, _layers
from raeflow.variants._contract import Batch, Shape
from raeflow.variants._equalised import BatchDeviation, Equalised, Sizes, channels_last, enlarge, shrink, smooth_shrink

Resize = Callable[[Tensor, Sizes], Tensor]

INNERMOST = 5
"""Values along each direction at which published ladders end, at most; 4 in the paper, whose sizes are powers of two."""
WIDEST = 64
"""Channels of published networks, at most."""


@dataclass(frozen=True, kw_only=True)
class Growing(_adversarial.Game):
    """Hyperparameters of games that grow; `layers` (or `channels` and `depth`) say the channels of each level, from the
    row inwards: as many levels as layers. For tables they are the dense layers of the only level. `kernels`, `strides`,
    `pooling`, `upsampling` and `feature_activation` shape the encoder alone."""

    lr: float = 1e-3
    """Adam's learning rate of critic and generator, 1e-4 to 3e-3; 1e-3 in the paper."""
    beta1: float = 0.0
    """Adam's decay of the mean gradient of critic and generator, 0 to 0.9; 0 in the paper."""
    beta2: float = 0.99
    """Adam's decay of the squared gradient of critic and generator, 0.9 to 0.999; 0.99 in the paper."""
    growth: float = 1.0
    """Share of the game over which its stages are spread, above 0, at most 1; after them the full resolution trains on."""
    average: float = 0.999
    """Decay of the running average of the generator's weights, which draws the rows, 0 to 0.9999; 0.999 in the paper. Less in
    the first steps t, (1 + t) / (10 + t), so that fresh weights are soon forgotten."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone != "auto":
            raise RaeflowError(f"backbone={self.backbone!r}: a game that grows has networks of its own; leave backbone='auto'")
        if not self.count:
            raise RaeflowError(f"depth={self.depth!r}: a game that grows has one level at least")
        self.above(0, "growth")
        self.at_least(0, "average")
        self.below(1, "average")
        if self.growth > 1:
            raise RaeflowError(f"growth={self.growth!r}: growth is a share of the game, at most 1")


@dataclass
class Stage:
    """Where a game stands: generator and critic look at the same one."""

    level: int = 0
    """From 0, the innermost."""
    alpha: float = 1.0
    """Share of this level in the blend with the one before; 1 when it trains alone."""


@dataclass(frozen=True)
class Ladder:
    """Sizes and channels of the levels, from the innermost to the row's own."""

    shape: Shape
    sizes: tuple[Sizes, ...]
    """() for tables."""
    channels: tuple[int, ...]
    """Of each level; for tables of each dense layer."""
    bend: Callable[[], nn.Module]
    """Builds the activation."""

    @classmethod
    def of(cls, shape: Shape, hyper: Growing) -> Ladder:
        """That of a row of this shape."""
        scale = hyper.width if len(shape) == 1 else hyper.channels
        tables = len(shape) == 1
        derived = tuple(max(scale >> i, 2) if tables else scale << i for i in range(hyper.depth))
        inwards = hyper.layers or derived
        sizes = [shape[1:]]
        for _ in inwards[1:] if not tables else ():
            sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
        return cls(shape, tuple(sizes[::-1]), inwards[::-1], ACTIVATIONS[hyper.activation])

    @property
    def table(self) -> bool:
        return len(self.shape) == 1

    def stage(self, done: float) -> Stage:
        """The stage after this share of all of them, 0 to 1: level 0, then for each level a fade and a training of equal shares."""
        place = min(done, 1.0) * (2 * len(self.sizes) - 1)
        number = min(int(place), 2 * len(self.sizes) - 2)
        return Stage((number + 1) // 2, place - number if number % 2 else 1.0)


class Grower(nn.Module):
    """A generator: level upon level, each with a linear map to rows; a subclass says what a level is."""

    def __init__(self, ladder: Ladder, stage: Stage, resize: Resize = enlarge) -> None:
        super().__init__()
        self.ladder, self.stage, self.resize = ladder, stage, resize
        widths = ladder.channels[-1:] if ladder.table else ladder.channels
        self.to_row = nn.ModuleList(
            Equalised(width, ladder.shape[0], size, kernel=1, gain=1.0) for width, size in zip(widths, ladder.sizes, strict=True)
        )

    @abstractmethod
    def level(self, number: int, h: Tensor | None, *inputs: Any) -> Tensor:
        """The maps of a level, from those of the level before, enlarged; None before level 0."""

    def forward(self, *inputs: Any) -> Tensor:
        """Rows at the size of the stage's level, (B, C, *size)."""
        stage, sizes = self.stage, self.ladder.sizes
        before, h = None, self.level(0, None, *inputs)
        for number in range(1, stage.level + 1):
            before, h = h, self.level(number, self.resize(h, sizes[number]), *inputs)
        rows: Tensor = self.to_row[stage.level](h)
        if before is None or stage.alpha == 1:
            return rows
        return torch.lerp(enlarge(self.to_row[stage.level - 1](before), sizes[stage.level]), rows, stage.alpha)


class Trunk(nn.Module):
    """The critic from rows, at the stage's size or whole, down to the maps of the innermost level: two convolutions a level."""

    def __init__(self, ladder: Ladder, stage: Stage, resize: Resize = shrink) -> None:
        super().__init__()
        self.ladder, self.stage, self.resize = ladder, stage, resize
        bend, sizes, widths = ladder.bend, ladder.sizes, ladder.channels
        if ladder.table:
            dense = itertools.pairwise(widths[::-1])
            self.from_row = nn.ModuleList([nn.Sequential(Equalised(ladder.shape[0], widths[-1]), bend())])
            self.levels = nn.ModuleList([nn.Sequential(*(part for i, o in dense for part in (Equalised(i, o), bend())))])
            return
        self.from_row = nn.ModuleList(
            nn.Sequential(Equalised(ladder.shape[0], w, s, 1), bend()) for w, s in zip(widths, sizes, strict=True)
        )
        self.levels = nn.ModuleList([nn.Identity()])
        for (inner, outer), size in zip(itertools.pairwise(widths), sizes[1:], strict=True):
            self.levels.append(nn.Sequential(Equalised(outer, outer, size), bend(), Equalised(outer, inner, size), bend()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape), or at the stage's size, to (B, C, *innermost)."""
        stage, sizes = self.stage, self.ladder.sizes
        x = channels_last(reduced(x, sizes, stage.level))
        h: Tensor = self.from_row[stage.level](x)
        for number in range(stage.level, 0, -1):
            h = self.resize(self.levels[number](h), sizes[number - 1])
            if number == stage.level and stage.alpha < 1:
                h = torch.lerp(self.from_row[number - 1](shrink(x, sizes[number - 1])), h, stage.alpha)
        deepest: Tensor = self.levels[0](h)
        return deepest


def head(ladder: Ladder) -> nn.Sequential:
    """The critic from the innermost maps to its number: deviation over the mini-batch, a convolution, two dense layers."""
    width, size = ladder.channels[0], ladder.sizes[0]
    first = [Equalised(width + 1, width, size), ladder.bend()]
    dense = [] if ladder.table else [nn.Flatten(), Equalised(width * math.prod(size), width), ladder.bend()]
    return nn.Sequential(BatchDeviation(), *first, *dense, Equalised(width, 1, gain=1.0))


def reduced(x: Tensor, sizes: tuple[Sizes, ...], level: int) -> Tensor:
    """Rows (B, *shape) at a level's size, through all sizes between; rows that have it are left as they are."""
    for size in sizes[-2 : level - len(sizes) - 1 : -1] if x.shape[2:] != sizes[level] else ():
        x = shrink(x, size)
    return x


H = TypeVar("H", bound=Growing)


class Model(_adversarial.Adversarial[H]):
    """Trunk and head of the critic, a generator that the critic teaches, its running average that draws, and the encoder."""

    player: ClassVar[str]
    critic_name = "critic"
    smooth: ClassVar[bool] = False
    """Whether the critic halves its maps by triangles in place of means."""

    def __init__(self, shape: Shape, hyper: H) -> None:
        super().__init__(shape, hyper)
        self.register_buffer("reached", torch.zeros(()))  # share of the stages
        self.register_buffer("steps", torch.zeros(()))  # of the generator
        self.taken = 0
        self.register_load_state_dict_post_hook(_resume)  # type: ignore[no-untyped-call]

    def build(self, net: Backbone) -> None:
        """The networks; the encoder is any game's."""
        self.ladder = Ladder.of(self.shape, self.hyper)
        self.stage = self.ladder.stage(0.0)
        self.whole = len(self.ladder.sizes) == 1
        self.drawn_from = 0.0 if self.ladder.table else self.hyper.game * self.hyper.growth
        self.features = Trunk(self.ladder, self.stage, smooth_shrink if self.smooth else shrink)
        self.critic: nn.Sequential = head(self.ladder)
        self.generator = self.grower()
        self.averaged = _unowned(self.generator, self.stage)
        self.encoder = _layers.encoder(net, self.hyper.latent)

    @abstractmethod
    def grower(self) -> nn.Module:
        """The generator, over `self.ladder` and `self.stage`."""

    def reach(self, done: float) -> None:
        """Set the stage, after this share of all stages; kept in the state, where a loaded model finds it."""
        done = round(done * 2**20) / 2**20  # what float32 holds exactly
        stage = self.ladder.stage(done)
        self.stage.level, self.stage.alpha = stage.level, stage.alpha
        self.whole = stage.level == len(self.ladder.sizes) - 1 and stage.alpha == 1
        self.get_buffer("reached").fill_(done)

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """The game's turns at the stage of `progress`; after it, one of the encoder."""
        self.reach(min(1.0, progress / (self.hyper.game * self.hyper.growth)))
        yield from super().turns(batch, progress)

    def shown(self, batch: Batch) -> Batch:
        """The same batch with its rows at the stage's size, blended with those of the level before."""
        stage, sizes = self.stage, self.ladder.sizes
        x = reduced(batch.x, sizes, stage.level)
        if stage.alpha < 1:
            x = torch.lerp(enlarge(shrink(x, sizes[stage.level - 1]), sizes[stage.level]), x, stage.alpha)
        return dataclasses.replace(batch, x=x)

    def drawn(self, batch: Batch) -> Tensor:
        """(B, C, *size): rows that the generator itself makes of new codes, at the stage's size, float32."""
        return _layers.squash(self.generator(batch.normal(self.hyper.latent)), self.hyper.output).float()

    def number_alone(self, features: Tensor) -> Tensor:
        """(B, C, *innermost) -> (B, 1): the critic's number of each row by itself, without the deviation over a batch."""
        compare, *rest = self.critic
        h = cast(BatchDeviation, compare).alone(features)
        for part in rest:
            h = part(h)
        return h

    def follow(self) -> None:
        """Move the averaged generator towards the generator, after one of its steps."""
        self.taken += 1
        self.get_buffer("steps").add_(1)
        own, average = dict(self.generator.named_parameters()), dict(self.averaged.named_buffers())
        share = 1 - min(self.hyper.average, self.taken / (9 + self.taken))
        with torch.no_grad():
            torch._foreach_lerp_([average[name] for name in own], list(own.values()), share)

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, *shape): the averaged generator, its rows enlarged while the game is below the full resolution."""
        return self.enlarged(self.averaged(z))

    def enlarged(self, rows: Tensor) -> Tensor:
        """Generated values at the stage's size to rows (B, *shape)."""
        rows = _layers.squash(rows, self.hyper.output)
        for size in self.ladder.sizes[self.stage.level + 1 :]:
            rows = enlarge(rows, size)
        return rows


def _unowned(generator: nn.Module, stage: Stage) -> nn.Module:
    """A copy with buffers of the same names in place of its parameters, which no optimiser owns; it shares the stage."""
    twin = copy.deepcopy(generator, {id(stage): stage})
    for module in twin.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return twin


def _resume(model: Model[Any], _: Any) -> None:
    """Take up the stage and the count of steps of a state that was loaded."""
    model.reach(float(model.get_buffer("reached")))
    model.taken = int(model.get_buffer("steps"))


def published_layers(shape: Shape) -> dict[str, Any]:
    """Levels until a row is 5 values long at most, with 16 channels at full resolution and twice as many inwards, 64 at most
    (16 to 512 in the paper, at 1024 x 1024); two dense layers of 64 for tables. Codes of 64, or an eighth of a small row."""
    if len(shape) == 1:
        return {"latent": _layers.table_latent(shape[0]), "layers": (WIDEST, WIDEST)}
    levels = 1 + max(0, math.ceil(math.log2(max(shape[1:]) / INNERMOST)))
    return {"latent": max(1, min(64, math.prod(shape) // 8)), "layers": tuple(min(16 << i, WIDEST) for i in range(levels))}


def suggest(trial: Any, shape: Shape) -> dict[str, Any]:
    """The part of a search space that growing games share: latent size, network, kappa and learning rates."""
    size = math.prod(shape)
    high = max(1, min(64, size - 1))
    low = min(high, 1 if len(shape) == 1 else 2)
    found: dict[str, Any] = {"latent": trial.suggest_int("latent", low, high, log=True)}
    if len(shape) == 1:
        found["width"] = trial.suggest_int("width", 32, 256, log=True)
    else:
        found["channels"] = trial.suggest_int("channels", 8, 32, log=True)
    return {
        **found,
        "depth": trial.suggest_int("depth", 1, 3),
        "kappa": trial.suggest_float("kappa", 0.0, 2.0),
        "lr": trial.suggest_float("lr", 3e-4, 3e-3, log=True),
        "encoder_lr": trial.suggest_float("encoder_lr", 3e-4, 1e-2, log=True),
    }
