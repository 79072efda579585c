"""What is to be scored: sources to fragments, with every refusal that footers allow."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raeflow.data.columns import fits
from raeflow.data.files import ARROW_ERRORS, Footer, Piece, expand, read_footers, reason
from raeflow.data.fixed import fixed_size, leaves
from raeflow.data.rows import RowSpec
from raeflow.data.schema import is_image
from raeflow.data.types import is_list, is_number
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring.fragment import STAMP, Fragment, added
from raeflow.scoring.halo import with_halos

FRAGMENT_ROWS, FRAGMENT_BYTES = 1 << 17, 256 << 20
"""Row groups are put together up to so many rows and decoded bytes; one that is larger is a fragment by itself."""
CHUNK_ROWS, CHUNK_BYTES = 1 << 16, 16 << 20
"""What of a fragment is in memory at a time."""
_SIGNS = re.compile(r"[*?\[]")


def plan(
    detector: Detector, sources: Sequence[str] | str, out: str | Path, columns: Sequence[str] | None = None, bad_rows: str = "flag",
    at: str = "last",
) -> list[Fragment]:  # fmt: skip
    """Fragments to score, in the order of `sources`; reads footers only, of readings in order of time their clock and series too, and
    writes nothing.

    Raises RaeflowError for missing columns, wrong types, a column that would be there twice, an output folder
    among the inputs, and where there is no row at all; where `bad_rows` is `refuse`, also for nulls and lengths
    that footers tell of.
    """
    refuse = bad_rows == "refuse"
    detector.threshold_at(at)
    listed = [str(s) for s in ([sources] if isinstance(sources, (str, Path)) else sources)]
    base = place(str(out))
    pieces = expand(listed)
    _refuse_overlap(listed, pieces, base)
    if isinstance(columns, str):
        columns = [columns]
    fragments: list[Fragment] = []
    footers, dates = read_footers(pieces), _changed(pieces)
    for footer, changed in zip(footers, dates, strict=True):
        kept = _kept(footer, detector.spec, columns, refuse)
        if footer.metadata.num_rows:
            fragments += (replace(f, refuse=refuse) for f in _cut(footer, detector, kept, columns is None, changed, base))
    if not fragments:
        raise RaeflowError(f"{', '.join(listed)}: there are no rows to score")
    if detector.spec.windows is None:
        return fragments
    uris = [piece.uri for piece in pieces]
    return with_halos(detector, fragments, dict(zip(uris, footers, strict=True)), dict(zip(uris, dates, strict=True)), at)


def place(out: str) -> Piece:
    """The output folder."""
    if "://" not in out:
        path = str(Path(out).expanduser().absolute())
        return Piece(path, fs.LocalFileSystem(), path)
    try:
        filesystem, path = fs.FileSystem.from_uri(out)
    except (*ARROW_ERRORS, ValueError) as error:
        raise RaeflowError(f"{out}: cannot be written to ({reason(error)})") from error
    scheme = out[: out.index("://") + 3]
    return Piece(path.rstrip("/"), filesystem, path if scheme == "file://" else scheme + path.rstrip("/"))


def _refuse_overlap(sources: Sequence[str], pieces: Sequence[Piece], base: Piece) -> None:
    """Refuse outputs that this or a later run would take for inputs."""
    for piece in pieces:
        if piece.filesystem.equals(base.filesystem) and PurePosixPath(piece.path).is_relative_to(base.path):
            raise RaeflowError(f"the output folder {base.uri} holds the input {piece.uri}: choose another output folder")
    example = PurePosixPath(base.uri) / "rows.parquet"
    for source in sources:
        # A URI's options and credentials say nothing of the place.
        path = PurePosixPath(re.sub(r"\?.*$|(?<=://)[^/@]*@", "", source) if "://" in source else Path(source).expanduser().absolute())
        signs = [i for i, part in enumerate(path.parts) if _SIGNS.search(part)]
        if not signs or Path(source).exists():
            hit = example.is_relative_to(path)
        elif "**" in path.parts:
            hit = example.is_relative_to(PurePosixPath(*path.parts[: signs[0]]))
        else:
            hit = any(p.match(str(path)) for p in (example, *example.parents))
        if hit:
            raise RaeflowError(f"the output folder {base.uri} lies in the input {source}: a later run would score its own output")


def _changed(pieces: Sequence[Piece]) -> list[int | None]:
    """When each file was last changed, in nanoseconds, where its filesystem knows."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda piece: piece.filesystem.get_file_info(piece.path).mtime_ns, pieces))


def _kept(footer: Footer, spec: RowSpec, columns: Sequence[str] | None, refuse: bool) -> tuple[str, ...]:
    """Names of the columns of one file to keep; the file is checked."""
    names, uri = list(footer.schema.names), footer.piece.uri
    keys: list[str] = []
    names_added = added(spec.windows is not None).names
    if spec.windows is not None:
        keys = [name for name in (spec.windows.time, spec.windows.series) if name is not None]
        spec = spec.windows.reading
    spans = leaves(footer.schema)
    for name in dict.fromkeys((*spec.columns, *keys, *(names if columns is None else columns))):
        count = names.count(name)
        if count != 1:
            have = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            raise RaeflowError(f"{uri}: {count or 'no'} column{'s' * (count > 0)} named {name!r}; columns are {have}")
    for name in spec.columns:
        _check_type(footer, spec, name)
        if refuse and len(spans[name]) == 1:
            _check_counts(footer.metadata, spec, name, spans[name][0], uri)
    kept = tuple(name for name in names if columns is None or name in columns)
    for name in kept:
        if name in names_added:
            again = " (the file was scored before)" if STAMP in (footer.metadata.metadata or {}) else ""
            raise RaeflowError(
                f"{uri}: there is a column {name!r} already{again}, which scoring would add: say which columns to keep with "
                "columns=[...], or --columns"
            )
    return kept


def _check_type(footer: Footer, spec: RowSpec, name: str) -> None:
    kind = footer.schema.field(name).type
    if spec.fields:
        field = next(f for f in spec.fields if f.name == name)
        if not fits(kind, field):
            raise RaeflowError(f"{footer.piece.uri}: column {name!r} holds {kind}, this detector takes a {field.role} ({field.type})")
        return
    plain = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    plain = plain.value_type if pa.types.is_dictionary(plain) else plain
    if pa.types.is_null(plain) and spec.held:
        return
    if not {"columns": is_number, "list": is_list, "image": is_image}[spec.kind](plain):
        wanted = {"columns": "numbers", "list": f"lists of {math.prod(spec.shape)} numbers", "image": "encoded images"}[spec.kind]
        raise RaeflowError(f"{footer.piece.uri}: column {name!r} holds {kind}, this detector takes {wanted}")
    if spec.kind == "list" and fixed_size(plain) not in (None, math.prod(spec.shape)):
        size = math.prod(spec.shape)
        raise RaeflowError(f"{footer.piece.uri}: column {name!r} holds {kind}, this detector takes lists of {size} numbers")


def _check_counts(metadata: pq.FileMetaData, spec: RowSpec, name: str, leaf: int, uri: str) -> None:
    """Refuse null images and lists of another length as far as the footer tells of them."""
    for group in range(metadata.num_row_groups):
        own = metadata.row_group(group)
        column, where = own.column(leaf), f"{uri}, row group {group}: column {name!r} holds"
        if spec.kind == "list":
            size = math.prod(spec.shape)
            if column.num_values != own.num_rows * size:
                raise RaeflowError(f"{where} {column.num_values} values in {own.num_rows} rows, this detector takes {size} a row")
        elif not spec.held and column.statistics is not None and column.statistics.has_null_count and column.statistics.null_count:
            raise RaeflowError(f"{where} {column.statistics.null_count} nulls, this detector takes none")


def _cut(footer: Footer, detector: Detector, kept: tuple[str, ...], everything: bool, changed: int | None, base: Piece) -> list[Fragment]:
    """Fragments of one file."""
    spec, metadata, piece = detector.spec, footer.metadata, footer.piece
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    sizes, volumes = [g.num_rows for g in groups], [g.total_byte_size for g in groups]
    # Encoded images are small on disk and large in memory.
    a_row = max(sum(volumes) // sum(sizes), math.prod(spec.stored) * (1 if spec.dtype == "uint8" else 4), 1)
    most = max(1, min(CHUNK_ROWS, CHUNK_BYTES // a_row))
    made_from = {
        "format": 2, "detector": detector.id, "input": piece.uri, "digest": footer.digest, "changed": changed,
        "columns": "all" if everything else list(kept),
    }  # fmt: skip
    folders = _partitions(piece.path)
    fragments, first = [], 0
    for part in _ranges(sizes, volumes):
        rows = sum(sizes[g] for g in part)
        if rows:
            path = "/".join((*folders, f"{prefix(piece)}{part[0]:05d}-{part[-1]:05d}.parquet"))
            out = Piece(f"{base.path}/{path}", base.filesystem, f"{base.uri}/{path}")
            stamp = json.dumps({**made_from, "groups": [part[0], part[-1]]})
            chunk = math.ceil(rows / math.ceil(rows / most))  # of equal size, no tiny last one
            fragments.append(Fragment(piece, part, first, rows, chunk, kept, out, len(folders), stamp))
        first += rows
    return fragments


def _ranges(sizes: Sequence[int], volumes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Consecutive row groups, put together up to the size of a fragment."""
    groups: list[int] = []
    rows = volume = 0
    for group, (size, own) in enumerate(zip(sizes, volumes, strict=True)):
        if groups and (rows + size > FRAGMENT_ROWS or volume + own > FRAGMENT_BYTES):
            yield tuple(groups)
            groups, rows, volume = [], 0, 0
        groups.append(group)
        rows, volume = rows + size, volume + own
    if groups:
        yield tuple(groups)


def prefix(piece: Piece) -> str:
    """Start of the names of a file's outputs: its own name, and a hash of its place that keeps namesakes apart."""
    stem = re.sub(r"\.(parquet|parq|pq)$", "", PurePosixPath(piece.path).name).lstrip("._")[:80] or "rows"
    return f"{stem}-{hashlib.sha256(piece.uri.encode()).hexdigest()[:10]}-"


def _partitions(path: str) -> list[str]:
    """Folders such as `year=2026`, which hold a column's value and are kept."""
    return [part for part in PurePosixPath(path).parent.parts if re.fullmatch(r"[^=]+=[^=]*", part)]
