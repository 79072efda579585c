"""The own rows of a fragment of readings in order of time, with those of others that their windows reach into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raeflow.data.faults import Sifted, sift
from raeflow.data.files import named, read_groups
from raeflow.data.order import Bools, Places
from raeflow.data.rows import RowSpec
from raeflow.detector import Detector, Flags, Floats
from raeflow.devices import device_of
from raeflow.errors import RaeflowError
from raeflow.readings import causes, columns_of, leading, scores
from raeflow.readings.order import break_at, encoded

if TYPE_CHECKING:
    from raeflow.data.encoding.series import SeriesEncoding
    from raeflow.scoring.fragment import Fragment
    from raeflow.scoring.halo import Halo


@dataclass(frozen=True)
class Rows:
    """Own rows of a fragment, scored."""

    scores: Floats
    """(rows,), NaN where a row has none."""
    flags: Flags
    errors: Floats
    """(alerts, N) errors of each column of the rows that raise an alert, in their order."""
    problems: dict[int, str]
    """Of bad rows alone, by their number."""
    at: str
    window: int

    def problems_of(self, first: int, count: int) -> dict[int, str]:
        """Those of some rows, numbered from the first of these."""
        return {row - first: problem for row, problem in self.problems.items() if first <= row < first + count}

    def added(self, detector: Detector, first: int, count: int) -> tuple[list[pa.Array], int, int]:
        """What scoring adds to some rows, how many of them raise an alert, and how many sound ones have no score."""
        here = slice(first, first + count)
        own, flags, problems = self.scores[here], self.flags[here], self.problems_of(first, count)
        missing = np.isnan(own)
        said = leading(self.window, self.at)
        told = [problems.get(row, said) if missing[row] else None for row in range(count)] if missing.any() else [None] * count
        before, alerts = int(self.flags[:first].sum()), int(flags.sum())
        threshold = pa.repeat(pa.scalar(detector.threshold_at(self.at).value, pa.float64()), count)
        return [
            pa.array(own, mask=missing), pa.array(flags, mask=missing), threshold, pa.repeat(pa.scalar(detector.id), count),
            pa.array(told, pa.string()), _lists(self.errors[before : before + alerts], flags),
        ], alerts, int(missing.sum()) - len(problems)  # fmt: skip


def _lists(errors: Floats, flags: Flags) -> pa.Array:
    """One list of errors for each flag that is set, null for the others."""
    offsets = np.concatenate([[0], np.cumsum(flags)]) * errors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(errors.reshape(-1), pa.float32()), mask=pa.array(~flags))


def score_rows(detector: Detector, fragment: Fragment, halo: Halo, chunks: Iterable[pa.Table]) -> Rows:
    """Scores of a fragment's own rows, which come in chunks; those of its halo are read here.

    A reading that cannot be used breaks its series off: no window holds it. Raises RaeflowError where the halo cannot be read.
    """
    how = detector.spec.windows
    assert how is not None  # noqa: S101 - a fragment with a halo
    count, done = len(halo.apart), 0
    values, bad = _empty(how.reading, count), np.zeros(count, np.bool_)
    problems: dict[int, str] = {}
    where = f"{fragment.piece.uri}, {named(fragment.groups)}"
    for chunk in chunks:
        sifted = sift(chunk, how.reading, where)
        _put(sifted, halo.places[done : done + chunk.num_rows], values, bad)
        problems |= {done + row: problem for row, problem in sifted.problems.items()}
        done += chunk.num_rows
    if done != len(halo.places):
        raise RaeflowError(f"{fragment.piece.uri}: {done} rows where its footer tells of {fragment.rows}: it changed while it was read")
    for part in halo.borrowed:
        table = read_groups(part.piece, part.groups, list(dict.fromkeys(how.reading.columns))).take(pa.array(part.rows))
        _put(sift(table, how.reading, f"{part.piece.uri}, {named(part.groups)}"), part.places, values, bad)
    encoding: Any = detector.graph.encoding
    found, flags, errors = _scored(detector, encoding, values, break_at(halo.apart, bad), halo, bad)
    return Rows(found, flags, errors, problems, halo.at, how.window)


def _empty(reading: RowSpec, count: int) -> Tensor:
    return torch.zeros((count, *reading.stored), dtype=torch.uint8 if reading.dtype == "uint8" else torch.float32)


def _put(sifted: Sifted, places: Places, values: Tensor, bad: Bools) -> None:
    """Sound rows to where they belong; of the others it is known where they are."""
    if sifted.good is None:
        values[torch.from_numpy(places)] = sifted.rows.to(values.dtype)
        return
    bad[places] = True
    bad[places[sifted.good]] = False
    values[torch.from_numpy(places[sifted.good])] = sifted.rows.to(values.dtype)


def _scored(
    detector: Detector, encoding: SeriesEncoding, values: Tensor, apart: Bools, halo: Halo, bad: Bools
) -> tuple[Floats, Flags, Floats]:  # fmt: skip
    """(rows,), (rows,), (alerts, N) of the own rows."""
    length, graph = detector.spec.shape[1], detector.graph
    own = np.zeros(len(apart), np.bool_)
    own[halo.places] = True
    x = encoded(encoding, values.to(device_of(encoding)), halo.parts)
    in_order = scores(graph, x, apart, length, halo.at, own & ~bad)
    found = in_order[halo.places]
    flags = detector.flags(found, halo.at)
    if not flags.any():
        return found, flags, np.empty((0, len(columns_of(detector.spec))), np.float32)
    wanted = np.zeros(len(apart), np.bool_)
    wanted[halo.places[flags]] = True
    errors = causes(graph, x, apart, length, halo.at, wanted)
    rank = np.cumsum(wanted) - 1
    return found, flags, errors[rank[halo.places[flags]]]
