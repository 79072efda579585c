"""What an output folder holds already: what is right is kept, what is stale goes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from raeflow.data.files import ARROW_ERRORS, read_footer, reason
from raeflow.errors import RaeflowError
from raeflow.scoring.events import forget_events
from raeflow.scoring.fragment import STAMP, Fragment
from raeflow.scoring.planning import prefix

_OUTPUT = re.compile(r"(.+-[0-9a-f]{10}-)\d{5,}-\d{5,}\.parquet")
_TEMPORARY = re.compile(r"\.(.+-[0-9a-f]{10}-)\d{5,}-\d{5,}\.parquet\.[0-9a-f]{8}\.tmp")


def prepare(fragments: Sequence[Fragment]) -> tuple[list[dict[str, Any]], list[Fragment]]:
    """Statistics of the fragments that are committed, and the fragments still to do.

    Whatever else was made from the same inputs is deleted: leftovers of a killed run, outputs of another
    detector, of the input as it was before, or of other row groups. Files of other inputs stay.
    """
    out = fragments[0].out
    folder = str(PurePosixPath(out.path).parents[fragments[0].folders])
    try:
        infos = out.filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        there = {info.path for info in infos if info.type == fs.FileType.File}
        maybe = [f for f in fragments if f.out.path in there]
        with ThreadPoolExecutor(16) as pool:
            found = {f.out.path: s for f, s in zip(maybe, pool.map(committed, maybe), strict=True) if s is not None}
        own = {prefix(f.piece) for f in fragments}
        for path in sorted(there - found.keys()):
            if _made_from(path) in own:
                out.filesystem.delete_file(path)
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{folder}: cannot be written to ({reason(error)})") from error
    if fragments[0].halo is not None and len(found) < len(fragments):
        forget_events(fragments)  # they tell of other scores
    return list(found.values()), [f for f in fragments if f.out.path not in found]


def sweep(fragments: Sequence[Fragment]) -> None:
    """Delete temporaries that workers of this run left behind when they were killed and their work done again."""
    out = fragments[0].out
    folder = str(PurePosixPath(out.path).parents[fragments[0].folders])
    own = {prefix(f.piece) for f in fragments}
    for info in out.filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True)):
        match = _TEMPORARY.fullmatch(PurePosixPath(info.path).name)
        if match and match[1] in own:
            out.filesystem.delete_file(info.path)


def _made_from(path: str) -> str:
    """The prefix in the name of an output or of its temporary; empty for files of others."""
    name = PurePosixPath(path).name
    match = _OUTPUT.fullmatch(name) or _TEMPORARY.fullmatch(name)
    return match[1] if match else ""


def committed(fragment: Fragment) -> dict[str, Any] | None:
    """Statistics of a fragment whose output is whole, was made from the same and has no bad row to refuse; None otherwise."""
    try:
        metadata = read_footer(fragment.out).metadata
    except RaeflowError:
        return None
    stamp = (metadata.metadata or {}).get(STAMP)
    if stamp is None:
        return None
    record = json.loads(stamp)
    statistics = record.pop("statistics", {})
    if record != json.loads(fragment.stamp) or metadata.num_rows != fragment.rows or (fragment.refuse and statistics["bad"]):
        return None
    return {**statistics, "input": fragment.piece.uri, "output": fragment.out.uri}
