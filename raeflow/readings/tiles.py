"""Windows of readings through a detector's graph, tile by tile, and what that says of each reading.

A reading's score at="last" is its own column of the window that ends with it, so nothing later is seen; at="all" the mean of its own
columns in all windows that hold it. Memory: what `raeflow.events.ReadingScores` takes, and one tile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raeflow.calibration import Threshold, calibrate
from raeflow.data.encoding import TableEncoding
from raeflow.data.encoding.series import SeriesEncoding
from raeflow.data.order import Bools, Places, starts
from raeflow.data.rows import RowSpec
from raeflow.data.windows import Readings, Windows
from raeflow.devices import device_of
from raeflow.errors import RaeflowError
from raeflow.events import AT, ReadingScores
from raeflow.graph import Graph, batch
from raeflow.study import Calibration

Scores = npt.NDArray[np.float32]


TILES, FOLD = {"cpu": 512, "cuda": 4096}, 4
"""Windows of a tile at most, and so many times the rows that are else scored at once: neighbouring windows share most of what they
hold, so a cache takes more of them (`benchmarks/series_speed.py`: 128 take 1.5 times as long as 512)."""


def check_at(at: str) -> None:
    """Refuse what is neither of the two."""
    if at not in AT:
        raise RaeflowError(f"at={at!r} must be 'last' (no reading after the scored one is seen) or 'all' (looking back)")


@torch.inference_mode()
def scores(
    graph: Graph, values: Tensor, apart: Bools, length: int, at: str = "last", wanted: Bools | None = None, size: int | None = None
) -> Scores:
    """(R,) scores of encoded readings (R, C) in order, NaN where there is none.

    With `wanted` (R,) windows are left out that score none of these.
    """
    windows = _windows(values, apart, length, at, wanted)
    if at == "all":
        kept = ReadingScores(len(values), length, at)
        for first, x in _tiles(graph, windows, size):
            kept.add(first, graph.by_reading(x)[: len(first)].cpu().numpy())
        return kept.finish()
    found = np.full(len(values), np.nan, np.float32)
    for first, x in _tiles(graph, windows, size):
        found[first + length - 1] = graph(x)[: len(first)].cpu().numpy()
    return found


@torch.inference_mode()
def causes(
    graph: Graph, values: Tensor, apart: Bools, length: int, at: str, wanted: Bools, size: int | None = None
) -> Scores:  # fmt: skip
    """(n, N) errors of each column of the `wanted` of encoded readings (R, C) in order: what `Graph.errors` says of them."""
    windows = _windows(values, apart, length, at, wanted)
    kept = ReadingScores(len(values), length, at, channels=values.shape[1])
    for first, x in _tiles(graph, windows, size):
        kept.add(first, graph.errors(x)[: len(first)].cpu().numpy())
    return by_column(graph, kept.channel_errors()[wanted])


def by_column(graph: Graph, errors: Scores) -> Scores:
    """(n, C) errors of channels to (n, N) of the columns of a reading."""
    encoding = graph.encoding
    assert isinstance(encoding, SeriesEncoding)  # noqa: S101 - callers have readings
    reading = encoding.reading
    if not isinstance(reading, TableEncoding):
        return errors
    return reading.by_column(torch.from_numpy(errors).to(device_of(reading))).cpu().numpy()


def _tiles(graph: Graph, windows: Windows, size: int | None = None) -> Iterator[tuple[Places, Tensor]]:
    """Tiles of a fixed number of windows (T, C, L) on the graph's device, with their first readings (W,); W is less than T in the last.

    The last tile is filled up with copies of its last window: the same arithmetic then gives each window the same bits, however many
    come after it.
    """
    device = device_of(graph)
    size = size or min(FOLD * batch(graph, windows.shape, device), TILES.get(device.type, TILES["cuda"]))
    for start in range(0, len(windows), size):
        here = torch.arange(start, start + size).clamp_max(len(windows) - 1)
        yield windows.starts[start : start + size].numpy().astype(np.int64), windows.values(here).to(device)


def _windows(values: Tensor, apart: Bools, length: int, at: str, wanted: Bools | None) -> Windows:
    found = starts(apart, length, 1)
    if wanted is not None and at == "last":
        found = found[wanted[found + length - 1]]
    elif wanted is not None:
        before = np.concatenate([[0], np.cumsum(wanted, dtype=np.int64)])
        found = found[before[found + length] > before[found]]
    bounds = torch.tensor([0, len(values)])
    return Windows(Readings(values, bounds), torch.from_numpy(found), length)


@torch.inference_mode()
def calibrate_all(graph: Graph, windows: Windows, calibration: Calibration) -> tuple[Threshold, list[float]]:
    """The threshold of scores at="all", from the readings of calibration windows, and the usual error of each column at="last".

    Readings of a series that lie within the same L count once for the interval of the alert rate, since neighbours are alike.
    """
    length, count = windows.length, len(windows.readings.values)
    kept, sums = ReadingScores(count, length, "all"), np.zeros(windows.shape[0])
    order = torch.argsort(windows.starts)
    for first, x in _tiles(graph, windows.take(order)):
        kept.add(first, graph.by_reading(x)[: len(first)].cpu().numpy())
        sums += graph.errors(x)[: len(first), :, -1].double().sum(0).cpu().numpy()
    found = kept.finish()
    scored = np.flatnonzero(~np.isnan(found))
    whose = np.searchsorted(windows.readings.bounds.cpu().numpy(), scored, side="right") - 1
    keys = (whose.astype(np.uint64) << np.uint64(40)) + (scored // length).astype(np.uint64)
    usual = by_column(graph, (sums / max(len(windows), 1))[None].astype(np.float32))[0]
    return calibrate([torch.from_numpy(found[scored])], calibration, keys), [float(v) for v in usual]


def columns_of(spec: RowSpec) -> list[str]:
    """Names of the columns of a reading, or of the entries of its list: what errors are told by."""
    assert spec.windows is not None  # noqa: S101 - callers have readings
    reading = spec.windows.reading
    return list(reading.columns) if reading.table else [f"{reading.columns[0]}[{i}]" for i in range(reading.stored[0])]


def leading(length: int, at: str) -> str:
    """What is said of a reading without a score."""
    return f"no score: no run of {length} readings without a gap {'ends with' if at == 'last' else 'holds'} it"


__all__ = ["by_column", "calibrate_all", "causes", "check_at", "columns_of", "leading", "scores"]
