"""A score for every reading of a table that is at hand, in the order of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raeflow.data import frames
from raeflow.data.clock import Keys, table_keys
from raeflow.data.encoding.series import SeriesEncoding
from raeflow.data.order import Bools, Places
from raeflow.data.rows import Windowing
from raeflow.data.tensors import to_tensor
from raeflow.devices import device_of
from raeflow.graph import Graph
from raeflow.readings.order import Ordered, encoded, put_in_order
from raeflow.readings.tiles import Scores, causes, check_at, scores


@dataclass(frozen=True)
class Scored:
    """Readings with their scores, in the order in which they were given."""

    scores: Scores
    """(R,), NaN where a reading has none."""
    at: str
    keys: Keys
    ordered: Ordered
    values: Tensor | None = None
    """(R, C) encoded, in order of time."""

    @property
    def positions(self) -> Places:
        """(R,) place of each in its series; only readings that follow one another are neighbours."""
        return self.ordered.positions[self.ordered.ranks]

    def time(self, rows: Places) -> pa.Array:
        """Moments, or numbers, of some of them."""
        return self.keys.kind.times(self.keys.ticks[rows])

    def series(self, rows: Places) -> list[str] | None:
        """Names of their series; None where there is but one without a name."""
        return series_of(self.keys, rows)


def series_of(keys: Keys, rows: Places) -> list[str] | None:
    """Names of the series of some readings; None where there is but one without a name."""
    return None if keys.names == ("",) else [keys.names[code] for code in keys.codes[rows]]


class Tables:
    """Scores tables of readings."""

    def __init__(self, graph: Graph, how: Windowing, batch_size: int | None = None) -> None:
        self.graph, self.how, self.size = graph, how, batch_size

    def of(self, rows: Any, at: str) -> Scored:
        """Scores of a frame or Arrow table of readings in any order.

        Raises RaeflowError for a column that is missing or of another type, a time that is missing or comes twice, and for readings
        that are not finite.
        """
        check_at(at)
        table = frames.to_table(rows)
        keys = table_keys(table, self.how.time, self.how.series)
        stored = to_tensor(table, self.how.reading)
        encoding = self.graph.encoding
        assert isinstance(encoding, SeriesEncoding)  # noqa: S101 - a detector of windows has no other
        ordered = put_in_order(keys, lambda row: f"row {row}", self.how, encoding)
        rank = ordered.order.rows
        device = device_of(encoding)
        # Encoding takes the memory of what it is given, which may be the caller's.
        own = (stored.clone() if rank is None else stored[torch.from_numpy(rank)]).to(device)
        values = encoded(encoding, own, ordered.parts)
        in_order = scores(self.graph, values, ordered.apart, self.how.window, at, size=self.size)
        found = in_order
        if rank is not None:
            found = np.empty_like(in_order)
            found[rank] = in_order
        return Scored(found, at, keys, ordered, values)

    def causes(self, found: Scored, wanted: Bools) -> npt.NDArray[np.float32]:
        """(n, N) errors of each column of the `wanted` (R,) readings, in the order in which they were given."""
        assert found.values is not None  # noqa: S101 - `of` keeps them
        ordered = found.ordered
        errors = causes(self.graph, found.values, ordered.apart, self.how.window, found.at, wanted[ordered.rows], self.size)
        places = np.cumsum(wanted[ordered.rows]) - 1
        own: npt.NDArray[np.float32] = errors[places[ordered.ranks[np.flatnonzero(wanted)]]]
        return own
