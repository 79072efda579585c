"""Mixtures of narrow Gaussians in the plane: sets whose modes can be counted.

`ring` has 8 modes on a circle of radius 2 with standard deviation 0.02, `grid` 25 modes at -4, -2, 0, 2, 4 in both
directions with 0.05: "VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning" (Srivastava et al.
2017, arXiv:1705.07761), the ring after "Unrolled Generative Adversarial Networks" (Metz et al. 2017, arXiv:1611.02163).
A point is of high quality within three standard deviations of the centre next to it (Srivastava et al., section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raeflow.data.writing import describe
from raeflow.errors import RaeflowError

VERSION = 1
"""Counts changes of what the sets hold; part of the cached file's name."""
ROWS = 20_000
_TRAIN, _VALIDATE, _CALIBRATE = 16_000, 1_000, 1_000

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Mixture:
    """Gaussians of equal weight and equal standard deviation in both directions."""

    centres: NDArray[np.float64]
    """(K, 2)."""
    deviation: float

    def draw(self, rows: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Points (rows, 2) and the mode (rows,) that each was drawn of; the same `seed` draws the same."""
        if rows < 1:
            raise RaeflowError(f"a mixture of Gaussians cannot draw {rows!r} rows")
        rng = np.random.default_rng(seed)
        mode = rng.integers(len(self.centres), size=rows)
        points = self.centres[mode] + rng.normal(scale=self.deviation, size=(rows, 2))
        return points.astype(np.float32), mode.astype(np.int32)

    def counts(self, points: Floats) -> NDArray[np.int64]:
        """(K,): how many of the points (N, 2) lie within three standard deviations of each centre.

        The rest are nobody's; points that are not finite are too.
        """
        apart = np.linalg.norm(points[:, None].astype(np.float64) - self.centres, axis=2)
        nearest = apart.argmin(1)
        good = apart[np.arange(len(points)), nearest] <= 3 * self.deviation
        counted: NDArray[np.int64] = np.bincount(nearest[good], minlength=len(self.centres))
        return counted


def _ring() -> Mixture:
    angle = np.arange(8) * np.pi / 4
    return Mixture(2 * np.stack([np.cos(angle), np.sin(angle)], 1), 0.02)


def _grid() -> Mixture:
    ticks = np.arange(-4.0, 5.0, 2.0)
    return Mixture(np.stack([axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij")], 1), 0.05)


MIXTURES = {"ring": _ring(), "grid": _grid()}


def table(name: str) -> pa.Table:
    """The named set `gaussians/<name>`: `x`, `y`, `label` (the mode) and `split`; 20,000 rows, 16,000 of them to train on."""
    points, mode = MIXTURES[name].draw(ROWS)
    parts = {"train": _TRAIN, "validate": _VALIDATE, "calibrate": _CALIBRATE, "test": ROWS - _TRAIN - _VALIDATE - _CALIBRATE}
    columns = {
        "x": pa.array(points[:, 0]),
        "y": pa.array(points[:, 1]),
        "label": pa.array(mode),
        "split": pa.array([word for word, count in parts.items() for _ in range(count)]),
    }
    source = f"raeflow.data.sets.gaussians.MIXTURES[{name!r}].draw({ROWS}), version {VERSION}"
    names = [f"mode {place}" for place in range(len(MIXTURES[name].centres))]
    return describe(pa.table(columns), shape=(2,), classes=names, source=source, licence="Apache-2.0 (made by raeflow)")
