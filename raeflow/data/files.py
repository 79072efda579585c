"""Which Parquet files a path, folder, glob or URI names, and what their footers say."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raeflow.data.fixed import nulled, plain_metadata, restored
from raeflow.errors import RaeflowError

ARROW_ERRORS = (OSError, pa.ArrowException)
SUFFIXES = (".parquet", ".parq", ".pq")
TEXT = tuple(kind + packed for kind in (".csv", ".tsv", ".tab", ".txt") for packed in ("", ".gz", ".bz2", ".zst"))
"""Names of tables of text, which `raeflow data convert` reads."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_MAGIC = (b"PAR1", b"PARE")  # plain and encrypted footers
_OPENERS = 16  # footers are small: what opening many remote files takes is latency


@dataclass(frozen=True)
class Piece:
    """One Parquet file."""

    path: str
    """Path inside `filesystem`."""
    filesystem: fs.FileSystem
    uri: str
    """Absolute path or URI, without credentials: what messages show and, where none are needed, `expand` reads."""


@dataclass(frozen=True)
class Footer:
    """What a file says of itself before any row is read."""

    piece: Piece
    metadata: pq.FileMetaData
    schema: pa.Schema
    digest: str
    """SHA-256 of the file's size and footer, which holds schema, row counts, offsets and column statistics."""


def reason(error: BaseException) -> str:
    """The first line of an Arrow error, without its trail of source lines."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


def expand(sources: Sequence[str]) -> list[Piece]:
    """Parquet files that `sources` name: sources in the order given, each one's files sorted by path, none twice.

    A folder gives every `.parquet`, `.parq` or `.pq` file below it, but nothing under a name that starts
    with `.` or `_`. A glob knows `*`, `?` (not in URIs), `[...]` and `**`. Raises `RaeflowError` where a
    source cannot be read or names no file.
    """
    found: dict[str, Piece] = {}
    foreign: list[str] = []
    for source in [sources] if isinstance(sources, str) else sources:
        pieces = listed(str(source))
        foreign += [_plain(str(source))] * any(_is_text(piece) for piece in pieces)
        for piece in pieces:
            found.setdefault(piece.uri, piece)
    if foreign:
        raise RaeflowError(f"{', '.join(foreign)}: text, not Parquet; run `{_command(foreign)}`")
    return list(found.values())


def _plain(source: str) -> str:
    """A source as messages show it; keys and passwords are for none."""
    return re.sub(r"(?<=://)[^/?]*@", "", source)


def _is_text(piece: Piece) -> bool:
    """Whether a file is no Parquet by its name and by its first bytes."""
    if not piece.path.lower().endswith(TEXT):
        return False
    try:
        with piece.filesystem.open_input_file(piece.path) as file:
            return file.read(4) not in _MAGIC
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}: cannot be read ({reason(error)})") from error


def _command(sources: Sequence[str]) -> str:
    return f"raeflow data convert {shlex.join(sources)}"


def listed(source: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Piece]:
    """Files that one source names, whatever they hold; of a folder, those whose names end in one of `suffixes`."""
    named = _plain(source)
    try:
        filesystem, base, pattern, shown = _open(source)
        if pattern is not None:
            pieces = _matching(filesystem, base, pattern, shown)
        else:
            info = filesystem.get_file_info(base)
            if info.type == fs.FileType.NotFound:
                raise RaeflowError(f"{named}: there is no such file or folder")
            pieces = _below(filesystem, base, shown, suffixes) if info.type == fs.FileType.Directory else [_piece(filesystem, base, shown)]
    except (*ARROW_ERRORS, ValueError, ImportError) as error:
        raise RaeflowError(f"{named}: cannot be read ({reason(error)})") from error
    if not pieces:
        if pattern is not None:
            raise RaeflowError(f"{named}: no file matches this pattern")
        for what, other in (("images", PICTURES), ("text", TEXT)):
            if suffixes == SUFFIXES and _below(filesystem, base, shown, other):
                raise RaeflowError(f"{named}: the folder holds {what}, not Parquet; run `{_command([named])}`")
        raise RaeflowError(f"{named}: the folder holds no {'Parquet' if suffixes == SUFFIXES else ', '.join(suffixes[::4])} file")
    return pieces


def _open(source: str) -> tuple[fs.FileSystem, str, str | None, tuple[str, str]]:
    """Filesystem, path (a pattern's fixed part), the whole pattern if it is one, and what goes around a path in a URI."""
    uri = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source)
    if uri is None:
        path = str(Path(source).expanduser().absolute())
        base = path if Path(path).exists() else _fixed(path, r"[*?[]")
        return fs.LocalFileSystem(), base, None if base == path else path, ("", "")
    head, mark, query = source.partition("?")
    base = _fixed(head, r"[*[]")
    filesystem, path = fs.FileSystem.from_uri(base + mark + query)
    around = ("", "") if isinstance(filesystem, fs.LocalFileSystem) else (uri.group(), mark + query)
    return filesystem, path, None if base == head else path.rstrip("/") + head[len(base) :], around


def _fixed(path: str, signs: str) -> str:
    """The folders of a glob in front of its first sign."""
    sign = re.search(signs, path)
    return path if sign is None else (path[: path.rfind("/", 0, sign.start())] or "/")


def _piece(filesystem: fs.FileSystem, path: str, shown: tuple[str, str]) -> Piece:
    return Piece(path, filesystem, shown[0] + path + shown[1])


def _below(filesystem: fs.FileSystem, folder: str, shown: tuple[str, str], suffixes: tuple[str, ...] = SUFFIXES) -> list[Piece]:
    infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    files = [i.path for i in infos if i.type == fs.FileType.File and not _hidden(i.path, folder)]
    paths = [path for path in files if (path if suffixes is SUFFIXES else path.lower()).endswith(suffixes)]
    return [_piece(filesystem, path, shown) for path in sorted(paths)]


def _hidden(path: str, folder: str) -> bool:
    return any(part.startswith((".", "_")) for part in path[len(folder) :].split("/"))


def _matching(filesystem: fs.FileSystem, base: str, pattern: str, shown: tuple[str, str]) -> list[Piece]:
    deep = "/" in pattern[len(base) :].strip("/") or "**" in pattern
    infos = filesystem.get_file_info(fs.FileSelector(base, recursive=deep, allow_not_found=True))
    expression = re.compile(_translate(pattern))
    hits = sorted((i for i in infos if expression.fullmatch(i.path) and not _hidden(i.path, base)), key=lambda i: str(i.path))
    files = [i.path for i in hits if i.type == fs.FileType.File]
    # `data/*` means the Parquet in there, not the README beside it.
    files = [p for p in files if p.endswith(SUFFIXES)] or files
    found = {path: _piece(filesystem, path, shown) for path in files}
    for info in hits:
        if info.type == fs.FileType.Directory:
            found |= {piece.path: piece for piece in _below(filesystem, info.path, shown)}
    return [found[path] for path in sorted(found)]


def _translate(pattern: str) -> str:
    """A glob as a regular expression over whole paths."""
    parts = []
    for sign in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern, re.DOTALL):
        if sign in ("**/", "**"):
            parts.append("(?:.*/)?" if sign == "**/" else ".*")
        elif sign in ("*", "?"):
            parts.append("[^/]*" if sign == "*" else "[^/]")
        elif len(sign) > 1:
            parts.append("[" + sign[1:-1].replace("\\", "\\\\").replace("!", "^", int(sign[1] == "!")) + "]")
        else:
            parts.append(re.escape(sign))
    return "".join(parts)


def read_footers(pieces: Sequence[Piece]) -> list[Footer]:
    """Footers of all pieces, read side by side; a file that is no whole Parquet file is refused by name."""
    if len(pieces) == 1:
        return [read_footer(pieces[0])]
    with ThreadPoolExecutor(min(_OPENERS, len(pieces))) as pool:
        return list(pool.map(read_footer, pieces))


def read_footer(piece: Piece) -> Footer:
    """The footer of one file, after a look at whether the file is whole."""
    try:
        with piece.filesystem.open_input_file(piece.path) as file:
            size = file.size()
            tail = file.read_at(min(8, size), max(0, size - 8))
            if tail[-4:] not in _MAGIC:
                raise RaeflowError(
                    f"{piece.uri}: not a whole Parquet file: its {size} bytes end without Parquet's closing mark "
                    "(truncated while it was written or copied, or another format)"
                )
            length = int.from_bytes(tail[:4], "little")
            footer = file.read_at(min(length, size), max(0, size - 8 - length))
            with pq.ParquetFile(file) as parquet:
                metadata, schema = parquet.metadata, parquet.schema_arrow
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}: cannot be read as Parquet ({reason(error)})") from error
    return Footer(piece, metadata, schema, hashlib.sha256(size.to_bytes(8, "little") + footer).hexdigest())


def read_groups(piece: Piece, groups: Sequence[int], columns: Sequence[str], threads: bool = False, words: Sequence[str] = ()) -> pa.Table:
    """Some row groups of some columns as one table, in the order of the file; `words` are columns of text to be read as dictionaries."""
    try:
        with (
            piece.filesystem.open_input_file(piece.path) as file,
            pq.ParquetFile(file, pre_buffer=True, read_dictionary=list(words)) as parquet,
        ):
            schema = parquet.schema_arrow
            if not nulled(parquet.metadata, schema, groups, columns):
                return parquet.read_row_groups(list(groups), columns=list(columns), use_threads=threads)
            with pq.ParquetFile(file, metadata=plain_metadata(file), pre_buffer=True) as plain:
                return restored(plain.read_row_groups(list(groups), columns=list(columns), use_threads=threads), schema)
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}, {named(groups)}: cannot be read ({reason(error)})") from error


def first_row(footer: Footer, column: str) -> Any:
    """The value of a column in a file's first row, as Python; None where the file has no row."""
    return next(cells(footer, column), None)


def cells(footer: Footer, column: str) -> Iterator[Any]:
    """The values of a column as Python, read one by one: for a look at the first few."""
    piece = footer.piece
    try:
        with piece.filesystem.open_input_file(piece.path) as file, pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1, columns=[column]):
                yield batch.column(0)[0].as_py()
    except ARROW_ERRORS as error:
        raise RaeflowError(f"{piece.uri}, row group 0, column {column!r}: cannot be read ({reason(error)})") from error


def named(groups: Sequence[int]) -> str:
    """Row groups as messages name them."""
    return f"row group {groups[0]}" if len(groups) == 1 else f"row groups {groups[0]}-{groups[-1]}"
