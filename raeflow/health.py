"""Health of a game: how near drawn rows come to real ones, how many of their kinds they show, and whether it has collapsed.

Rows are compared in the features of a small network that is trained on the same data, in seconds and with nothing
downloaded: a classifier where the rows have classes, else an autoencoder; a row of few values is its own feature.

    gauge = Gauge(splits)
    gauge(model)        # {"frechet_distance": ..., "precision": ..., ..., "modes": ..., "critic_slope": ...}

Shapes: N real rows, M drawn rows, D features, K classes; a row is (F,), (C, L) or (C, H, W), scaled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from raeflow import metrics, pretrain, variants
from raeflow.data.rows import Resident, Splits
from raeflow.data.scaling import scaled_rows
from raeflow.devices import device_of, score_batch
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import Diverged, Run
from raeflow.variants._adversarial import Adversarial
from raeflow.variants._contract import UNKNOWN, Generative, Variant

LEARNED, VALUES = 4096, 1 << 24
"""Real rows that the feature network learns from, and values of them all, at most."""
REFERENCE = 1024
"""Real rows that drawn ones are compared with, at most."""
FEATURES = 32
OWN = 16
"""Values of a row up to which it is its own feature."""
STEPS, PASSES = 300, 40
"""Steps in which the feature network learns, about, and passes over its rows at most."""
NEIGHBOURS, FEWEST = 5, 32
"""Nearest neighbours whose distance makes a row's ball; real rows below which nothing is measured."""
SLOPES = 256
"""Real rows at which the critic's slope is taken, at most."""
CHUNK = 256
"""Rows drawn at a time."""
MOST_CLASSES = 1000
"""Labels beyond name something else than kinds of rows."""

FAIR = 0.1
"""Share of equal shares that a class must be drawn to count: a feature network, too, is wrong now and then."""
SPREAD, SHARE, FEWEST_CLASSES = 0.05, 0.2, 5
"""Collapsed are drawn rows of less than this share of the variance of real ones, or of the classes found in them where those
are so many."""
REAL, DENSE, PART = 0.8, 2 / 3, 1 / 3
"""Narrow are drawn rows of at least this precision and density, and at most this coverage and recall: as good as real, but of a
part of the real ones. Two of eight modes have 1, 1, 1/4 and 1/4; most young games, whose rows look less real, none of it."""
RUNNING, PATIENT = 2, 3 / 8
"""The alarm: so many collapsed evaluations in a row, after this share of all."""
STUCK, GROWTH = 3, 1.1
"""The alarm for narrow ones: so many in a row, over which coverage grew by less than this factor. A game that finds its way
passes through narrow stages too, but its coverage mostly grows by half from one to the next."""


class Gauge:
    """Measures drawn rows against the real rows of some splits; made once, and used for every model of a search.

    Learns nothing before it is first asked, and then touches nobody's dice. Everything runs on the CPU.
    """

    def __init__(self, splits: Splits, seed: int = 0, rows: int = REFERENCE) -> None:
        """Takes real rows from train where it is resident, else from validate.

        Args:
            splits: whose rows are real.
            seed: of the feature network and of all drawing.
            rows: real rows to compare with, at most; as many are drawn unless told otherwise.
        """
        self.splits, self.seed, self.shape = splits, seed, tuple(splits.spec.shape)
        self._source = real_rows(splits)
        self.count = min(rows, len(self._source))
        if self.count <= NEIGHBOURS:
            raise RaeflowError(f"health: {self.count} real rows are too few to compare with, {NEIGHBOURS + 1} are the least")

    @cached_property
    def known(self) -> Resident:
        """Real rows, unscaled, in an order of chance: the first ones are compared with, all are learned from."""
        most = max(self.count, min(LEARNED, VALUES // math.prod(self.shape)))
        return self._source.some(most, self.seed)

    @cached_property
    def x(self) -> Tensor:
        """The same rows scaled, (N, *shape)."""
        return scaled_rows(self.splits.encoding, self.known.values())

    @cached_property
    def classes(self) -> int:
        """Classes of the real rows; 0 where they have none, or all the same, or labels that count something else."""
        label = self.known.label
        if label is None or int(label.min()) < UNKNOWN:
            return 0
        label = label[label != UNKNOWN]
        low, high = (int(label.min()), int(label.max())) if len(label) else (0, 0)
        return high + 1 if low < high < MOST_CLASSES else 0

    @cached_property
    def network(self) -> Any:
        """The feature network: a classifier or an autoencoder; None where rows are their own features."""
        cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            return self._learned()

    def _learned(self) -> Any:
        known = self.known
        size = min(64, len(known))
        epochs = max(1, min(PASSES, math.ceil(STEPS * size / len(known))))
        hyper = vars(variants.hyper("autoencoder", _network(self.shape)))
        torch.manual_seed(self.seed)
        if self.classes and known.label is not None:
            start = variants.build("autoencoder", self.shape, hyper)
            network = pretrain.Classifier(start, self.shape, self.classes)
            named = known.label != UNKNOWN
            x, label = self.x[named], known.label[named]
            pretrain.fit_classifier(network, x, label, epochs=epochs, batch_size=min(size, len(x)), seed=self.seed)
            return network
        if math.prod(self.shape) <= OWN:
            return None
        training = Training(epochs=epochs, batch_size=size, patience=None, device="cpu")
        few = dataclasses.replace(self.splits.for_search(), train=known, validate=known.take(slice(0, CHUNK)), labelled=None)
        return Run("autoencoder", hyper, few, training, self.seed, alone=True).finish().model()  # rank 0 measures, the others wait

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(M, *shape) scaled rows to (M, D): their codes, or rows of few values as they are."""
        if math.prod(self.shape) <= OWN:
            return x.flatten(1)
        coder = self.network.coder if self.classes else self.network
        return torch.cat([coder.encode(part) for part in torch.split(x, score_batch(self.shape, x.device))])

    @torch.no_grad()
    def named(self, x: Tensor) -> Tensor:
        """(M, *shape) scaled rows to (M,): the class that the network takes each for. Raises RaeflowError without classes."""
        if not self.classes:
            raise RaeflowError("health: rows without classes cannot be told apart by class; name their column in Data(label=...)")
        return torch.cat([self.network(part).argmax(1) for part in torch.split(x, score_batch(self.shape, x.device))])

    @cached_property
    def real(self) -> Tensor:
        """(N, D): features of the real rows that drawn ones are compared with."""
        return self.features(self.x[: self.count])

    def modes(self, x: Tensor) -> int:
        """Classes that at least a row of (M, *shape) falls in, and a tenth of a fair share of them, as the network names them."""
        named_K = torch.bincount(self.named(x), minlength=self.classes)
        return int((named_K >= max(1, FAIR * len(x) / self.classes)).sum())

    @cached_property
    def known_modes(self) -> int:
        """`modes` of the real rows that drawn ones are compared with."""
        return self.modes(self.x[: self.count])

    def drawn(self, model: Variant, count: int | None = None) -> Tensor:
        """(count, *shape), on the CPU: rows that a model draws, the same ones each time it is asked."""
        return drawn(model, self.count if count is None else count, self.seed)

    def __call__(self, model: Variant, count: int | None = None) -> dict[str, float]:
        """Health of a model as it stands.

        Returns:
            frechet_distance, precision, recall, density, coverage (see `raeflow.metrics`); spread, the variance of drawn
            rows over that of real ones (features, all directions together); modes, where rows have classes: those that
            get at least a row, and a tenth of a fair share; critic_slope, mean norm of the critic's gradient at real rows, for games;
            narrow, 1 where drawn rows look as real as real ones and yet leave most of these out: precision of 0.8 and density of
            2/3 at least, coverage and recall of a third at most; collapsed, 1 where next to nothing but likes is drawn: spread
            below 0.05, or at most a fifth of the five or more classes that the same network finds in real rows.

        Raises:
            Diverged: a drawn row is not finite.
            RaeflowError: the model cannot draw.
        """
        rows = self.drawn(model, count)
        if not rows.isfinite().all():
            raise Diverged(f"{type(model).__module__.rpartition('.')[2]} draws rows that are not finite")
        features = self.features(rows)
        found = self.compared(features)
        found["spread"] = float(features.var(0).sum() / self.real.var(0).sum().clamp(min=1e-12))
        if self.classes:
            found["modes"] = float(self.modes(rows))
        if isinstance(model, Adversarial):
            found["critic_slope"] = self.slope(model)
        # Against what the network finds in real rows: one that tells few kinds apart would see collapse everywhere.
        few = bool(self.classes) and self.known_modes >= FEWEST_CLASSES and found["modes"] <= SHARE * self.known_modes
        young = isinstance(model, Adversarial) and not model.whole  # coarse rows resemble one another
        found["narrow"] = float(not young and narrow(found))
        found["collapsed"] = float(not young and (few or found["spread"] < SPREAD))
        return found

    def compared(self, features: Tensor) -> dict[str, float]:
        """frechet_distance, precision, recall, density and coverage of rows with these features (M, D), real ones too."""
        return {"frechet_distance": metrics.frechet_distance(self.real, features), **metrics.manifold(self.real, features, NEIGHBOURS)}

    def slope(self, model: Adversarial[Any]) -> float:
        """Mean norm of the critic's gradient at real rows."""
        at = self.x[: min(SLOPES, self.count)].to(device_of(model))
        with evaluated(model), torch.enable_grad():
            return float(model.slopes(at).detach().mean())


def collapse(history: Sequence[Mapping[str, float]], planned: int) -> str | None:
    """A sentence that says when a game collapsed and how it is seen, from its records so far; None where it did not.

    An alarm rather than a measure: the last two evaluations must agree on a collapse, or the last three on narrow rows whose
    coverage does not grow; the first three eighths of all those `planned` count for nothing, since young generators draw likes.
    """
    told = [record for record in history if "collapsed" in record]
    late = told[math.floor(PATIENT * planned) :]
    if len(late) < RUNNING or not all(record["collapsed"] for record in late[-RUNNING:]):
        return _stuck(late[-STUCK:])
    last = late[-1]
    modes = f" and {int(last['modes'])} of their classes" if "modes" in last else ""
    return (
        f"the game collapsed by epoch {int(last['epoch'])}: drawn rows show {last['spread']:.1%} of the variance of real ones{modes} "
        f"(coverage {last['coverage']:.2f}, precision {last['precision']:.2f})"
    )


def _stuck(late: Sequence[Mapping[str, float]]) -> str | None:
    """The sentence of a game whose rows stay narrow over as many evaluations as an alarm wants; else None."""
    if len(late) < STUCK or not all(record.get("narrow") for record in late) or late[-1]["coverage"] >= GROWTH * late[0]["coverage"]:
        return None
    last, before = late[-1], int(late[0]["epoch"])
    return (
        f"the game collapsed by epoch {int(last['epoch'])}: drawn rows look real (precision {last['precision']:.2f}) but are like some "
        f"of the real ones alone (coverage {last['coverage']:.2f}, recall {last['recall']:.2f}), as they were at epoch {before}"
    )


def narrow(found: Mapping[str, float]) -> bool:
    """Whether drawn rows look as real as real ones do and yet leave most of these out, by the measures of `metrics.manifold`."""
    good = found["precision"] >= REAL and found["density"] >= DENSE
    return good and found["coverage"] <= PART and found["recall"] <= PART


def _network(shape: tuple[int, ...]) -> dict[str, Any]:
    """Hyperparameters of an encoder that learns in seconds: maps of images and signals halved to about 8."""
    if len(shape) == 1:
        return {"latent": min(FEATURES, shape[0]), "width": 128}
    depth = max(1, math.ceil(math.log2(max(shape[1:]) / 8)))
    return {"latent": min(FEATURES, math.prod(shape)), "channels": 16 if max(shape[1:]) <= 32 else 8, "depth": min(depth, 5)}


class evaluated:  # noqa: N801 - read as a word, as torch.no_grad is
    """A model in evaluation mode inside, in its own mode afterwards."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.modes = model, {m: m.training for m in model.modules()}

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes.items():
            module.training = mode


@torch.no_grad()
def drawn(model: Variant, count: int, seed: int = 0) -> Tensor:
    """(count, *shape), on the CPU, scaled: rows that a model draws in evaluation mode, the same ones each time it is asked.

    Raises:
        RaeflowError: the model cannot draw.
    """
    if not isinstance(model, Generative):
        raise RaeflowError(f"{type(model).__module__.rpartition('.')[2]} draws no rows, so their health cannot be measured")
    device, dice = device_of(model), torch.Generator().manual_seed(seed)
    sizes = [CHUNK] * (count // CHUNK) + [count % CHUNK] * (count % CHUNK > 0)
    with evaluated(model), torch.autocast(device.type, enabled=False):
        return torch.cat([model.sample(size, dice).float().cpu() for size in sizes])


def real_rows(splits: Splits) -> Resident:
    """Rows that drawn ones are compared with: train rows where they are resident, else validation rows."""
    return splits.train if isinstance(splits.train, Resident) else splits.validate


def gauge_of(splits: Splits, training: Training, seed: int) -> Gauge | None:
    """The gauge of a run; None where `Training.health` is 0 or real rows are too few. It costs nothing before a game asks."""
    return Gauge(splits, seed) if training.health and len(real_rows(splits)) >= FEWEST else None
