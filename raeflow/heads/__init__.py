"""Heads: what becomes of a model's code and residual as a score; one file each, found by its name.

A head is fitted on train rows after the model was trained, so one training serves them all:

    found = heads.candidates(model, shape)          # what this model can take
    seen = heads.collect(model, rows, found)        # one pass over encoded train rows
    for head in found:
        head.fit(seen)
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raeflow.devices import device_of, score_batch
from raeflow.errors import RaeflowError
from raeflow.heads._contract import Head, Outputs
from raeflow.study import head_names as names
from raeflow.variants._contract import HasCritic, Latent, Mapped, OneShot, Variant

ERROR = "error"
"""The head that leaves a variant's own score as it is."""


def get(name: str) -> Any:
    """The module of a head; raises RaeflowError where there is none of this name."""
    if name not in names():
        raise RaeflowError(f"head {name!r}: there is none; heads are {', '.join(names())}")
    return importlib.import_module(f"raeflow.heads.{name}")


def build(name: str, hyper: dict[str, Any]) -> Head:
    """A head that is not fitted yet; raises RaeflowError where the settings are no such head's."""
    module = get(name)
    known = {f.name for f in dataclasses.fields(module.Hyper)}
    strange = sorted(set(hyper) - known)
    if strange:
        raise RaeflowError(f"head {name!r} has no setting {strange[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    return _made(name, module.Hyper(**hyper))


def restored(said: dict[str, Any] | None) -> Head:
    """The head that `described` told of, not fitted yet; None is `error`."""
    return build(ERROR, {}) if said is None else build(said["name"], said["hyper"])


def described(head: Head) -> dict[str, Any]:
    """Name and settings of a head as plain values, of which `build` makes it again."""
    return {"name": head.name, "hyper": dataclasses.asdict(head.hyper)}


def title(said: dict[str, Any] | None) -> str:
    """A head in few words, as tables show it: `memory of row+residual`; None is `error`."""
    if said is None:
        return ERROR
    name, hyper = said["name"], said["hyper"]
    usual = dataclasses.asdict(get(name).Hyper())
    others = ", ".join(f"{k} {v}" for k, v in hyper.items() if k != "of" and v != usual[k])
    return str(name) + (f" of {hyper['of']}" if "of" in hyper else "") + (f" ({others})" if others else "")


def able(model: Variant) -> frozenset[str]:
    """Fields of `Outputs` that a model can give."""
    found = {"score"}
    if model.rebuilds:
        found.add("rebuilt")
    if model.rebuilds and isinstance(model, Latent):
        found.add("code")
    if isinstance(model, Mapped) and model.has_maps:
        found.add("maps")
    if isinstance(model, HasCritic):
        found |= {"features", "critic"}
    return frozenset(found)


def candidates(model: Variant, shape: tuple[int, ...], asked: Sequence[str] | None = None, unclean: int | None = None) -> list[Head]:
    """Every head in every setting that this model can take, `error` first; `asked` names some alone.

    `unclean`: how many train rows heads will be fitted on, where anomalies may be left among them; None: they count as clean.
    A model that is no network keeps its own score, whatever is asked. Raises RaeflowError where another can take none of those
    asked for.
    """
    can = able(model)
    if isinstance(model, OneShot):
        asked = [ERROR]
    listed = [ERROR, *(n for n in names() if n != ERROR)] if asked is None else list(asked)
    found = [head for name in listed for hyper in _settings(name, shape, unclean) if (head := _made(name, hyper)).needs <= can]
    if not found:
        raise RaeflowError(f"heads {', '.join(listed)}: this model gives {', '.join(sorted(can))}, which is not what they read")
    return found


def _settings(name: str, shape: tuple[int, ...], unclean: int | None) -> list[Any]:
    module = get(name)
    found: list[Any] = module.candidates(shape) if unclean is None or not hasattr(module, "unclean") else module.unclean(shape, unclean)
    return found


def _made(name: str, hyper: Any) -> Head:
    head: Head = get(name).Head(hyper)
    head.name = name  # type: ignore[misc]
    return head


def outputs(model: Variant, x: Tensor, needs: frozenset[str]) -> Outputs:
    """What a model makes of scaled rows (B, *shape), as far as it is needed."""
    code = rebuilt = maps = features = critic = score = None
    if "code" in needs and isinstance(model, Latent):
        code = model.encode(x)
        rebuilt = model.decode(code).float() if "rebuilt" in needs else None  # a latent variant's reconstruction is just that
        code = code.float()
    elif "rebuilt" in needs:
        rebuilt = model.reconstruct(x).float()
    if "maps" in needs and isinstance(model, Mapped):
        maps = model.feature_maps(x).float()
    if needs & {"features", "critic"} and isinstance(model, HasCritic):
        features, critic = (part.float() for part in model.criticise(x))
    if "score" in needs:
        score = model.score(x).float()
    return Outputs(x.float(), rebuilt, code, score, maps, features, critic)


@torch.no_grad()
def collect(model: Variant, x: Tensor, heads: Sequence[Head]) -> Outputs:
    """All that some heads need of scaled rows (N, *shape), in one pass, on the model's device."""
    needs = frozenset[str]().union(*(head.needs for head in heads))
    model.eval()
    device = device_of(model)
    size = score_batch(tuple(x.shape[1:]), device, model.width if "score" in needs else 0)
    parts = [outputs(model, part.to(device), needs) for part in torch.split(x, size)]
    fields = {f.name: [getattr(part, f.name) for part in parts] for f in dataclasses.fields(Outputs)}
    joined: dict[str, Any] = {name: None if own[0] is None else torch.cat(own) for name, own in fields.items()}
    return Outputs(**joined)


@torch.no_grad()
def apply(head: Head, seen: Outputs) -> Tensor:
    """(N,) scores of collected rows, in batches that the head's width allows."""
    size = score_batch(tuple(seen.x.shape[1:]), seen.x.device, head.width)
    parts = (_slice(seen, slice(at, at + size)) for at in range(0, len(seen.x), size))
    return torch.cat([head(part).float() for part in parts])


@torch.no_grad()
def scored(model: Variant, head: Head, x: Tensor) -> Tensor:
    """(N,) scores of scaled rows (N, *shape) by a model under its head, on the model's device."""
    model.eval()
    device = device_of(model)
    size = score_batch(tuple(x.shape[1:]), device, max(head.width, model.width if "score" in head.needs else 0))
    head = head.to(device).eval()
    return torch.cat([head(outputs(model, part.to(device), head.needs)).float() for part in torch.split(x, size)])


def _slice(seen: Outputs, rows: slice) -> Outputs:
    parts: dict[str, Any] = {f.name: None if (own := getattr(seen, f.name)) is None else own[rows] for f in dataclasses.fields(Outputs)}
    return Outputs(**parts)


__all__ = [
    "ERROR", "Head", "Outputs", "able", "apply", "build", "candidates", "collect", "described", "get", "names", "outputs", "restored",
    "scored", "title",
]  # fmt: skip
