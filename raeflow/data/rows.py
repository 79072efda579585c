"""How rows are read and what splits they make: the records that every other room passes around.

N rows of a split, B rows of a batch; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from raeflow.data.resident import Raw, Resident, Rows, RowSource, Shape
from raeflow.errors import RaeflowError

if TYPE_CHECKING:
    from raeflow.data.cleaning import SetAside

__all__ = ["Field", "Raw", "Resident", "RowSource", "RowSpec", "Rows", "Shape", "Skipped", "Splits", "told"]


@dataclass(frozen=True)
class Field:
    """How one column of a mixed table is stored: a number or a flag as itself, a category as its level's place, a clock
    as days since 1970 and seconds of the day; NaN is a gap, -1 a level that train did not have."""

    name: str
    role: str
    """number, flag, category or clock."""
    type: str
    """The column's Arrow type, such as `int64` or `timestamp[us]`."""
    levels: tuple[str, ...] | None = None
    """Words of a category in the order of their places; None until train has been read."""

    @property
    def slots(self) -> int:
        """Stored values that the column takes."""
        return 2 if self.type.startswith("timestamp") and self.role == "clock" else 1


@dataclass(frozen=True)
class Windowing:
    """How readings in order of time become windows: all that scoring needs to cut them as training did."""

    time: str
    """Column of the clock."""
    series: str | None
    """Column that says whose reading it is; None: there is one series."""
    window: int
    """Readings of a window."""
    max_gap: float
    """No window spans a step above so many times the median step of its series."""
    step: float
    """Median step of all train readings, in `unit`; `raeflow.data.encoding.series` has that of each series."""
    unit: str
    """s, ms, us or ns; empty where the clock is a bare number."""
    zoned: bool
    """Whether the clock knows its time zone: ticks are then those of UTC."""
    scale_by: str | None
    """series: each series is scaled by its own train readings."""
    reading: RowSpec
    """How one reading is stored."""


@dataclass(frozen=True)
class RowSpec:
    """How Arrow columns become a row tensor; stored with a detector so that it can read Parquet alone."""

    columns: tuple[str, ...]
    """Columns that are the row, in order."""
    kind: str
    """columns (several numeric columns), mixed (columns of any kind), list (one list or tensor column), image (encoded bytes),
    windows (of readings in order of time)."""
    shape: Shape
    """Shape the model sees: (F,), (C, L) or (C, H, W)."""
    dtype: str
    """uint8 or float32: what is kept in memory before scaling."""
    layout: str = "CHW"
    """How values lie in the column: CHW (channels first) or HWC (channels last), for signals too."""
    resize: bool = False
    """Encoded images of another size are resized to `shape`; else they are refused."""
    fields: tuple[Field, ...] = ()
    """Of a mixed table: how each of `columns` is stored."""
    held: Shape = ()
    """Shape of a row as it is stored, where that is not `shape`: (K,) of a table whose encoding takes another width."""
    windows: Windowing | None = None
    """How readings become the rows, where they are windows (C, L) of encoded readings."""

    @property
    def stored(self) -> Shape:
        """Shape of a row as it is read, kept in memory and given to the encoding."""
        return self.held or self.shape

    @property
    def table(self) -> bool:
        """Whether a row is columns that each mean something of their own: NaN is a gap there, and the encoding is by column."""
        return self.kind in ("columns", "mixed") and len(self.stored) == 1

    @property
    def places(self) -> tuple[int, ...]:
        """First stored value of each column."""
        if not self.fields:
            return tuple(range(len(self.columns)))
        return tuple(itertools.accumulate((f.slots for f in self.fields[:-1]), initial=0))

    @property
    def placed(self) -> list[tuple[Field, int]]:
        """Of a mixed table: each column with its first stored value."""
        return list(zip(self.fields, self.places, strict=True)) if self.fields else []

    def of_roles(self, *roles: str) -> list[int]:
        """First stored value of each column of these roles; all columns of a table of numbers are numbers."""
        if not self.fields:
            return list(self.places) if "number" in roles else []
        return [place for field, place in self.placed if field.role in roles]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `detector.json`; what a plain row has no need of is left out."""
        said = {name: value for name, value in asdict(self).items() if value or name not in ("fields", "held", "windows")}
        return said if self.windows is None else {**said, "windows": {**said["windows"], "reading": self.windows.reading.to_json()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RowSpec:
        """What `to_json` made."""
        known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        known["fields"] = tuple(
            Field(**{**f, "levels": None if f["levels"] is None else tuple(f["levels"])}) for f in values.get("fields", ())
        )
        if known.get("windows") is not None:
            said = known["windows"]
            known["windows"] = Windowing(**{**said, "reading": cls.from_json(said["reading"])})
        return cls(**known)


@dataclass(frozen=True)
class Skipped:
    """Bad rows that were left out of every split."""

    rows: int
    of: int
    """Rows of all files."""
    first: str
    """Place and problem of the first of them."""


@dataclass(frozen=True)
class Splits:
    """The four disjoint splits, with the scaling fitted on train alone."""

    spec: RowSpec
    encoding: Any
    """`raeflow.data.scaling.Scaling`, or of a table `raeflow.data.encoding.TableEncoding`: stored rows to what the model sees."""
    train: RowSource
    """Normal rows (those that `Data.normal` keeps)."""
    validate: Resident
    """Normal rows for selection and early stopping."""
    calibrate: Resident | None
    """Normal rows for the threshold."""
    test: Resident | None
    """All held-out rows, for the report alone."""
    labelled: Resident | None = None
    """All validation rows with `anomaly` known, for selection by labels."""
    fingerprint: str = ""
    """Hash of what was read: files, row groups, columns and split rule."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Columns of the files that are no part of the row, and why."""
    skipped: Skipped | None = None
    """Bad rows that `Data(bad_rows="skip")` left out; None where there was none."""
    sampled: Resident | None = None
    """Some train rows, chosen by hash, where train itself is streamed."""
    set_aside: SetAside | None = None
    """Suspicious rows that `Data(contamination=...)` took out of train, validate and calibrate; None where it is off."""
    series: tuple[str, ...] = ()
    """Of readings in order of time: what became of them, in sentences for the user."""
    unclean: bool = False
    """Whether anomalies may be left among the rows (`Data(contamination=...)`); a search may know that, though not what was set aside."""

    def __reduce__(self) -> Any:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.labelled is not None and self.labelled.begins_with(self.validate):
            values["validate"] = len(self.validate)  # a slice of the labelled rows travels as its length
        return _splits, (values,)

    def told(self) -> list[tuple[str, str]]:
        """Each column of a table's files, in words: how it enters the model, or why it stays out."""
        return told(self.encoding, self.left_out)

    def unused(self) -> list[tuple[str, str]]:
        """Columns of a table's files that tell the model nothing, and why."""
        ignored = [(c.name, c.why) for c in getattr(self.encoding, "columns", ()) if c.role == "ignored"]
        return ignored + list(self.left_out)

    def of_class(self, label: int) -> Splits:
        """The same splits with one class alone to train, validate and calibrate on; test rows stay, `anomaly` marks the other classes.

        Raises RaeflowError where the train split is streamed or has no labels, or no row of that class.
        """

        def kept(rows: RowSource | None) -> Resident | None:
            if rows is None:
                return None
            if not isinstance(rows, Resident) or rows.label is None:
                raise RaeflowError(
                    f"class {label}: rows can be told apart by class only where they are resident and Data(label=...) names their labels"
                )
            return rows.take(rows.label == label)

        train, validate, calibrate = kept(self.train), kept(self.validate), kept(self.calibrate)
        if not train or not validate:
            raise RaeflowError(f"class {label}: the train or validation split has no row of it")
        test = self.test if self.test is None or self.test.label is None else self.test.judged(self.test.label != label)
        name = f"{self.fingerprint} class {label}"
        aside = None if self.set_aside is None else self.set_aside.of_class(label, cast(Rows, self.calibrate))
        return replace(
            self, set_aside=aside, train=train, validate=validate, calibrate=calibrate, test=test, labelled=None, fingerprint=name
        )

    def some_train(self, count: int, seed: int = 0) -> Resident:
        """So many train rows, or all that are at hand where there are fewer, in an order of chance; the same `seed` chooses the same.

        Of a stream these are the rows that were kept when it first passed, of the workers' shares too.
        """
        known = self.train if isinstance(self.train, Resident) else self.sampled
        if known is None:
            raise RaeflowError("the train split is streamed and no sample of it was kept; load the data again")
        return known.some(count, seed)

    def for_search(self) -> Splits:
        """Without calibrate and test: what a search may see."""
        return replace(self, calibrate=None, test=None, set_aside=None)


def told(encoding: Any, left_out: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each column of an encoding (None: of none) and each that was left out, with what is to be said of it."""
    used = [(c.name, c.told()) for c in getattr(encoding, "columns", ())]
    return used + [(name, f"left out: {why}") for name, why in left_out]


def _splits(values: dict[str, Any]) -> Splits:
    if isinstance(values["validate"], int):
        values["validate"] = values["labelled"].take(slice(0, values["validate"]))
    return Splits(**values)
