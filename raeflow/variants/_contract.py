"""The contract every variant keeps: one abstract class, one batch record, and optional abilities found with `isinstance`.

A variant is a file beside this one that defines four names:

- `Hyper`: frozen dataclass; every field has a default and one line of meaning, range and source;
- `published(shape) -> Hyper`: the source's own values, fitted to a row of this shape (first trial of a search);
- `space(trial, shape) -> Hyper`: ordinary Optuna code; suggested names are exactly Hyper's fields;
- `Model(shape, hyper)`: the `Variant`.

Shapes: B rows of a batch, Z codes; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

Shape = tuple[int, ...]
UNKNOWN = -1
"""Label of a row whose class nobody knows."""


@dataclass(frozen=True)
class Batch:
    """Scaled rows of one step, and the only source of randomness a variant may use while training.

    Noise is drawn for the whole global batch from a generator that every worker holds in the same
    state, and each worker keeps its own rows of it: so N workers see the noise that one would.
    """

    x: Tensor
    """(B, *shape) float32, scaled."""
    target: Tensor | None = None
    """(B, *shape) clean rows, scaled like x, where the data have them."""
    label: Tensor | None = None
    """(B,) int64 classes, where the data have them."""
    generator: torch.Generator | None = None
    rank: int = 0
    world: int = 1

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise (B, *shape) on the batch's device."""
        return self._own(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform noise in [0, 1), (B, *shape), on the batch's device."""
        return self._own(torch.rand, shape)

    def part(self, rows: slice) -> Batch:
        """The same with some of its rows; every worker must keep as many."""
        kept = [None if part is None else part[rows] for part in (self.target, self.label)]
        return dataclasses.replace(self, x=self.x[rows], target=kept[0], label=kept[1])

    def mean(self, values: Tensor) -> Tensor:
        """(B, ...) to (...): mean over the rows of the whole global batch, for losses that are no mean of rows' losses.

        Its gradient is that of this worker's own rows; averaged over the workers it is the global mean's.
        """
        own = values.mean(0)
        if self.world == 1:
            return own
        everyone = own.detach().clone()
        dist.all_reduce(everyone)
        return own + (everyone / self.world - own.detach())

    def _own(self, draw: Callable[..., Tensor], shape: Shape) -> Tensor:
        rows = self.x.shape[0]
        drawn = draw((rows * self.world, *shape), generator=self.generator, device=self.x.device)
        return drawn[self.rank * rows : (self.rank + 1) * rows]


class Variant(nn.Module, ABC):
    """An objective over rows of one shape; built as `Model(shape, hyper)`."""

    settled_from: float = 0.0
    """Progress from which validation losses can be compared: before it nobody stops or selects by them
    (a GAN's encoder, say, only starts when the game is over)."""
    drawn_from: float = 0.0
    """The same for the rows that it draws, where they are what a search compares (a game that grows draws coarse ones at first)."""
    overcomplete: bool = False
    """Whether something other than a narrow code keeps the published model from copying its rows (noise, sparsity, masks)."""

    game_share: float = 0.0
    """Share of training, from its start, in which a generator and a critic play; 0 where there is no game."""
    rebuilds: bool = True
    """Whether `reconstruct` is what the model learnt to give back, so that residuals mean something; the heads ask."""
    localises: bool = True
    """Whether `reconstruct` says what is expected of each value of this row, so that residuals tell where it is strange."""

    @property
    def width(self) -> int:
        """Values that scoring one row takes besides the row's own and a network's, so that batches can be sized by it."""
        return 0

    @property
    def lookups(self) -> int:
        """Places in tables that scoring one row reads, where that and no arithmetic is what it costs."""
        return 0

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """One optimiser for each player; together they own every parameter exactly once."""

    @abstractmethod
    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """Yield (player, scalar loss); the caller steps that player alone, then resumes the generator.

        `progress` in [0, 1) is the share of all training steps done. Randomness comes from
        `batch.normal` and `batch.uniform` alone.
        """

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """(B, *shape) scaled rows to (B, *shape), deterministic."""

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """(B, *shape) scaled rows to (B,) scores, higher is stranger; a row's score ignores its neighbours."""

    def validation(self, batch: Batch) -> Tensor:
        """(B,) losses of held-out rows, by which early stopping and `validation_loss` judge; draws nothing at random.

        The score, unless the variant aims at something else than the row it is given (a denoiser's clean target).
        """
        return self.score(batch.x)


@runtime_checkable
class OneShot(Protocol):
    """Variants that are no networks: fitted to all rows at once, without gradients, in one epoch."""

    def fit_rows(self, x: Tensor, seed: int) -> None:
        """Learn from scaled train rows (N, *shape), which come in an order of chance; `seed` decides all that is drawn."""


@runtime_checkable
class Latent(Protocol):
    """Variants with a code for each row; `reconstruct` is `decode` of `encode`."""

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, Z)."""

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) to (B, *shape)."""


@runtime_checkable
class Mapped(Protocol):
    """Variants whose encoder keeps where in a signal or image it saw what."""

    @property
    def has_maps(self) -> bool:
        """Whether the network of these rows has such maps (dense layers have none)."""

    def feature_maps(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, D, *places), before the code."""


@runtime_checkable
class HasCritic(Protocol):
    """Variants with a critic of rows."""

    def criticise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) to its features (B, D) and to how strange it finds the rows (B,), higher is stranger."""


@runtime_checkable
class Generative(Protocol):
    """Variants that draw new rows."""

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, *shape) new rows, scaled."""


@runtime_checkable
class Conditional(Protocol):
    """Variants that draw new rows of a class."""

    @property
    def classes(self) -> int:
        """Classes that can be drawn; 0 where the rows had none."""

    def sample(self, count: int, generator: torch.Generator | None = None, label: int | Tensor | None = None) -> Tensor:
        """(count, *shape) new rows, scaled; `label` one class for all, (count,) int64 classes, or None: drawn at random."""
