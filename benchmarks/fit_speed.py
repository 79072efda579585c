"""How long until rows in memory have a first fitted detector, beside PyOD's AutoEncoder with its defaults?

    python benchmarks/fit_speed.py               5,000 x 20, five rounds
    python benchmarks/fit_speed.py --quick       two rounds

PyOD is no dependency of raeflow: `pip install pyod` first.

Rows are drawn by a seed: normal ones fill a subspace of five dimensions with noise around it, 5 % are anomalies that take
three of their columns from other rows: each value is usual, the combination is not. Both fit on all rows without a label,
each with its defaults, and rank fresh rows.

    one process     both libraries imported and warmed up by one fit each, which is not timed; then they take turns
    fresh process   from the start of Python to the fitted detector, imports counted: what one who runs a script waits for

Contenders take turns, medians over rounds are compared. The exit status says whether raeflow took longer in either.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS, LATENT, ODD, SWAPPED = 5_000, 20, 5, 0.05, 3
FLOOR = 0.01
"""How far raeflow's AUROC may lie below PyOD's before a shorter time counts for nothing."""
Floats = NDArray[np.float64]


def main() -> int:
    """Run both forms and print times, ratios and AUROC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        CONTENDERS[arguments.child](rows(0)[0], 0)
        print("RESULT", json.dumps(time.time() - arguments.started))
        return 0
    rounds = 2 if arguments.quick else arguments.rounds
    print(f"{ROWS:,} x {COLUMNS} rows, {ODD:.0%} anomalies, medians of {rounds} rounds\n")
    print(f"{'':16}{'raeflow':>10}{'PyOD':>10}{'ratio':>8}")
    once, found = one_process(rounds)
    good = report("one process", once) & report("fresh process", fresh_process(rounds))
    auroc = {name: statistics.median(values) for name, values in found.items()}
    print(f"{'AUROC':16}{auroc['raeflow']:10.4f}{auroc['pyod']:10.4f}")
    return 0 if good and auroc["raeflow"] >= auroc["pyod"] - FLOOR else 1


def rows(seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """(N, F) rows of one problem, drawn by `seed`, and which of them (N,) are anomalies."""
    mixing = np.random.default_rng(7).normal(size=(LATENT, COLUMNS))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, LATENT)) @ mixing + rng.normal(size=(ROWS, COLUMNS))
    odd = rng.random(ROWS) < ODD
    places = np.argsort(rng.random((ROWS, COLUMNS)), axis=1)[:, :SWAPPED]
    others = x[rng.integers(ROWS, size=(ROWS, SWAPPED)), places]
    x[np.flatnonzero(odd)[:, None], places[odd]] = others[odd]
    return x, odd


def raeflow_fit(x: Floats, seed: int) -> Callable[[Floats], Any]:
    """raeflow's default: one autoencoder, stopped early, calibrated."""
    import raeflow

    return raeflow.fit(x, seed=seed).score


def pyod_fit(x: Floats, seed: int) -> Callable[[Floats], Any]:
    """PyOD's default, on the CPU as raeflow's, and quiet."""
    import torch
    from pyod.models.auto_encoder import AutoEncoder

    return AutoEncoder(random_state=seed, verbose=0, device=torch.device("cpu")).fit(x).decision_function


CONTENDERS: dict[str, Callable[[Floats, int], Callable[[Floats], Any]]] = {"raeflow": raeflow_fit, "pyod": pyod_fit}


def one_process(rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each fit, and its AUROC on fresh rows."""
    from sklearn.metrics import roc_auc_score

    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        x, _ = rows(2 * number)
        fresh, odd = rows(2 * number + 1)
        for name in sorted(CONTENDERS, reverse=bool(number % 2)):
            start = time.perf_counter()
            score = CONTENDERS[name](x, number)
            spent = time.perf_counter() - start
            if number:
                seconds[name].append(spent)
                found[name].append(float(roc_auc_score(odd, score(fresh))))
    return seconds, found


def fresh_process(rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a Python process to a fitted detector."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):  # the first round finds the files of both libraries cold
        for name in sorted(CONTENDERS, reverse=bool(number % 2)):
            command = [sys.executable, __file__, "--child", name, "--started", repr(time.time())]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if number:
                seconds[name].append(json.loads(printed.rsplit("RESULT", 1)[1]))
    return seconds


def report(what: str, seconds: dict[str, list[float]]) -> bool:
    """Print medians and how many times longer PyOD takes; whether that is at least once."""
    ours, theirs = (statistics.median(seconds[name]) for name in ("raeflow", "pyod"))
    print(f"{what:16}{ours:8.2f} s{theirs:8.2f} s{theirs / ours:8.2f}", flush=True)
    return theirs >= ours


if __name__ == "__main__":
    sys.exit(main())
