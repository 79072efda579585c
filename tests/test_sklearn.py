"""`AnomalyDetector` is an outlier detector as scikit-learn understands them."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from raeflow import Calibration, Detector, RaeflowError
from raeflow.sklearn import TILE, AnomalyDetector

QUICK = {"epochs": 3, "random_state": 0}


def rows(count: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2)) @ np.array([[1.0, 2, 0, 1], [0, 1, 1, -1]]) + 0.1 * rng.normal(size=(count, 4))


def frame(x: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(x, columns=list("abcd"))


@parametrize_with_checks([AnomalyDetector(epochs=10)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_signs_and_the_calibrated_threshold():
    x, strange = rows(1000), np.random.default_rng(1).normal(size=(500, 4)) * 3
    model = AnomalyDetector(random_state=0).fit(x)
    assert isinstance(model.detector_, Detector)
    assert (model.predict(strange) == -1).mean() > 0.8 > 0.3 > (model.predict(x) == -1).mean()
    np.testing.assert_allclose(model.score_samples(x), -model.detector_.score(x), rtol=1e-5)
    np.testing.assert_allclose(model.decision_function(x), model.score_samples(x) - model.offset_)
    assert model.offset_ == -model.detector_.threshold.value
    assert ((model.predict(strange) == -1) == (model.decision_function(strange) < 0)).all()


def test_contamination_is_the_share_of_the_fitted_rows_that_are_called_outliers():
    x = rows()
    assert (AnomalyDetector(contamination=0.1, **QUICK).fit_predict(x) == -1).sum() == 30
    for wrong in (0, 0.6, -1, "often"):
        with pytest.raises(RaeflowError, match="contamination"):
            AnomalyDetector(contamination=wrong).fit(x)


def test_a_score_does_not_depend_on_the_rows_beside_it():
    x = rows(TILE + 100)
    model = AnomalyDetector(**QUICK).fit(x)
    whole = model.score_samples(x)
    assert all(model.score_samples(x[at : at + 1])[0] == whole[at] for at in (0, 1, TILE - 1, TILE, TILE + 99))
    np.testing.assert_array_equal(model.score_samples(x[::-1]), whole[::-1])


def test_pickling_keeps_the_detector_and_no_code():
    x = rows()
    model = AnomalyDetector(calibration=Calibration(k=2.0), **QUICK).fit(frame(x))
    state = model.__getstate__()
    assert [type(part) for part in state["detector_"]] == [bytes, bytes, str]
    again = pickle.loads(pickle.dumps(model))
    assert again.detector_.id == model.detector_.id and again.detector_ is not model.detector_
    np.testing.assert_array_equal(again.decision_function(frame(x)), model.decision_function(frame(x)))
    assert list(again.feature_names_in_) == list("abcd") and again.get_params() == model.get_params()
    content = state["detector_"][0].replace(b'"autoencoder"', b'"vae"')
    with pytest.raises(RaeflowError, match="pickled AnomalyDetector"):
        AnomalyDetector().__setstate__({**state, "detector_": (content, *state["detector_"][1:])})
    assert not hasattr(pickle.loads(pickle.dumps(AnomalyDetector())), "detector_")


def test_frames_keep_their_names():
    x = rows()
    model = AnomalyDetector(**QUICK).fit(frame(x))
    assert model.detector_.spec.columns == tuple("abcd") and model.n_features_in_ == 4
    np.testing.assert_array_equal(model.score_samples(frame(x)), AnomalyDetector(**QUICK).fit(x).score_samples(x))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame(x)[list("dcba")])
    by_array = AnomalyDetector(**QUICK).fit(x)
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_array_equal(by_array.score_samples(frame(x)), model.score_samples(frame(x)))


def test_polars_frames():
    polars = pytest.importorskip("polars")
    x = rows()
    held = polars.DataFrame({name: x[:, at] for at, name in enumerate("abcd")})
    model = AnomalyDetector(**QUICK).fit(held)
    assert list(model.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(model.score_samples(held), AnomalyDetector(**QUICK).fit(frame(x)).score_samples(frame(x)))


def test_gaps_are_taken_as_the_tag_says():
    x = rows()
    x[3, 1] = np.nan
    model = AnomalyDetector(**QUICK)
    assert model.__sklearn_tags__().input_tags.allow_nan is True
    for held in (x, frame(x)):
        assert np.isfinite(model.fit(held).score_samples(held)).all()


def test_in_a_pipeline_and_a_grid():
    x = frame(rows())
    pipe = make_pipeline(StandardScaler(), AnomalyDetector(**QUICK)).set_output(transform="pandas")
    assert set(np.unique(pipe.fit(x).predict(x))) <= {-1, 1}
    assert list(pipe[-1].feature_names_in_) == list("abcd")
    grid = GridSearchCV(AnomalyDetector(**QUICK), {"batch_size": [16, 1000]}, scoring=lambda m, X, y=None: m.score_samples(X).mean(), cv=2)
    assert grid.fit(x).best_params_["batch_size"] in (16, 1000)


def test_parameters_reach_the_fit():
    x = rows()
    model = AnomalyDetector(variants=("autoencoder", "vae"), trials=2, committee=2, hyper={"vae": {"latent": 1}}, **QUICK)
    assert clone(model).get_params() == model.get_params()
    members = model.fit(x).detector_.members
    assert {m.variant for m in members} == {"autoencoder", "vae"}
    assert next(m.hyper["latent"] for m in members if m.variant == "vae") == 1
    assert max(model.detector_.lineage["epochs"]) <= 3
    timed = AnomalyDetector(minutes=1e-9, epochs=100_000).fit(x)
    assert timed.detector_.lineage["epochs"] == [1] and timed.__sklearn_tags__().non_deterministic
    by_state = [AnomalyDetector(epochs=1, random_state=np.random.RandomState(3)).fit(x).detector_.id for _ in range(2)]
    assert by_state[0] == by_state[1] != AnomalyDetector(epochs=1, random_state=4).fit(x).detector_.id


def test_too_few_rows_and_no_fit_are_refused():
    with pytest.raises(ValueError, match="minimum of 10"):
        AnomalyDetector().fit(rows(9))
    with pytest.raises(RaeflowError, match="at least 10"):
        AnomalyDetector().fit(frame(rows(9)))
    with pytest.raises(NotFittedError):
        AnomalyDetector().predict(rows())
