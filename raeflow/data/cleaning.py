"""Rows that nobody has cleaned: before anything is trained, suspicious ones are set aside by vote (`Data(contamination=...)`).

Two cuts, because they serve two ends. A model learns more of what is normal from rows of which too many were taken than from
rows with anomalies among them, so train and validate lose a generous share. A threshold, though, is about the normal rows that
look strangest, so of the calibrate rows no more are set aside than are believed to be anomalies; which of those that stay are as
strange as what train lost is kept, and the alert rate is told with both readings (`raeflow.calibration.Removed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raeflow.data import splits
from raeflow.data.bins import Places
from raeflow.data.reading import Unit
from raeflow.data.rows import Rows, RowSpec
from raeflow.data.voters import SAMPLE, Floats, Voters, Votes, blocks
from raeflow.errors import EmptySplit
from raeflow.study import SPLITS

Contamination = float | Literal["auto"]
Flags = npt.NDArray[np.bool_]
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
CLEANED = (splits.TRAIN, splits.VALIDATE, splits.CALIBRATE)

TRIM = 0.3
"""Share of the train rows that is set aside, at least."""
BELIEVED = 0.05
"""Share of the calibrate rows that auto sets aside. How votes are spread does not tell clean rows from unclean ones (sets with
and without their anomalies look alike), so this is no estimate, and the alert rate is told without trust in it."""
MULTIPLE = 2.0
"""Rows set aside of train for each believed anomaly: voters put normal rows among the strangest, too."""
MOST = 0.5
"""Share of the train rows that is set aside, at most."""
FEWEST = 2
"""Rows that a split must keep."""


@dataclass(frozen=True)
class SetAside:
    """Which rows cleaning took out of which split, and why; the rows themselves stay in their files (`raeflow.data.aside`)."""

    contamination: Contamination
    believed: float
    """Share of the calibrate rows that was set aside as anomalies."""
    of: tuple[int, ...]
    """Rows of train, validate and calibrate before cleaning."""
    split: npt.NDArray[np.uint8]
    """(n,) `splits.TRAIN` and so on, of each row that was set aside."""
    places: Places
    """(n, 2) which of `units` it came from, and its number there."""
    votes: Votes
    """(n,) each."""
    units: tuple[Unit, ...]
    calibrate: Rows | None
    """The calibrate rows among them as they are stored, for the alert rate."""
    doubted: Tensor | None
    """(N,) bool: which of the calibrate rows that stay are as strange as what train lost."""

    def __len__(self) -> int:
        return len(self.split)

    def counts(self) -> dict[str, int]:
        """Rows set aside by name of split."""
        return {SPLITS[code]: int((self.split == code).sum()) for code in CLEANED}

    def of_class(self, label: int, calibrate: Rows | None) -> SetAside:
        """The same record for one class of the calibrate rows, set aside or not (`calibrate`: those of all classes that stay)."""
        aside = (
            self.calibrate if self.calibrate is None or self.calibrate.label is None else self.calibrate.take(self.calibrate.label == label)
        )
        known = None if calibrate is None or calibrate.label is None else calibrate.label == label
        return replace(self, calibrate=aside, doubted=self.doubted if self.doubted is None or known is None else self.doubted[known])

    def told(self) -> str:
        """One line: how many rows of what."""
        listed = ", ".join(f"{count:,} of {of:,} {name} rows" for (name, count), of in zip(self.counts().items(), self.of, strict=True))
        return f"contamination {self.contamination}: set aside {listed}, by votes of an isolation forest and of neighbours"


@dataclass(frozen=True)
class Cut:
    """The verdict on one split's rows (N,)."""

    votes: Votes
    keep: Flags
    doubted: Flags
    """As strange as what train lost, whether the row stays or not."""


def clean(
    contamination: Contamination, rows: tuple[Rows, Rows, Rows | None], places: Mapping[int, Places], units: tuple[Unit, ...],
    spec: RowSpec, encode: Encode,
) -> tuple[dict[int, Cut], SetAside]:  # fmt: skip
    """Which rows of each split stay, and a record of those that do not.

    Args:
        contamination: as in `Data`.
        rows: train, validate and calibrate (None where there is none) before cleaning; the voters learn from train alone.
        places: where each split's rows came from, by its code (`Bins.places`).
        units: what `places` speaks of.
        spec: how rows are stored once their levels are settled.
        encode: rows as they lie in memory (n, *stored) to settled stored rows and to encoded rows, both (n, ...).

    The same rows give the same verdict in whatever order they come. Raises `EmptySplit` where too few rows stay.
    """
    parts = {code: part for code, part in zip(CLEANED, rows, strict=True) if part is not None}
    votes = _votes(parts, spec, encode)
    believed = BELIEVED if contamination == "auto" else float(contamination)
    known = np.sort(votes[splits.TRAIN].strangeness)
    generous, frugal = _above(known, min(MOST, max(TRIM, MULTIPLE * believed))), _above(known, believed)
    cuts = {}
    for code, own in votes.items():
        doubted = own.strangeness > generous
        cut = cuts[code] = Cut(own, own.strangeness <= frugal if code == splits.CALIBRATE else ~doubted, doubted)
        if cut.keep.sum() < min(FEWEST, len(doubted)):
            left = f"{int(cut.keep.sum())} of {len(doubted)} {SPLITS[code]} rows"
            raise EmptySplit(f"Data(contamination={contamination!r}): cleaning leaves {left}; give more rows, or leave contamination out")
    return cuts, _record(contamination, believed, cuts, places, units, parts.get(splits.CALIBRATE))


def _votes(parts: Mapping[int, Rows], spec: RowSpec, encode: Encode) -> dict[int, Votes]:
    """What voters that learnt from train say of each split's rows."""
    train = parts[splits.TRAIN]
    keys = np.concatenate([splits.thinning(splits.stored_keys(encode(train.x[at])[0], spec)) for at in blocks(len(train))])
    sample = np.argsort(keys, kind="stable")[:SAMPLE]
    voters = Voters(encode(train.x[torch.from_numpy(sample)])[1])
    found = {}
    for code, rows in parts.items():
        own = torch.zeros(len(rows), dtype=torch.bool)
        if code == splits.TRAIN:
            own[torch.from_numpy(sample)[voters.own]] = True
        asked = [voters.ask(encode(rows.x[at])[1], own[at]) for at in blocks(len(rows))]
        found[code] = np.concatenate([forest for forest, _ in asked]), np.concatenate([near for _, near in asked])
    voters.rank(found[splits.TRAIN])
    return {code: voters.judge(own) for code, own in found.items()}


def _above(ordered: Floats, share: float) -> float:
    """The least value such that at most a `share` of the ordered values exceeds it."""
    return float(ordered[max(0, len(ordered) - 1 - int(share * len(ordered)))])


def _record(
    contamination: Contamination, believed: float, cuts: Mapping[int, Cut], places: Mapping[int, Places], units: tuple[Unit, ...],
    calibrate: Rows | None,
) -> SetAside:  # fmt: skip
    taken = {code: np.flatnonzero(~cut.keep) for code, cut in cuts.items()}
    votes = [np.concatenate([getattr(cuts[code].votes, f.name)[index] for code, index in taken.items()]) for f in fields(Votes)]
    last = cuts.get(splits.CALIBRATE)
    return SetAside(
        contamination,
        believed,
        tuple(len(cuts[code].keep) if code in cuts else 0 for code in CLEANED),
        np.concatenate([np.full(len(index), code, np.uint8) for code, index in taken.items()]),
        np.concatenate([places[code][index] for code, index in taken.items()]),
        Votes(*votes),
        units,
        None if calibrate is None else calibrate.take(torch.from_numpy(taken[splits.CALIBRATE])),
        None if last is None else torch.from_numpy(last.doubted[last.keep]),
    )
