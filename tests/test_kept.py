"""Detectors, studies and databases that version 0.1.0 wrote go on working: files of theirs are kept beside the tests."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from raeflow import Data, Detector, Search, Study, Training
from raeflow.data import load
from raeflow.errors import RaeflowError
from raeflow.pipeline import Session

KEPT = Path(__file__).parent / "kept" / "v0_1_0"


@pytest.mark.parametrize(("folder", "expected"), [("study/detector", "expected"), ("image_detector", "expected_image")])
def test_a_detector_scores_as_it_did(folder, expected):
    known = np.load(KEPT / f"{expected}.npz")
    detector = Detector.load(KEPT / folder, device="cpu")
    assert detector.id == json.loads((KEPT / folder / "detector.json").read_text())["id"]
    np.testing.assert_allclose(detector.score(known["rows"]), known.get("committee", known.get("scores")), rtol=1e-4)
    for name, found in (("explain", detector.explain), ("rebuilt", detector.reconstruct)):
        if name in known:
            np.testing.assert_allclose(found(known["rows"]), known[name], rtol=1e-3, atol=1e-4)


def test_a_detector_that_knows_of_no_gaps_refuses_them_still():
    detector = Detector.load(KEPT / "study" / "detector", device="cpu")
    with pytest.raises(RaeflowError, match=r"row 0 holds nan at \(1,\)"):
        detector.score(np.array([[1.0, np.nan, 0.0, 0.0]]))


def test_a_saved_detector_is_written_back_as_it_was(tmp_path):
    detector = Detector.load(KEPT / "study" / "detector", device="cpu")
    again = Detector.load(detector.save(tmp_path / "again"), device="cpu")
    assert again.id == detector.id


def kept_study(folder: Path) -> Study:
    shutil.copy(KEPT / "rows.parquet", folder)
    shutil.copytree(KEPT / "study", folder / "runs" / "kept")
    return Study(
        name="kept", data=Data(folder / "rows.parquet"), variants=("autoencoder", "vae"), training=Training(epochs=4, batch_size=64),
        search=Search(trials=3, slots=1), committee=2, home=str(folder / "runs"),
    )  # fmt: skip


def test_a_study_goes_on_with_the_trials_and_models_it_has(tmp_path):
    told: list[str] = []
    session = Session(kept_study(tmp_path), told.append)
    trials = session.search()  # from the database alone: no cluster starts
    assert [t.number for t in trials] == [t["number"] for t in json.loads((KEPT / "study" / "trials.json").read_text())]
    assert [f.variant for f in session.train()] == [m.variant for m in Detector.load(KEPT / "study" / "detector").members]
    assert sum("kept from an earlier run" in line for line in told) == 2
    session.tracker.finish("FINISHED")


def test_rows_fall_into_the_same_splits(tmp_path):
    splits = load(kept_study(tmp_path).data)
    counted = [len(rows) for rows in (splits.train, splits.validate, splits.calibrate, splits.test)]
    assert counted == [286, 48, 57, 109]
    assert splits.fingerprint == json.loads((KEPT / "study" / "study.json").read_text())["identity"]["data"]
