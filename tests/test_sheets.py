"""Sheets of images show each image at its place, at its own brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from raeflow.errors import RaeflowError
from raeflow.report.sheets import sheet


def pixels(figure: Any) -> Any:
    return figure.axes[0].get_images()[0].get_array()


def test_images_stand_line_by_line_between_black_and_white() -> None:
    images = torch.linspace(-0.25, 1.0, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    figure = sheet(images, 3, labels=["one", "two"], titles=["a", "b", "c"])
    drawn = pixels(figure)
    assert drawn.shape == (9, 14, 4)  # a gap of one pixel
    told = [[float(drawn[line * 5 + 1, column * 5 + 1, 0]) for column in range(3)] for line in range(2)]
    np.testing.assert_allclose(told, [[0.0, 0.0, 0.25], [0.5, 0.75, 1.0]], atol=1e-6)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "two"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c"]


def test_places_without_an_image_are_empty_and_colours_stay() -> None:
    red = np.zeros((3, 3, 2, 2))
    red[:, 0] = 1
    drawn = pixels(sheet(red))
    assert drawn.shape == (5, 5, 4)
    np.testing.assert_array_equal(drawn[0, 0], [1, 0, 0, 1])
    assert drawn[4, 4, 3] == 0


def test_a_corner_stands_apart() -> None:
    wide = [pixels(sheet(torch.zeros(6, 1, 8, 8), 3, corner=corner)).shape[1] for corner in (False, True)]
    assert wide[1] > wide[0]


@pytest.mark.parametrize(
    ("shape", "named", "said"),
    [
        ((4, 5, 5), {}, r"\(4, 5, 5\)"),
        ((0, 1, 5, 5), {}, r"\(0, 1, 5, 5\)"),
        ((4, 1, 5, 5), {"columns": 2, "labels": ["a"]}, "1 labels for 2"),
        ((4, 1, 5, 5), {"columns": 2, "titles": ["a"]}, "1 titles for 2"),
    ],
)
def test_what_makes_no_sheet_is_refused(shape: tuple[int, ...], named: dict[str, Any], said: str) -> None:
    with pytest.raises(RaeflowError, match=said):
        sheet(np.zeros(shape), **named)
