"""The detection problems of `detection.py`: one class of a set of images against the nine others, and tables with known anomalies.

A model sees normal rows alone (train, validate). Images: the four splits are raeflow's own, by hash of the rows, with
the official test images as test split. Tables: normal rows are shuffled by the seed, 60 / 10 / 10 / 20 for train,
validate, calibrate and test, and all anomalies are test rows (`selection_pool.split`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import selection_pool

from raeflow import Data
from raeflow.data import load, resolve
from raeflow.data.rows import Rows, Splits
from raeflow.study import Training

IMAGES = ("mnist", "fashion_mnist")
FAMILIES = (*IMAGES, "adbench")


@dataclasses.dataclass(frozen=True)
class Form:
    """How much is trained; part of every result's key."""

    rows: int
    """Train rows of an image class, and normal rows of a table, at most."""
    test: int
    """Test rows of an image set, at most."""
    epochs: int
    """Epochs on images; tables, which are small, take `TABLE_EPOCHS` times as many."""
    patience: int = 10


TABLE_EPOCHS = 2.5


def problems(asked: list[str]) -> list[str]:
    """Names of problems: families spelt out, others (`mnist/3`, `adbench/cardio`) as they are."""
    found = []
    for name in asked:
        if name in IMAGES:
            found += [f"{name}/{label}" for label in range(10)]
        elif name == "adbench":
            found += [f"adbench/{path.stem.split('_', 1)[1]}" for path in selection_pool.sets()]
        else:
            found.append(name)
    return found


def family(problem: str) -> str:
    return problem.split("/")[0]


def splits(problem: str, seed: int, form: Form) -> Splits:
    """The four splits of a problem, scaled by train."""
    kind, _, rest = problem.partition("/")
    if kind == "adbench":
        path = next(p for p in selection_pool.sets() if p.stem.split("_", 1)[1] == rest)
        return selection_pool.split(path, seed, form.rows)[0]
    found = load(resolve(Data(kind, normal=[("label", "==", int(rest))], fractions=(0.84, 0.08, 0.08, 0.0))))
    assert isinstance(found.train, Rows) and found.test is not None
    return dataclasses.replace(found, train=found.train.take(slice(0, form.rows)), test=found.test.some(form.test))


def plan(problem: str, form: Form, rows: int) -> Training:
    """Batches of 64 images as the source has them; tables in at least eight batches an epoch."""
    if family(problem) in IMAGES:
        return Training(epochs=form.epochs, batch_size=min(64, rows), patience=form.patience, device="cpu")
    epochs = round(TABLE_EPOCHS * form.epochs)
    return Training(epochs=epochs, batch_size=max(16, min(128, rows // 8)), patience=form.patience, device="cpu")


def key_of(values: Any) -> str:
    """16 hexadecimal digits that name a result by all that decides it."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
