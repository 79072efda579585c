"""Sheets of images: what a generator draws, as papers show it.

N images of C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow.errors import RaeflowError
from raeflow.report.canvas import styled
from raeflow.report.latentplots import WIDTH, _sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.6
"""Inches of an image's width, at the most."""


@styled
def sheet(images: Any, columns: int = 0, labels: Sequence[str] = (), titles: Sequence[str] = (), corner: bool = False) -> Figure:
    """Images in a grid, line by line, black at 0 and white at 1; what lies outside is cut off there.

    Args:
        images: (N, C, H, W), an array or a tensor on the CPU; three channels are colours, others are averaged. Images that
            are not finite leave their place empty.
        columns: images of a line; 0 makes the grid about square, or as wide as the labels or titles say.
        labels: one left of each line, or none.
        titles: one above each column, or none.
        corner: whether the first line and column stand apart from the others, as those of a sheet of mixtures do.

    Raises RaeflowError on other shapes, or on labels or titles that do not fit.
    """
    shown: npt.NDArray[np.float32] = np.asarray(images, np.float32)
    if shown.ndim != 4 or not shown.size or columns < 0:
        raise RaeflowError(f"sheet: images (N, C, H, W) with N > 0 and columns >= 0 are needed, got {shown.shape} and {columns}")
    count = len(shown)
    across = columns or len(titles) or (math.ceil(count / len(labels)) if labels else math.ceil(math.sqrt(count)))
    lines = math.ceil(count / across)
    if labels and len(labels) != lines:
        raise RaeflowError(f"sheet: {len(labels)} labels for {lines} lines of {across} images")
    if titles and len(titles) != across:
        raise RaeflowError(f"sheet: {len(titles)} titles for {across} columns")
    cells = np.full((lines * across, *shown.shape[1:]), np.nan, np.float32)
    cells[:count] = shown.clip(0, 1)
    cell = min(CELL, (WIDTH - 0.25 - 0.085 * max(map(len, labels), default=0)) / (1.1 * across))
    return _sheet(
        cells.reshape(lines, across, *shown.shape[1:]), list(labels), list(titles), cell=cell, breaks=(1,) if corner and across > 1 else ()
    )
