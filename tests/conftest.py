"""Shared by all tests: quiet libraries, real data where it is at hand, small Parquet files made on the spot."""

from __future__ import annotations

import os

# Before ray or mlflow is imported anywhere: tests phone nobody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the named data sets; tests that need it are skipped where it is not set."""
    folder = os.environ.get("RAEFLOW_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RAEFLOW_DATA names no folder of data sets")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Built-in sets are written to a cache of this test run."""
    os.environ["RAEFLOW_CACHE"] = str(tmp_path_factory.mktemp("cache"))
