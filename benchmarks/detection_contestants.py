"""Who takes part in `detection.py`: raeflow's models under every head, what is chosen among them, and peers.

`run` trains whatever of one problem and seed is not there yet, and appends a JSON line for each model, then one for all that
is chosen among them. Weights are kept, so that heads, judges and committees can be compared again without training.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from detection_problems import Form, family, key_of, peers_splits, plan, splits, weight
from sklearn.metrics import average_precision_score, roc_auc_score

from raeflow import committees, heads, selection, variants
from raeflow.calibration import combine, log_moments
from raeflow.data.rows import Splits
from raeflow.data.scaling import scaled_rows
from raeflow.errors import RaeflowError
from raeflow.selection import Trial
from raeflow.stored import load_fitted, save_fitted
from raeflow.study import FIRM
from raeflow.training import Fitted, fit

PEERS = ("kNN", "IsolationForest", "PyOD AE", "PyOD VAE")
LARGE = 5
"""Members of the committee of a fixed size."""
Scores = np.ndarray[Any, np.dtype[np.float32]]
Measure = Callable[[Scores], dict[str, float]]


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


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A trained model under one head: its scores of the judge's rows and of the test rows."""

    entry: Entry
    head: str
    value: float
    cost: float
    judged: torch.Tensor
    test: torch.Tensor


def hypers(variant: str, shape: tuple[int, ...], number: int, seed: int) -> dict[str, Any]:
    """The published values, else the draw of this number from the variant's space; each number has its own draw."""
    module = variants.get(variant)
    if not number:
        return dataclasses.asdict(module.published(shape))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1000 * seed + number))
    return dataclasses.asdict(module.space(study.ask(), shape))


def group_key(entries: Sequence[Entry]) -> str:
    """Name of what is chosen among some entries."""
    return key_of(sorted(e.key for e in entries if e.contestant not in PEERS))


def run(entries: Sequence[Entry], out: Path, models: Path, asked: Sequence[str] | None = None) -> int:
    """Train and measure entries of one problem, seed and form, and what is chosen among them; the number of them.

    `asked` names the heads that are judged; None: all.
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    known, first = read(out), entries[0]
    data = splits(first.problem, first.seed, first.form)
    judge = selection.Synthetic(data.for_search(), first.seed)
    measure = measured(first.problem, data)
    peered = peers_splits(first.problem, first.seed, first.form)
    found: list[Candidate] = []
    for entry in entries:
        start = time.perf_counter()
        said: dict[str, Any] = {"key": entry.key, **dataclasses.asdict(entry)}
        try:
            if entry.contestant in PEERS:
                if entry.key in known:
                    continue
                said |= measure(peer(entry, peered))
            else:
                mine = candidates(entry, data, judge, models, asked)
                found += mine
                said["heads"] = {c.head: {"judge": c.value, **measure(c.test.numpy())} for c in mine}
        except RaeflowError as error:
            said["failed"] = str(error)
        append(out, said | {"seconds": round(time.perf_counter() - start, 2)})
    if found:
        append(out, {"key": group_key(entries), "problem": first.problem, "seed": first.seed, "chosen": chosen(found, judge, measure)})
    return len(entries)


def measured(problem: str, data: Splits) -> Measure:
    """AUROC; average precision as the test rows are, and at the share of anomalies that the whole set has; AUROC of both halves."""
    assert data.test is not None and data.test.anomaly is not None
    truth, heavy = data.test.anomaly.numpy(), weight(problem, data)
    weights = np.where(truth, 1.0, heavy)
    order = np.random.default_rng(0).permutation(len(truth))
    sides = [np.concatenate([order[truth[order]][side::2], order[~truth[order]][side::2]]) for side in (0, 1)]

    def measure(scores: Scores) -> dict[str, float]:
        scores = np.nan_to_num(scores, posinf=np.finfo(np.float32).max)
        halves = [float(roc_auc_score(truth[side], scores[side])) for side in sides]
        ap, apn = (float(average_precision_score(truth, scores, sample_weight=w)) for w in (None, weights))
        return {"auroc": float(roc_auc_score(truth, scores)), "ap": ap, "apn": apn, "half": halves[0], "other": halves[1]}

    return measure


def candidates(entry: Entry, data: Splits, judge: selection.RowJudge, models: Path, asked: Sequence[str] | None = None) -> list[Candidate]:
    """One trained model under every head; the judge, who sees no label, values each."""
    assert data.test is not None
    fitted = trained(entry, data, models)
    model = fitted.model()
    able = selection.candidates(model, data, asked)
    parts = (selection.train_rows(data), judge.x, scaled_rows(data.encoding, data.test.x))
    seen, own, tested = (heads.collect(model, x, able) for x in parts)
    found = []
    for head in able:
        head.fit(seen)
        judged, test = heads.apply(head, own), heads.apply(head, tested)
        state = dataclasses.replace(fitted, head=heads.described(head), head_weights=dict(head.state_dict()))
        title = heads.title(heads.described(head))
        found.append(Candidate(entry, title, judge.value(judged), committees.flops(state, judge.x), judged, test))
    return found


def trained(entry: Entry, data: Splits, models: Path) -> Fitted:
    """The entry's model, trained or as it was kept."""
    place = models / entry.key
    if place.exists():
        return load_fitted(place)
    hyper = hypers(entry.contestant, data.spec.shape, entry.number, entry.seed)
    training = plan(entry.problem, entry.form, len(data.train))
    fitted = fit(entry.contestant, hyper, data, training, seed=1000 * entry.seed + entry.number)
    save_fitted(fitted, place)
    return fitted


def chosen(found: Sequence[Candidate], judge: selection.RowJudge, measure: Measure) -> dict[str, dict[str, float]]:
    """What a study would choose among its trials: one model, a committee; the same by each head, and by the labels."""
    trials = [max((c for c in found if c.entry == e), key=lambda c: c.value) for e in dict.fromkeys(c.entry for c in found)]
    ranked = sorted(trials, key=lambda c: -c.value)
    said = {"chosen": measure(ranked[0].test.numpy())}
    by_trial = dict(enumerate(ranked))
    asked = committees.candidates([Trial(n, c.entry.contestant, {}, c.value, 0.0, 1, 0.0, "complete") for n, c in by_trial.items()])
    members = [by_trial[t.number] for t in asked]
    firm = FIRM if family(found[0].entry.problem) == "unclean" else ()
    sure = committees.sure([m.entry.contestant for m in members], judge.x.shape[1:], firm)
    told = committees.elect({i: m.judged for i, m in enumerate(members)}, {i: m.cost for i, m in enumerate(members)}, judge, sure)
    said["committee"] = {**vote([members[i] for i in told.places], judge, measure), "members": len(told.places), "cost": told.cost}
    said[f"{LARGE} best"] = vote(ranked[:LARGE], judge, measure)
    best, other = (max(found, key=lambda c, at=at: measure(c.test.numpy())[at]) for at in ("half", "other"))
    # Chosen by the labels of one half of the test rows and measured on the other, so that its luck does not count.
    said["oracle"] = {"auroc": (measure(best.test.numpy())["other"] + measure(other.test.numpy())["half"]) / 2}
    for name in dict.fromkeys(c.head.split()[0] for c in found if variants.get(c.entry.contestant).Model.rebuilds):
        own = [c for c in found if c.head.split()[0] == name and variants.get(c.entry.contestant).Model.rebuilds]
        said[f"head {name}"] = measure(max(own, key=lambda c: c.value).test.numpy())
    for name in dict.fromkeys(c.entry.contestant for c in found):
        said[name] = measure(next(c for c in ranked if c.entry.contestant == name).test.numpy())
    return said


def vote(members: Sequence[Candidate], judge: selection.RowJudge, measure: Measure) -> dict[str, float]:
    """A committee, as a `Detector` of several members votes."""
    if len(members) == 1:
        return measure(members[0].test.numpy())
    return measure(combine([m.test for m in members], [log_moments(judge.normal(m.judged)) for m in members]).numpy())


def peer(entry: Entry, data: Splits) -> Scores:
    """A peer with its defaults, on the same scaled rows; PyOD's own scaling on top is switched off."""
    assert data.test is not None
    train, test = (scaled_rows(data.encoding, rows.x).flatten(1).numpy() for rows in (data.train, data.test))  # type: ignore[attr-defined]
    if entry.contestant == "kNN":
        from sklearn.neighbors import NearestNeighbors

        return np.asarray(NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0].mean(1))
    if entry.contestant == "IsolationForest":
        from sklearn.ensemble import IsolationForest

        return np.asarray(-IsolationForest(random_state=entry.seed).fit(train).score_samples(test))
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    kind = AutoEncoder if entry.contestant == "PyOD AE" else VAE
    model = kind(preprocessing=False, random_state=entry.seed, verbose=0, device=torch.device("cpu"), batch_size=min(32, len(train)))
    return np.asarray(model.fit(train).decision_function(test))


def append(out: Path, record: Mapping[str, Any]) -> None:
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
