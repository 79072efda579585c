"""Alerts among committed readings as events, in one file below the output folder: `_events/events.parquet`.

Readers of a folder of Parquet pass over names that begin with `_`, so the file does not mix with the scored rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raeflow.data.files import ARROW_ERRORS, Piece, read_groups, reason
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.events import find_events
from raeflow.readings import columns_of, series_of
from raeflow.scoring.fragment import CAUSES, OBJECT_STORES, Fragment
from raeflow.scoring.halo import timetable
from raeflow.timeline import duration

PLACE = "_events/events.parquet"


def place_of(fragments: Sequence[Fragment]) -> Piece:
    """Where the events of some fragments are written."""
    out = fragments[0].out
    folder = PurePosixPath(out.path).parents[fragments[0].folders]
    up = out.uri[: len(out.uri) - len(out.path)] if out.uri.endswith(out.path) else ""
    path = str(folder / PLACE)
    return Piece(path, out.filesystem, up + path)


def check_joined(detector: Detector, joined: Any) -> None:
    """Refuse what `joined` cannot be, and a joining of alerts among rows that know no order."""
    if duration("joined", joined) and detector.spec.windows is None:
        raise RaeflowError(f"joined={joined!r}: alerts are joined into events where rows are readings in order of time; these are not")


def forget_events(fragments: Sequence[Fragment]) -> None:
    """Delete what an earlier run wrote, since it would tell of other scores."""
    piece = place_of(fragments)
    try:
        if piece.filesystem.get_file_info(piece.path).type == fs.FileType.File:
            piece.filesystem.delete_file(piece.path)
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}: cannot be deleted ({reason(error)})") from error


def write_events(detector: Detector, fragments: Sequence[Fragment], joined: Any) -> tuple[int, str]:
    """Write the events of fragments that are all committed, whole or not at all; how many there are, and where.

    Alerts of a series no further apart than `joined` (seconds or a timedelta) are one event.
    """
    table = timetable(detector, fragments)
    rows, scores, errors = [np.empty(0, np.int64)], [np.empty(0, np.float32)], [np.empty((0, len(columns_of(detector.spec))), np.float32)]
    for first, fragment in zip(table.firsts.tolist(), fragments, strict=False):
        found = _alerts(fragment)
        own = np.flatnonzero(found["is_anomaly"].fill_null(False).to_numpy())
        rows.append(own + first)
        scores.append(found["anomaly_score"].to_numpy()[own].astype(np.float32))
        flat = pa.concat_arrays([chunk.flatten() for chunk in found[CAUSES.name].chunks]) if len(own) else pa.array([], pa.float32())
        errors.append(flat.to_numpy().reshape(-1, len(columns_of(detector.spec))))
    flagged = np.concatenate(rows)
    ordered = table.ordered
    events = find_events(
        table.keys.kind.times(table.keys.ticks[flagged]), np.concatenate(scores), np.ones(len(flagged)),
        series_of(table.keys, flagged), joined,
        position=ordered.positions[ordered.ranks[flagged]], channels=np.concatenate(errors), names=columns_of(detector.spec),
        usual=detector.usual or None,
    )  # fmt: skip
    return len(events), _write(events, place_of(fragments))


def _alerts(fragment: Fragment) -> pa.Table:
    """Scores and flags of a committed fragment, in the order of its rows."""
    with fragment.out.filesystem.open_input_file(fragment.out.path) as file, pq.ParquetFile(file) as parquet:
        groups = range(parquet.metadata.num_row_groups)
    return read_groups(fragment.out, list(groups), ["anomaly_score", "is_anomaly", CAUSES.name])


def _write(events: pa.Table, piece: Piece) -> str:
    at = PurePosixPath(piece.path)
    temporary = str(at.with_name(f".{at.name}.tmp"))  # always the same: what a killed run left is written over
    try:
        if piece.filesystem.type_name not in OBJECT_STORES:
            piece.filesystem.create_dir(str(at.parent), recursive=True)
        with piece.filesystem.open_output_stream(temporary) as sink:
            pq.write_table(events, sink)
        piece.filesystem.move(temporary, piece.path)
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}: cannot be written ({reason(error)})") from error
    return piece.uri
