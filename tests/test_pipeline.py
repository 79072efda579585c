"""The whole way on real digits: a study from Parquet to scored Parquet, taken up again, changed, and refused."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from raeflow import Calibration, Data, Detector, RaeflowError, Search, Study, Training, cli, pipeline, run, selection, variants
from raeflow.stored import save_fitted
from raeflow.training import fit

STUDY = Study(
    name="digits",
    data=Data("digits", normal=[("label", "!=", 5)]),
    variants=("autoencoder", "vae"),
    search=Search(trials=3, epochs=6, slots=1),
    training=Training(epochs=12, batch_size=64),
    calibration=Calibration(method="quantile", quantile=0.95),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def outcome(home, said):
    return run(STUDY.but(home=str(home)), say=said.append)


@pytest.mark.ray
def test_a_study_ends_with_a_detector_that_finds_the_held_out_digit(outcome, said):
    assert {t.variant for t in outcome.trials} <= {"autoencoder", "vae"}
    assert len(outcome.trials) == 3
    assert outcome.metrics["auroc"] > 0.85
    assert outcome.metrics["auroc"] > outcome.baseline["auroc"]
    assert "IsolationForest" in outcome.table
    assert outcome.report.stat().st_size > 10_000
    assert any(line.startswith("trial 3/3") for line in said)
    kinds = [line.split()[0] for line in said]
    assert kinds.index("searching") < kinds.index("expect") < kinds.index("trial")


@pytest.mark.ray
def test_every_row_is_scored_as_the_saved_detector_scores_it(outcome):
    table = ds.dataset(outcome.summary.out).to_table()
    assert table.num_rows == outcome.summary.rows == 1797
    detector = Detector.load(outcome.study.folder / "detector")
    assert np.allclose(detector.score(table), table["anomaly_score"].to_numpy(), rtol=1e-4)
    flags = table["is_anomaly"].to_numpy(zero_copy_only=False)
    assert (flags == (table["anomaly_score"].to_numpy() > detector.threshold.value)).all()
    assert set(table["detector"].to_pylist()) == {detector.id}
    assert flags.sum() == outcome.summary.alerts


@pytest.mark.ray
def test_the_same_study_again_takes_up_what_is_there(outcome, home):
    lines = []
    again = run(STUDY.but(home=str(home)), say=lines.append)
    assert again.detector.id == outcome.detector.id
    assert [t.number for t in again.trials] == [t.number for t in outcome.trials]
    assert any("kept from an earlier run" in line for line in lines)
    assert again.summary.skipped == again.summary.fragments == outcome.summary.fragments


@pytest.mark.ray
def test_a_different_study_of_the_same_name_is_refused_and_nothing_is_lost(outcome, home):
    kept = (outcome.study.folder / "trials.json").read_text()
    with pytest.raises(RaeflowError, match=r"training\.epochs was 12, now 13"):
        run(STUDY.but(home=str(home), training=Training(epochs=13, batch_size=64)))
    assert (outcome.study.folder / "trials.json").read_text() == kept


@pytest.mark.ray
def test_a_committee_joins_the_best_trials(outcome, home):
    study = STUDY.but(home=str(home), committee=2)
    session = pipeline.Session(study, say=lambda _line: None)
    detector = session.calibrate(session.train())
    metrics, _, _, _ = session.report(detector)
    session.tracker.finish("FINISHED")
    assert len(detector.members) == 2
    assert metrics["auroc"] > 0.7  # its members trained for six epochs only


@pytest.mark.ray
def test_the_verbs_of_the_command_line_go_on_from_one_another(outcome, home, tmp_path, capsys):
    text = f"from tests.test_pipeline import STUDY\nSTUDY = STUDY.but(home={str(home)!r})\n"
    path = tmp_path / "mine.py"
    path.write_text(text)
    for verb, word in (("search", "trials"), ("train", "validation loss"), ("calibrate", "threshold"), ("report", "AUROC")):
        assert cli.main([verb, str(path)]) == 0, capsys.readouterr().err
        assert word in capsys.readouterr().out
    source = json.loads((outcome.study.folder / "study.json").read_text())["study"]["data"]["source"]
    assert cli.main(["score", str(outcome.study.folder), *source, "--out", str(tmp_path / "out"), "--columns", "label"]) == 0
    told = capsys.readouterr().out
    assert "1,797 rows" in told
    assert "0 bad rows" in told
    names = ds.dataset(tmp_path / "out").schema.names
    assert names == ["label", "anomaly_score", "is_anomaly", "threshold", "detector", "problem"]


def test_published_values_train_without_a_search(tmp_path):
    session = pipeline.Session(STUDY.but(home=str(tmp_path), training=Training(epochs=2, batch_size=64)), say=lambda _line: None)
    (fitted,) = session.train("vae")
    assert fitted.variant == "vae"
    assert len(fitted.history) == 2
    session.tracker.finish("FINISHED")


def test_a_variant_of_those_that_auto_names_is_trained_alone_in_the_same_study(tmp_path):
    study = STUDY.but(home=str(tmp_path), variants="auto", training=Training(epochs=1, batch_size=64))
    for variant in (None, "knn"):
        session = pipeline.Session(study, say=lambda _line: None, variant=variant)
        assert session.study.variants == ("autoencoder", "denoising", "vae", "knn", "hog_knn")
        session.tracker.finish("FINISHED")
    (fitted,) = session.train("knn")
    assert fitted.variant == "knn"
    with pytest.raises(RaeflowError, match="another study"):
        pipeline.Session(study, say=lambda _line: None, variant="gan")


def test_another_trial_with_the_same_hyperparameters_takes_the_place_of_a_kept_model(tmp_path):
    session = pipeline.Session(STUDY.but(home=str(tmp_path), committee=1, refit=False), say=lambda _line: None)
    hyper = dataclasses.asdict(variants.get("autoencoder").published((1, 8, 8)))
    for number, value in enumerate((0.6, 0.7)):
        found = fit("autoencoder", hyper, session.splits, Training(epochs=1, batch_size=64), seed=number)
        place = save_fitted(found, tmp_path / "trials" / str(number))
        trial = selection.Trial(number, "autoencoder", hyper, value, 0.1, 1, 1.0, "complete", str(place))
        known = [dataclasses.asdict(t) for t in session.trials()]
        pipeline.write_json(session.folder / "trials.json", [dataclasses.asdict(trial), *known])
        (fitted,) = session.train()
        assert all(torch.equal(fitted.weights[name], t) for name, t in found.weights.items())
    session.tracker.finish("FINISHED")


@pytest.mark.parametrize(("value", "kept"), [(2.0, "search"), (-1.0, "again")])
def test_of_the_searchs_model_and_the_one_trained_again_the_better_is_kept(tmp_path, value, kept):
    lines = []
    session = pipeline.Session(STUDY.but(home=str(tmp_path), committee=1), say=lines.append)
    assert session.refits(1) and not session.refits(2)
    hyper = dataclasses.asdict(variants.get("autoencoder").published((1, 8, 8)))
    found = save_fitted(fit("autoencoder", hyper, session.splits, Training(epochs=1, batch_size=64), seed=5), tmp_path / "trial")
    pick = pipeline.Pick("autoencoder", hyper, str(found), value)
    fitted = session._fit(pick, 0, 1)
    assert len(fitted.history) == (1 if kept == "search" else 12)
    assert any("the search's autoencoder is kept: judged 2.0000" in line for line in lines) == (kept == "search")
    assert (fitted.head is not None) == (kept == "again"), "a refit has its head chosen again"
    session.tracker.finish("FINISHED")


def test_rows_that_repeat_are_told_when_the_threshold_is_set(tmp_path):
    rows = np.random.default_rng(0).normal(size=(400, 3)).astype("float32")
    pq.write_table(pa.table(dict(zip("abc", np.repeat(rows, 20, axis=0).T, strict=True))), tmp_path / "rows.parquet")
    lines = []
    study = STUDY.but(
        home=str(tmp_path / "runs"), data=Data(tmp_path / "rows.parquet"), training=Training(epochs=1),
        calibration=Calibration(method="quantile", quantile=0.99),
    )  # fmt: skip
    session = pipeline.Session(study, say=lines.append)
    detector = session.calibrate(session.train("vae"))
    session.tracker.finish("FINISHED")
    rows, distinct = len(session.splits.calibrate), detector.threshold.distinct
    assert distinct * 20 == rows
    assert any(f"calibrate rows: {rows:,}, of which {distinct} differ" in line for line in lines)
    assert any("cannot keep the quantile 0.99" in line for line in lines) == (distinct < 99)
    assert Detector.load(tmp_path / "runs" / "digits" / "detector").threshold == detector.threshold


def test_calibrating_before_training_is_refused(tmp_path):
    session = pipeline.Session(STUDY.but(home=str(tmp_path)), say=lambda _line: None)
    with pytest.raises(RaeflowError, match="raeflow train"):
        session.calibrate()
    session.tracker.finish("FAILED")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"training": Training(batch_size=5000)}, "batch_size=5000"),
        ({"training": Training(device="cuda:9")}, "cuda:9"),
        ({"hyper": {"vae": {"nothing": 1}}}, "'nothing'"),
        ({"hyper": {"vae": {"latent": -1}}}, "latent=-1"),
        ({"data": Data("digits", columns="nothing")}, "nothing"),
        ({"search": Search(selection="generation")}, "'autoencoder' draws no rows"),
        ({"heads": "critic"}, "variant 'autoencoder' on rows of shape (1, 8, 8): heads critic"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, change, word):
    with pytest.raises(RaeflowError) as refusal:
        pipeline.Session(STUDY.but(home=str(tmp_path / "runs"), **change), say=lambda _line: None)
    assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "runs").exists()


def test_the_part_that_trials_depend_on_is_the_studys_identity():
    more = dataclasses.replace(STUDY, search=dataclasses.replace(STUDY.search, trials=30, slots=2, minutes=5), committee=3)
    assert pipeline.identity(STUDY) == pipeline.identity(more)
    assert pipeline.identity(STUDY) != pipeline.identity(STUDY.but(seed=1))
