"""A study file for a user's own Parquet, written from what its schema shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from raeflow.data import inspect
from raeflow.study import Data

_TEXT = '''"""Which rows of {title} are anomalous?

    raeflow study {name}.py
"""

from raeflow import Calibration, Data, Search, Study, Training

STUDY = Study(
    name="{name}",
    data=Data(
        {source},
        columns={columns},{label}
        # Rows of shape {shape}. Say Data(shape=...) if they are something else: (F,) a table, (C, L) a signal,
        # (C, H, W) an image. Data(normal=[("column", "==", value)]) keeps known anomalies out of training.
    ),
    variants=("autoencoder", "vae", "wgan_gp"),
    search=Search(trials=24, epochs=20),
    training=Training(epochs=50, batch_size={batch}),
    calibration=Calibration(method="quantile", quantile=0.99),
)
'''


def study_text(sources: Sequence[str], name: str | None, label: str | None) -> tuple[str, str]:
    """The study's name and the text of its file; refuses sources whose rows cannot be known."""
    spec = inspect(Data(list(sources), label=label))
    stem = name or re.sub(r"[^A-Za-z0-9_-]+", "_", Path(sources[0].rstrip("/*")).stem).strip("_-") or "study"
    source = repr(str(sources[0])) if len(sources) == 1 else repr([str(s) for s in sources])
    columns = repr(spec.columns[0]) if len(spec.columns) == 1 else repr(list(spec.columns))
    known = f"\n        label={label!r},  # read only to judge the finished detector" if label else ""
    text = _TEXT.format(title=", ".join(sources), name=stem, source=source, columns=columns, label=known, shape=spec.shape, batch=batch(sources))
    return stem, text


def batch(sources: Sequence[str]) -> int:
    """Rows a step: about a hundred steps an epoch, between 16 and 512."""
    import pyarrow.parquet as pq

    from raeflow.data.files import expand

    rows = sum(pq.read_metadata(piece.path, filesystem=piece.filesystem).num_rows for piece in expand(list(sources)))
    size = 16
    while size < 512 and rows * 0.6 / size > 100:
        size *= 2
    return size
