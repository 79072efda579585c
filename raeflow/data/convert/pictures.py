"""A folder of image files to Parquet: their bytes as they are, with the folder's name as the label."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from raeflow.data.convert.parquet import Converted, Options, write
from raeflow.data.images import decoded
from raeflow.data.rows import Shape
from raeflow.errors import RaeflowError

_BATCH = 64
"""Files that are read and decoded side by side, so many bytes of images are held at a time."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Seen = Counter[tuple[Shape, str]]


def convert(folder: Path, target: Path, options: Options, tell: Callable[[str], None]) -> Converted:
    """Every file below `folder` as a row of `image`, `path` and, where files lie in folders, `label`.

    Each image is decoded once, so that a bad one is found now; of moving images the first picture counts.
    """
    files = sorted(_files(folder), key=lambda path: path.relative_to(folder).parts)
    labelled = any(path.parent != folder for path in files)
    fields = [pa.field("image", _IMAGE), pa.field("path", pa.string())] + [pa.field("label", pa.string())] * labelled
    seen: Seen = Counter()
    schema = pa.schema(fields)
    rows = write(target, schema, _batches(files, folder, schema, options, tell, seen))
    return Converted(target, schema, rows, _notes(target, seen, labelled))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        yield from (Path(parent, name) for name in names if not name.startswith((".", "_")))


def _batches(
    files: Sequence[Path], folder: Path, schema: pa.Schema, options: Options, tell: Callable[[str], None], seen: Seen
) -> Iterator[pa.RecordBatch]:
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _BATCH):
            rows = []
            some = files[start : start + _BATCH]
            for path, result in zip(some, pool.map(_read, some), strict=True):
                if isinstance(result, RaeflowError):
                    if not options.skip_bad:
                        raise RaeflowError(f"{result}; --skip-bad leaves such files out")
                    tell(f"left out: {result}")
                    continue
                encoded, shape, dtype = result
                seen[shape, dtype] += 1
                name = path.relative_to(folder)
                rows.append(
                    {"image": {"bytes": encoded, "path": name.as_posix()}, "path": name.as_posix(), "label": name.parent.as_posix()}
                )
            yield pa.RecordBatch.from_pylist(rows, schema)
    if not seen:
        raise RaeflowError(f"{folder}: none of its {len(files)} files is an image")


def _read(path: Path) -> tuple[bytes, Shape, str] | RaeflowError:
    try:
        encoded = path.read_bytes()
        return encoded, *decoded(encoded, str(path))
    except OSError as error:
        return RaeflowError(f"{path}: cannot be read ({error.strerror or error})")
    except RaeflowError as error:
        return error


def _notes(target: Path, seen: Seen, labelled: bool) -> list[str]:
    """What to write in `Data`, and what raeflow will not read."""
    shapes = Counter[Shape]()
    for (shape, _), count in seen.items():
        shapes[shape] += count
    label = ', label="label"' if labelled else ""
    if len(shapes) == 1:
        (shape,) = shapes
        notes = [f'images of {_size(shape)}: Data("{target}", columns="image"{label})']
    else:
        channels = max(shape[0] for shape in shapes)
        common = ", ".join(f"{count:,} of {_size(shape)}" for shape, count in shapes.most_common(3))
        more = f" and {len(shapes) - 3} other shapes" if len(shapes) > 3 else ""
        notes = [
            f"{common}{more}: raeflow needs one shape, (C, H, W), and resizes to it, "
            f'as in Data("{target}", columns="image"{label}, shape=({channels}, 64, 64))'
        ]
    if len({dtype for _, dtype in seen}) > 1:
        notes.append("images of 8 bits and of more are mixed, which raeflow does not read together: bring them to one depth")
    return notes


def _size(shape: Shape) -> str:
    return f"{shape[1]}x{shape[2]} pixels in {'grey' if shape[0] == 1 else 'colour'}"
