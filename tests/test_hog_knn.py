"""Histograms of oriented gradients, beside loops over pixels that read like the paper, and what they are good for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor

from raeflow import variants
from raeflow.errors import RaeflowError
from raeflow.variants import _gradients


def digits() -> tuple[Tensor, Tensor]:
    """1,797 real images (1, 16, 16) in 0-1, and what they show."""
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.astype(np.float32)).view(-1, 1, 8, 8) / 16
    return torch.nn.functional.interpolate(x, (16, 16), mode="bilinear"), torch.from_numpy(labels)


def by_hand(image: np.ndarray, grid: tuple[int, int], bins: int) -> np.ndarray:
    """Dalal & Triggs' votes, pixel by pixel: each to two directions and up to four cells; blocks of 2 x 2 cells."""
    rows, columns = image.shape
    wide = np.pad(image, 1, mode="edge")
    votes = np.zeros((*grid, bins))
    high, broad = rows / grid[0], columns / grid[1]
    for i in range(rows):
        for j in range(columns):
            across, down = wide[i + 1, j + 2] - wide[i + 1, j], wide[i + 2, j + 1] - wide[i, j + 1]
            place = math.atan2(down, across) % (2 * math.pi) / (2 * math.pi) * bins
            low, share = int(place), place - int(place)
            for n in range(grid[0]):
                for m in range(grid[1]):
                    near = max(0.0, 1 - abs(i + 0.5 - (n + 0.5) * high) / high) * max(0.0, 1 - abs(j + 0.5 - (m + 0.5) * broad) / broad)
                    near *= math.hypot(across, down) / (high * broad)
                    votes[n, m, low % bins] += near * (1 - share)
                    votes[n, m, (low + 1) % bins] += near * share
    return np.array([votes[n : n + 2, m : m + 2] for n in range(grid[0] - 1) for m in range(grid[1] - 1)])


@pytest.mark.parametrize(("shape", "count", "bins"), [((12, 12), 4, 9), ((13, 17), 5, 8), ((9, 24), 3, 2)])
def test_votes_are_those_of_loops_over_pixels(shape: tuple[int, int], count: int, bins: int) -> None:
    image = np.random.default_rng(0).random(shape)
    grid = _gradients.cells((1, *shape), count)
    found = _gradients.blocks(torch.from_numpy(image)[None, None], grid, bins)[0]
    known = by_hand(image, grid, bins)  # (blocks, 2, 2, bins)
    torch.testing.assert_close(found, torch.from_numpy(known.transpose(0, 3, 1, 2).reshape(len(known), -1)), rtol=1e-5, atol=1e-6)
    described = _gradients.described(found[None], torch.tensor(0.0))
    assert described.square().view(len(known), -1).sum(1).numpy() == pytest.approx(1), "a block has length one, whatever its contrast"


def test_the_channel_that_changes_most_has_the_vote() -> None:
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 0.1]).view(3, 1, 1)
    alone = _gradients.blocks(image[:, 1:2], (4, 4), 9)
    mostly = _gradients.blocks(image, (4, 4), 9)
    assert (mostly.sum(2) >= alone.sum(2) - 1e-6).all()
    torch.testing.assert_close(mostly, alone, rtol=0.1, atol=0.05)


def test_a_signal_rises_and_falls_in_each_channel_by_itself() -> None:
    ramp = torch.arange(40.0).expand(1, 2, 40) * torch.tensor([[1.0], [-1.0]])
    found = _gradients.blocks(ramp, (5,), 9).view(2, 4, 2, 2)  # channels, blocks, up or down, cells
    assert (found[0, :, 0] > 0).all() and (found[0, :, 1] == 0).all()
    assert (found[1, :, 1] > 0).all() and (found[1, :, 0] == 0).all()
    other = _gradients.blocks(ramp * torch.tensor([[1.0], [0.0]]), (5,), 9).view(2, 4, 2, 2)
    torch.testing.assert_close(other[0], found[0])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (2, 1), (1, 3), (1, 1, 40), (4, 5, 3)], ids=str)
def test_rows_of_a_few_values_are_described_and_scored(shape: tuple[int, ...]) -> None:
    x = torch.rand(30, *shape, generator=torch.Generator().manual_seed(1))
    model = variants.build("hog_knn", shape, {})
    model.fit_rows(x, 0)
    assert torch.isfinite(model.score(x)).all()
    assert torch.isfinite(model.score(torch.zeros_like(x))).all(), "a row without a gradient"
    flat = variants.build("hog_knn", shape, {})
    flat.fit_rows(torch.ones_like(x), 0)
    assert torch.isfinite(flat.score(x)).all(), "train rows without a gradient"


def test_contrast_and_brightness_change_little_and_noise_on_empty_ground_little() -> None:
    x, label = digits()
    model = variants.build("hog_knn", (1, 16, 16), {})
    model.fit_rows(x[label == 3][:100], 0)
    usual, strange = model.score(x[label == 3][100:]), model.score(x[label == 5])
    dim = model.score(0.2 + 0.5 * x[label == 3][100:])
    assert float(dim.mean() - usual.mean()) < 0.1 * float(strange.mean() - usual.mean())
    noisy = x[label == 3][100:] + 0.002 * torch.randn(x[label == 3][100:].shape, generator=torch.Generator().manual_seed(0))
    assert float(model.score(noisy).mean() - usual.mean()) < 0.25 * float(strange.mean() - usual.mean())


def test_digits_are_told_from_others_better_than_by_their_pixels() -> None:
    x, label = digits()
    found = {}
    for name in ("knn", "hog_knn"):
        aucs = []
        for digit in range(10):
            own = x[label == digit]
            model = variants.build(name, (1, 16, 16), {})
            model.fit_rows(own[:60], 0)  # few, so that pixels leave something to do
            aucs.append(
                roc_auc_score(
                    [0] * len(own[60:]) + [1] * int((label != digit).sum()), model.score(torch.cat([own[60:], x[label != digit]]))
                )
            )
        found[name] = float(np.mean(aucs))
    assert found["hog_knn"] > found["knn"] + 0.002, found


def test_a_table_has_no_gradients_and_is_compared_as_it_is() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    own, plain = variants.build("hog_knn", (6,), {}), variants.build("knn", (6,), {})
    for model in (own, plain):
        model.fit_rows(x, 0)
    assert torch.equal(own.score(x + 1), plain.score(x + 1)) and torch.equal(own.reconstruct(x), plain.reconstruct(x))


@pytest.mark.parametrize("wrong", [{"bins": 1}, {"cells": 0}, {"k": 2.5}, {"bank": 3}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(RaeflowError, match=f"hog_knn: {name}={value}"):
        variants.build("hog_knn", (1, 16, 16), wrong)
