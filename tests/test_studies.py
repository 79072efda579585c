"""What studies say of their measurements, and that their full forms can be built; the studies themselves are run by hand."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import studies
from raeflow import Study, variants
from raeflow.selection import Trial
from studies import fanogan, fashion_gans, galaxy_acgan, galaxy_wgan, wgan_div_kp

NAMES = [module.name for module in pkgutil.iter_modules(studies.__path__)]
FULL = [name for name in NAMES if hasattr(importlib.import_module(f"studies.{name}"), "FULL")]
SHAPE = (3, 64, 64)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_asks_for_hyperparameters_that_exist(name: str) -> None:
    module = importlib.import_module(f"studies.{name}")
    for study in (module.STUDY, getattr(module, "FULL", module.STUDY)):
        assert isinstance(study, Study) and f"raeflow study {name}" in (module.__doc__ or "")
        for variant, own in study.hyper.items():
            shape = (2,) if name == "mode_collapse" else SHAPE
            made = vars(variants.hyper(variant, own, variants.get(variant).published(shape)))
            assert {key: made[key] for key in own} == own


@pytest.mark.parametrize("name", FULL)
def test_the_full_form_is_for_a_gpu_and_has_a_folder_of_its_own(name: str) -> None:
    module = importlib.import_module(f"studies.{name}")
    assert module.FULL.name == f"{module.STUDY.name}_full" and module.FULL.search.gpus > 0
    assert f"raeflow study {name} --full" in module.__doc__


def test_every_game_of_the_full_forms_can_be_built() -> None:
    for game in (*fashion_gans.SMALL, *fashion_gans.LARGE):
        hyper = variants.hyper(game.variant, {**game.hyper, "game": 1.0}, variants.get(game.variant).published((1, 28, 28)))
        variants.build(game.variant, (1, 28, 28), vars(hyper))
    for budget in (fanogan.SMALL, fanogan.LARGE):
        for method in (*fanogan.GAMES, *fanogan.AUTOENCODERS):
            variants.build(method, (1, 28, 28), fanogan.hyper_of(method, (1, 28, 28), budget))
    for own in (galaxy_acgan.SMALL, galaxy_acgan.LARGE):
        variants.build("acgan", (3, own.side, own.side), vars(variants.hyper("acgan", {**own.hyper, "classes": 3})))


def test_a_game_spans_the_data_by_its_coverage_beside_that_of_real_rows() -> None:
    told = galaxy_wgan.verdict({galaxy_wgan.REAL: 0.9, "wgan_gp, lambda 10": 0.73, "gan, rate 0.1": 0.71, "gan, rate 0.2": 0.8})
    assert told == [
        "wgan_gp, lambda 10 covers 0.81 of what held-out galaxies do: spans the data, as the source says",
        "gan, rate 0.1 covers 0.79 of what held-out galaxies do: does not span the data, as the source says",
        "gan, rate 0.2 covers 0.89 of what held-out galaxies do: spans the data, not as the source says",
    ]


def test_kinds_are_counted_sheet_by_sheet() -> None:
    kinds = torch.tensor([0] * galaxy_wgan.SHEET + [0, 1, 2, 3] * (galaxy_wgan.SHEET // 4))
    gauge: Any = SimpleNamespace(named=lambda rows: rows)
    assert galaxy_wgan.kinds_in_sheets(gauge, kinds) == (1 + 4) / 2


@pytest.mark.parametrize(
    ("source", "other", "said"),
    [
        ([10.0, 12.0, 11.0], [10.5, 11.5, 11.2], "not told apart from the best found"),
        ([20.0, 21.0, 22.0], [10.0, 11.0, 12.0], "worse than the best found: the claim does not hold here"),
        ([10.0, 11.0, 12.0], [20.0, 21.0, 22.0], "better than the best other: the claim holds"),
    ],
)
def test_values_are_told_apart_by_more_than_seeds_explain(source: list[float], other: list[float], said: str) -> None:
    trials = [Trial(n, "wgan_gp", {"penalty": 1.0}, -10.0 - n, 0.0, 1, 1.0, "complete") for n in range(3)]
    told = wgan_div_kp.verdict("wgan_gp", source, other, [*trials, dataclasses.replace(trials[0], value=None)])
    assert told.startswith("wgan_gp: lambda 10 is ") and said in told
    assert "deviation 1.00 over trials" in told


def test_each_kind_of_galaxy_is_seen_equally_often() -> None:
    x, kind = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 4, 4), torch.tensor([0, 0, 0, 1, 2, 2])
    rows, kinds = galaxy_acgan.even(x, kind)
    assert kinds.bincount().tolist() == [24, 24, 24]
    assert all(set(rows[kinds == one, 0, 0, 0].tolist()) == set(x[kind == one, 0, 0, 0].tolist()) for one in range(3))


def test_distances_between_galaxies_are_those_of_pixels() -> None:
    x = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    x[1], x[2] = 51, 153  # 0.2 and 0.6 in 0-1
    assert galaxy_acgan.apart(x) == pytest.approx((0.2 + 0.2 + 0.4) / 3)
    assert galaxy_acgan.near(x[2:], x[:2]) == pytest.approx(0.4)
