"""What people have before they have Parquet: tables of text and folders of images, written as Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from raeflow.data.convert import tables
from raeflow.data.convert.parquet import Converted, Options
from raeflow.data.files import PICTURES, SUFFIXES, TEXT, listed
from raeflow.errors import RaeflowError

__all__ = ["Converted", "Options", "convert"]


def convert(
    sources: Sequence[str], out: str | Path | None = None, options: Options | None = None, tell: Callable[[str], None] = lambda _: None
) -> Converted:
    """Write tables of text, or one folder of images, as one Parquet file, whole or not at all, in bounded memory.

    `sources` are CSV-like files of one header, plain or packed, by path, folder, glob or URI; or one local
    folder of images, whose folders become the column `label`. `out` is by default the first source's name
    beside it, ending in `.parquet`. `tell` is called with a line for everything that had to be found out.
    Raises RaeflowError for what cannot be read, with its place, and for a file that is there already.
    """
    options = options or Options()
    target = Path(out).expanduser() if out is not None else _beside(sources[0])
    if not target.name.endswith(SUFFIXES):
        raise RaeflowError(f"{target}: the name of what is written must end in .parquet")
    if target.exists():
        raise RaeflowError(f"{target} is already there: name another file with --out")
    folder = next((source for source in sources if _holds_pictures(Path(source).expanduser())), None)
    if folder is not None:
        if len(sources) > 1:
            raise RaeflowError(f"{', '.join(sources)}: one folder of images at a time")
        from raeflow.data.convert import pictures  # Pillow, only where there are images

        return pictures.convert(Path(folder).expanduser(), target, options, tell)
    pieces = {piece.uri: piece for source in sources for piece in listed(source, TEXT)}
    parquet = next((uri for uri in pieces if uri.endswith(SUFFIXES)), None)
    if parquet is not None:
        raise RaeflowError(f"{parquet}: is named as Parquet is, which needs no conversion")
    return tables.convert(list(pieces.values()), target, options, tell)


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in PICTURES for path in folder.rglob("*"))


def _beside(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        path = path if path.name not in ("", "..") else path.resolve()
        return path.with_name(path.name + ".parquet")
    if "://" in source or (re.search(r"[*?\[]", source) and not path.exists()):
        raise RaeflowError(f"{source}: say with --out where to write it, as in --out rows.parquet")
    name = path.name
    for suffix in sorted(TEXT, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    return path.with_name(name + ".parquet")
