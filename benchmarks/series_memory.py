"""Memory of windows over many readings: the process's peak over its baseline, while 10 M sorted readings x 8 channels are read,
split by time, encoded, and go by once in shuffled batches of windows of 128, as training sees them.

The readings are what they take as float32, held once; the file has them as float64, in order of time.

    python benchmarks/series_memory.py [--readings 10000000] [--series 1]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHANNELS, WINDOW, BATCH, STEPS = 8, 128, 256, 2000
MOST = 1.5
"""The peak over the baseline, as a multiple of the readings."""
GROUP = 1 << 17


def write(path: Path, readings: int, series: int) -> Path:
    """Readings of machines, one after the other, one a second, with a pause of a minute now and then."""
    drawn, each = np.random.default_rng(0), readings // series
    schema = pa.schema([("machine", pa.string()), ("time", pa.timestamp("us")), *((f"c{i}", pa.float64()) for i in range(CHANNELS))])
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for number in range(series):
            for first in range(0, each, GROUP):
                at = np.arange(first, min(first + GROUP, each))
                seconds = at + 60 * (at // 50_000)
                wave = np.sin(at[:, None] / np.arange(20, 20 + CHANNELS)) + 0.1 * drawn.standard_normal((len(at), CHANNELS))
                columns = [pa.array(wave[:, i]) for i in range(CHANNELS)]
                clock = pa.array(seconds * 1_000_000, pa.timestamp("us"))
                writer.write_table(pa.table([pa.array([f"m{number}"] * len(at)), clock, *columns], schema=schema), row_group_size=GROUP)
    return path


def status(name: str) -> float:
    """A figure of this process's memory in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def child(path: Path, small: Path, steps: int) -> None:
    """Load and train-like passes over a few readings first, so that imports and first calls are the baseline; prints JSON."""
    import torch

    from raeflow.data import load
    from raeflow.study import Data

    torch.set_num_threads(1)

    def once(where: Path, most: int) -> tuple[int, int]:
        splits = load(Data(where, time="time", series="machine", window=WINDOW, memory=1 << 40))
        seen = 0
        for step, raw in enumerate(splits.train.batches(BATCH, seed=0)):
            seen += len(splits.encoding(raw.x))
            if step + 1 == most:
                break
        return sum(len(part) for part in (splits.train, splits.validate, splits.calibrate, splits.test) if part is not None), seen

    once(small, 4)
    pa.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    baseline = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.perf_counter()
    windows, seen = once(path, steps)
    taken = time.perf_counter() - start
    print(json.dumps({"baseline": baseline, "peak": status("VmHWM"), "windows": windows, "seen": seen, "seconds": taken}))


def main() -> int:
    """Print the figures; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=10_000_000)
    parser.add_argument("--series", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--child", nargs=2, metavar=("PATH", "SMALL"))
    arguments = parser.parse_args()
    if arguments.child:
        child(*map(Path, arguments.child), arguments.steps)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "readings.parquet", arguments.readings, arguments.series)
        small = write(Path(folder) / "small.parquet", 20_000, 1)
        command = [sys.executable, __file__, "--steps", str(arguments.steps), "--child", str(path), str(small)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    size = arguments.readings * CHANNELS * 4 / 2**20
    grown = found["peak"] - found["baseline"]
    print(f"{arguments.readings:,} readings x {CHANNELS} channels of {arguments.series} series: {size:,.0f} MB as float32")
    print(f"{found['windows']:,} windows of {WINDOW}, {found['seen']:,} of them seen, {found['seconds']:.1f} s")
    verdict = "met" if grown <= MOST * size else "MISSED"
    told = f"baseline {found['baseline']:,.0f} MB, peak {grown:,.0f} MB above it"
    print(f"{told}: {grown / size:.2f} x the readings, target {MOST:g}: {verdict}")
    return int(verdict != "met")


if __name__ == "__main__":
    sys.exit(main())
