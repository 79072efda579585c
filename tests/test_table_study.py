"""The whole way of a table with words, flags, clocks, gaps and a constant: init, study, report, scored Parquet, drawn rows."""

import re

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from raeflow import Calibration, Data, Detector, RaeflowError, Training, cli, pipeline, run, variants
from raeflow.data import load
from raeflow.study import to_json
from raeflow.training import fit
from tests.tables import mixed, untrained, write

ROWS = 1200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("table")
    named = {f"row-{i:04d}": None for i in range(ROWS)}
    write(place / "rows.parquet", {"key": pa.array(list(named)), **mixed(ROWS)})
    return place


@pytest.fixture(scope="module")
def outcome(folder):
    """The file that `init` writes, run as it is but for fewer and shorter trials."""
    out = folder / "rows.py"
    assert cli.main(["init", str(folder / "rows.parquet"), "--out", str(out)]) == 0
    study, _ = cli.load_study(str(out))
    small = cli.override(study, ["search.trials=2", "search.epochs=2", "training.epochs=2", "search.slots=1"])
    return run(small.but(home=str(folder / "runs"), variants=("autoencoder", "vae")))


@pytest.mark.ray
def test_what_init_writes_says_of_each_column_how_it_enters(outcome, folder):
    text = (folder / "rows.py").read_text()
    for said in ("'word',  # category of 6 levels", "'still',  # constant, watched", "'g_number',  # number, gaps marked",
                 "# 'key' left out: an id: 1,200 different values", "'tail',  # number with a long tail"):  # fmt: skip
        assert said in text
    assert [c.name for c in outcome.detector.graph.encoding.columns] == list(mixed(10))


@pytest.mark.ray
def test_every_row_is_scored_beside_its_own_columns(outcome):
    table = ds.dataset(outcome.summary.out).to_table()
    assert table.num_rows == ROWS and table["problem"].null_count == ROWS
    assert table.column_names[:3] == ["key", "number", "g_number"]
    again = Detector.load(outcome.study.folder / "detector").score(table)
    np.testing.assert_allclose(again, table["anomaly_score"].to_numpy(), rtol=1e-4)


@pytest.mark.ray
def test_the_page_shows_rows_in_the_users_own_words(outcome):
    page = outcome.report.read_text()
    assert "What each column is" in page and "category of 6 levels" in page
    rows = re.findall(r"<td>word</td><td>([^<]*)</td><td>([^<]*)</td>", page)
    known = {"tcp", "udp", "icmp", "a", "b", "c"}
    assert all(value in known and expected in known for value, expected in rows)
    clocks = {"moment": r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "day": r"20\d\d-\d\d-\d\d", "time": r"\d\d:\d\d:\d\d"}
    assert any(re.search(rf"<td>(g_)?{name}</td><td>{told}</td>", page) for name, told in clocks.items())


@pytest.mark.ray
def test_the_registered_model_takes_words_and_nulls(outcome, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{outcome.study.folder.parent / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model(outcome.model_uri)
    frame = pa.table(mixed(5, seed=3)).to_pandas()
    frame.loc[0, ["word", "number"]] = [None, None]
    found = model.predict(frame)
    np.testing.assert_allclose(found["anomaly_score"], outcome.detector.score(frame), rtol=1e-4)
    assert found["anomaly_score"][0] > outcome.detector.graph.novelty.score * 1.9


@pytest.mark.ray
def test_trained_models_are_not_taken_for_columns_that_mean_something_else(outcome):
    study = outcome.study
    data = Data(**{**{k: getattr(study.data, k) for k in to_json(study.data)}, "scaling": "asinh"})
    said = r"holds another study.*encoding\.g_number was .number, gaps marked., now .number with a long tail, gaps marked."
    with pytest.raises(RaeflowError, match=said):
        pipeline.Session(study.but(data=data))


def test_a_detector_draws_rows_of_the_users_own_columns(folder):
    loaded = load(Data(folder / "rows.parquet"))
    hyper = vars(variants.get("vae").published(loaded.spec.shape))
    fitted = fit("vae", hyper, loaded, Training(epochs=2, batch_size=64))
    drawn = Detector.assemble([fitted], loaded, Calibration()).draw(50, seed=1)
    assert drawn.column_names == list(loaded.spec.columns) and len(drawn) == 50
    assert set(drawn["word"].to_pylist()) <= {"tcp", "udp", "icmp", "a", "b", "c"}
    assert set(drawn["flag"].to_pylist()) <= {True, False} and set(drawn["still"].to_pylist()) == {7.0}
    assert drawn.schema.field("moment").type == pa.timestamp("us") and drawn["moment"].null_count == 0
    with pytest.raises(RaeflowError, match="autoencoder: no member of this detector draws rows"):
        untrained(loaded).draw(3)
