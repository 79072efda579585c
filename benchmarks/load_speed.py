"""How fast rows come into memory: `load` beside a bare `pq.read_table` of the same columns and a usual pandas route.

    python benchmarks/load_speed.py [--rows 400000] [--features 64] [--repeats 5]
    python benchmarks/load_speed.py --layout mixed [--rows 2000000] [--repeats 5]   words, clocks and gaps: see load_mixed.py

`load` does more than its peers: it refuses NaN, hashes every row into one of four splits and fits the
scaling. Prints GB/s of row values (medians; routes take turns, so that a busy machine disturbs all alike)
and how far memory rose at its peak beside the data's size (each route once, in a process of its own).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))

import load_mixed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROUTES = ("load", "read_table", "pandas")


def write(folder: Path, rows: int, features: int) -> list[tuple[str, Path, tuple[str, ...]]]:
    """The same values as one list column and as many columns, and bytes as images have them."""
    drawn = np.random.default_rng(0)
    values = drawn.standard_normal((rows, features), dtype=np.float32)
    label = pa.array(drawn.integers(0, 2, rows))
    lists = pa.table({"row": pa.FixedSizeListArray.from_arrays(values.reshape(-1), features), "label": label})
    names = [f"f{i:03d}" for i in range(features)]
    table = pa.table({**{n: values[:, i] for i, n in enumerate(names)}, "label": label})
    pixels = drawn.integers(0, 256, rows * features * 4, dtype=np.uint8)
    images = pa.table({"row": pa.FixedSizeListArray.from_arrays(pixels, features * 4), "label": label})
    cases = []
    contents = (("list of float32", lists, ("row",)), ("float32 columns", table, tuple(names)), ("uint8 pixels", images, ("row",)))
    for name, content, columns in contents:
        path = folder / f"{name.replace(' ', '_')}.parquet"
        pq.write_table(content, path, row_group_size=max(1, rows // 16), compression="zstd", use_dictionary=False)
        pq.write_table(content.slice(0, 2000), path.with_name(f"small_{path.name}"))
        cases.append((name, path, columns))
    return cases


def run_load(path: Path, columns: tuple[str, ...]) -> Any:
    """Splits, checked and scaled."""
    from raeflow.data.load import load
    from raeflow.study import Data

    return load(Data(path, columns=columns, label="label", memory=1 << 40))


def run_read_table(path: Path, columns: tuple[str, ...]) -> Any:
    """An Arrow table; no tensor yet."""
    return pq.read_table(path, columns=[*columns, "label"])


def run_pandas(path: Path, columns: tuple[str, ...]) -> Any:
    """A data frame, an array, a shuffled division by scikit-learn's habit, a tensor."""
    import pandas as pd
    import torch

    frame = pd.read_parquet(path, columns=[*columns, "label"])
    x = np.stack(frame[columns[0]].to_list()) if len(columns) == 1 else frame[list(columns)].to_numpy(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    cuts = np.cumsum([int(share * len(x)) for share in (0.6, 0.1, 0.1)])
    return [torch.from_numpy(x[part]) for part in np.split(order, cuts)]


def seconds(route: str, path: Path, columns: tuple[str, ...]) -> float:
    """One timed run in this process."""
    run: Callable[[Path, tuple[str, ...]], Any] = globals()[f"run_{route}"]
    start = time.perf_counter()
    kept = run(path, columns)
    taken = time.perf_counter() - start
    del kept
    return taken


def peak(route: str, path: Path, columns: tuple[str, ...]) -> float:
    """Growth of the peak of this process's memory in one run, bytes."""
    seconds(route, path.with_name(f"small_{path.name}"), columns)  # imports and first calls
    before = _high_water()
    seconds(route, path, columns)
    return _high_water() - before


def _high_water() -> float:
    """Peak resident memory of this process, bytes (getrusage would count the parent's)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=("numbers", "mixed"), default="numbers")
    parser.add_argument("--rows", type=int, help="400,000 of numbers, 2,000,000 of mixed columns")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=3, metavar=("ROUTE", "PATH", "COLUMNS"), help=argparse.SUPPRESS)
    parser.add_argument("--route", nargs=2, metavar=("ROUTE", "PATH"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.route:
        load_mixed.child(asked.route[0], Path(asked.route[1]))
        return
    if asked.layout == "mixed":
        sys.exit(0 if load_mixed.compare(asked.rows or 2_000_000, asked.repeats) else 1)
    asked.rows = asked.rows or 400_000
    if asked.peak:
        route, path, columns = asked.peak
        print(peak(route, Path(path), tuple(json.loads(columns))))
        return
    size = asked.rows * asked.features * 4
    print(f"{asked.rows} rows, {size / 1e6:.0f} MB of values, {pa.cpu_count()} Arrow threads, medians of {asked.repeats} runs")
    with tempfile.TemporaryDirectory() as folder:
        for name, path, columns in write(Path(folder), asked.rows, asked.features):
            times: dict[str, list[float]] = {route: [] for route in ROUTES}
            peaks = {route: _peak_of(route, path, columns) for route in ROUTES}
            for _ in range(asked.repeats + 1):  # the first is a warm-up
                for route in ROUTES:
                    times[route].append(seconds(route, path, columns))
            speed = {route: size / 1e9 / statistics.median(taken[1:]) for route, taken in times.items()}
            print(f"\n{name}")
            for route in ROUTES:
                ratio = speed["load"] / speed[route]
                print(f"  {route:<11} {speed[route]:6.2f} GB/s   peak {peaks[route] / size:.2f} x the data   load is {ratio:.2f} x this")


def _peak_of(route: str, path: Path, columns: tuple[str, ...]) -> float:
    command = [sys.executable, __file__, "--peak", route, str(path), json.dumps(columns)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
