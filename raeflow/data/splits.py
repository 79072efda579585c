"""Which split a row belongs to: a split column's word, or a hash of the row's content.

The hash sees nothing but the row's values, so a row falls in the same split in whatever order, file or
storage type it comes; rows that are equal stay together, and no split holds a copy of another's row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from raeflow.data.rows import RowSpec
from raeflow.errors import RaeflowError
from raeflow.study import SPLITS

Keys = np.ndarray[Any, np.dtype[np.uint64]]
TRAIN, VALIDATE, CALIBRATE, TEST = range(4)
ALIASES = {
    **{name: code for code, name in enumerate(SPLITS)},
    "training": TRAIN, "val": VALIDATE, "valid": VALIDATE, "validation": VALIDATE, "dev": VALIDATE,
    "calibration": CALIBRATE, "cal": CALIBRATE, "calib": CALIBRATE, "testing": TEST, "eval": TEST, "evaluation": TEST, "holdout": TEST,
}  # fmt: skip
_ROWS = 1 << 13
"""Rows of a table whose keys are made at a time, for the same reason as blocks."""
_BLOCK = 1 << 18
"""Bytes hashed at a time: they and their 64-bit copies stay in the cache."""


def _splitmix64(values: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the result depends on every bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def row_keys(rows: Tensor) -> Keys:
    """A 64-bit key (N,) for each row (N, *shape) of uint8 or float32, from its values alone; -0.0 is 0.0, a NaN a NaN.

    Multilinear hashing of 32-bit words (Carter and Wegman 1979; Lemire and Kaser 2014): the sum of words
    times fixed odd 64-bit constants modulo 2^64, then mixed. Two different rows share a key with
    probability of about 2^-32.
    """
    count, width = len(rows), math.prod(rows.shape[1:])
    values = np.ascontiguousarray(rows.numpy()).reshape(count, width)
    words = -(-width * values.itemsize // 4)
    factors = _splitmix64(np.arange(words, dtype=np.uint64)) | np.uint64(1)
    keys = np.empty(count, np.uint64)
    step = max(1, _BLOCK // (4 * max(words, 1)))
    for start in range(0, count, step):
        part = values[start : start + step]
        if part.dtype == np.float32:
            part = part + np.float32(0)
            if not np.isfinite(part.sum()):
                part[np.isnan(part)] = np.nan  # gaps are alike whatever bits they came with
        elif width % 4:
            part = np.pad(part, ((0, 0), (0, 4 * words - width)))
        keys[start : start + step] = np.einsum("ij,j->i", part.view(np.uint32).astype(np.uint64), factors)
    return _splitmix64(keys)


def table_keys(rows: Tensor, spec: RowSpec, words: Mapping[int, Sequence[str]]) -> Keys:
    """Keys (N,) of stored rows (N, K) of a mixed table: of its numbers, and of its categories' words, by stored place.

    Clocks do not count, or no two rows would be equal, unless there is nothing else.
    """
    values = rows.numpy()
    named = [(f, place) for f, place in spec.placed if f.role == "category"]
    counted = spec.of_roles("number", "flag")
    if not named and not counted:
        return row_keys(rows)
    hashed = []
    for field, place in named:
        own = [f"{field.name}\0{word}".encode() for word in words[place]]
        digests = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in own]
        hashed.append((place, np.asarray([*digests, 1], np.uint64)))  # all gaps are alike
    done = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _ROWS):
        part = values[start : start + _ROWS]
        keys = row_keys(torch.from_numpy(part[:, counted])) if counted else np.zeros(len(part), np.uint64)
        for place, digest in hashed:
            codes = part[:, place]
            index = np.where(np.isnan(codes), len(digest) - 1, codes).astype(np.int64)
            keys = _splitmix64(keys) + digest[index]
        done[start : start + _ROWS] = _splitmix64(keys)
    return done


def stored_keys(rows: Tensor, spec: RowSpec) -> Keys:
    """Keys (N,) of stored rows (N, *stored): rows that cannot be told apart by what chose their split have one key."""
    counted = spec.of_roles("number", "flag", "category") if spec.fields else []
    if not counted or len(counted) == rows.shape[1]:
        return row_keys(rows)
    return row_keys(torch.from_numpy(rows.numpy()[:, counted]))


def uniform(keys: Keys) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Keys as numbers in [0, 1)."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def thinning(keys: Keys) -> Keys:
    """Keys that are independent of those that chose the split."""
    return _splitmix64(keys ^ np.uint64(0xD1B54A32D192ED03))


def shares(fractions: Sequence[float], given: Sequence[int]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Splits that the hash decides, train and those not `given` elsewhere, and where each of them ends in [0, 1)."""
    codes = tuple(code for code in range(4) if code == TRAIN or code not in given)
    total = sum(fractions[code] for code in codes)
    if fractions[TRAIN] <= 0 or (VALIDATE in codes and fractions[VALIDATE] <= 0):
        raise RaeflowError(f"Data(fractions={tuple(fractions)!r}): train and validate each need a share above 0")
    ends = np.cumsum([fractions[code] / total for code in codes])
    ends[-1] = 1.0
    return codes, tuple(float(end) for end in ends)


def assign(keys: Keys, codes: Sequence[int], ends: Sequence[float]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Split (N,) of rows by their keys."""
    place = np.searchsorted(np.asarray(ends[:-1]), uniform(keys), side="right")
    return np.asarray(codes, np.uint8)[place]


def spoken(column: pa.ChunkedArray, name: str, where: str, first: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Split (N,) of rows by the words of a split column."""
    if column.null_count:
        at = int(pc.index(pc.is_null(column), True).as_py())
        raise RaeflowError(f"{where}, split column {name!r}, row {first + at}: the value is null")
    try:
        words, places = worded(column)
    except pa.ArrowException as error:
        raise RaeflowError(f"{where}, split column {name!r} holds {column.type}, not words") from error
    codes = [ALIASES.get(str(word).strip().lower(), -1) for word in words]
    if -1 in codes:
        at = int(np.argmax(places == codes.index(-1)))
        known = ", ".join(SPLITS)
        raise RaeflowError(f"{where}, split column {name!r}, row {first + at}: {words[codes.index(-1)]!r} is none of {known}")
    split: np.ndarray[Any, np.dtype[np.uint8]] = np.asarray(codes, np.uint8)[places]
    return split


def worded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """The different words of a text column, and each row's place (N,) among them."""
    if not len(column):
        return [], np.empty(0, np.int64)
    encoded = pa.concat_arrays(column.cast(pa.string()).chunks).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
