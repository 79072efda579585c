"""Levels of categories, learnt while rows are read: each unit's own places become places that all units share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from raeflow.data.columns import UNSEEN, Words, recode
from raeflow.data.rows import Rows, RowSpec

MOST_LEVELS = 4096
"""Different words of a column beyond which it is no category; they are not told apart, so memory stays bounded."""


class Lexicon:
    """Words of every category so far, in the order of their coming."""

    def __init__(self, spec: RowSpec) -> None:
        self.spec = spec
        self.known: dict[int, dict[str, int]] = {
            place: {} for field, place in spec.placed if field.role == "category" and field.levels is None
        }
        self.full: set[int] = set()
        """Columns with more words than are told apart: in all rows, so that it does not matter which of them came first."""

    def learn(self, x: Tensor, words: Words) -> None:
        """Give stored rows (n, K), whose levels are places among a unit's `words`, the places that all units share; in place."""
        rows = x.numpy()
        for place, own in words.items():
            known = self.known[place]
            shared = [known.setdefault(word, len(known)) if len(known) < MOST_LEVELS else known.get(word, MOST_LEVELS) for word in own]
            if MOST_LEVELS in shared:
                self.full.add(place)
            if shared != list(range(len(own))):
                rows[:, place] = recode(rows[:, place], np.asarray(shared, np.float32))

    def settle(self, counts: Mapping[int, np.ndarray[Any, Any]]) -> tuple[RowSpec, dict[int, np.ndarray[Any, Any]]]:
        """The spec with its levels, commonest in train first, and for each category the new place of each old one.

        `counts` say how often each place came in train; a word that train did not have is no level, nor is any of a
        column that has too many.
        """
        fields, moved = list(self.spec.fields), {}
        for at, (field, place) in enumerate(self.spec.placed):
            if place not in self.known:
                continue
            words = list(self.known[place])
            seen = np.zeros(MOST_LEVELS + 1, np.int64)
            seen[: len(counts[place])] = counts[place]
            order = [] if place in self.full else sorted((i for i in range(len(words)) if seen[i]), key=lambda i: (-seen[i], words[i]))
            places = np.full(MOST_LEVELS + 1, UNSEEN, np.float32)
            places[order] = np.arange(len(order), dtype=np.float32)
            moved[place] = places
            fields[at] = replace(field, levels=tuple(words[i] for i in order))
        return replace(self.spec, fields=tuple(fields)), moved


def move(held: Iterable[Rows | None], moved: Mapping[int, np.ndarray[Any, Any]], block: int = 1 << 16) -> None:
    """Give the stored rows (N, K) of splits the places that `settle` chose; in place."""
    for rows in (split.x.numpy() for split in held if split is not None):
        for place, places in moved.items():
            for start in range(0, len(rows), block):
                part = rows[start : start + block, place]
                part[:] = recode(part, places)
