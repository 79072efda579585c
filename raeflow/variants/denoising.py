"""Denoising autoencoder: gives back the clean row from a corrupted one, so that copying is no way out.

Vincent, Larochelle, Bengio & Manzagol 2008, "Extracting and Composing Robust Features with Denoising
Autoencoders", ICML; Vincent et al. 2010, "Stacked Denoising Autoencoders", JMLR 11. Where the data have pairs
(`Data(target=...)`), what must be returned is always the clean row of the pair.

Shapes: B rows of a batch, Z codes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raeflow.data import corruptions
from raeflow.errors import RaeflowError
from raeflow.variants import _layers, _rebuild
from raeflow.variants._contract import Batch, Shape

CORRUPTIONS = ("dropout", "masking", "gaussian", "salt_and_pepper", "target")


@dataclass(frozen=True, kw_only=True)
class Hyper(_rebuild.Rebuild):
    """Hyperparameters of `denoising`."""

    corruption: str = "dropout"
    """What is done to a row in training: dropout (values set to 0, the others enlarged by 1 / (1 - amount)), masking (values
    set to 0, the others left), gaussian, salt_and_pepper (rows in 0-1), or target: nothing, since the data's rows are noisy
    themselves and Data(target=...) names their clean ones."""
    amount: float = 0.25
    """dropout, masking and salt_and_pepper: share of values lost, 0.1 to 0.5 are common; gaussian: standard deviation of the
    noise in scaled units, 0.1 to 1; target: not used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("corruption", CORRUPTIONS)
        if self.corruption != "target":
            self.above(0, "amount")
        if self.corruption in ("dropout", "masking", "salt_and_pepper"):
            self.below(1, "amount")


def published(shape: Shape) -> Hyper:
    """A quarter of the values set to 0, as Vincent et al. 2008 did on MNIST, here with the others enlarged (`masking` leaves
    them, as they did); networks of `_rebuild.published_layers`."""
    return Hyper(**_rebuild.published_layers(shape), corruption="dropout", amount=0.25)


def space(trial: Any, shape: Shape) -> Hyper:
    """Latent size, network, corruption and its amount, activation and learning rate."""
    kinds = ["dropout", "masking", "gaussian", *(["salt_and_pepper"] if len(shape) == 3 else [])]
    return Hyper(
        **_rebuild.suggest(trial, shape),
        corruption=trial.suggest_categorical("corruption", kinds),
        amount=trial.suggest_float("amount", 0.05, 0.6, log=True),
    )


class Model(_rebuild.Rebuilder[Hyper]):
    """Trained to rebuild the clean row from a corrupted one; scores and reconstructs rows as they come."""

    player = "denoising"
    overcomplete = True

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """One turn: the loss between the clean row and what is rebuilt from the corrupted one, mean over batch and row."""
        self.check(batch, progress)
        clean = batch.x if batch.target is None else batch.target
        yield self.player, self.misfit(self.decoder(self.encode(self.corrupt(batch))), clean)

    def check(self, batch: Batch, progress: float) -> None:
        """Refuse, in the first step, pairs that are not there and rows outside 0-1 where the corruption or the output needs them."""
        if self.hyper.corruption == "target" and batch.target is None:
            raise RaeflowError(
                "denoising with corruption='target' needs clean rows: name their column in Data(target=...), or choose another corruption"
            )
        if self.hyper.corruption == "salt_and_pepper":
            _layers.check_unit(batch, progress, "corruption='salt_and_pepper'", "another corruption")
        super().check(batch if batch.target is None else Batch(batch.target), progress)

    def corrupt(self, batch: Batch) -> Tensor:
        """(B, *shape) -> (B, *shape), by the batch's own noise."""
        x, amount = batch.x, self.hyper.amount
        row = x.shape[1:]
        if self.hyper.corruption == "gaussian":
            return corruptions.gaussian(x, batch.normal(*row), amount)
        if self.hyper.corruption == "salt_and_pepper":
            return corruptions.salt_and_pepper(x, batch.uniform(*row), amount)
        if self.hyper.corruption == "masking":
            return corruptions.masking(x, batch.uniform(*row), amount)
        if self.hyper.corruption == "dropout":
            return corruptions.dropout(x, batch.uniform(*row), amount)
        return x

    def validation(self, batch: Batch) -> Tensor:
        """(B,): mean squared error to the clean row of a pair; without pairs, of the row itself, as `score`."""
        clean = batch.x if batch.target is None else batch.target
        return _layers.square_error(clean, self.reconstruct(batch.x))
