"""The data room: Parquet in, batches out.

`resolve` makes a named set concrete, `inspect` looks at the schema alone, `load` reads once into
`Splits`. Names load on first use: importing this package costs neither torch nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raeflow.data.files import Piece, expand
    from raeflow.data.load import count, inspect, load
    from raeflow.data.preview import preview
    from raeflow.data.rows import Raw, Rows, RowSource, RowSpec, Splits
    from raeflow.data.scaling import Scaling
    from raeflow.data.schema import to_tensor
    from raeflow.data.sources import resolve
    from raeflow.data.stream import StreamedRows

_HOMES = {
    "Piece": "files", "expand": "files", "count": "load", "inspect": "load", "load": "load", "preview": "preview", "Raw": "rows",
    "Rows": "rows", "RowSource": "rows", "RowSpec": "rows", "Splits": "rows", "Scaling": "scaling", "to_tensor": "schema",
    "resolve": "sources", "StreamedRows": "stream",
}  # fmt: skip
__all__ = [
    "Piece", "Raw", "RowSource", "RowSpec", "Rows", "Scaling", "Splits", "StreamedRows", "count", "expand", "inspect", "load", "preview",
    "resolve", "to_tensor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raeflow.data' has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"raeflow.data.{home}")
    # All names of a home at once: importing it has just put the submodule `load` where the function belongs.
    globals().update({each: getattr(module, each) for each, where in _HOMES.items() if where == home})
    return globals()[name]
