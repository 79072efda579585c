"""Are attacks on a network found by models that have seen normal connections only?

NSL-KDD (Tavallaee, Bagheri, Lu, Ghorbani 2009): connections with words (protocol, service, flag), true/false columns,
counts over nine orders of magnitude and columns that never change in train. Training, selection and threshold see the
normal rows of the training file alone; the test file has 38 kinds of attack, 18 of which the training file lacks.

    raeflow study nsl_kdd

Measured on 2 cores, one seed, about 2 minutes: AUROC 0.9656 and accuracy 0.9120 at the 0.95 quantile of normal rows, of which the
test file's trip 10.0 % instead of 5 %: its normal connections differ from those of train. On the same encoding kNN has 0.9672
(AUROC), IsolationForest 0.9524. Of the test rows 8.33 % have what no normal row of train had, a service mostly; 97 % of those are
attacks.

Goals are 0.965 and 0.90: both are met, though kNN is ahead in AUROC. Synthetic anomalies whose counts go below zero had 0.9632
here. What failed: those that keep to what counts and rates can be do not mend what a study does by default. The judge still
values `rank_knn` of one neighbour highest, under all kinds but `altered`, and leaves out of its committee what it values less. With
all variants, their own errors and `committee="auto"` that came to 0.9485 and 0.8998 (`knn` has 0.9669); with all heads too it
was 0.9526 and 0.9046 before the kinds changed. The likely reason is that validation rows are of the file that train rows are of, where
remembering single rows is right, and the test file is another; single networks by their own error have 0.955 to 0.972 in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raeflow import Calibration, Data, Search, Study, Training

if TYPE_CHECKING:
    import numpy as np

    from raeflow.data.rows import Rows, Splits
    from raeflow.pipeline import Outcome

    Values = np.ndarray[Any, Any]

STUDY = Study(
    name="nsl_kdd",
    data=Data("nsl_kdd", fractions=(0.7, 0.15, 0.15, 0)),
    variants=("autoencoder", "denoising"),
    search=Search(trials=16),
    training=Training(epochs=100, batch_size=128, patience=15),
    calibration=Calibration(method="quantile", quantile=0.95),
    heads="error",
    committee=8,
)
NEIGHBOURS = 5


def conclude(outcome: Outcome) -> str:
    """AUROC and accuracy on the test file, beside kNN and IsolationForest on the same encoded rows."""
    from raeflow.metrics import auroc
    from raeflow.report.judge import truth

    m, flags = outcome.metrics, truth(outcome.splits)
    assert outcome.splits.test is not None and flags is not None
    neighbours = auroc(flags, distances(outcome.splits, outcome.splits.test))
    strange = outcome.splits.encoding.strange(outcome.splits.test.x).any(1).numpy()
    return (
        f"test AUROC {m['auroc']:.4f} (goal: 0.965), accuracy {m['accuracy']:.4f} (goal: 0.90) with {m['false_alarm_rate']:.2%} of "
        f"normal rows flagged\nbeside them, on the same encoding: kNN (k = {NEIGHBOURS}) {neighbours:.4f}, "
        f"IsolationForest {outcome.baseline['auroc']:.4f}\n"
        f"{strange.mean():.2%} of the test rows have what train never had; {flags[strange].mean():.2%} of those are attacks"
    )


def distances(splits: Splits, rows: Rows) -> Values:
    """(N,) mean distance of encoded rows to their nearest encoded train rows."""
    from sklearn.neighbors import NearestNeighbors

    from raeflow.data.rows import Rows

    assert isinstance(splits.train, Rows)
    known = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(splits.encoding(splits.train.x).numpy())
    found: Values = known.kneighbors(splits.encoding(rows.x).numpy())[0].mean(1)
    return found
