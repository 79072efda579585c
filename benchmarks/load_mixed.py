"""From a file of mixed columns to numbers a model can take: raeflow beside pandas and scikit-learn, each in a process of its own.

raeflow   `load`: every row read, checked, hashed into one of four splits; the encoding fitted on train (60 % of the rows);
          then one epoch of shuffled, encoded float32 batches of 256 train rows by one torch thread, as training sees them
sklearn   pandas.read_parquet; `train_test_split` with 60 % of the rows for train; `ColumnTransformer` fitted on these and
          applied to these alone: medians, gap indicators and `StandardScaler` for numbers and flags, dense `OneHotEncoder` that
          takes levels below 1 % together, sine and cosine of hour and weekday; one float64 matrix
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mixed_rows

FASTER, LEANER = 4.0, 0.5
"""At least so many times as fast, with at most this share of the memory."""
TRAIN, BATCH = 0.6, 256


def raeflow(path: Path) -> int:
    """Train rows that came by, encoded."""
    import torch

    from raeflow.data.load import load
    from raeflow.study import Data

    torch.set_num_threads(1)  # as training does
    splits = load(Data(path, memory=1 << 40, fractions=(TRAIN, 0.1, 0.1, 0.2)))
    return sum(len(splits.encoding(raw.x)) for raw in splits.train.batches(BATCH, seed=0))


def sklearn(path: Path) -> int:
    """Rows of the matrix."""
    import numpy as np
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    def circles(frame: pd.DataFrame) -> Any:
        clock = frame[mixed_rows.CLOCK].dt
        seconds = clock.hour * 3600 + clock.minute * 60 + clock.second
        turns = [2 * np.pi * seconds / 86_400, 2 * np.pi * clock.weekday / 7]
        return np.nan_to_num(np.stack([wave(turn) for turn in turns for wave in (np.sin, np.cos)], 1))

    frame = pd.read_parquet(path)
    numbers = [*mixed_rows.FLOATS, *mixed_rows.INTS, *mixed_rows.FLAGS, mixed_rows.STILL]
    levels = OneHotEncoder(min_frequency=0.01, handle_unknown="infrequent_if_exist", sparse_output=False)
    transformer = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()), numbers),
            ("words", levels, list(mixed_rows.WORDS)),
            ("clock", FunctionTransformer(circles), [mixed_rows.CLOCK]),
        ]
    )
    train, held_out = train_test_split(frame, train_size=TRAIN, random_state=0)
    del frame
    assert len(held_out)  # raeflow too keeps the rows that it does not train on
    return len(transformer.fit_transform(train))


ROUTES = {"raeflow": raeflow, "sklearn": sklearn}


def child(route: str, path: Path) -> None:
    """One route, once on a few rows so that imports and first calls are not timed, then timed; prints what it found as JSON."""
    ROUTES[route](path.with_name("small.parquet"))
    start = time.perf_counter()
    rows = ROUTES[route](path)
    taken = time.perf_counter() - start
    high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": taken, "peak": int(high.split()[1]) / 1024, "rows": rows}))


def compare(rows: int, rounds: int) -> bool:
    """Both routes in turn, round after round; prints medians and ratios, and says whether the targets are met."""
    found: dict[str, list[dict[str, float]]] = {route: [] for route in ROUTES}
    with tempfile.TemporaryDirectory() as folder:
        path = mixed_rows.write(Path(folder) / "rows.parquet", rows)
        mixed_rows.write(Path(folder) / "small.parquet", 5_000, seed=1)
        print(f"{rows:,} rows of 20 columns, {path.stat().st_size / 1e6:.0f} MB of Parquet, {len(os.sched_getaffinity(0))} cores")
        for number in range(rounds):
            for route, results in found.items():
                command = [sys.executable, str(Path(__file__).with_name("load_speed.py")), "--layout", "mixed", "--route", route, str(path)]
                results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
                last = results[-1]
                print(f"  round {number + 1}: {route:8s} {last['seconds']:6.2f} s  peak {last['peak']:6,.0f} MB", flush=True)
    for route, results in found.items():
        medians = [statistics.median(r[key] for r in results) for key in ("seconds", "peak", "rows")]
        print(f"{route:8s} {medians[0]:6.2f} s   peak {medians[1]:6,.0f} MB   {medians[2]:,.0f} train rows   (medians of {rounds})")
    pairs = list(zip(found["raeflow"], found["sklearn"], strict=True))
    speeds = sorted(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    memory = statistics.median(ours["peak"] / theirs["peak"] for ours, theirs in pairs)
    speed = statistics.median(speeds)
    print(f"raeflow is {speed:.2f} x as fast ({speeds[0]:.2f} to {speeds[-1]:.2f}), target {FASTER:g}: {_verdict(speed >= FASTER)}")
    print(f"raeflow's peak of the whole process is {memory:.2f} x as high, target {LEANER:g}: {_verdict(memory <= LEANER)}")
    return speed >= FASTER and memory <= LEANER


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"
