"""Encoded images (PNG, JPEG, ... as bytes, or as the struct of bytes and path of public data hubs) to tensors."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from raeflow.data.rows import RowSpec, Shape
from raeflow.data.types import refuse_nulls
from raeflow.errors import RaeflowError

_BAD = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for bytes that are no whole image it knows."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_THREADED = 64
"""Rows from which threads pay; Pillow decodes without holding the interpreter."""


def sniff(encoded: bytes, where: str) -> tuple[Shape, str]:
    """Shape (C, H, W) and dtype of an image: one channel for grey, three for everything else; float32 beyond 8 bits."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            channels = 1 if image.mode in ("1", "L", "LA", *_DEEP) else 3
            return (channels, image.height, image.width), "float32" if image.mode in _DEEP else "uint8"
    except _BAD as error:
        raise RaeflowError(f"{where}: {len(encoded)} bytes that are no image ({_why(error)})") from error


def _why(error: Exception) -> str:
    """What Pillow says, which of bytes that it does not know is no more than where they lie in memory."""
    return "of no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)


def encoded_bytes(column: pa.ChunkedArray | pa.Array, name: str, where: str, first: int) -> Any:
    """The column of bytes, without its path."""
    refuse_nulls(column, name, where, first)
    if not pa.types.is_struct(column.type):
        return column
    inner = pc.struct_field(column, "bytes")
    if inner.null_count:
        at = int(pc.index(pc.is_null(inner), True).as_py())
        path = column[at].as_py().get("path")
        raise RaeflowError(f"{where}column {name!r}, row {first + at}: no bytes, only the path {path!r}; embed the images in the Parquet")
    return inner


def decode(column: pa.ChunkedArray, spec: RowSpec, where: str, first: int) -> Tensor:
    """Images as (N, C, H, W) of `spec.dtype`; others than `spec.shape` are resized where the spec says so, else refused."""
    name = spec.columns[0]
    cells = encoded_bytes(column, name, where, first)
    channels, height, width = spec.shape
    if channels not in _MODES:
        raise RaeflowError(f"{where}column {name!r}: encoded images have 1, 3 or 4 channels, not {channels}")
    out = np.empty((len(cells), channels, height, width), spec.dtype)

    def one(row: int) -> None:
        buffer = cells[row].as_buffer()
        place = f"{where}column {name!r}, row {first + row}"
        try:
            with Image.open(io.BytesIO(buffer)) as image:
                if image.size != (width, height) and not spec.resize:
                    raise RaeflowError(
                        f"{place}: an image of {image.height}x{image.width} pixels among images of {height}x{width}; "
                        "say Data(shape=(C, H, W)) to resize them all"
                    )
                out[row] = _pixels(image, channels, (width, height), spec.dtype)
        except _BAD as error:
            raise RaeflowError(f"{place}: {buffer.size} bytes that are no whole image ({_why(error)})") from error

    if len(cells) < _THREADED or pa.cpu_count() < 2:
        for row in range(len(cells)):
            one(row)
    else:
        with ThreadPoolExecutor(pa.cpu_count()) as pool:
            for _ in pool.map(one, range(len(cells)), chunksize=16):
                pass
    rows = torch.from_numpy(out)
    if spec.dtype == "float32" and not bool(torch.isfinite(rows.sum())):
        bad = int((~torch.isfinite(rows)).flatten(1).any(1).nonzero()[0])
        raise RaeflowError(f"{where}column {name!r}, row {first + bad}: a pixel is not finite")
    return rows


def _pixels(image: Image.Image, channels: int, size: tuple[int, int], dtype: str) -> np.ndarray[Any, Any]:
    """(C, H, W) pixels of one image."""
    if dtype == "float32":
        image = image.convert("F")
    elif image.mode != _MODES[channels]:
        if image.mode in _DEEP:
            raise ValueError(f"{image.mode} pixels of more than 8 bits among 8-bit images")
        image = image.convert(_MODES[channels])
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
