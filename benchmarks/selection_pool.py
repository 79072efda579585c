"""Trained models to choose from, for `benchmarks/selection.py`: 24 plain dense autoencoders a tabular set.

Rows: normal ones are shuffled by the seed of the split and fall 60 / 10 / 10 / 20 into train, validate,
calibrate and test; all anomalies are test rows and nobody sees them before. Sets with more normal rows
than `ROWS` are cut to that many (said in the table), so that one thread trains the pool in minutes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import torch

import raeflow.training as training
from raeflow import checkpoint, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training

ROWS = 3000
FRACTIONS = (0.6, 0.1, 0.1, 0.2)


@dataclass(frozen=True)
class Pool:
    """One set, one split, and the models trained on it."""

    name: str
    splits: Splits
    models: list[Any]
    kept: int
    """Normal rows used, of `normal`."""
    normal: int


def sets() -> list[Path]:
    """Files of the tabular sets, smallest first."""
    folder = Path(os.environ.get("RAEFLOW_DATA", "")) / "adbench"
    found = sorted(folder.glob("*.parquet"), key=lambda p: (p.stat().st_size, p.name))
    if not found:
        raise RaeflowError(f"RAEFLOW_DATA={os.environ.get('RAEFLOW_DATA', '')!r} has no adbench/*.parquet")
    return found


def split(path: Path, seed: int, most: int = ROWS) -> tuple[Splits, int, int]:
    """The four splits of a set, scaled by train; and how many normal rows were kept (at most `most`), and there were."""
    table = pq.read_table(path)
    columns = table["features"].combine_chunks()
    values = columns.flatten().to_numpy(zero_copy_only=False).reshape(len(columns), -1).astype(np.float32)
    strange = table["label"].to_numpy() != 0
    random = np.random.default_rng(seed)
    normal = random.permutation(np.flatnonzero(~strange))
    kept = normal[:most]
    edges = (np.cumsum(FRACTIONS)[:3] * len(kept)).round().astype(int)
    train, validate, calibrate, held = np.split(kept, edges)
    test = np.concatenate([held, np.flatnonzero(strange)])

    def rows(index: Any) -> Rows:
        return Rows(torch.from_numpy(values[index]), anomaly=torch.from_numpy(strange[index]))

    spec = RowSpec(("features",), "list", (values.shape[1],), "float32")
    scaling = fit_scaling("standard", spec.shape, torch.float32, [torch.from_numpy(values[train])])
    return Splits(spec, scaling, rows(train), rows(validate), rows(calibrate), rows(test)), len(kept), len(normal)


def proposals(shape: tuple[int, ...], count: int, seed: int) -> list[dict[str, Any]]:
    """The source's own values, then random draws from the variant's space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module = variants.get("autoencoder")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = [module.published(shape), *(module.space(study.ask(), shape) for _ in range(count - 1))]
    return [dataclasses.asdict(h) for h in drawn]


def pool(path: Path, count: int, epochs: int, seed: int, cache: Path | None) -> Pool:
    """Train, or take from the cache, `count` models."""
    splits, kept, normal = split(path, seed)
    size = max(16, min(128, len(splits.train) // 8))
    plan = Training(epochs=epochs, batch_size=size, patience=10, device="cpu")
    models = []
    for number, hyper in enumerate(proposals(splits.spec.shape, count, seed)):
        told = json.dumps([path.name, seed, number, hyper, dataclasses.asdict(plan), ROWS], sort_keys=True)
        folder = cache / path.stem / hashlib.sha256(told.encode()).hexdigest()[:16] if cache else None
        if folder is not None and folder.exists():
            weights = checkpoint.load(folder)["weights"]
        else:
            weights = training.fit("autoencoder", hyper, splits, plan, seed=1000 * seed + number).weights
            if folder is not None:
                checkpoint.save(folder, {"weights": weights})
        model = variants.build("autoencoder", splits.spec.shape, hyper)
        model.load_state_dict(weights)
        models.append(model.eval())
    return Pool(path.stem, splits, models, kept, normal)
