"""Unsupervised pretraining: a trained encoder starts a classifier, so that few labels go further.

Erhan, Bengio, Courville, Manzagol, Vincent & Bengio 2010, "Why Does Unsupervised Pre-training Help Deep Learning?",
JMLR 11: an encoder learns from all rows, labelled or not; its weights start a network with a new output layer, which
then learns from the labelled ones.

    classifier = Classifier(fitted.model(), fitted.shape, classes=10)
    fit_classifier(classifier, scaling(x), label, validate=(scaling(x_held), label_held))
    accuracy(classifier, scaling(x_test), label_test)

Any variant with codes will do, also an untrained one: the same classifier from scratch.

Shapes: N rows, B rows of a batch, Z codes, K classes; a row is (F,), (C, L) or (C, H, W), scaled as the variant's were.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow.devices import device_of, score_batch
from raeflow.errors import RaeflowError
from raeflow.training import snapshot
from raeflow.variants import _layers
from raeflow.variants._contract import Latent

Labelled = tuple[Tensor, Tensor]
"""Scaled rows (N, *shape) and their classes (N,) int64, 0 to K - 1."""


class Classifier(nn.Module):
    """(B, *shape) scaled rows to (B, K) logits: a copy of a variant's encoder, and one linear layer on its codes."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
        """Copy the encoder; `model` stays as it is. The new layer starts at zero, so nothing is drawn at random.

        Args:
            model: a variant with codes (`Latent`), trained or not.
            shape: of a row.
            classes: K, at least 2.

        Raises:
            RaeflowError: the variant has no codes, or there are too few classes.
        """
        super().__init__()
        if not isinstance(model, Latent):
            raise RaeflowError(f"{type(model).__module__.rpartition('.')[2]} has no codes to start a classifier from")
        if classes < 2:
            raise RaeflowError(f"classes={classes}: a classifier tells at least two classes apart")
        self.coder = copy.deepcopy(model).requires_grad_(True)
        _layers.frozen(self.coder)
        row = torch.zeros(1, *shape, device=device_of(model))
        self.classes, self.shape = classes, tuple(shape)
        with torch.enable_grad():
            code_BZ = self.coder.encode(row)
            # Only what a code is made of goes on learning: a decoder is carried along, and left alone.
            weights = list(self.coder.parameters())
            reached = torch.autograd.grad(code_BZ.sum(), weights, allow_unused=True)
        for weight, gradient in zip(weights, reached, strict=True):
            weight.requires_grad_(gradient is not None)
        self.head = nn.Linear(code_BZ.shape[1], classes, device=row.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, K)."""
        code_BZ: Tensor = self.coder.encode(x)
        logits_BK: Tensor = self.head(code_BZ)
        return logits_BK

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The copied weights that a code is made of."""
        return [p for p in self.coder.parameters() if p.requires_grad]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of `fit_classifier` came to."""

    number: int
    """From 1."""
    loss: float
    """Mean cross-entropy of the training rows, in nats."""
    validation_loss: float
    """Mean cross-entropy of the held-out rows; NaN where there are none."""


def fit_classifier(
    classifier: Classifier,
    x: Tensor,
    label: Tensor,
    validate: Labelled | None = None,
    *,
    epochs: int = 50,
    frozen: int = 0,
    patience: int | None = None,
    lr: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
) -> list[Epoch]:
    """Train in place by cross-entropy and Adam, in float32, on resident rows; left in evaluation mode.

    Args:
        classifier: of the rows' shape, on the rows' device.
        x: (N, *shape) scaled rows.
        label: (N,) int64 classes, 0 to K - 1.
        validate: held-out rows and classes; the weights of the epoch of their lowest loss are kept. None keeps the last.
        epochs: passes over the rows, the frozen ones among them.
        frozen: first epochs in which the new layer learns alone; with `frozen=epochs` the encoder stays as it was.
        patience: epochs without a lower validation loss before training stops, not counting frozen ones.
        lr: Adam's learning rate.
        batch_size: rows a step.
        seed: of the order of the rows; the same seed gives the same weights.

    Raises:
        RaeflowError: rows and classes do not fit each other or the classifier, or a setting is out of range.
    """
    _check(classifier, x, label)
    if validate is not None:
        _check(classifier, *validate)
    if not (epochs >= 1 and 0 <= frozen <= epochs and batch_size >= 1 and lr > 0):
        raise RaeflowError(
            f"epochs={epochs}, frozen={frozen}, batch_size={batch_size}, lr={lr}: at least one epoch, at most all of them frozen, "
            "at least one row a batch and a learning rate above 0"
        )
    if patience is not None and validate is None:
        raise RaeflowError(f"patience={patience}: stopping early needs validate=(rows, classes)")
    order = torch.Generator().manual_seed(seed)
    head, body = list(classifier.head.parameters()), classifier.encoder_parameters()
    optimizer = _layers.adam(head if frozen else [*head, *body], lr)
    history: list[Epoch] = []
    best, kept, since = math.inf, snapshot(classifier), 0
    for number in range(1, epochs + 1):
        if frozen and number == frozen + 1:
            optimizer, since = _layers.adam([*head, *body], lr), 0
        loss = _pass(classifier, x, label, optimizer, torch.split(torch.randperm(len(x), generator=order).to(x.device), batch_size))
        held_out = math.nan if validate is None else cross_entropy(classifier, *validate)
        history.append(Epoch(number, loss, held_out))
        since += 1
        if held_out < best:
            best, kept, since = held_out, snapshot(classifier), 0
        if patience is not None and number > frozen and since >= patience:
            break
    if validate is not None:
        classifier.load_state_dict(kept)
    classifier.eval()
    return history


def _pass(classifier: Classifier, x: Tensor, label: Tensor, optimizer: torch.optim.Optimizer, parts: tuple[Tensor, ...]) -> float:
    """One epoch; the mean loss of its rows."""
    classifier.train()
    total = torch.zeros((), device=x.device)
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    for index in parts:
        loss = functional.cross_entropy(classifier(x[index]), label[index])
        for p in learning:
            p.grad = None
        torch.autograd.backward(loss, inputs=learning)
        optimizer.step()
        total += loss.detach() * len(index)
    return float(total) / len(x)


def accuracy(classifier: Classifier, x: Tensor, label: Tensor) -> float:
    """Share of rows, 0 to 1, whose most likely class is theirs."""
    _check(classifier, x, label)
    return float((_logits(classifier, x).argmax(1) == label).double().mean())


def cross_entropy(classifier: Classifier, x: Tensor, label: Tensor) -> float:
    """Mean cross-entropy of the rows, in nats."""
    _check(classifier, x, label)
    return float(functional.cross_entropy(_logits(classifier, x), label))


@torch.no_grad()
def _logits(classifier: Classifier, x: Tensor) -> Tensor:
    """(N, K), a few rows at a time."""
    classifier.eval()
    return torch.cat([classifier(part) for part in torch.split(x, score_batch(classifier.shape, x.device))])


def _check(classifier: Classifier, x: Tensor, label: Tensor) -> None:
    if not len(x) or tuple(x.shape[1:]) != classifier.shape or not x.is_floating_point():
        raise RaeflowError(f"rows are {x.dtype} {tuple(x.shape)}: this classifier takes scaled rows (N, {str(classifier.shape)[1:]}")
    if label.shape != x.shape[:1] or label.dtype != torch.int64:
        raise RaeflowError(f"classes are {label.dtype} {tuple(label.shape)}: one int64 for each of the {len(x)} rows")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= classifier.classes:
        raise RaeflowError(f"classes span {low} to {high}: this classifier knows 0 to {classifier.classes - 1}")
