"""From train rows as they pass to the encoding of what they are: the same for resident rows and streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raeflow.data.bins import Varying, watched
from raeflow.data.encoding import Lexicon, Rules, Sketch, TableEncoding, fit_table
from raeflow.data.encoding.sketch import Sample
from raeflow.data.rows import RowSpec
from raeflow.data.scaling import Scaling, fit_scaling
from raeflow.study import Data

Places = Mapping[int, np.ndarray[Any, Any]]
"""For each category, by stored place, the final place of each level that was met."""


def learn(
    data: Data, spec: RowSpec, lexicon: Lexicon, passing: Iterable[Tensor], again: Callable[[], Iterator[Tensor]] | None,
    passed: Callable[[], None],
) -> tuple[RowSpec, Scaling | TableEncoding, Places]:  # fmt: skip
    """The encoding of train rows, the spec with what was learnt, and where levels have moved.

    Args:
        data: what the user said of scaling and roles.
        spec: how rows are stored.
        lexicon: the levels of all rows that pass.
        passing: train rows (n, *stored), looked at once and to the end.
        again: gives them once more where they are resident; None takes a sample as they pass.
        passed: called when all have passed, to refuse what is then known to be empty.

    Raises RaeflowError where nothing varies.
    """
    if spec.held:
        numbers = spec.of_roles("number", "flag")
        sketch, sample = Sketch(spec.stored[0], numbers, spec.of_roles("category")), Sample(() if again else numbers)
        for chunk in passing:
            sketch.see(chunk)
            sample.see(chunk)
        passed()
        spec, moved = lexicon.settle(sketch.levels)
        encoding = fit_table(spec, _moved(sketch, moved), again or sample, Rules(data.scaling, data.roles_of, data.min_frequency))
        return replace(spec, shape=encoding.shape, held=spec.stored), encoding, moved
    varying = Varying(spec)
    chunks = watched(passing, varying.see)
    scaling = fit_scaling(data.scaling, spec.shape, torch.uint8 if spec.dtype == "uint8" else torch.float32, chunks)
    deque(chunks, maxlen=0)  # where the scaling did not need to look
    passed()
    varying.refuse()
    return spec, scaling, {}


def _moved(sketch: Sketch, moved: Places) -> Sketch:
    """The sketch with its counts of levels in their final order."""
    for place, places in moved.items():
        counts, seen = sketch.levels[place], np.zeros(int(places.max(initial=-1)) + 1, np.int64)
        known = np.flatnonzero(places[: len(counts)] >= 0)
        seen[places[known].astype(np.int64)] = counts[known]
        sketch.levels[place] = seen
    return sketch
