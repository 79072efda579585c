"""Trained models on disk: `fitted.json` and `weights.safetensors`, written whole or not at all, read without running code."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from raeflow import checkpoint
from raeflow.errors import RaeflowError
from raeflow.training import Fitted

FORMAT = 1
"""Version of the files on disk, of models and detectors; a reader of detectors refuses what is newer."""
WEIGHTS, FITTED = "weights.safetensors", "fitted.json"
_HEAD = "head:"
"""Before the names of a head's tensors in the file of weights; no module's name has a colon."""


def brief(error: BaseException) -> str:
    """An error's kind and first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def read(folder: str, name: str) -> bytes:
    """A file of a saved detector or model, from a path or a URI; raises RaeflowError where there is none."""
    try:
        if "://" not in folder:
            return (Path(folder) / name).read_bytes()
        from pyarrow import fs

        filesystem, path = fs.FileSystem.from_uri(folder)
        with filesystem.open_input_stream(f"{path.rstrip('/')}/{name}") as stream:
            return bytes(stream.read())
    except (OSError, ValueError) as error:
        raise RaeflowError(f"{folder}: no detector there: {name} cannot be read ({brief(error)})") from error


def save_fitted(fitted: Fitted, folder: str | Path) -> Path:
    """Write a trained model as `fitted.json` and `weights.safetensors`, whole or not at all."""
    place = Path(folder)
    record = {
        "format": FORMAT, "variant": fitted.variant, "hyper": fitted.hyper, "shape": fitted.shape,
        "history": fitted.history, "best_epoch": fitted.best_epoch, **({"head": fitted.head} if fitted.head else {}),
    }  # fmt: skip
    tensors = {**fitted.weights, **{_HEAD + name: t for name, t in fitted.head_weights.items()}}
    weights = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        (temporary / FITTED).write_text(json.dumps(record, indent=1))
        safetensors.torch.save_file(weights, temporary / WEIGHTS)

    checkpoint.write_folder(place, write)
    return place


def load_fitted(folder: str | Path) -> Fitted:
    """Read what `save_fitted` wrote; raises RaeflowError where it is missing, truncated or foreign."""
    place = str(folder)
    content, weights = read(place, FITTED), read(place, WEIGHTS)
    try:
        r = json.loads(content)
        tensors = safetensors.torch.load(weights)
        own = {name: t for name, t in tensors.items() if not name.startswith(_HEAD)}
        head = {name.removeprefix(_HEAD): t for name, t in tensors.items() if name.startswith(_HEAD)}
        return Fitted(r["variant"], r["hyper"], tuple(r["shape"]), own, r["history"], r["best_epoch"], r.get("head"), head)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RaeflowError(f"{place}: not a whole trained model ({brief(error)})") from error
