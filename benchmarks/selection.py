"""Which criterion chooses the best model without labels? Detection quality over 13 tabular sets.

    RAEFLOW_DATA=... OMP_NUM_THREADS=1 python benchmarks/selection.py [--cache FOLDER] [--splits 3] [--quick]

For every set, 24 plain dense autoencoders (the source's own values, then random draws from the
variant's space) are trained on normal rows. Printed is the AUROC on test rows of

- random: the mean over the 24; oracle: the best of them, chosen by the test labels;
- loss: the one with the least validation loss; box: the best against rows drawn evenly from the
  box around the validation rows; synthetic: raeflow's default;
- n best: a committee of the n best by `synthetic`, their standardised log-scores averaged; all: of all;
- kNN (mean distance to the 5 nearest train rows) and IsolationForest, scikit-learn's.

Rows and splits: see `selection_pool.py`. With several splits, figures are means over them. At the end:
means over sets, and the difference of each column from `loss` with its standard error over sets.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import selection_pool
import torch
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from raeflow import metrics, selection
from raeflow.calibration import combine, log_moments
from raeflow.training import scores


class Box(selection.Synthetic):
    """Anomalies drawn evenly from the box around the validation rows."""

    def __init__(self, splits: Any, seed: int) -> None:
        super().__init__(splits, seed)
        rows = splits.encoding(splits.validate.x)
        low, high = rows.amin(0), rows.amax(0)
        drawn = torch.rand((1024, rows.shape[1]), generator=torch.Generator().manual_seed(seed))
        self.anomalies, self.shares = {"box": low + (high - low) * drawn}, {"box": 1.0}


def peers(splits: Any) -> dict[str, float]:
    """AUROC of scikit-learn's detectors on the same rows."""
    train, test = (splits.encoding(rows.x).numpy() for rows in (splits.train, splits.test))
    near = NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0].mean(1)
    forest = -IsolationForest(random_state=0).fit(train).score_samples(test)
    return {"kNN": metrics.auroc(splits.test.anomaly, near), "IForest": metrics.auroc(splits.test.anomaly, forest)}


def measure(pool: selection_pool.Pool, seed: int) -> dict[str, float]:
    """One row of the table."""
    splits, models = pool.splits, pool.models
    tested = [scores(m, splits.encoding, splits.test) for m in models]
    moments = [log_moments(scores(m, splits.encoding, splits.validate)) for m in models]
    truth = splits.test.anomaly
    quality = [metrics.auroc(truth, s) for s in tested]
    seen = splits.for_search()
    judges = {
        "loss": selection.judge("validation_loss", seen, seed),
        "box": Box(seen, seed),
        "synthetic": selection.judge("synthetic", seen, seed),
    }
    said = {name: [judge(m, splits.encoding) for m in models] for name, judge in judges.items()}

    def committee(n: int) -> float:
        members = np.argsort(said["synthetic"], kind="stable")[::-1][:n]
        return metrics.auroc(truth, combine([tested[i] for i in members], [moments[i] for i in members]))

    found = {"random": float(np.mean(quality))}
    found |= {name: quality[int(np.argmax(values))] for name, values in said.items()}
    found |= {"oracle": max(quality)}
    found |= {f"{n} best": committee(n) for n in (3, 8) if n < len(models)}
    return found | {f"all {len(models)}": committee(len(models))} | peers(splits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder that keeps trained weights, so that a second run trains nothing")
    parser.add_argument("--splits", type=int, default=1, help="random splits of each set")
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="the 5 smallest sets, 8 models each, 20 epochs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    count, epochs = (8, 20) if asked.quick else (asked.models, asked.epochs)
    paths = selection_pool.sets()[: 5 if asked.quick else None]
    print(f"{len(paths)} sets x {asked.splits} splits x {count} autoencoders of at most {epochs} epochs")
    table: list[list[float]] = []
    names: list[str] = []
    for path in paths:
        start = time.perf_counter()
        rows = []
        for seed in range(asked.splits):
            pool = selection_pool.pool(path, count, epochs, seed, asked.cache)
            rows.append(measure(pool, seed))
        if not names:
            names = list(rows[0])
            print(f"{'set':<16}{'normal rows':>13}" + "".join(f"{n:>10}" for n in names))
        table.append([float(np.mean([row[n] for row in rows])) for n in names])
        used = f"{pool.kept}/{pool.normal}"
        print(f"{path.stem:<16}{used:>13}" + "".join(f"{v:>10.3f}" for v in table[-1]), flush=True)
        print(f"  {path.stem}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    values = np.array(table)
    print(f"{'mean':<29}" + "".join(f"{v:>10.4f}" for v in values.mean(0)))
    gain = values - values[:, [names.index("loss")]]
    print(f"{'less loss':<29}" + "".join(f"{v:>+10.4f}" for v in gain.mean(0)))
    print(f"{'standard error':<29}" + "".join(f"{v:>10.4f}" for v in gain.std(0, ddof=1) / len(gain) ** 0.5))


if __name__ == "__main__":
    main()
