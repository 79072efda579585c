"""What does it cost a search that all heads are fitted and judged at the end of each trial?

    OMP_NUM_THREADS=1 python benchmarks/heads_cost.py [--rows 5000] [--trials 12] [--rounds 3]

The same search twice, by Ray Tune at two trials a time: the networks that a study of a table searches by default, once with
their own scores alone (`heads="error"`) and once with every head (`heads="auto"`), as `raeflow init` sets it up for so many
rows: 20 epochs a trial, weak trials stopped early. Hyperparameters that the sampler asks for differ once the judge's values do,
so both searches draw at random with the same seed. Printed are seconds, medians over rounds, and their ratio (at most 1.2).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import optuna
import torch
from search_overhead import table

from raeflow import space
from raeflow.cluster import search as cluster
from raeflow.cluster import session
from raeflow.data.rows import Splits
from raeflow.init import batch
from raeflow.study import Data, Search, Study, Training

VARIANTS = ("autoencoder", "denoising", "vae")
BOUND = 1.2


def searched(home: Path, name: str, heads: str, rows: int, trials: int, splits: Splits) -> float:
    """Seconds of one search."""
    study = Study(
        name=name, home=str(home), data=Data("sheet"), variants=VARIANTS, heads=heads,
        training=Training(epochs=50, batch_size=batch(rows), device="cpu"), search=Search(trials=trials, epochs=20, slots=2),
    )  # fmt: skip
    start = time.perf_counter()
    found = cluster.search(study, splits)
    assert all(t.status != "failed" for t in found), [t.message for t in found]
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="medians are over so many")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    space.sampler = lambda study, known=0: optuna.samplers.RandomSampler(seed=study.seed + known)
    splits = table(asked.rows)
    taken: dict[str, list[float]] = {"error": [], "auto": []}
    with tempfile.TemporaryDirectory(prefix="heads-") as home:
        session.connect()
        for r in range(asked.rounds):
            for heads in list(taken)[:: 1 if r % 2 == 0 else -1]:
                taken[heads].append(searched(Path(home), f"{heads}{r}", heads, asked.rows, asked.trials, splits))
    walls = {heads: statistics.median(seconds) for heads, seconds in taken.items()}
    print(f"{asked.trials} trials of {', '.join(VARIANTS)} on {len(splits.train):,} train rows, two at a time, {asked.rounds} rounds")
    for heads, wall in walls.items():
        print(f"heads={heads!r:8} {wall:8.1f} s   ({min(taken[heads]):.1f} to {max(taken[heads]):.1f})")
    print(f"ratio {walls['auto'] / walls['error']:.2f} (bound {BOUND})")


if __name__ == "__main__":
    main()
