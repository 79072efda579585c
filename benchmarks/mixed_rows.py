"""Rows of a table as businesses have them: numbers, counts, flags, words, a clock, gaps; what two benchmarks read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FLOATS = tuple(f"f{i}" for i in range(8))
INTS = ("age", "items", "port", "bytes")
FLAGS = ("member", "mobile")
WORDS = {"channel": 5, "country": 60, "shop": 400}
"""Columns of words and their levels."""
CLOCK, STILL = "when", "version"
GAPS = ("f0", "f3", "f6", "items", "channel", "shop", CLOCK)
"""Columns of which 2 % are null."""
GROUP = 122_880
"""Rows of a row group, as DuckDB writes them."""
_MIXING = np.random.default_rng(7).normal(size=(3, 8))
_START, _DAYS = 1_704_067_200, 90
"""1 January 2024 in seconds, and how many days the rows cover."""


def rows(count: int, seed: int) -> pa.Table:
    """So many rows; 20 columns, the last of which is constant."""
    drawn = np.random.default_rng(seed)
    mixed = drawn.normal(size=(count, 3)) @ _MIXING + 0.3 * drawn.normal(size=(count, 8))
    columns: dict[str, pa.Array] = {name: _gapped(mixed[:, i], name, drawn) for i, name in enumerate(FLOATS)}
    whole = {
        "age": drawn.integers(18, 90, count), "items": drawn.poisson(3, count), "port": drawn.integers(0, 65_536, count),
        "bytes": np.minimum(drawn.pareto(1.1, count) * 300, 1e12).astype(np.int64),
    }  # fmt: skip
    columns |= {name: _gapped(values, name, drawn) for name, values in whole.items()}
    columns |= {name: pa.array(drawn.random(count) < share) for name, share in zip(FLAGS, (0.3, 0.7), strict=True)}
    for name, levels in WORDS.items():
        shares = 1 / np.arange(1, levels + 1) ** 1.1
        places = drawn.choice(levels, count, p=shares / shares.sum())
        words = np.array([f"{name}-{i:03d}" for i in range(levels)], object)
        columns[name] = _gapped(words[places], name, drawn)
    moments = (_START + drawn.integers(0, _DAYS * 86_400, count)) * 1_000_000
    columns[CLOCK] = _gapped(moments, CLOCK, drawn).cast(pa.timestamp("us"))
    columns[STILL] = pa.repeat(pa.scalar(3, pa.int32()), count)
    return pa.table(columns)


def write(path: Path, count: int, seed: int = 0) -> Path:
    """So many rows in one file of several row groups, with the codec and dictionaries of pyarrow's default."""
    writer = None
    for number, start in enumerate(range(0, count, GROUP)):
        part = rows(min(GROUP, count - start), seed * 1_000_003 + number)
        writer = writer or pq.ParquetWriter(path, part.schema)
        writer.write_table(part)
    if writer is not None:
        writer.close()
    return path


def _gapped(values: np.ndarray, name: str, drawn: np.random.Generator) -> pa.Array:
    return pa.array(values, mask=drawn.random(len(values)) < 0.02 if name in GAPS else None)
