"""Windows scored per second: a detector of readings beside a hand-written loop over strided views of the same readings.

A trained detector scores a table of readings of one series, 8 channels, windows of 64, a score for each reading by its own column
(`Detector.score`, at="last"): the clock is read and put in order, gaps are found, readings are encoded and cut into windows. The
loop knows all that beforehand: readings are scaled once by NumPy, and views of 64 of them go through the same network in batches,
the squared error of the last column being the score. One thread each, in turn, medians of several rounds.

    OMP_NUM_THREADS=1 python benchmarks/series_speed.py [--readings 200000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from series_memory import write

from raeflow import variants
from raeflow.data import load
from raeflow.detector import Detector
from raeflow.study import Calibration, Data, Training
from raeflow.training import fit

CHANNELS, WINDOW = 8, 64
BATCHES = (256, 1024)
"""Windows that the loop takes at a time; the faster of both counts."""
LEAST = 0.9


def trained(path: Path, backbone: str) -> Detector:
    """One autoencoder by its own error, trained for an epoch: what it has learnt takes no time."""
    splits = load(Data(path, time="time", series="machine", window=WINDOW, stride=8))
    published = variants.get("autoencoder").published(splits.spec.shape)
    hyper = dataclasses.asdict(dataclasses.replace(published, backbone=backbone))
    fitted = fit("autoencoder", hyper, splits, Training(epochs=1, batch_size=128, device="cpu"), seed=0)
    return Detector.assemble([fitted], splits, Calibration(method="quantile", quantile=0.99))


def loop(detector: Detector, table: pa.Table, size: int) -> np.ndarray:
    """(R,) what a person would write."""
    x = np.stack([table[f"c{i}"].to_numpy() for i in range(CHANNELS)], 1)
    encoding, model = detector.graph.encoding, detector.graph.members[0]
    scaled = encoding.encode(torch.from_numpy(x.astype(np.float32)), None)
    views = scaled.unfold(0, WINDOW, 1)  # (R - 63, 8, 64)
    found = np.full(len(x), np.nan, np.float32)
    with torch.inference_mode():
        for first in range(0, len(views), size):
            own = views[first : first + size].contiguous()
            wrong = (own[:, :, -1] - model.reconstruct(own)[:, :, -1]).square().mean(1)
            found[first + WINDOW - 1 : first + WINDOW - 1 + len(own)] = wrong.numpy()
    return found


def main() -> int:
    """Print the figures; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "readings.parquet", asked.readings, 1)
        table = pq.read_table(path)
        for backbone in ("conv", "mlp"):
            detector = trained(path, backbone)
            ways = {"raeflow": lambda d=detector: d.score(table)} | {
                f"loop of {size}": lambda d=detector, size=size: loop(d, table, size) for size in BATCHES
            }
            taken: dict[str, list[float]] = {name: [] for name in ways}
            scores = {}
            for round_ in range(asked.rounds + 1):
                for name, way in list(ways.items())[:: 1 if round_ % 2 else -1]:
                    start = time.perf_counter()
                    scores[name] = way()
                    if round_:  # the first warms up
                        taken[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
            there = ~np.isnan(scores["raeflow"])
            apart = float(np.abs(scores["raeflow"] - scores["loop of 256"])[there].max())
            print(f"\nautoencoder, {backbone}: {asked.readings:,} readings x {CHANNELS}, windows of {WINDOW}, {asked.rounds} rounds")
            for name, seconds in medians.items():
                print(f"{name:14}{asked.readings / seconds:>12,.0f} windows/s   ({min(taken[name]):.2f} to {max(taken[name]):.2f} s)")
            ratio = min(s for name, s in medians.items() if name != "raeflow") / medians["raeflow"]
            missed += ratio < LEAST
            print(f"ratio {ratio:.2f}, target {LEAST}: {'met' if ratio >= LEAST else 'MISSED'}; scores differ by {apart:.1e} at most")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
