"""A detector of a mixed table in a real MLflow store: frames and JSON with nulls in every column score as Arrow does."""

import json

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.pyfunc import scoring_server

from raeflow.study import Data, Study
from raeflow.tracking import Tracker
from tests.tables import mixed, trained, untrained

ROWS = 40


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The detector, and the model that MLflow makes of it."""
    folder = tmp_path_factory.mktemp("served")
    loaded = trained(folder, mixed())
    detector = untrained(loaded)
    tracker = Tracker(Study(name="mixed", data=Data("rows.parquet"), home=str(folder / "home")))
    uri = tracker.detector(detector, detector.save(folder / "detector"), loaded.test.x.numpy())
    tracker.finish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
        yield detector, mlflow.pyfunc.load_model(uri)


def rows(gone=()):
    """Some rows; those `gone` are null in every column."""
    columns = {name: array.slice(0, ROWS) for name, array in mixed().items()}
    return pa.table({n: pa.array([None if i in gone else v for i, v in enumerate(a.to_pylist())], a.type) for n, a in columns.items()})


def plain(table):
    """Rows as a client writes them in JSON."""
    return [{name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()} for row in table.to_pylist()]


def answered(model, body):
    """Scores that MLflow's own server gives for a body of JSON."""
    response = scoring_server.invocations(json.dumps(body), "application/json", model, model.metadata.get_input_schema())
    assert response.status == 200, response.response
    return [row["anomaly_score"] for row in json.loads(response.response)["predictions"]]


def test_columns_are_typed(served):
    types = {spec.name: (str(spec.type), spec.required) for spec in served[1].metadata.get_input_schema().inputs}
    double, text, when, free = "DataType.double", "DataType.string", "DataType.datetime", "Any"
    assert types == {
        name: (kind, False)
        for name, kind in {
            "number": double, "g_number": double, "tail": double, "flag": free, "g_flag": free, "word": text, "g_word": text,
            "moment": when, "g_moment": free, "day": when, "time": text, "still": double,
        }.items()
    }  # fmt: skip


@pytest.mark.parametrize("gone", [(), (0, 3), range(ROWS)], ids=["none", "some", "all"])
def test_frames_score_as_arrow_does(served, gone):
    detector, model = served
    table = rows(gone)
    answer = model.predict(table.to_pandas())
    np.testing.assert_array_equal(answer["anomaly_score"], detector.score(table).astype(np.float64))
    assert answer["is_anomaly"].tolist() == detector.predict(table).tolist()


def test_a_frame_of_none_scores_as_gaps(served):
    detector, model = served
    answer = model.predict(pd.DataFrame({name: [None, None] for name in mixed()}))
    np.testing.assert_array_equal(answer["anomaly_score"], detector.score(rows(range(ROWS)))[:2].astype(np.float64))


@pytest.mark.parametrize("gone", [(), (0, 3), range(ROWS)], ids=["none", "some", "all"])
def test_json_scores_as_arrow_does(served, gone):
    detector, model = served
    listed, expected = plain(rows(gone)), detector.score(rows(gone))
    assert answered(model, {"dataframe_records": listed}) == pytest.approx(expected.tolist(), rel=1e-6)
    split = {"columns": list(listed[0]), "data": [list(row.values()) for row in listed]}
    assert answered(model, {"dataframe_split": split}) == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_null_flag_is_a_gap_and_not_false(served):
    """MLflow's boolean type would make one of the other without a word."""
    model = served[1]
    listed = plain(rows())[:1]
    found = [answered(model, {"dataframe_records": [{**listed[0], "flag": value}]})[0] for value in (True, False, None)]
    assert len(set(found)) == 3
    assert found[2] > max(found[:2]), "flag had no gap in train"


def test_what_cannot_be_read_is_refused_with_the_column(served):
    bad = {**plain(rows())[0], "moment": None, "g_moment": "tomorrow"}
    with pytest.raises(mlflow.MlflowException, match=r"column 'g_moment', row 0: 'tomorrow' is no timestamp"):
        answered(served[1], {"dataframe_records": [bad]})
