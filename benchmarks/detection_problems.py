"""The detection problems of `detection.py`: one class of a set of images against the nine others, and tables with known anomalies.

A model sees normal rows alone (train, validate). Images: the four splits are raeflow's own, by hash of the rows, with
the official test images as test split. Tables: normal rows are shuffled by the seed, 60 / 10 / 10 / 20 for train,
validate, calibrate and test, and all anomalies are test rows (`selection_pool.split`). `unclean/NAME` is the same table with
its own anomalies left where they fall: all rows are shuffled and divided so, and cleaned by `Data(contamination="auto")`
for raeflow's own contestants; peers get the train rows as they are. `ecg5000`: beats, as in the study of that name.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import selection_pool

from raeflow import Data
from raeflow.data import load, resolve
from raeflow.data.rows import Rows, Splits
from raeflow.study import SPLITS, Training

IMAGES = ("mnist", "fashion_mnist")
SIGNALS = ("ecg5000",)
TABLES = ("adbench", "unclean")
FAMILIES = (*IMAGES, *SIGNALS, *TABLES)
CHOSEN_ON = ("cardio", "fault", "ionosphere", "thyroid", "vowels", "wbc")
"""Tables on which raeflow's own defaults (kinds of synthetic anomalies, heads, committees, cleaning) were chosen; the others
are reported by themselves too. Of images: the classes 0 to 4."""


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
        elif name in TABLES:
            found += [f"{name}/{path.stem.split('_', 1)[1]}" for path in selection_pool.sets()]
        elif name in SIGNALS:
            found.append(f"{name}/all")
        else:
            found.append(name)
    return found


def family(problem: str) -> str:
    return problem.split("/")[0]


def splits(problem: str, seed: int, form: Form) -> Splits:
    """The four splits of a problem, scaled by train."""
    kind, _, rest = problem.partition("/")
    if kind == "adbench":
        return selection_pool.split(table(rest), seed, form.rows)[0]
    if kind == "unclean":
        return unclean(rest, seed, form.rows, "auto")
    if kind in SIGNALS:
        return load(resolve(Data(kind, normal=[("label", "==", 0)], fractions=(0.7, 0.15, 0.15, 0.0))))
    found = load(resolve(Data(kind, normal=[("label", "==", int(rest))], fractions=(0.84, 0.08, 0.08, 0.0))))
    assert isinstance(found.train, Rows) and found.test is not None
    return dataclasses.replace(found, train=found.train.take(slice(0, form.rows)), test=found.test.some(form.test))


def table(name: str) -> Path:
    """The file of a table."""
    return next(p for p in selection_pool.sets() if p.stem.split("_", 1)[1] == name)


def unclean(name: str, seed: int, most: int, contamination: Any) -> Splits:
    """All rows of a table, anomalies among them, divided by chance; `contamination` as in `Data`."""
    rows = pq.read_table(table(name), columns=["features", "label"])
    order = np.random.default_rng(seed).permutation(len(rows))[:most]
    ends = (np.cumsum(selection_pool.FRACTIONS) * len(order)).round().astype(int)
    words = np.repeat(SPLITS, np.diff([0, *ends]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(rows.take(order).append_column("split", pa.array(words)), path)
        return load(Data(str(path), columns="features", label="label", split="split", contamination=contamination))


def peers_splits(problem: str, seed: int, form: Form) -> Splits:
    """What peers see: the same rows, without raeflow's cleaning."""
    kind, _, rest = problem.partition("/")
    return unclean(rest, seed, form.rows, None) if kind == "unclean" else splits(problem, seed, form)


def weight(problem: str, data: Splits) -> float:
    """How many rows of its set a normal test row stands for, as against an anomaly: those of `adbench` are all test rows."""
    if family(problem) != "adbench":
        return 1.0
    assert data.test is not None and data.test.anomaly is not None
    labels = pq.read_table(table(problem.split("/")[1]), columns=["label"])["label"].to_numpy()
    return float((labels == 0).sum()) / float((~data.test.anomaly).sum())


def plan(problem: str, form: Form, rows: int) -> Training:
    """Batches of 64 images as the source has them; tables in at least eight batches an epoch."""
    if family(problem) in IMAGES + SIGNALS:
        return Training(epochs=form.epochs, batch_size=min(64, rows), patience=form.patience, device="cpu")
    epochs = round(TABLE_EPOCHS * form.epochs)
    return Training(epochs=epochs, batch_size=max(16, min(128, rows // 8)), patience=form.patience, device="cpu")


def key_of(values: Any) -> str:
    """16 hexadecimal digits that name a result by all that decides it."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
