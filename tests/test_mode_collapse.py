"""Sets whose modes can be counted, and the counting of `studies/mode_collapse.py`."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from raeflow import variants
from raeflow.data import load
from raeflow.data.rows import Rows
from raeflow.data.sets.gaussians import MIXTURES, ROWS, table
from raeflow.errors import RaeflowError
from raeflow.study import Data, Training
from raeflow.training import fit, step_count
from raeflow.variants._contract import Batch
from studies import mode_collapse
from studies.mode_collapse import METHODS, SEEDS, SETS, Count, kl_to_uniform, named, number, stacked, verdict


@pytest.mark.parametrize(("name", "modes", "deviation"), [("ring", 8, 0.02), ("grid", 25, 0.05)])
def test_a_mixture_is_the_papers(name, modes, deviation):
    points, mode = MIXTURES[name].draw(50_000, seed=3)
    assert points.shape == (50_000, 2) and points.dtype == np.float32 and set(mode) == set(range(modes))
    means = np.stack([points[mode == m].mean(0) for m in range(modes)])
    assert np.abs(means - MIXTURES[name].centres).max() < 5 * deviation / math.sqrt(50_000 / modes)
    spread = np.stack([points[mode == m].std(0) for m in range(modes)])
    assert np.abs(spread / deviation - 1).max() < 0.1
    if name == "ring":
        assert np.allclose(np.linalg.norm(MIXTURES[name].centres, axis=1), 2)  # radius 2
        assert np.allclose(np.linalg.norm(np.diff(MIXTURES[name].centres, axis=0), axis=1), 4 * math.sin(math.pi / 8))
    else:
        assert {tuple(c) for c in MIXTURES[name].centres} == {(a, b) for a in (-4, -2, 0, 2, 4) for b in (-4, -2, 0, 2, 4)}
    again, _ = MIXTURES[name].draw(50_000, seed=3)
    assert np.array_equal(points, again) and not np.array_equal(points, MIXTURES[name].draw(50_000, seed=4)[0])


def test_points_count_within_three_deviations_of_the_nearest_centre_alone():
    ring = MIXTURES["ring"]
    points, mode = ring.draw(40_000)
    counts = ring.counts(points)
    # In the plane a Gaussian leaves exp(-9 / 2) of its points outside of three deviations.
    assert abs(counts.sum() / 40_000 - (1 - math.exp(-4.5))) < 0.002
    assert np.abs(counts - np.bincount(mode) * (1 - math.exp(-4.5))).max() < 40
    edge = ring.centres[[2, 5]] + [[0.0599, 0], [0.0601, 0]]
    assert ring.counts(edge).tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert ring.counts(np.array([[math.nan, 0.0], [math.inf, 2.0]])).sum() == 0
    with pytest.raises(RaeflowError, match="cannot draw 0 rows"):
        ring.draw(0)


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_the_named_sets_load_as_tables_with_their_modes(name):
    assert table(name).num_rows == ROWS
    splits = load(Data(f"gaussians/{name}"))
    assert splits.spec.shape == (2,) and splits.encoding.mode == "standard"
    assert [len(rows) for rows in (splits.train, splits.validate, splits.calibrate, splits.test)] == [16_000, 1_000, 1_000, 2_000]
    train = next(iter(splits.train.batches(16_000)))
    assert set(train.label.tolist()) == set(range(SETS[name]))
    assert np.abs(train.x.numpy() - MIXTURES[name].centres[train.label.numpy()]).max() < 6 * MIXTURES[name].deviation


def test_a_family_without_that_set_is_refused():
    with pytest.raises(RaeflowError, match=r"gaussians/rung.*nearest are gaussians/ring"):
        load(Data("gaussians/rung"))


def test_kl_to_uniform():
    assert kl_to_uniform(np.full(25, 7)) == pytest.approx(0)
    assert kl_to_uniform(np.eye(8)[3] * 90) == pytest.approx(math.log(8))
    assert kl_to_uniform(np.array([3, 1, 0, 0])) == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1))
    assert kl_to_uniform(np.zeros(8)) == math.inf


def test_stacked_digits_are_read_channel_by_channel():
    """Digits whose pixels are ten times their value, and a classifier that divides."""
    label = torch.tensor([4, 0, 9, 7])
    digits = (label * 10.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    images, mode = stacked(digits, label, 500, seed=0)
    assert images.shape == (500, 3, 2, 2) and images.dtype == torch.uint8
    assert torch.equal(mode, number((images[:, :, 0, 0] // 10).long())) and len(mode.unique()) == 4**3

    class Divides(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot((x.mean((1, 2, 3)) * 255 / 10).round().long(), 10)

    assert torch.equal(named(Divides(), images / 255), mode)


def test_the_verdict_follows_the_numbers():
    def counts(better: str) -> dict[tuple[str, str, int], Count]:
        return {
            (kind, method, seed): Count(most if method in ("wgan_gp", "wgan_div", better) else 1, 0.5, 0.1 if method != better else 0.01)
            for kind, most in SETS.items() for method in METHODS for seed in SEEDS
        }  # fmt: skip

    worse = {key: dataclasses.replace(one, kl=2.0) if not key[1].startswith("wgan") else one for key, one in counts("").items()}
    assert [line for line in verdict(worse) if "ordering holds, by modes and by KL" in line] == [
        f"{kind}: the claimed ordering holds, by modes and by KL" for kind in SETS
    ]
    assert "grid: the plain game covers 1.0 modes in the mean: it repeats a few samples, as the source says" in verdict(worse)
    assert not any("high quality" in line for line in verdict(worse))
    sharp = {key: dataclasses.replace(one, good=0.9) if key[1] == "gan" else one for key, one in counts("gan").items()}
    assert "ring: more points of high quality has gan than wgan_gp, gan than wgan_div" in verdict(sharp)
    assert "ring: the plain game covers 8.0 modes in the mean: it does not repeat a few samples here" in verdict(sharp)
    told = "\n".join(verdict(counts("dcgan")))
    assert "ordering holds" not in told and "dcgan has a lower KL than wgan_gp" in told
    assert "all 8 modes covered in 0 of 3 seeds by gan, " in told and "3 of 3 seeds by wgan_div" in told


def test_noise_knows_no_mode():
    splits = load(Data("gaussians/grid", scaling="none"))
    points = mode_collapse.noise("grid", splits, 0)
    assert len(points) == mode_collapse.POINTS and points.abs().max() <= 4.4
    assert mode_collapse.counts_of(points, "grid", nn.Identity()).good == pytest.approx(25 * math.pi * 0.15**2 / 8.8**2, rel=0.4)
    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8)
    images[:, 0, 1, 2] = 9
    drawn = mode_collapse.noise("stacked MNIST", dataclasses.replace(splits, train=Rows(images)), 0)
    assert (drawn[:, 0, 1, 2] == 9).all() and len(drawn) == mode_collapse.IMAGES
    assert (drawn.mean(0) - images.float().mean(0)).abs().max() < 3
    assert abs(np.corrcoef(drawn[:, 1, 0, 0], drawn[:, 1, 0, 1])[0, 1]) < 0.03  # pixels know nothing of one another


def test_what_is_counted_is_what_the_generator_draws():
    """A generator that gives one centre, in scaled rows, covers one mode with all its points."""
    splits = load(Data("gaussians/ring"))
    hyper = dataclasses.asdict(variants.hyper("gan", {"layers": (4,), "latent": 2, "game": 1.0}))
    trained = fit("gan", hyper, splits, Training(epochs=1, batch_size=8000, patience=None, health=0))
    centre = torch.tensor(MIXTURES["ring"].centres[6], dtype=torch.float32)
    flat = {name: torch.zeros_like(value) if name.startswith("generator.") else value for name, value in trained.weights.items()}
    last = max(name for name in flat if name.startswith("generator.") and name.endswith("bias"))
    flat[last] = splits.encoding(centre[None])[0]
    count = mode_collapse.counted(dataclasses.replace(trained, weights=flat), "ring", splits, nn.Identity())
    assert count == Count(1, 1.0, pytest.approx(math.log(8)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [mode_collapse._QUICK, mode_collapse._FULL])
def test_every_method_has_the_networks_adam_and_steps_of_the_others(method, budget):
    """Steps of the generator and rows of each step are the set's; a critic's five steps share a batch five times as large."""
    for kind, train in (("ring", 16_000), ("grid", 16_000), ("stacked MNIST", budget.rows)):
        task = mode_collapse.task(mode_collapse.plain(budget), budget, kind, method, 1, train)
        common = budget.images if kind == "stacked MNIST" else budget.plane
        assert {name: task.hyper[name] for name in common} == common and task.hyper["game"] == 1 and task.seed == 1
        assert task.training.patience is None and task.training.health == 0
        assert task.hyper["critic_steps"] == (5 if method in mode_collapse.WASSERSTEIN else 1)
        assert task.training.batch_size == budget.batch[kind] * task.hyper["critic_steps"]
        steps = task.training.epochs * step_count(train, task.training.batch_size, 1)
        assert steps == pytest.approx(budget.steps[kind], rel=0.001)
        assert task.hyper["fresh_rows"] == (method in mode_collapse.WASSERSTEIN)


def test_the_study_trains_the_plain_game_of_the_grid():
    for study, budget in ((mode_collapse.STUDY, mode_collapse._QUICK), (mode_collapse.FULL, mode_collapse._FULL)):
        task = mode_collapse.task(study.training, budget, "grid", "gan", study.seed, 16_000)
        assert task.training == study.training
        assert {name: task.hyper[name] for name in study.hyper["gan"]} == study.hyper["gan"]


def test_learning_rates_fall_over_the_end_of_any_game():
    rows = next(iter(load(Data("gaussians/ring")).train.batches(16)))
    for variant in ("gan", "wgan_gp", "wgan_div"):
        model = variants.build(variant, (2,), dataclasses.asdict(variants.hyper(variant, {"layers": (4,), "decay": 0.5, "lr": 1e-3})))
        players = list(model.optimizers().values())
        for progress, lr in ((0.0, 1e-3), (1 / 3, 1e-3), (1 / 2, 5e-4), (2 / 3 - 1e-9, 0)):
            next(model.turns(Batch(rows.x, generator=torch.Generator()), progress))
            assert [group["lr"] for player in players[:2] for group in player.param_groups] == [pytest.approx(lr, abs=1e-10)] * 2
    with pytest.raises(RaeflowError, match=r"decay=1\.5: decay is a share of the game"):
        variants.hyper("gan", {"decay": 1.5})
