"""Nested dicts of tensors and plain values on disk, as safetensors and JSON, whole or not at all.

Nothing is pickled, so loading a checkpoint cannot run code.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raeflow.errors import RaeflowError

_TENSOR = "__tensor__"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as `state.json` and `tensors.safetensors` in `folder`, replacing what is there."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)

    def write(temporary: Path) -> None:
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(tree))

    write_folder(folder, write)


def load(folder: Path) -> dict[str, Any]:
    """Read what `save` wrote; tensors come on the CPU."""
    try:
        tree = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RaeflowError(f"checkpoint {folder} cannot be read: {error}") from error
    state: dict[str, Any] = _join(tree, tensors)
    return state


def plain(value: Any) -> Any:
    """`value` as it comes back from JSON."""
    return json.loads(json.dumps(value))


def write_folder(folder: Path, write: Any) -> None:
    """Call `write(temporary)` and move the finished folder into place, so that no reader sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():
            old = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.old"
            folder.replace(old)
            temporary.replace(folder)
            shutil.rmtree(old)
        else:
            temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_file(path: Path, write: Any) -> None:
    """Call `write(temporary)` and move the finished file into place."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        write(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON tree of `value`; its tensors go to `tensors` under their path. Dicts keep the type of their keys."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, dict):
        return {"__dict__": [[k, _split(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _join(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if _TENSOR in tree:
            return tensors[tree[_TENSOR]]
        return {k: _join(v, tensors) for k, v in tree["__dict__"]}
    if isinstance(tree, list):
        return [_join(v, tensors) for v in tree]
    return tree
