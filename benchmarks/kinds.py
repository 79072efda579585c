"""What is each kind of synthetic anomaly worth for choosing among models of images and signals?

    RAEFLOW_DATA=... OMP_NUM_THREADS=1 python benchmarks/kinds.py [--problems mnist/2 fashion_mnist/1 ecg5000] [--rows 2000] [--epochs 6]

For each problem two models of each default variant are trained on normal rows (published values and one draw), and every
head of each is fitted. The judge of a search values all of them without labels. Printed are, for each kind alone and for all
together: the regret, the AUROC on test rows of the best minus that of what the kind would choose; and Spearman's rank
correlation of what it says with that AUROC. Problems are those that the kinds were chosen on: digits 0 to 4, clothes 0 to 4,
and ECG5000, whose kinds of abnormal beats count as one.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import warnings

import numpy as np
import torch
from detection_contestants import hypers
from detection_problems import Form, splits
from scipy.stats import spearmanr

from raeflow import Data, heads, metrics, selection
from raeflow.data import load, resolve
from raeflow.data.rows import Rows, Splits
from raeflow.data.scaling import scaled_rows
from raeflow.study import VARIANTS, Training
from raeflow.training import fit

PROBLEMS = (*(f"{family}/{label}" for label in range(5) for family in ("mnist", "fashion_mnist")), "ecg5000")


def problem_splits(name: str, form: Form) -> Splits:
    """The four splits of a problem; of ECG5000 those of studies/ecg5000.py."""
    if name != "ecg5000":
        return splits(name, 0, form)
    found = load(resolve(Data("ecg5000", split="hash", normal=[("label", "==", 0)])))
    assert isinstance(found.train, Rows)
    return dataclasses.replace(found, train=found.train.take(slice(0, form.rows)))


def measured(name: str, form: Form) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """What each kind says of each model under each head (models * heads, kinds), the AUROC on test rows, and what each kind counts."""
    data = problem_splits(name, form)
    judge = selection.Synthetic(data.for_search(), seed=0)
    assert data.test is not None and data.test.anomaly is not None
    parts = (selection.train_rows(data), judge.x, scaled_rows(data.encoding, data.test.x))
    said, reached = [], []
    for variant in VARIANTS[len(data.spec.shape)]:
        for number in range(2):
            hyper = hypers(variant, data.spec.shape, number, seed=0)
            plan = Training(epochs=form.epochs, batch_size=64, patience=None, device="cpu")
            model = fit(variant, hyper, data, plan, seed=number).model()
            found = heads.candidates(model, data.spec.shape)
            seen, told, tested = (heads.collect(model, x, found) for x in parts)
            for head in found:
                head.fit(seen)
                said.append(list(judge.by_kind(heads.apply(head, told)).values()))
                reached.append(metrics.auroc(data.test.anomaly.numpy(), heads.apply(head, tested).numpy()))
    return np.array(said), np.array(reached), judge.shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--rows", type=int, default=2000, help="train rows at most")
    parser.add_argument("--epochs", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    form = Form(rows=asked.rows, test=2000, epochs=asked.epochs)
    for shape, names in ((3, [n for n in asked.problems if "/" in n]), (2, [n for n in asked.problems if "/" not in n])):
        told: dict[str, list[tuple[float, float]]] = {}
        best = []
        for name in names:
            start = time.perf_counter()
            said, reached, shares = measured(name, form)
            best.append(reached.max())
            for kind, values in (*zip(shares, said.T, strict=True), ("all", said @ np.array(list(shares.values())))):
                told.setdefault(kind, []).append((reached.max() - reached[values.argmax()], spearmanr(values, reached).statistic))
            print(f"  {name}: {len(reached)} models and heads, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if names:
            print(f"\n{'images' if shape == 3 else 'signals'}: {', '.join(names)}; best by the labels {np.mean(best):.4f}")
            print(f"{'kind':<12}{'regret':>8}{'most':>8}{'rank correlation':>18}")
            for kind, pairs in told.items():
                regrets, ranks = zip(*pairs, strict=True)
                print(f"{kind:<12}{np.mean(regrets):>8.4f}{np.max(regrets):>8.4f}{np.mean(ranks):>18.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
