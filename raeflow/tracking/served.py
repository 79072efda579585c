"""A detector as a model of MLflow: JSON, safetensors and a few lines of code, nothing pickled."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raeflow.errors import RaeflowError
from raeflow.tracking.provenance import requirements
from raeflow.tracking.store import Store, quiet

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

    from raeflow.data.rows import Field, RowSpec
    from raeflow.detector import Detector

EXAMPLE_ROWS = 2
REGISTRY_PATIENCE_S = 60

CODE = '''"""Serves one raeflow detector: rows in, anomaly_score and is_anomaly out; reads JSON and safetensors alone."""

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from raeflow.detector import Detector
from raeflow.errors import RaeflowError


class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.detector = Detector.load(context.artifacts["detector"])

    def predict(self, context, model_input: INPUT, params=None):
        try:
            scores = self.detector.score(ROWS)
        except RaeflowError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return pd.DataFrame({"anomaly_score": scores.astype(np.float64), "is_anomaly": self.detector.flags(scores)})


mlflow.models.set_model(Served())
'''
"""MLflow keeps this file with the model and runs it to load it ("models from code")."""
TABLE = {"INPUT": "pd.DataFrame", "ROWS": "pa.Table.from_pandas(model_input, preserve_index=False)"}
TENSOR = {"INPUT": "np.ndarray", "ROWS": "np.asarray(model_input)"}


def register(store: Store, run_id: str, name: str, detector: Detector, folder: Path, example: Any) -> str:
    """Log the detector saved in `folder` as a model of run `run_id` and register it as `name`; its version.

    A detector (by its id) that is registered already is not registered again.
    """
    found = store.client.search_model_versions(f"name = '{name}'")
    same = [str(v.version) for v in found if v.tags.get("raeflow.detector") == detector.id]
    return same[0] if same else _create_version(store, run_id, name, detector.id, _log(store, run_id, detector, folder, example))


def _log(store: Store, run_id: str, detector: Detector, folder: Path, example: Any) -> LoggedModel:
    """A logged model of MLflow, with signature and example."""
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    tags = {"raeflow.detector": detector.id}
    params = {"variants": json.dumps([m.variant for m in detector.members]), "threshold": str(detector.threshold.value)}
    logged = store.client.create_logged_model(store.experiment, "detector", run_id, tags, params, "anomaly-detector")
    with tempfile.TemporaryDirectory() as work, quiet():
        code, place = Path(work) / "served.py", Path(work) / "model"
        code.write_text(source(detector.spec))
        mlflow.pyfunc.save_model(
            path=str(place),
            mlflow_model=Model(artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id),
            python_model=str(code),
            artifacts={"detector": str(folder.resolve())},
            signature=signature(detector.spec),
            input_example=_example(detector.spec, example),
            pip_requirements=requirements(),
            metadata={"detector": detector.id},
        )
        store.client.log_model_artifacts(logged.model_id, str(place))
    store.client.finalize_logged_model(logged.model_id, "READY")
    store.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _create_version(store: Store, run_id: str, name: str, detector: str, logged: LoggedModel) -> str:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    version = store.client.create_model_version(
        name,
        logged.artifact_location,
        run_id,
        tags={"raeflow.detector": detector},
        await_creation_for=REGISTRY_PATIENCE_S,
        model_id=logged.model_id,
    )
    return str(version.version)


def source(spec: RowSpec) -> str:
    """The code of a served detector, for the type of input that its signature declares."""
    text = CODE
    for name, value in (TABLE if tabular(spec) else TENSOR).items():
        text = text.replace(name, value)
    return text


def signature(spec: RowSpec) -> ModelSignature:
    """Named columns of tables, each optional since a gap is no mistake, else one tensor (-1, *shape) of the rows' own type.

    Numbers are doubles, categories strings, clocks datetimes (times of day strings). Flags and clocks of a time zone are of
    any type: MLflow would take a null boolean for false, and refuses a zone. Score and flag come out.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    if spec.fields:
        free: Any = AnyType
        types = [free() if _served_type(f) == "any" else DataType[_served_type(f)] for f in spec.fields]
        inputs = Schema([ColSpec(kind, f.name, required=False) for kind, f in zip(types, spec.fields, strict=True)])
    elif spec.kind == "columns":
        inputs = Schema([ColSpec(DataType.double, name, required=not spec.held) for name in spec.columns])
    else:
        inputs = Schema([TensorSpec(np.dtype(spec.dtype), (-1, *spec.shape))])
    outputs = Schema([ColSpec(DataType.double, "anomaly_score"), ColSpec(DataType.boolean, "is_anomaly")])
    return ModelSignature(inputs=inputs, outputs=outputs)


def tabular(spec: RowSpec) -> bool:
    """Whether rows are served as named columns."""
    return spec.kind in ("columns", "mixed")


def _served_type(field: Field) -> str:
    """Name of the MLflow type of a column; any where MLflow's own would lose gaps or zones."""
    if field.role == "clock":
        return "string" if field.type.startswith(("time32", "time64")) else "any" if "tz=" in field.type else "datetime"
    return {"number": "double", "flag": "any", "category": "string"}[field.role]


def _example(spec: RowSpec, rows: Any) -> Any:
    """The first rows, as the signature wants them; `rows` is numpy or torch (n, *stored)."""
    import numpy as np
    import torch

    from raeflow.data.columns import to_table

    values = np.asarray(rows[:EXAMPLE_ROWS])
    if values.shape[1:] != spec.stored:
        raise RaeflowError(f"an example of shape {values.shape} does not hold rows of shape {spec.stored}")
    if not tabular(spec):
        return values.astype(spec.dtype)
    frame = to_table(torch.from_numpy(values.astype(np.float32).reshape(len(values), -1)), spec).to_pandas()
    for field in spec.fields:
        if _served_type(field) == "string":
            frame[field.name] = frame[field.name].map(str, na_action="ignore")
        if _served_type(field) == "datetime":
            moments = frame[field.name]  # MLflow knows no time zones: what the clock on the wall shows
            zoned = getattr(moments.dtype, "tz", None) is not None
            frame[field.name] = (moments.dt.tz_localize(None) if zoned else moments).astype("datetime64[ns]")
    return frame
