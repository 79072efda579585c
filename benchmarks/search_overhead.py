"""Does a search by Ray Tune drown small trials in orchestration?

Prints seconds per trial of `raeflow.cluster.search` beside a plain Optuna loop that runs the same trials in
one process: the same hyperparameters in the same order, the same epochs, one torch thread, a judged and saved
model each, an sqlite storage each. The cluster's start is timed by itself; the start of the workers counts.

    python benchmarks/search_overhead.py                        # 16 trials of 10 s: three searches, 6 minutes
    python benchmarks/search_overhead.py --trials 6 --seconds 3  # a quick look
    python benchmarks/search_overhead.py --unequal               # what it costs that results are heard by number

With `--unequal` trials differ in width, so that some take a few times as long as others, and the same trials are
run at `--slots` at a time twice: in the order that a search keeps, and with every slot taken as soon as it is free.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

# One thread in both: a trial has one core.
os.environ["OMP_NUM_THREADS"] = "1"

import optuna
import torch

from raeflow import space
from raeflow.cluster import search as cluster
from raeflow.cluster import session
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.selection import judge
from raeflow.stored import save_fitted
from raeflow.study import Data, Search, Study, Training
from raeflow.training import fit

FEATURES = 64
VARIANT = "autoencoder"
FIXED = {"width": 128, "depth": 2, "activation": "relu"}
"""Held fixed, so that all trials take about as long; latent size and learning rate are searched."""
WIDTHS = (64, 512)
"""Of trials that take unequally long, log-uniform."""
BUT_WIDTH = {"latent": 8, "depth": 2, "activation": "relu", "lr": 1e-3}
ORDER = 1.15
"""Time of a search that hears results by number over one that does not, at most."""


def table(rows: int, seed: int = 0) -> Splits:
    """Rows on a curved sheet of eight dimensions, with noise."""
    drawn = torch.Generator().manual_seed(seed)
    codes, maps = torch.randn(rows, 8, generator=drawn), torch.randn(2, 8, FEATURES, generator=drawn)
    x = codes @ maps[0] + (codes @ maps[1]).tanh() + 0.1 * torch.randn(rows, FEATURES, generator=drawn)
    train, held = x[: rows * 5 // 6], x[rows * 5 // 6 :]
    spec = RowSpec(tuple(f"x{i}" for i in range(FEATURES)), "columns", (FEATURES,), "float32")
    return Splits(
        spec, fit_scaling("standard", spec.shape, torch.float32, [train]), Rows(train), Rows(held), None, None, fingerprint="sheet"
    )


def plan(home: Path, name: str, epochs: int, trials: int, slots: int) -> Study:
    """A study in which every trial trains to its last epoch."""
    return Study(
        name=name, home=str(home), data=Data("sheet"), variants=(VARIANT,), hyper={VARIANT: FIXED}, heads="error",
        training=Training(epochs=epochs, batch_size=256, patience=None, device="cpu"),
        search=Search(trials=trials, slots=slots, stop_early=False),
    )  # fmt: skip


def epochs_for(seconds: float, splits: Splits, home: Path) -> int:
    """Epochs of the published model that take about so long on one thread."""
    study = plan(home, "probe", 3, 1, 1)
    hyper = space.published(study, VARIANT, splits.spec.shape)
    fit(VARIANT, hyper, splits, study.training, 0)
    start = time.perf_counter()
    fit(VARIANT, hyper, splits, study.training, 0)
    return max(2, round(seconds / (time.perf_counter() - start) * 3))


def plain(study: Study, splits: Splits) -> tuple[float, list[dict[str, float]]]:
    """Seconds of the plain Optuna loop, and the parameters it tried."""
    start = time.perf_counter()
    judged = judge(study.search.selection, splits, study.seed)
    study.folder.mkdir(parents=True)

    def objective(trial: optuna.Trial) -> float:
        _, hyper = space.suggest(study, trial, splits.spec.shape)
        fitted = fit(VARIANT, hyper, splits, study.training, study.seed + trial.number)
        save_fitted(fitted, study.folder / "trials" / str(trial.number))
        return judged(fitted.model(), splits.encoding)

    sampler = optuna.samplers.TPESampler(seed=study.seed)
    loop = optuna.create_study(storage=f"sqlite:///{study.folder}/optuna.db", direction="maximize", sampler=sampler)
    loop.optimize(objective, n_trials=study.search.trials)
    return time.perf_counter() - start, [t.params for t in loop.trials]


def by_tune(study: Study, splits: Splits, params: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """Seconds of the search over the same parameters, and of each trial."""
    study.folder.mkdir(parents=True)
    queue = optuna.create_study(storage=f"sqlite:///{study.folder}/optuna.db", study_name=study.name, direction="maximize")
    for point in params:
        queue.enqueue_trial(point)
    start = time.perf_counter()
    trials = cluster.search(study, splits)
    seconds = time.perf_counter() - start
    tried = sorted(trials, key=lambda t: t.number)
    assert [t.status for t in trials] == ["complete"] * len(params), [t.message for t in trials]
    assert [{f"{VARIANT}.{k.split('.')[1]}": t.hyper[k.split(".")[1]] for k in p} for t, p in zip(tried, params, strict=True)] == params
    return seconds, [t.seconds for t in tried]


def unequal(home: Path, splits: Splits, epochs: int, trials: int, slots: int, rounds: int) -> None:
    """Measure and print what order costs where trials take unequally long."""
    drawn = random.Random(0)
    low, high = (math.log(width) for width in WIDTHS)
    params = [{f"{VARIANT}.width": round(math.exp(drawn.uniform(low, high)))} for _ in range(trials)]
    ordered = cluster.lag
    taken: dict[str, list[tuple[float, list[float]]]] = {"in order": [], "as they come": []}
    for r in range(rounds):
        for name in list(taken)[:: 1 if r % 2 == 0 else -1]:
            cluster.lag = ordered if name == "in order" else lambda _: trials  # nothing waits, and parameters are given
            study = plan(home, f"{name.replace(' ', '')}-{r}", epochs, trials, slots).but(hyper={VARIANT: BUT_WIDTH})
            taken[name].append(by_tune(study, splits, params))
    cluster.lag = ordered
    walls = {name: statistics.median(wall for wall, _ in found) for name, found in taken.items()}
    for name, found in taken.items():
        seconds = [s for _, each in found for s in each]
        busy = sum(seconds) / (slots * sum(wall for wall, _ in found))
        spread = f"trials of {min(seconds):.1f} to {max(seconds):.1f} s"
        print(f"{f'{slots} slots, {name}':24}{walls[name]:10.1f} s   slots train {busy:.0%} of it   {spread}")
    print(f"order costs {walls['in order'] / walls['as they come'] - 1:+.1%} (bound {ORDER - 1:.0%})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a trial, about")
    parser.add_argument("--rows", type=int, default=48_000)
    parser.add_argument("--rounds", type=int, default=1, help="medians are over so many")
    parser.add_argument("--unequal", action="store_true", help="what order costs where trials take unequally long")
    parser.add_argument("--slots", type=int, default=2, help="trials at a time, with --unequal")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    splits = table(args.rows)
    with tempfile.TemporaryDirectory(prefix="overhead-") as temporary:
        home = Path(temporary)
        epochs = epochs_for(args.seconds, splits, home)
        print(f"{args.trials} trials of {epochs} epochs of {VARIANT}, {len(splits.train):,} x {FEATURES} rows, 1 thread a trial")
        if args.unequal:
            session.connect()
            unequal(home, splits, epochs, args.trials, args.slots, args.rounds)
            return
        # The plain loops come first: no cluster idles beside them.
        loops = [plain(plan(home, f"plain{r}", epochs, args.trials, 1), splits) for r in range(args.rounds)]
        start = time.perf_counter()
        session.connect()
        print(f"cluster start, counted by itself: {time.perf_counter() - start:.1f} s")
        base = statistics.median(seconds for seconds, _ in loops)
        print(f"{'':24}{'s per trial':>12}{'wall s':>10}{'ratio':>8}")
        print(f"{'plain Optuna loop':24}{base / args.trials:12.2f}{base:10.1f}{1:8.2f}")
        for slots, bound in ((1, 1.15), (2, 0.7)):
            taken = [by_tune(plan(home, f"tune{slots}-{r}", epochs, args.trials, slots), splits, loops[r][1]) for r in range(args.rounds)]
            wall = statistics.median(seconds for seconds, _ in taken)
            print(f"{f'raeflow, {slots} slot(s)':24}{wall / args.trials:12.2f}{wall:10.1f}{wall / base:8.2f}   (bound {bound})")


if __name__ == "__main__":
    main()
