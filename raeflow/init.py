"""A study file for a user's own Parquet, written from what its schema shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from raeflow.data import RowSpec, count, preview
from raeflow.data.serial import Serial, serial
from raeflow.study import VARIANTS, Data, Study

_TEXT = '''"""Which rows of {title} are anomalous?

    raeflow study {name}.py
"""

from raeflow import Calibration, Data, Search, Study, Training

STUDY = Study(
    name="{name}",
    data=Data(
        {source},
        columns={columns}{label}{serial}
        # {hint}
        # {unknown}
    ),
    variants="auto",  # {variants}
    search=Search(trials=24, epochs=20),
    training=Training(epochs=50, batch_size={batch}),
    calibration={calibration},
)
'''
_SHAPE = "Rows of shape {shape}. Say Data(shape=...) if they are something else: (F,) a table, (C, L) a signal, (C, H, W) an image."
_ROLES = 'Data(roles={"column": "category"}) changes what a column is: number, long_tail, flag, category or clock.'


_NORMAL = 'Data(normal=[("column", "==", value)]) keeps known anomalies out of training'
_UNKNOWN = f'{_NORMAL}; where none are known,\n        # Data(contamination="auto") sets suspicious rows aside first.'

LABELS = ("label", "labels", "class", "anomaly", "is_anomaly", "outlier", "is_outlier")
"""Columns taken for the label where the user names none."""


def study_name(sources: Sequence[str], name: str | None) -> str:
    """The study's name: the user's, else the first source's; refused where no study can have it."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(sources[0].rstrip("/*")).stem).strip("_-")
    return Study(name=name or stem or "study", data=Data(list(sources))).name


def study_text(sources: Sequence[str], name: str, label: str | None) -> str:
    """The text of a study's file; refuses sources whose rows cannot be known."""
    label = label or guessed_label(sources)
    spec, told = preview(Data(list(sources), label=label))
    found = serial(sources, spec.columns, label) if spec.table or spec.kind == "mixed" else None
    if found is not None:
        spec, told = preview(Data(list(sources), label=label, time=found.time, series=found.series, window=found.window))
    source = repr(str(sources[0])) if len(sources) == 1 else repr([str(s) for s in sources])
    known = f"\n        label={label!r},  # read only to judge the finished detector" if label else ""
    rows = count(Data(list(sources)))
    return _TEXT.format(
        title=", ".join(sources), name=name, source=source, columns=_columns(spec, dict(told), label), label=known, serial=_serial(found),
        unknown=_UNKNOWN if found is None else f"{_NORMAL}.",
        variants=", ".join(VARIANTS[len(spec.shape) + (found is not None)]),
        hint=_ROLES if spec.held else _SHAPE.format(shape=spec.shape), batch=batch(rows), calibration=calibration(rows),
    )  # fmt: skip


def _columns(spec: RowSpec, told: dict[str, str], label: str | None) -> str:
    """The columns as Python; of a table a line for each, with how it enters, and one for each that stays out."""
    out = [f"        # {name!r} {why}" for name, why in told.items() if name not in spec.columns and name != label]
    if not spec.held:
        listed = repr(spec.columns[0]) if len(spec.columns) == 1 else repr(list(spec.columns))
        return "\n".join([f"{listed},", *out])
    inside = [f"            {name!r},  # {told[name]}" for name in spec.columns]
    return "\n".join(["[", *inside, *(f"    {line}" for line in out), "        ],"])


def _serial(found: Serial | None) -> str:
    """What `Data` says of readings in order of time; nothing of other rows."""
    if found is None:
        return ""
    series = "" if found.series is None else f"\n        series={found.series!r},"
    return (
        f"\n        time={found.time!r},  # readings in order of time: without this line and those to the window, rows of a table"
        f"{series}\n        window={found.window},  # readings: {found.why}"
    )


def calibration(rows: int) -> str:
    """The highest quantile that about a tenth of the rows can vouch for."""
    held = 0.08 * rows
    for quantile in (0.99, 0.95, 0.9):
        if held >= quantile / (1 - quantile):
            return f'Calibration(method="quantile", quantile={quantile})'
    return "Calibration()  # mean + 1 std: too few rows for a quantile"


def guessed_label(sources: Sequence[str]) -> str | None:
    """The first column that is called like a label."""
    import pyarrow.parquet as pq

    from raeflow.data.files import expand

    piece = expand(list(sources))[0]
    names = pq.read_schema(piece.path, filesystem=piece.filesystem).names
    return next((n for n in LABELS if n in names), None)


def batch(rows: int) -> int:
    """Rows a step: about a hundred steps an epoch, between 16 and 512."""
    size = 16
    while size < 512 and rows * 0.6 / size > 100:
        size *= 2
    return size
