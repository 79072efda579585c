"""Who takes part in `detection.py`: raeflow's variants with several hyperparameters each, and three peers.

`run` trains whatever of one problem is not in the results yet, and appends a JSON line for each as it is done.
Scores of raeflow's models are kept beside the results, so that committees can be put together afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from detection_problems import Form, key_of, plan, splits

from raeflow import committees, heads, metrics, selection, variants
from raeflow.data.rows import Splits
from raeflow.data.scaling import scaled_rows
from raeflow.errors import RaeflowError
from raeflow.stored import load_fitted, save_fitted
from raeflow.training import Fitted, fit

PEERS = ("kNN", "IsolationForest", "PyOD AE", "PyOD VAE")
Scores = np.ndarray[Any, np.dtype[np.float32]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of one problem; `number` 0 has the published values, others are drawn from the variant's space."""

    problem: str
    seed: int
    contestant: str
    number: int
    form: Form

    @property
    def key(self) -> str:
        return key_of(dataclasses.asdict(self))


def hypers(variant: str, shape: tuple[int, ...], number: int, seed: int) -> dict[str, Any]:
    """The published values, else the draw of this number from the variant's space; each number has its own draw."""
    module = variants.get(variant)
    if not number:
        return dataclasses.asdict(module.published(shape))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1000 * seed + number))
    return dataclasses.asdict(module.space(study.ask(), shape))


def run(entries: Sequence[Entry], out: Path) -> int:
    """Train and judge entries of one problem, seed and form; the number of them."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    first = entries[0]
    data = splits(first.problem, first.seed, first.form)
    judge = selection.Synthetic(data.for_search(), first.seed)
    assert data.test is not None and data.test.anomaly is not None
    truth = data.test.anomaly.numpy()
    for entry in entries:
        start = time.perf_counter()
        found: dict[str, Any] = {"key": entry.key, **dataclasses.asdict(entry)}
        try:
            more = peer(entry, data) if entry.contestant in PEERS else ours(entry, data, judge, out)
            strange = more.pop("scores")
            found |= more | {"auroc": metrics.auroc(truth, strange), "ap": metrics.average_precision(truth, strange)}
        except RaeflowError as error:
            found["failed"] = str(error)
        append(out, found | {"seconds": round(time.perf_counter() - start, 2)})
    return len(entries)


def ours(entry: Entry, data: Splits, judge: selection.RowJudge, out: Path) -> dict[str, Any]:
    """One trained model under every head: what the judge, who sees no label, says of each, and how well each detects."""
    assert data.test is not None
    fitted = trained(entry, data, out)
    model = fitted.model()
    found = heads.candidates(model, data.spec.shape)
    parts = (selection.train_rows(data), judge.x, scaled_rows(data.encoding, data.test.x))
    seen, asked, tested = (heads.collect(model, x, found) for x in parts)
    judged, strange = {}, {}
    for head in found:
        head.fit(seen)
        name = heads.title(heads.described(head))
        judged[name], strange[name] = heads.apply(head, asked).numpy(), heads.apply(head, tested).numpy()
    folder = scores_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / f"{entry.key}.npz", judge=np.stack(list(judged.values())), test=np.stack(list(strange.values())), truth=data.test.anomaly
    )
    values = {name: judge.value(torch.from_numpy(own)) for name, own in judged.items()}
    best = max(values, key=lambda name: values[name])
    cost = committees.flops(fitted, judge.x)
    return {"scores": strange[best], "head": best, "heads": values, "cost": cost, "epochs_run": len(fitted.history)}


def trained(entry: Entry, data: Splits, out: Path) -> Fitted:
    """The entry's model, trained or as it was kept: heads and judges are compared on the same weights."""
    place = out.with_suffix(".models") / entry.key
    if place.exists():
        return load_fitted(place)
    hyper = hypers(entry.contestant, data.spec.shape, entry.number, entry.seed)
    training = plan(entry.problem, entry.form, len(data.train))
    fitted = fit(entry.contestant, hyper, data, training, seed=1000 * entry.seed + entry.number)
    save_fitted(fitted, place)
    return fitted


def peer(entry: Entry, data: Splits) -> dict[str, Any]:
    """A peer with its defaults, on the same scaled rows; PyOD's own scaling on top is switched off."""
    assert data.test is not None
    train, test = (data.encoding(rows.x).flatten(1).numpy() for rows in (data.train, data.test))
    if entry.contestant == "kNN":
        from sklearn.neighbors import NearestNeighbors

        return {"scores": NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0].mean(1)}
    if entry.contestant == "IsolationForest":
        from sklearn.ensemble import IsolationForest

        return {"scores": -IsolationForest(random_state=entry.seed).fit(train).score_samples(test)}
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    kind = AutoEncoder if entry.contestant == "PyOD AE" else VAE
    model = kind(preprocessing=False, random_state=entry.seed, verbose=0, device=torch.device("cpu"), batch_size=min(32, len(train)))
    return {"scores": model.fit(train).decision_function(test)}


def scores_folder(out: Path) -> Path:
    return out.with_suffix(".scores")


def append(out: Path, record: dict[str, Any]) -> None:
    """One line, in one write, so that processes that append to one file do not mix their lines."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def read(out: Path) -> dict[str, dict[str, Any]]:
    """Results by key; a line that a killed run left unfinished is ended and ignored."""
    if not out.exists():
        return {}
    text = out.read_bytes()
    if text and not text.endswith(b"\n"):
        with out.open("ab") as file:
            file.write(b"\n")
    found = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["key"]] = record
    return found
