"""Auxiliary classifier GAN: a generator that draws rows of the class it is asked for.

Odena, Olah & Shlens 2017, "Conditional Image Synthesis with Auxiliary Classifier GANs", arXiv:1610.09585, section 3. The
generator G(z, c) is given noise and a class; the discriminator tells the source of a row, real or generated, and its class:

    L_S = E log P(real | x) + E log P(generated | G(z, c))
    L_C = E log P(c | x)    + E log P(c | G(z, c))

The discriminator maximises L_S + L_C, the generator L_C - L_S, here with the non-saturating E log P(real | G(z, c)) in
place of -L_S (Goodfellow et al. 2014). Networks and Adam are those of `dcgan`, as the paper's are in kind; the dropout of
its discriminator is left out. Generated rows of a step take the classes of its real ones, so that no class is generated
more often than it is real; a row of unknown class (-1) says nothing of L_C, and its generated one takes any.

A code is what the encoder finds (izi_f of Schlegl et al. 2019, `_adversarial.py`) and the class chances that the
frozen discriminator sees. Rows without classes play the game of `dcgan`.

Shapes: B rows of a batch, Z codes, A features, K classes; x_B* is (B, F), (B, C, L) or (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from raeflow.backbones import Backbone
from raeflow.errors import RaeflowError
from raeflow.variants import _layers, dcgan
from raeflow.variants._contract import UNKNOWN, Batch, Shape


@dataclass(frozen=True, kw_only=True)
class Hyper(dcgan.Hyper):
    """Hyperparameters of `acgan`; discriminator and encoder share the encoder's layers, the generator mirrors them."""

    classes: int = 0
    """Classes of the rows, labelled 0 to classes - 1; 0 or 1: rows without classes. A study sets it from its train rows."""
    class_weight: float = 1.0
    """Weight of L_C in both players' losses, 0 to 10; 1 in the paper."""
    named_fakes: float = 1.0
    """Weight, beside that, of the class of generated rows in the discriminator's loss, 0 to 1; 1 in the paper. With 0 it learns
    classes from real rows alone, and the two players cannot agree on marks of a class that real rows do not have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "classes", "class_weight", "named_fakes")
        self.whole("classes")


def published(shape: Shape) -> Hyper:
    """Both losses with equal weight, Adam(2e-4, 0.5, 0.999) and networks of `dcgan` (the paper's have a code of 100 or 110)."""
    return Hyper(**vars(dcgan.published(shape)))


def space(trial: Any, shape: Shape) -> Hyper:
    """What `dcgan` searches, and the weight of the class loss."""
    return Hyper(**vars(dcgan.space(trial, shape)), class_weight=trial.suggest_float("class_weight", 0.2, 2.0, log=True))


class Model(dcgan.Model):
    """A discriminator with a class head, and a generator that is told the class."""

    hyper: Hyper
    player = "acgan"

    def build(self, net: Backbone) -> None:
        """The networks of `dcgan` and the class head: features (B, A) to logits (B, K)."""
        super().build(net)
        if self.classes:
            self.head = nn.Linear(net.features, self.classes)
            self.head.apply(dcgan.small)
            self.register_buffer("counts", torch.zeros(self.classes))  # real rows of each class that the game has seen

    @property
    def classes(self) -> int:
        """Classes that can be drawn; 0: the rows have none."""
        return self.hyper.classes if self.hyper.classes > 1 else 0

    @property
    def inputs(self) -> int:
        """Values that the generator makes a row of: noise, then a one-hot class."""
        return self.hyper.latent + self.classes

    @property
    def code_size(self) -> int:
        """Values of a row's code."""
        return self.inputs

    def optimizers(self) -> dict[str, Optimizer]:
        """The head is the discriminator's."""
        found = super().optimizers()
        if self.classes:
            found[self.critic_name].add_param_group({"params": list(self.head.parameters())})
        return found

    def play(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        """`critic_steps` turns of the discriminator, one of the generator."""
        if not self.classes:
            yield from super().play(batch, progress)
            return
        self.count(self.known(batch, progress), batch.world)
        for part in self.rounds(batch):
            label_B = cast(Tensor, part.label)  # `known` has found it
            with torch.no_grad():
                fake, asked_B = self.asked(part, label_B)
            yield self.critic_name, self.loss(part.x, label_B, 1 - self.hyper.smooth) + self.unmasked(part, fake, asked_B)
        yield "generator", self.loss(*self.asked(part, label_B), 1.0)

    def known(self, batch: Batch, progress: float) -> Tensor:
        """(B,): the rows' classes; those of the first step must be there and in range."""
        if batch.label is None:
            raise RaeflowError(
                f"acgan with classes={self.classes} needs the class of each row: name its column in Data(label=...), or set classes=0"
            )
        if progress == 0:
            check_labels(batch.label, self.classes, "the first batch", world=batch.world)
        return batch.label

    def count(self, label_B: Tensor, world: int) -> None:
        """Note the classes of real rows (B,), those of all workers: drawn ones shall have them in the same shares."""
        known_B = (label_B != UNKNOWN).float()
        counts_K = torch.zeros(self.classes, device=label_B.device).index_add_(0, label_B.clamp(min=0), known_B)
        if world > 1:
            dist.all_reduce(counts_K)
        self.get_buffer("counts").add_(counts_K)

    def shares(self) -> Tensor:
        """(K,): share of each class in the rows of the game, all alike before it has seen any."""
        counts_K = self.get_buffer("counts")
        counts_K = torch.where(counts_K.sum() > 0, counts_K, torch.ones_like(counts_K))
        return counts_K / counts_K.sum()

    def asked(self, batch: Batch, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) generated rows, float32, and the classes (B,) they were asked for: those given, where they are known."""
        any_B = torch.searchsorted(self.shares().cumsum(0), batch.uniform(), right=True).clamp(max=self.classes - 1)
        asked_B = torch.where(label_B == UNKNOWN, any_B, label_B)
        return self.decode(self.joined(batch.normal(self.hyper.latent), asked_B)).float(), asked_B

    def joined(self, z_BZ: Tensor, label_B: Tensor) -> Tensor:
        """(B, Z + K): noise and one-hot classes."""
        return torch.cat([z_BZ, functional.one_hot(label_B, self.classes).to(z_BZ.dtype)], 1)

    def loss(self, x: Tensor, label_B: Tensor, truth: float, named: float = 1.0) -> Tensor:
        """Scalar: -L_S of rows whose source is `truth` (1 real, 0 generated), less `named` times L_C of those whose class is known."""
        seen_BA = self.features(x)
        logits_B = self.critic(seen_BA).float().flatten()
        source = functional.binary_cross_entropy_with_logits(logits_B, torch.full_like(logits_B, truth))
        return source + self.hyper.class_weight * named * self.misnamed(seen_BA, label_B) if named else source

    def unmasked(self, batch: Batch, fake: Tensor, asked_B: Tensor) -> Tensor:
        """Scalar: the discriminator's loss of generated rows; under replay earlier ones too are told apart, not named."""
        named = self.hyper.named_fakes
        if not self.hyper.replay:
            return self.loss(fake, asked_B, 0.0, named)
        source = self.told_apart(self.mixed(batch, fake), 0.0)
        return source + self.hyper.class_weight * named * self.misnamed(self.features(fake), asked_B) if named else source

    def misnamed(self, seen_BA: Tensor, label_B: Tensor) -> Tensor:
        """Scalar: -E log P(c | x), a mean over the batch to which rows of unknown class add nothing."""
        logits_BK = self.head(seen_BA).float()
        return functional.cross_entropy(logits_BK, label_B, ignore_index=UNKNOWN, reduction="sum") / len(label_B)

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, Z + K): the encoder's code, then the chance of each class."""
        return self.coded(x, self.features(x)) if self.classes else super().encode(x)

    def coded(self, x: Tensor, seen_BA: Tensor) -> Tensor:
        """(B, Z + K): the code of rows whose features are known."""
        return torch.cat([self.encoder(x), torch.softmax(self.head(seen_BA), 1)], 1)

    def score(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B,): mean squared error of the row plus kappa times that of the discriminator's features."""
        if not self.classes:
            return super().score(x)
        seen_BA = self.features(x)
        rebuilt = self.decode(self.coded(x, seen_BA))
        error_B = _layers.square_error(x, rebuilt)
        if not self.hyper.kappa:
            return error_B
        return error_B + self.hyper.kappa * _layers.square_error(seen_BA, self.features(rebuilt))

    def sample(self, count: int, generator: torch.Generator | None = None, label: int | Tensor | None = None) -> Tensor:
        """(count, *shape): generated rows of standard normal codes; see `Conditional`. Raises RaeflowError for an unknown class."""
        z_BZ = _layers.prior(self, count, self.hyper.latent, generator)
        if not self.classes:
            if label is not None:
                raise RaeflowError("this acgan was trained on rows without classes: sample(label=...) has none to draw")
            return self.decode(z_BZ)
        if label is None:
            place = generator.device if generator else z_BZ.device
            label = torch.multinomial(self.shares().to(place), count, replacement=True, generator=generator)
        label_B = torch.as_tensor(label, device=z_BZ.device)
        if label_B.is_floating_point() or label_B.dtype == torch.bool or tuple(label_B.shape) not in ((), (count,)):
            raise RaeflowError(
                f"sample({count}, label=...) takes one class or {count} of them, whole numbers; "
                f"given {label_B.dtype} of shape {tuple(label_B.shape)}"
            )
        label_B = label_B.long().expand(count)
        check_labels(label_B, self.classes, "sample", least=0)
        return self.decode(self.joined(z_BZ, label_B))


def check_labels(label: Tensor, classes: int, where: str, least: int = UNKNOWN, world: int = 1) -> None:
    """Refuse labels (N,) that are no class; all workers refuse those of any."""
    low, high = (int(bound) for bound in _layers.bounds(label, world))
    if low < least or high >= classes:
        wrong = high if high >= classes else low
        raise RaeflowError(f"label {wrong} in {where} is none of the {classes} classes 0 to {classes - 1} (-1: unknown)")
