"""Named sets: a short name in `Data(source=...)` becomes files, columns, label, split and shape.

`digits`, `airshower` and `gaussians` are made on the spot and kept in the cache; the public sets are looked
for in `$RAEFLOW_DATA`, then in the cache, where `raeflow data fetch NAME` writes them. This file holds the
only reader of the environment in `raeflow.data`.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raeflow.data.sets.catalogue import NamedSet, lookup, named
from raeflow.errors import RaeflowError
from raeflow.study import Data, InMemory

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NamedSet", "Places", "locate", "located", "lookup", "make", "named", "places", "resolve"]


@dataclass(frozen=True)
class Places:
    """Folders in which named sets lie, each as `<set>/<file>.parquet`."""

    data: Path | None
    """$RAEFLOW_DATA, searched first and never written."""
    cache: Path
    """$RAEFLOW_CACHE, else ~/.cache/raeflow: what is fetched or made here."""


def places() -> Places:
    """The folders that the environment names now."""
    data, kept = os.environ.get("RAEFLOW_DATA"), os.environ.get("RAEFLOW_CACHE")
    return Places(Path(data).expanduser() if data else None, Path(kept or "~/.cache/raeflow").expanduser())


def resolve(data: Data, folder: Path | None = None) -> Data:
    """The same data with a named set replaced by its files and by what is known of them, and with rows in memory written to Parquet.

    Rows in memory go to `folder`, under a name made of their content; without one to a folder that lasts as long as this process.

    What the user said always wins. A set is recognised only where no file or folder of that name exists,
    so resolving twice changes nothing. Where the user chooses other columns than the set's own, target,
    shape and layout are left open. Raises RaeflowError for an unknown name and for missing files.
    """
    data = _written(data, folder)
    extra: dict[str, Any] = {s: _expanded(s, getattr(data, s)) for s in ("validate", "calibrate", "test") if getattr(data, s) is not None}
    sources = cast(tuple[str, ...], data.source)
    sets = [_recognise("source", entry) for entry in sources]
    if len(sets) == 1 and sets[0] is not None:
        extra |= _filled(data, sets[0])
    elif any(sets):
        name = next(one.name for one in sets if one)
        raise RaeflowError(f"Data(source={list(sources)!r}): the named set {name!r} cannot be mixed with other sources")
    return replace(data, **extra) if extra else data


def _written(data: Data, folder: Path | None) -> Data:
    held = {name: part for name in ("source", "validate", "calibrate", "test") if isinstance(part := getattr(data, name), InMemory)}
    if not held:
        return data
    from raeflow.data import frames  # pyarrow, which listing the sets does without

    place = folder or frames.scratch()
    written: dict[str, Any] = {name: str(frames.keep(frames.to_table(part.rows), place)) for name, part in held.items()}
    return replace(data, **written)


def _filled(data: Data, chosen: NamedSet) -> dict[str, Any]:
    paths = dict(zip(chosen.files, locate(chosen), strict=True))
    fields: dict[str, Any] = {"source": tuple(paths.values())}
    if chosen.test and data.split is None:  # who says how to split splits all rows
        fields["source"] = tuple(path for name, path in paths.items() if name not in chosen.test)
        if data.test is None:
            fields["test"] = tuple(paths[name] for name in chosen.test)
    known: dict[str, Any] = {"label": chosen.label, "split": chosen.split, "columns": chosen.columns}
    if data.columns in (None, chosen.columns):
        known |= {"target": chosen.target, "shape": chosen.shape, "layout": chosen.layout} if data.time is None else {}
    if chosen.flags and data.contamination is None:  # who asks for cleaning has the set as nobody has labelled it
        known["normal"] = ((chosen.label, "==", 0),)
    return fields | {name: value for name, value in known.items() if getattr(data, name) is None}


def _expanded(field: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    paths: list[str] = []
    for entry in entries:
        one = _recognise(field, entry)
        paths += locate(one) if one else [entry]
    return tuple(paths)


def _recognise(field: str, entry: str) -> NamedSet | None:
    """The named set that `entry` means; None for paths, globs and URIs."""
    if Path(entry).exists():
        return None
    found = lookup(entry)
    if found is None and re.fullmatch(r"[\w-]+|(adbench|airshower|gaussians|skab)/.*", entry):
        raise RaeflowError(f"Data({field}={entry!r}): no such file or folder, and no such named set; {_hint(entry)}")
    return found


def _hint(entry: str) -> str:
    """The nearest names, else all of them, ADBench's 47 only for who asks for one of them."""
    tables = [name for name in named() if name.startswith("adbench/")]
    single = [name for name in named() if name not in tables]
    family = tables if entry.startswith("adbench/") else single
    prefix = "adbench/" if family is tables else ""
    near = difflib.get_close_matches(entry.lower().removeprefix(prefix), [name.removeprefix(prefix) for name in family], cutoff=0.75)
    if near:
        return f"nearest are {', '.join(prefix + name for name in near)}"
    if prefix:
        return f"sets of ADBench are {', '.join(name.removeprefix(prefix) for name in tables)}"
    return f"named sets are {', '.join(single)} and adbench/NAME, as in adbench/cardio"


def located(name: str) -> Path | None:
    """The folder that holds all files of a named set now, or None; makes and downloads nothing."""
    chosen = lookup(name)
    root = _root(chosen) if chosen is not None else None
    return (root / chosen.files[0]).parent if chosen is not None and root is not None else None


def locate(chosen: NamedSet) -> tuple[str, ...]:
    """Paths of a set's files: in $RAEFLOW_DATA, else in the cache; those that are made here are made if need be.

    Raises RaeflowError where files are missing.
    """
    root, here = _root(chosen), places()
    if root is not None:
        return tuple(str(root / name) for name in chosen.files)
    if chosen.made:
        return tuple(str(path) for path in make(chosen, here.cache))
    missing = next(name for name in chosen.files if not (here.cache / name).is_file())
    where = f"neither $RAEFLOW_DATA ({here.data}) nor {here.cache} holds" if here.data else f"{here.cache} does not hold"
    raise RaeflowError(
        f"{chosen.name} is not on this machine: {where} {missing}; "
        f"run `raeflow data fetch {chosen.name}`, or set RAEFLOW_DATA to the folder that holds it"
    )


def _root(chosen: NamedSet) -> Path | None:
    here = places()
    roots = (here.data, here.cache)
    return next((root for root in roots if root is not None and all((root / name).is_file() for name in chosen.files)), None)


def make(chosen: NamedSet, root: Path) -> list[Path]:
    """Write a set that is made on this machine below `root`."""
    from raeflow.data.writing import write_parquet  # keeps listing the sets free of pyarrow

    return [write_parquet(_made(chosen.name), root / chosen.files[0])]


def _made(name: str) -> pa.Table:
    if name == "digits":
        from raeflow.data.sets import digits

        return digits.table()
    if name.startswith("gaussians/"):
        from raeflow.data.sets import gaussians

        return gaussians.table(name.removeprefix("gaussians/"))
    from raeflow.data.sets import airshower

    return airshower.table(name.removeprefix("airshower/"))
