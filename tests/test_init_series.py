"""`raeflow init` on readings in order of time: the clock, the series and a window that it can give a reason for."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raeflow.data import load
from raeflow.data.serial import serial, strongest
from raeflow.init import study_text

HOURS = 3000


def hourly(random: np.random.Generator, hours: int = HOURS) -> dict[str, Any]:
    """Temperatures with a day of 24 hours, a drift, and noise; and a load that is noise alone."""
    at = np.arange(hours)
    return {
        "when": np.datetime64("2020-01-01", "us") + at * np.timedelta64(1, "h"),
        "temperature": 5 * np.sin(2 * np.pi * at / 24) + at * 0.01 + random.normal(size=hours),
        "load": random.normal(size=hours),
    }


def written(columns: dict[str, Any], path: Path) -> list[str]:
    pq.write_table(pa.table(columns), path)
    return [str(path)]


def test_a_day_is_found_and_the_study_that_is_written_loads(tmp_path: Path) -> None:
    columns = hourly(np.random.default_rng(0))
    columns["sky"] = np.random.default_rng(1).choice(["clear", "cloud", "rain"], HOURS)  # a word that comes and goes is no machine
    sources = written(columns, tmp_path / "air.parquet")
    text = study_text(sources, "air", None)
    assert "time='when'" in text and "series=" not in text and "rows of a table" in text and "contamination" not in text
    assert "window=48,  # readings: 2 times the strongest period found in train: 24 readings of 'temperature'" in text
    (tmp_path / "study.py").write_text(text)
    data = runpy.run_path(str(tmp_path / "study.py"))["STUDY"].data
    splits = load(data)
    assert splits.spec.windows is not None and splits.spec.windows.reading.columns == ("temperature", "load", "sky")
    assert all(part is not None and len(part) for part in (splits.train, splits.validate, splits.calibrate, splits.test))


@pytest.mark.parametrize("shared", [True, False])
def test_machines_are_told_apart_by_a_word_whether_their_clocks_run_together_or_not(tmp_path: Path, shared: bool) -> None:
    random = np.random.default_rng(0)
    parts = [hourly(random, 1500) for _ in range(3)]
    for place, part in enumerate(parts):
        part["machine"] = [f"pump {place}"] * 1500
        part["temperature"] = random.normal(size=1500)
        part["when"] = part["when"] + (0 if shared else place) * np.timedelta64(1500 + place, "h")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    mixed = random.permutation(4500) if shared else np.arange(4500)
    found = serial(
        written({name: values[mixed] for name, values in columns.items()}, tmp_path / "x.parquet"), ["temperature", "load"], None
    )
    assert found is not None and (found.time, found.series, found.window) == ("when", "machine", 64)
    assert found.why == "no period was found in train"


@pytest.mark.parametrize("kind", ["any time", "twice", "few", "a null", "no number"])
def test_rows_that_merely_have_a_time_stay_a_table(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    columns = hourly(random)
    if kind == "any time":
        columns["when"] = columns["when"][0] + (np.cumsum(random.exponential(3600, HOURS)) * 1e6).astype("timedelta64[us]")
    elif kind == "twice":
        columns["when"] = columns["when"] - (np.arange(HOURS) % 2) * np.timedelta64(1, "h")
    elif kind == "few":
        columns = {name: values[:100] for name, values in columns.items()}
    elif kind == "a null":
        columns["when"] = pa.array(columns["when"], mask=np.arange(HOURS) == 7)
    else:
        columns = {"when": columns["when"], "temperature": [f"{v:.1f}" for v in columns["load"]], "load": ["a"] * HOURS}
    assert serial(written(columns, tmp_path / "x.parquet"), ["temperature", "load"], None) is None


def test_a_short_series_gets_a_window_of_which_a_block_holds_two(tmp_path: Path) -> None:
    columns = hourly(np.random.default_rng(0), 400)
    columns["temperature"] = columns["load"]
    found = serial(written(columns, tmp_path / "x.parquet"), ["temperature", "load"], None)
    assert found is not None and found.window == 20 and found.why.endswith("the longest series has 400 readings")


def test_the_period_itself_is_found_rather_than_its_multiples_or_a_drift() -> None:
    random = np.random.default_rng(0)
    at = np.arange(4000)
    season = strongest(np.sin(2 * np.pi * at / 50) + 0.3 * random.normal(size=4000) + (at / 500) ** 2, 512)
    assert season is not None and abs(season[0] - 50) <= 1 and season[1] > 0.5
    assert strongest(random.normal(size=4000), 512) is None
    assert strongest(np.cumsum(random.normal(size=4000)), 50) is None
    assert strongest(np.full(4000, 3.0), 512) is None and strongest((-1.0) ** at, 512) is None
