"""The one loop for every variant, autoencoder and GAN alike, in plain torch.

`epochs` is a generator: it yields after each epoch and the caller decides (report, prune, checkpoint,
stop). Under torch.distributed it is the same loop: gradients of each player are averaged in one flat
all-reduce, so a gradient penalty and a two-player game are as right on N workers as on one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raeflow import checkpoint, heads, variants
from raeflow.data.rows import Raw, Resident, RowSource, Splits
from raeflow.devices import device_of, memory_format, resolve_device, score_batch, threads, to_device
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.variants._contract import Batch, OneShot, Variant


@dataclass(frozen=True)
class Epoch:
    """What the loop yields."""

    number: int
    """Epochs done, from 1."""
    losses: dict[str, float]
    """Mean training loss of each player."""
    validation_loss: float
    """Mean over the validation rows of `Variant.validation`: their scores, unless the variant says otherwise."""
    settled: bool
    """Whether validation losses can be compared yet (see `Variant.settled_from`)."""
    last: bool
    health: dict[str, float] = field(default_factory=dict)
    """What a gauge measured after this epoch of a game (see `raeflow.health`); empty where none did."""


@dataclass(frozen=True)
class Fitted:
    """A trained model: enough to build it again anywhere."""

    variant: str
    hyper: dict[str, Any]
    shape: tuple[int, ...]
    weights: dict[str, Tensor]
    """Model's state on the CPU; the scaling is the splits'."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One record per epoch: epoch, validation_loss, loss_<player>, and the health of a game where it was measured."""
    best_epoch: int = 0
    head: dict[str, Any] | None = None
    """Name and settings of the head that was fitted to it; None: the variant's own score."""
    head_weights: dict[str, Tensor] = field(default_factory=dict)
    """What that head has learnt, on the CPU."""

    def scorer(self) -> heads.Head:
        """The head in evaluation mode, on the CPU."""
        head = heads.restored(self.head)
        head.load_state_dict(self.head_weights)
        return head.eval()

    def model(self) -> Variant:
        """The model in evaluation mode, on the CPU."""
        model: Variant = variants.build(self.variant, self.shape, self.hyper)
        model.load_state_dict(self.weights)
        return model.eval()


SHOT, SHOT_VALUES = 1 << 16, 1 << 25
"""Train rows that a variant which is no network is fitted to, and values of them all, at most."""
FEWEST_SHOT, SHOT_BATCH = 256, 4096
"""Such rows at least, and how many are scaled at a time."""

Gauge = Callable[[Variant], dict[str, float]]
"""Measures a model as it stands, without changing it or anybody's dice (see `raeflow.health`)."""


class Run:
    """One training run: model, optimisers, noise and position; what a checkpoint holds."""

    def __init__(
        self,
        variant: str,
        hyper: dict[str, Any],
        splits: Splits,
        training: Training,
        seed: int = 0,
        gauge: Gauge | None = None,
        alone: bool = False,
    ) -> None:
        """`gauge` measures a game `Training.health` times while it lasts; None measures nothing. `alone` trains in this
        process by itself even where it is one of several workers."""
        self.variant, self.hyper, self.splits, self.training, self.seed = variant, hyper, splits, training, seed
        self.gauge = gauge
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() and not alone else (0, 1)
        self.device = resolve_device(training.device)
        self.size = check_batch(splits.train, training.batch_size, self.world)
        torch.manual_seed(seed)  # the same weights on every worker
        self.memory = memory_format(self.device, splits.spec.shape)
        self.model: Variant = variants.build(variant, splits.spec.shape, hyper).to(self.device)
        if self.memory is not torch.contiguous_format:
            self.model = self.model.to(memory_format=self.memory)
        self.optimizers = self.model.optimizers()
        self.players = owned(self.model, self.optimizers)
        torch.manual_seed(seed + self.rank)  # dropout differs between workers
        self.noise = torch.Generator(self.device).manual_seed(seed + 1)
        self.encoding = copy.deepcopy(splits.encoding).to(self.device)  # the splits' own stays where it is
        self.train = to_device(splits.train, self.device)
        self.validate = to_device(splits.validate, self.device)
        self.done = 0
        self.history: list[dict[str, float]] = []
        self.best_loss, self.best_epoch = math.inf, 0
        self.best: dict[str, Tensor] | None = None

    def epochs(self) -> Iterator[Epoch]:
        """Train on from where the run stands; yields after each epoch."""
        total = self.total
        steps = max(1, step_count(len(self.train), self.size, self.world))
        while self.done < total and not self._weary():
            with threads(self.training.threads if self.device.type == "cpu" else None):
                losses = self._train_epoch(self.done, steps, total)
                self.done += 1
                validation = self._validate()
            if not math.isfinite(validation) or not all(map(math.isfinite, losses.values())):
                raise Diverged(f"{self.variant} diverged in epoch {self.done}: losses {losses}, validation loss {validation}")
            health, told = self._health(), {f"loss_{p}": v for p, v in losses.items()}
            self.history.append({"epoch": self.done, "validation_loss": validation, **told, **health})
            if self._settled() and validation < self.best_loss:
                self.best_loss, self.best_epoch = validation, self.done
                if self.training.patience is not None:
                    self.best = snapshot(self.model)
            yield Epoch(self.done, losses, validation, self._settled(), self.done == total or self._weary(), health)

    @property
    def total(self) -> int:
        """Epochs that the run has at most: one where the model is no network."""
        return 1 if isinstance(self.model, OneShot) else self.training.epochs

    def fit_rows(self) -> None:
        """Fit a model that is no network to train rows, the same on every worker, so that they need not speak to each other."""
        assert isinstance(self.model, OneShot)  # noqa: S101 - callers ask
        count = max(FEWEST_SHOT, min(SHOT, SHOT_VALUES // math.prod(self.splits.spec.shape)))
        rows = self.splits.some_train(count, self.seed).values()
        with torch.no_grad():
            self.model.fit_rows(torch.cat([self._rows(part) for part in torch.split(rows, SHOT_BATCH)]), self.seed)

    def _health(self) -> dict[str, float]:
        """What the gauge finds, if it is due after this epoch; rank 0 measures for all."""
        if self.gauge is None or self.done not in evaluations(self.training, self.model.game_share):
            return {}
        told: list[Any] = [None]
        if self.rank == 0:
            try:
                told = [self.gauge(self.model)]
            except RaeflowError as error:  # told to all, for the others wait
                told = [str(error)]
        if self.world > 1:
            dist.broadcast_object_list(told, 0)
        if isinstance(told[0], str):
            raise Diverged(told[0])
        found: dict[str, float] = told[0]
        return found

    def _settled(self) -> bool:
        return self.done / self.total >= self.model.settled_from

    def _weary(self) -> bool:
        """Whether patience has run out; asked before an epoch too, so that a run resumed at its end stays there."""
        patience = self.training.patience
        return patience is not None and self.best_epoch > 0 and self.done - self.best_epoch >= patience

    def _train_epoch(self, epoch: int, steps: int, total: int) -> dict[str, float]:
        if isinstance(self.model, OneShot):
            self.fit_rows()
            return {}
        self.model.train()
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        raws = self.train.batches(self.size, seed=self.seed, epoch=epoch, rank=self.rank, world=self.world)
        for step, raw in enumerate(raws):
            for player, loss in self.step(raw, (epoch + min(step / steps, 1.0)) / total):
                sums[player] = sums[player] + loss if player in sums else loss
                counts[player] = counts.get(player, 0) + 1
        if not sums:
            raise RaeflowError(f"{self.variant} took no step: {len(self.train)} training rows for batches of {self.size}")
        means = torch.stack([value / counts[player] for player, value in sums.items()])
        if self.world > 1:
            dist.all_reduce(means)
            means /= self.world
        return dict(zip(sums, means.tolist(), strict=True))

    def step(self, raw: Raw, progress: float) -> Iterator[tuple[str, Tensor]]:
        """Train on one batch at this share of the whole training; yields each player's name and loss after its turn."""
        turns = self.model.turns(self._batch(raw), progress)
        while True:
            with self._autocast():
                turn = next(turns, None)
            if turn is None:
                return
            player, loss = turn
            self._step(player, loss)
            yield player, loss.detach()

    def _step(self, player: str, loss: Tensor) -> None:
        """Gradients of this player's parameters alone, averaged over the workers, then one step of its optimiser."""
        parameters = self.players[player]
        for p in parameters:
            p.grad = None
        # Where nobody else owns a parameter, the cheaper full backward pass finds the same gradients.
        torch.autograd.backward(loss, inputs=parameters if len(self.players) > 1 else None)
        if self.world > 1:
            average(parameters, self.world)
        self.optimizers[player].step()

    def _batch(self, raw: Raw) -> Batch:
        x, target = self._rows(raw.x), None if raw.target is None else self._rows(raw.target)
        label = None if raw.label is None else raw.label.to(self.device, non_blocking=True)
        return Batch(x, target, label, self.noise, self.rank, self.world)

    @torch.no_grad()
    def _rows(self, raw: Tensor) -> Tensor:
        """Rows scaled, on the device, in the order in memory that its convolutions like best."""
        scaled: Tensor = self.encoding(raw.to(self.device, non_blocking=True))
        return scaled.contiguous(memory_format=self.memory)

    def _autocast(self) -> Any:
        if self.training.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _validate(self) -> float:
        """Mean validation loss; workers take turns at the rows and agree on the mean, so that none stops alone."""
        mine = self.validate.take(slice(self.rank, None, self.world))
        total = validation(self.model, self.encoding, mine).sum(dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(total)
        return float(total) / len(self.validate)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: nested dicts of tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizers": {player: o.state_dict() for player, o in self.optimizers.items()},
            "best": self.best,
            "rng": {"global": torch.get_rng_state(), "noise": self.noise.get_state()},
            "position": {
                "done": self.done,
                "history": self.history,
                "best_loss": self.best_loss,
                "best_epoch": self.best_epoch,
                "variant": self.variant,
                "hyper": self.hyper,
                "seed": self.seed,
            },
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint (safetensors and JSON, whole or not at all)."""
        checkpoint.save(folder, self.state())

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint that `save` wrote for the same variant, hyperparameters and seed."""
        state = checkpoint.load(folder)
        at = state["position"]
        mine = checkpoint.plain({"variant": self.variant, "hyper": self.hyper, "seed": self.seed})
        for name, value in mine.items():
            if at[name] != value:
                raise RaeflowError(f"checkpoint {folder} has {name} {at[name]!r}, this run has {value!r}")
        self.model.load_state_dict(state["model"])
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        self.best = state["best"]
        self.done, self.history = at["done"], at["history"]
        self.best_loss, self.best_epoch = at["best_loss"], at["best_epoch"]
        if self.rank == 0:
            torch.set_rng_state(state["rng"]["global"])
        self.noise.set_state(state["rng"]["noise"])

    def finish(self) -> Fitted:
        """Train on to the end."""
        for _ in self.epochs():
            pass
        return self.fitted()

    def fitted(self) -> Fitted:
        """The model as it should be used: best weights where patience watched over them, else the last."""
        weights = self.best if self.best is not None else snapshot(self.model)
        epoch = self.best_epoch if self.best is not None else self.done
        return Fitted(self.variant, self.hyper, self.splits.spec.shape, {k: v.cpu() for k, v in weights.items()}, self.history, epoch)


class Diverged(RaeflowError):  # noqa: N818 - it says what happened
    """A loss became NaN or infinite."""


def fit(variant: str, hyper: dict[str, Any], splits: Splits, training: Training, seed: int = 0, gauge: Gauge | None = None) -> Fitted:
    """Train one variant to the end in this process; `splits` give rows, shape and scaling, `gauge` the health of a game."""
    return Run(variant, hyper, splits, training, seed, gauge).finish()


def scores(model: Variant, scaling: nn.Module, rows: Resident, size: int | None = None) -> Tensor:
    """Scores (N,) of unscaled rows, float32, on the model's device; the model is left in evaluation mode."""
    return _measured(model, rows, size, lambda raw, device: model.score(scaling(raw.x.to(device))))


def validation(model: Variant, scaling: nn.Module, rows: Resident) -> Tensor:
    """Validation losses (N,) of unscaled rows, float32, on the model's device; the model is left in evaluation mode."""

    def loss(raw: Raw, device: torch.device) -> Tensor:
        target = None if raw.target is None else scaling(raw.target.to(device))
        return model.validation(Batch(scaling(raw.x.to(device)), target))

    return _measured(model, rows, None, loss)


@torch.no_grad()
def _measured(model: Variant, rows: Resident, size: int | None, measure: Callable[[Raw, torch.device], Tensor]) -> Tensor:
    """`measure` of each batch of rows, (N,) float32."""
    model.eval()
    device = device_of(model)
    size = size or score_batch(rows.shape, device, model.width)
    parts = [measure(raw, device).float() for raw in rows.batches(size)]
    return torch.cat(parts) if parts else torch.empty(0, device=device)


def check_batch(train: RowSource, size: int, world: int) -> int:
    """The global batch size, refused where it cannot be shared evenly or filled once."""
    if size % world:
        raise RaeflowError(f"Training(batch_size={size}): {world} workers cannot share {size} rows evenly")
    if len(train) < size:
        raise RaeflowError(f"Training(batch_size={size}): the train split has {len(train)} rows, fewer than one batch")
    return size


def evaluations(training: Training, game: float) -> list[int]:
    """Epochs after which a game that lasts this share of training is measured: `Training.health` of them, the last one included."""
    played = max(1, math.ceil(game * training.epochs - 1e-9))
    count = min(training.health, played)
    return [math.ceil(played * place / count) for place in range(1, count + 1)] if game > 0 else []


def step_count(rows: int, size: int, world: int) -> int:
    """Steps of an epoch, as `RowSource.batches` cuts them."""
    return rows // size if world > 1 else -(-rows // size)


def owned(model: nn.Module, optimizers: dict[str, Any]) -> dict[str, list[Tensor]]:
    """Parameters of each player; every parameter must have exactly one owner."""
    players = {name: [p for group in o.param_groups for p in group["params"]] for name, o in optimizers.items()}
    ids = [id(p) for parameters in players.values() for p in parameters]
    if sorted(ids) != sorted(id(p) for p in model.parameters()):
        raise TypeError(f"{type(model).__module__}: the optimisers must own every parameter exactly once")
    return players


def average(parameters: list[Tensor], world: int) -> None:
    """Average the gradients over all workers in one flat all-reduce.

    A parameter that a loss did not reach has no gradient on any worker (what a turn computes follows from
    `progress` alone), and the optimiser leaves it where it is, as on one worker.
    """
    reached = [p.grad for p in parameters if p.grad is not None]
    if not reached:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in reached])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(reached, torch.split(flat, [gradient.numel() for gradient in reached]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state, where the model is."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}
