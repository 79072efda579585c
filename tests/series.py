"""What whoever scores readings owes: the score of a reading knows nothing of later ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]


def assert_sees_no_future(scores_of: Callable[[Values], Values], readings: Values, cuts: Sequence[int], seed: int = 0) -> None:
    """Scores of readings up to each cut stay the same to the bit when the later ones are changed, made extreme or removed.

    `scores_of` takes readings (N, ...) of one series in order of time to scores (N,), NaN where there is none.
    """
    random = np.random.default_rng(seed)
    known = np.asarray(scores_of(readings))
    for cut in cuts:
        changed, extreme = readings.copy(), readings.copy()
        changed[cut + 1 :] = random.permutation(readings[cut + 1 :]) + random.normal(size=readings[cut + 1 :].shape)
        extreme[cut + 1 :] = 1e6
        for told, other in (("changed", changed), ("extreme", extreme), ("removed", readings[: cut + 1])):
            found = np.asarray(scores_of(other))[: cut + 1]
            np.testing.assert_array_equal(found, known[: cut + 1], f"scores up to reading {cut} depend on later ones, which were {told}")
