"""Every variant, found by its file's name; importing this package imports none of them."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from raeflow.errors import RaeflowError
from raeflow.study import variant_names as names

__all__ = ["build", "get", "hyper", "names"]


def get(name: str) -> Any:
    """The module of a variant: `Hyper`, `published`, `space`, `Model`."""
    if name not in names():
        raise RaeflowError(f"variant {name!r} is not one of {', '.join(names())}")
    return importlib.import_module(f"raeflow.variants.{name}")


def hyper(name: str, values: dict[str, Any], base: Any = None) -> Any:
    """A variant's Hyper from plain values (JSON lists become tuples), on top of `base` or the defaults."""
    record = get(name).Hyper
    fields = {f.name for f in dataclasses.fields(record)}
    for key in values:
        if key not in fields:
            raise RaeflowError(f"variant {name!r} has no hyperparameter {key!r}; it has {', '.join(sorted(fields))}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return record(**plain) if base is None else dataclasses.replace(base, **plain)


def build(name: str, shape: tuple[int, ...], values: dict[str, Any]) -> Any:
    """A variant's untrained model for rows of this shape."""
    return get(name).Model(tuple(shape), hyper(name, values))
