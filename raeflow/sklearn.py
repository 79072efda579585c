"""`AnomalyDetector`: `raeflow.fit` as an estimator of scikit-learn, for pipelines, grids and whoever thinks in `fit` and `predict`.

Signs follow scikit-learn's outlier detectors: higher is more normal, 1 is an inlier, -1 an outlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

import raeflow.memory
from raeflow.data.frames import is_arrow, to_table
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.study import Calibration, Training

TILE = 512
"""Rows that are scored at a time, the last ones filled up: a matrix product of one size gives a row the same score to the
last bit whatever rows come with it."""

Floats = NDArray[np.float64]


class AnomalyDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Outlier detection by reconstruction models, with scikit-learn's interface.

    `X` is an array (N, F) of numbers, or a pandas or polars frame; at least 10 rows. Fitting divides the rows by itself into
    those that train, those that stop the training and those that set the threshold (see `raeflow.fit`).

    After `fit`: `detector_` (the `raeflow.Detector`: explain, save, threshold), `offset_`, `n_features_in_`, and for frames
    `feature_names_in_`. Pickling keeps the detector as its two files' bytes.

    Source of the interface: scikit-learn's developer guide, "Outlier detectors"; Liu et al. 2008 for `contamination`.
    """

    detector_: Detector

    def __init__(
        self,
        variants: str | Sequence[str] = "autoencoder",
        *,
        trials: int | None = None,
        minutes: float | None = None,
        contamination: float | str = "auto",
        cleaning: float | Literal["auto"] | None = None,
        committee: int = 1,
        hyper: dict[str, dict[str, Any]] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        calibration: Calibration | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """What `raeflow.fit` takes under the same names, and:

        Args:
            contamination: share of the rows of `fit` that `predict` calls outliers, above 0 and at most 0.5; `auto` takes the
                threshold calibrated on held-out rows.
            cleaning: what `raeflow.fit` calls `contamination`, a name that means something else here: the believed share of
                anomalies among the rows of `fit`, or auto; suspicious rows are set aside before training. None: none are.
            epochs: passes over the train rows; None: at least 50, and at least 1000 steps.
            batch_size: rows a step; None: 16 to 256, at least eight batches an epoch.
            calibration: how `auto` sets the threshold; None: mean and one standard deviation of held-out scores.
            random_state: of everything drawn; an int gives the same detector each time.
        """
        self.variants = variants
        self.trials = trials
        self.minutes = minutes
        self.contamination = contamination
        self.cleaning = cleaning
        self.committee = committee
        self.hyper = hyper
        self.epochs = epochs
        self.batch_size = batch_size
        self.calibration = calibration
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 - the interface has it
        """Fit on rows (N, F), most of them normal; `y` is ignored.

        Raises ValueError or TypeError as scikit-learn's checks do, RaeflowError for what a detector cannot be fitted with.
        """
        share = self.contamination
        if share != "auto" and not (isinstance(share, (int, float)) and 0 < share <= 0.5):
            raise RaeflowError(f"AnomalyDetector(contamination={share!r}): contamination is 'auto' or a share above 0 and at most 0.5")
        rows = self._rows(X, reset=True)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.detector_ = raeflow.memory.fit(
            rows, variants=self.variants, trials=self.trials, minutes=self.minutes, hyper=self.hyper, committee=self.committee,
            calibration=self.calibration, contamination=self.cleaning, training=self._training(len(rows)), seed=seed,
        )  # fmt: skip
        self.offset_ = -self.detector_.threshold.value
        if share != "auto":
            self.offset_ = float(np.percentile(self._score(rows), 100 * float(share)))
        return self

    def score_samples(self, X: Any) -> Floats:
        """Minus the detector's score of each row, (N,): higher is more normal."""
        check_is_fitted(self)
        return self._score(self._rows(X, reset=False))

    def decision_function(self, X: Any) -> Floats:
        """`score_samples` minus `offset_`, (N,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 for inliers, -1 for outliers, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect of it."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = self.minutes is not None
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Parameters and fitted numbers as they are, the detector as bytes that hold no code."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "detector_" in state:
            state["detector_"] = (*self.detector_.to_bytes(), self.detector_.device.type)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `__getstate__` gave; a detector that lay on a GPU takes one where there is one."""
        state = dict(state)
        if "detector_" in state:
            content, weights, device = state["detector_"]
            where = f"pickled {type(self).__name__}"
            state["detector_"] = Detector.from_bytes(content, weights, where, "cpu" if device == "cpu" else "auto")
        super().__setstate__(state)

    def _rows(self, X: Any, reset: bool) -> Any:
        """`X` checked as scikit-learn does: a frame stays one, for its columns have types and names; all else becomes an array."""
        if is_arrow(X) and (reset or hasattr(self, "feature_names_in_")):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        fewest = raeflow.memory.FEWEST if reset else 1
        return validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan", ensure_min_samples=fewest)

    def _training(self, rows: int) -> Training | None:
        if self.epochs is None and self.batch_size is None:
            return None
        usual = raeflow.memory.small(max(1, round(raeflow.memory.SHARES[0] * rows)))
        return Training(epochs=self.epochs or usual.epochs, batch_size=self.batch_size or usual.batch_size)

    def _score(self, rows: Any) -> Floats:
        more = -len(rows) % TILE
        if is_arrow(rows):
            table = to_table(rows)
            filled: Any = pa.concat_tables([table, table.take(np.zeros(more, np.int64))])
        else:
            filled = np.concatenate([rows, np.repeat(rows[:1], more, axis=0)])
        return -self.detector_.score(filled, TILE)[: len(rows)].astype(np.float64)
