"""Fragments of readings in order of time: which rows of other fragments the windows of their own rows reach into.

One pass over the keys alone (clock and series) gives every row its place in order. A fragment then needs, besides its own rows, those
up to a window before each of them, and at="all" behind it too, in whatever file they lie: its halo.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raeflow.data import splits
from raeflow.data.clock import Keys, read_keys
from raeflow.data.encoding.series import SeriesEncoding
from raeflow.data.files import Footer, Piece
from raeflow.data.order import Bools, Places
from raeflow.data.reading import Unit
from raeflow.detector import Detector
from raeflow.readings.order import Ordered, Part, put_in_order
from raeflow.scoring.fragment import Fragment


@dataclass(frozen=True)
class Borrowed:
    """Rows of a neighbouring file, or of other row groups of the same one."""

    piece: Piece
    groups: tuple[int, ...]
    rows: Places
    """(b,) which rows of these row groups."""
    places: Places
    """(b,) where they belong among the readings of the fragment."""


@dataclass(frozen=True)
class Halo:
    """Own and neighbouring readings of a fragment, n in all, in order."""

    at: str
    places: Places
    """(rows,) where each own row belongs among them."""
    apart: Bools
    """(n,) whether a reading does not follow the one before it."""
    parts: tuple[Part, ...]
    """The series."""
    borrowed: tuple[Borrowed, ...]


@dataclass(frozen=True)
class Timetable:
    """Every row of all fragments in order."""

    keys: Keys
    ordered: Ordered
    firsts: Places
    """(F + 1,) first row of each fragment, counted through all of them."""


def timetable(detector: Detector, fragments: Sequence[Fragment]) -> Timetable:
    """Read the keys of all fragments.

    Raises RaeflowError, with its place, for a time that is missing or comes twice, and for a clock of another kind than training had.
    """
    how, encoding = detector.spec.windows, detector.graph.encoding
    assert how is not None and isinstance(encoding, SeriesEncoding)  # noqa: S101 - callers ask
    units = [Unit(f.piece, f.groups, f.first, f.rows, splits.TRAIN) for f in fragments]
    keys = read_keys(units, how.time, how.series, None)
    firsts = np.cumsum([0, *(f.rows for f in fragments)])

    def where(row: int) -> str:
        at = int(np.searchsorted(firsts, row, side="right")) - 1
        return f"{fragments[at].piece.uri}, row {fragments[at].first + row - int(firsts[at])}"

    return Timetable(keys, put_in_order(keys, where, how, encoding), firsts)


def with_halos(
    detector: Detector, fragments: Sequence[Fragment], footers: Mapping[str, Footer], changed: Mapping[str, int | None], at: str
) -> list[Fragment]:
    """The fragments with their halos; what these are made of enters their stamps, so that a changed neighbour is seen."""
    assert detector.spec.windows is not None  # noqa: S101 - callers ask
    table = timetable(detector, fragments)
    found = []
    for number, fragment in enumerate(fragments):
        halo = _halo(table, number, fragments, footers, detector.spec.windows.window, at)
        digest = _digest(halo, footers, changed)
        stamp = json.dumps({**json.loads(fragment.stamp), "at": at, "halo": digest})
        found.append(replace(fragment, halo=halo, stamp=stamp))
    return found


def _halo(
    table: Timetable, number: int, fragments: Sequence[Fragment], footers: Mapping[str, Footer], length: int, at: str
) -> Halo:  # fmt: skip
    first, end = int(table.firsts[number]), int(table.firsts[number + 1])
    ordered = table.ordered
    own = ordered.ranks[first:end]
    needed = _reach(np.sort(own), ordered.runs, length, at == "all")
    apart = ordered.apart[needed]
    apart[1:] |= np.diff(needed) != 1
    apart[0] = True
    rows = ordered.rows[needed]
    foreign = np.flatnonzero((rows < first) | (rows >= end))
    return Halo(at, np.searchsorted(needed, own), apart, _parts(ordered, needed), _borrowed(table, rows, foreign, fragments, footers))


def _reach(own: Places, runs: tuple[Places, Places], length: int, behind: bool) -> Places:
    """Places of the readings that windows of `own` (sorted places in order) hold, within the runs that they are in."""
    low = np.maximum(own - (length - 1), runs[0][own])
    high = np.minimum(own + length, runs[1][own]) if behind else own + 1
    begins = np.flatnonzero(np.concatenate([[True], low[1:] > high[:-1]]))  # both rise, so stretches that touch are one
    stretches = zip(low[begins], high[np.append(begins[1:] - 1, len(own) - 1)], strict=True)
    return np.concatenate([np.arange(a, b) for a, b in stretches])


def _parts(ordered: Ordered, needed: Places) -> tuple[Part, ...]:
    """First, end and name of each series among some readings."""
    series = np.searchsorted(ordered.order.bounds, needed, side="right") - 1
    begins = np.flatnonzero(np.diff(series, prepend=-1))
    ends = np.append(begins[1:], len(needed))
    return tuple((int(a), int(b), ordered.names[int(series[a])]) for a, b in zip(begins, ends, strict=True))


def _borrowed(
    table: Timetable, rows: Places, foreign: Places, fragments: Sequence[Fragment], footers: Mapping[str, Footer]
) -> tuple[Borrowed, ...]:  # fmt: skip
    """Rows of others, counted through all fragments, as rows of their files' row groups."""
    found = []
    owners = np.searchsorted(table.firsts, rows[foreign], side="right") - 1
    for owner in np.unique(owners):
        places, fragment = foreign[owners == owner], fragments[int(owner)]
        metadata = footers[fragment.piece.uri].metadata
        sizes = [metadata.row_group(g).num_rows for g in fragment.groups]
        begins = np.cumsum([0, *sizes])
        within = rows[places] - table.firsts[owner]
        groups = np.searchsorted(begins, within, side="right") - 1
        used = np.unique(groups)
        shift = begins[used] - np.cumsum([0, *(sizes[g] for g in used[:-1])])  # rows of groups that are not read
        at = within - shift[np.searchsorted(used, groups)]
        found.append(Borrowed(fragment.piece, tuple(fragment.groups[g] for g in used), at, places))
    return tuple(found)


def _digest(halo: Halo, footers: Mapping[str, Footer], changed: Mapping[str, int | None]) -> str:
    """SHA-256 over where own rows stand, what they follow, and the files of the others as they are now."""
    said = [[b.piece.uri, footers[b.piece.uri].digest, changed[b.piece.uri], b.groups] for b in halo.borrowed]
    digest = hashlib.sha256(json.dumps([said, halo.parts]).encode())
    for part in (halo.places, halo.apart, *(values for b in halo.borrowed for values in (b.rows, b.places))):
        digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()
