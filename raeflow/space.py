"""One search space over variants and their hyperparameters, asked for only where they apply; how Optuna walks through it.

The search on a cluster and the one in memory both ask here, so they try the same models.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import optuna

from raeflow import checkpoint, variants
from raeflow.study import Study

_STARTUP = 10
"""Trials that are drawn by chance before the sampler has something to learn from, at most."""


class Suggests(Protocol):
    """The part of Optuna's trial that spaces are written in."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """A number from low to high."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from low to high."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...


class Scoped:
    """A trial in which one variant asks: names get the variant's prefix, so ranges of two variants cannot
    clash, and hyperparameters that the study holds fixed are answered without asking Optuna."""

    def __init__(self, trial: Suggests, prefix: str, fixed: dict[str, Any]) -> None:
        self.trial, self.prefix, self.fixed = trial, prefix, fixed

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """See `Suggests`."""
        if name in self.fixed:
            return float(self.fixed[name])
        return self.trial.suggest_float(self.prefix + name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """See `Suggests`."""
        if name in self.fixed:
            return int(self.fixed[name])
        return self.trial.suggest_int(self.prefix + name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """See `Suggests`."""
        if name in self.fixed:
            return self.fixed[name]
        return self.trial.suggest_categorical(self.prefix + name, choices)


class Kept:
    """A trial of a record that may be older than the spaces: Optuna refuses choices that differ from those of earlier trials, so
    a search goes on with the choices that it began with."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.known: dict[str, Any] = {}
        for one in trial.study.get_trials(deepcopy=False):
            self.known.update(one.distributions)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """See `Suggests`."""
        return self.trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """See `Suggests`."""
        return self.trial.suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """See `Suggests`."""
        kept = getattr(self.known.get(name), "choices", ())
        return self.trial.suggest_categorical(name, kept if kept and set(kept) <= set(choices) else choices)


class Nearest:
    """A trial that answers with given values, or the nearest ones that a space allows, and keeps its answers."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.answers: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:  # noqa: ARG002
        """See `Suggests`."""
        value = min(max(float(self.values.get(name, low)), low), high)
        if step is not None:
            value = min(low + round((value - low) / step) * step, high)
        self.answers[name] = value
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:  # noqa: ARG002
        """See `Suggests`."""
        value = min(max(int(self.values.get(name, low)), low), high)
        value = low + round((value - low) / step) * step
        value -= step * (value > high)
        self.answers[name] = value
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """See `Suggests`."""
        value = self.values.get(name)
        self.answers[name] = value if value in choices else choices[0]
        return self.answers[name]


def published(study: Study, variant: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """The source's own hyperparameters for rows of this shape, under those that the study holds fixed; plain values."""
    base = variants.get(variant).published(shape)
    return _plain(variants.hyper(variant, study.hyper.get(variant, {}), base))


def first_points(study: Study, shape: tuple[int, ...]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(parameters as Optuna shall know them, exact hyperparameters) of the first trial of each variant.

    A space covers part of a Hyper, and the source's value may lie outside it: Optuna is told the nearest
    point of the space, the trial runs the exact values.
    """
    points = []
    for variant in study.variants:
        exact = published(study, variant, shape)
        nearest = Nearest(exact)
        variants.get(variant).space(Scoped(nearest, "", study.hyper.get(variant, {})), shape)
        params = {f"{variant}.{name}": value for name, value in nearest.answers.items()}
        points.append(({**_choice(study, variant), **params}, exact))
    return points


def suggest(study: Study, trial: Suggests, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """Ask Optuna for a variant, where there are several, and for that variant's hyperparameters; plain values."""
    listed = list(study.variants)
    variant = trial.suggest_categorical("variant", listed) if len(listed) > 1 else listed[0]
    fixed = study.hyper.get(variant, {})
    found = variants.get(variant).space(Scoped(trial, f"{variant}.", fixed), shape)
    return variant, _plain(variants.hyper(variant, fixed, found))


def sampler(study: Study, known: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler of a study whose record holds `known` trials already: a resumed search must not draw again what it drew at its start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=study.seed + 7919 * known, multivariate=True, group=True, constant_liar=True,
            n_startup_trials=min(_STARTUP, max(len(study.variants) + 2, study.search.trials // 3)),
        )  # fmt: skip


def enqueue(record: optuna.Study, study: Study, shape: tuple[int, ...]) -> None:
    """The sources' own values shall be tried first."""
    for params, hyper in first_points(study, shape):
        record.enqueue_trial(params, user_attrs={"hyper": hyper, "published": True})


def ask(study: Study, trial: optuna.Trial, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """(variant, hyperparameters) of a trial that Optuna has opened; the trial remembers both."""
    variant, hyper = suggest(study, Kept(trial), shape)
    hyper = trial.user_attrs.get("hyper", hyper)
    trial.set_user_attr("variant", variant)
    trial.set_user_attr("hyper", hyper)
    return variant, hyper


def _choice(study: Study, variant: str) -> dict[str, Any]:
    return {"variant": variant} if len(study.variants) > 1 else {}


def _plain(hyper: Any) -> dict[str, Any]:
    values: dict[str, Any] = checkpoint.plain(dataclasses.asdict(hyper))
    return values
