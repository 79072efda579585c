"""Find anomalies with autoencoders and GANs at any scale.

Public names load lazily: `import raeflow` costs no torch, ray or mlflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raeflow.detector import Detector
    from raeflow.errors import RaeflowError
    from raeflow.memory import fit
    from raeflow.pipeline import run
    from raeflow.study import Calibration, Cluster, Data, Search, Study, Training

__version__ = "0.1.0"
_HOMES = {
    "Calibration": "study", "Cluster": "study", "Data": "study", "Search": "study", "Study": "study", "Training": "study",
    "Detector": "detector", "RaeflowError": "errors", "fit": "memory", "run": "pipeline",
}  # fmt: skip
__all__ = ["Calibration", "Cluster", "Data", "Detector", "RaeflowError", "Search", "Study", "Training", "fit", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raeflow' has no attribute {name!r}")
    return getattr(importlib.import_module(f"raeflow.{_HOMES[name]}"), name)
