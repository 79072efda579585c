"""`fit`: rows in memory in, a calibrated `Detector` out, in this process; no folder stays, no cluster starts, nothing is tracked.

Frame, table or array -> one Parquet file in a temporary folder -> load -> train or search -> calibrate. The rows go the way
of every study's rows, so the detector is the one that a study would have made of the same splits.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import optuna
import pyarrow as pa
import torch

from raeflow import committees, selection, space
from raeflow.data import filters, frames, load
from raeflow.data.rows import Splits
from raeflow.detector import Detector
from raeflow.devices import resolve_device
from raeflow.errors import EmptySplit, RaeflowError
from raeflow.heads import ERROR
from raeflow.pipeline import check_shapes, with_classes
from raeflow.selection import Trial
from raeflow.study import AUTO, Calibration, Data, Search, Study, Training
from raeflow.training import Fitted, Run

if TYPE_CHECKING:
    from raeflow.study import ArrayLike, ArrowStream

SHARES = (0.7, 0.15, 0.15, 0.0)
"""Of train, validate, calibrate and test: who holds the rows holds the test rows too."""
FEWEST = 10
"""Normal rows that a detector can be fitted on, at least."""
FEW = 200
"""Below so many rows the shares are kept exactly; above, the hash of a row decides, as in a study."""
EPOCHS, STEPS, BATCH = 50, 1000, (16, 256)
"""Passes and steps of a training at least, and rows of a batch, where nothing else is asked for."""
FEW_VARIANTS = {1: ("autoencoder", "knn", "rank_knn"), 2: ("autoencoder", "knn", "hog_knn"), 3: ("autoencoder", "knn", "hog_knn")}
"""What votes where nothing else is asked for, by the dimensions of a row: one training, and what needs none."""
FEW_UNCLEAN = ("autoencoder", "isolation_forest")
"""The same of rows that may have anomalies among them."""
ENDLESS = 100_000
"""Trials of a search that the clock alone ends."""

Say = Callable[[str], None]


def fit(
    rows: ArrowStream | ArrayLike | Sequence[Any],
    *,
    variants: str | Sequence[str] = "autoencoder",
    trials: int | None = None,
    minutes: float | None = None,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    normal: Any = None,
    contamination: float | Literal["auto"] | None = None,
    scaling: str = "auto",
    roles: dict[str, str] | None = None,
    min_frequency: float = Data.min_frequency,
    hyper: dict[str, dict[str, Any]] | None = None,
    training: Training | None = None,
    calibration: Calibration | None = None,
    heads: str | Sequence[str] = "error",
    committee: int | Literal["auto"] = 1,
    seed: int = 0,
    say: Say | None = None,
) -> Detector:
    """A calibrated detector of rows in memory; with nothing else asked for, one model with its source's published values and its
    own score, which anomalies among the rows hurt least. For rows that are known to be normal `variants="auto"`, `heads="auto"` and
    `committee="auto"` find more: an autoencoder under the head that the judge prefers, voting with nearest neighbours.

    With several variants, `trials` or `minutes` models are searched in this process, one after another: the same spaces,
    the same first points and the same judge (synthetic anomalies, no labels) as a study's search; the best is kept as trained.

    Rows are divided 70 / 15 / 15 into train, validate (early stopping, the judge) and calibrate (the threshold), by the hash of
    each row. Of fewer than 200 rows, and where the hash leaves a split fewer than 2, the shares are exact, in an order of
    chance that `seed` decides.

    Args:
        rows: a pandas or polars frame, an Arrow table, or an array or tensor (N, F), (N, C, L) or (N, C, H, W). A frame's
            index is dropped; NaN in pandas frames and (N, F) arrays is a gap. At least 10 normal rows.
        variants: one name, or several to choose from (`raeflow variants` lists them); auto: `FEW_VARIANTS`, or with `trials` or
            `minutes` what a study searches (`raeflow.study.VARIANTS`).
        trials: models to try; None: one of each variant, or as many as `minutes` allow.
        minutes: when the search ends, in the middle of a trial if need be.
        columns: as in `Data`, the columns that are the row; None takes all that can be.
        label: as in `Data`, a column that is left out of the row.
        normal: as in `Data`, which rows to learn from: a filter such as `[("label", "==", 0)]`.
        contamination: as in `Data`, for rows that nobody has cleaned: the share of anomalies among them, or "auto"; suspicious
            rows are set aside before training.
        scaling: as in `Data`; so are `roles` and `min_frequency`, which say what columns are.
        hyper: as in `Study`, hyperparameters held fixed, by variant.
        training: how each model is trained, in batches of no more rows than there are; None: early stopping, at least 50
            epochs and 1000 steps, batches of 16 to 256 rows, at least eight an epoch.
        calibration: how the threshold is set; None: mean and one standard deviation of the calibrate rows' scores.
        heads: as in `Study`, what may become of code and residual as a score; "error" keeps the variant's own, "auto" asks the judge.
        committee: detector of so many best trials; auto: as many as the judge says.
        seed: of weights, noise, the search and exact shares; equal rows and seeds give equal detectors, `minutes` aside.
        say: hears a line now and then, as `print` would; None: nobody.

    Raises:
        RaeflowError: rows, a name or a value cannot be used, or no trial gave a model.
    """
    tell: Say = say or (lambda _: None)
    if minutes is not None and not minutes > 0:
        raise RaeflowError(f"fit(minutes={minutes!r}): minutes must be greater than 0")
    names = (variants,) if isinstance(variants, str) else tuple(variants)
    searched = trials is not None or minutes is not None
    asked_for = committee if isinstance(committee, int) else 1
    known = max(len(names), asked_for) if minutes is None else ENDLESS
    count = known if trials is None else trials
    table = frames.to_table(rows)
    data = Data(
        table, columns=columns, label=label, normal=normal, scaling=cast(Any, scaling), roles=roles, min_frequency=min_frequency,
        fractions=SHARES, contamination=contamination,
    )  # fmt: skip
    study = Study(
        name="memory", data=data, variants=names, training=training or Training(), search=Search(trials=count),
        calibration=calibration or Calibration(), hyper=hyper or {}, heads=heads, committee=committee, seed=seed,
    )  # fmt: skip
    resolve_device(study.training.device)
    with tempfile.TemporaryDirectory(prefix="raeflow-") as folder, _unplaced(Path(folder)), _own_dice(study.training):
        splits = divided(data, table, Path(folder), seed)
        asked = training or small(len(splits.train))
        study = study.but(training=replace(asked, batch_size=min(asked.batch_size, len(splits.train))))
        if names == AUTO and not searched:
            few = FEW_VARIANTS[len(splits.spec.shape)] if data.contamination is None else FEW_UNCLEAN
            study = study.but(variants=few)
            study = study.but(search=replace(study.search, trials=max(known, len(study.variants))))
        study = with_classes(study.of_shape(splits.spec.shape), splits)
        check_shapes(study, splits)
        sizes = {name: len(getattr(splits, name)) for name in ("train", "validate", "calibrate")}
        if splits.set_aside is not None:
            tell(splits.set_aside.told())
        tell(f"rows of shape {splits.spec.shape}: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
        search = _Search(study, splits, tell, None if minutes is None else time.perf_counter() + 60 * minutes)
        fitted = search.run() if study.search.trials > 1 else [search.published()]
        detector = Detector.assemble(fitted, splits, study.calibration)
    t = detector.threshold
    tell(f"threshold {t.value:.6g} ({t.method}); on normal rows expect {t.alert_rate:.2%} alerts ({t.alert_low:.2%} to {t.alert_high:.2%})")
    return detector


def small(rows: int) -> Training:
    """How a model of so many train rows is trained: small tables in small batches and more passes, so that some steps are taken."""
    least, most = BATCH
    size = min(rows, max(least, min(most, rows // 8)))
    return Training(epochs=max(EPOCHS, math.ceil(STEPS * size / rows)), batch_size=size)


def divided(data: Data, table: pa.Table, folder: Path, seed: int) -> Splits:
    """Splits of a table, by the hash of its rows, or by exact shares where rows are few or the hash leaves a split too few."""
    rule = filters.to_expression(data.normal, "normal")
    kept = np.ones(table.num_rows, np.bool_) if rule is None else filters.mask(table, rule, "normal", "the rows")
    if kept.sum() < FEWEST:
        which = "rows" if rule is None else f"rows that normal={rule} keeps"
        raise RaeflowError(f"{int(kept.sum())} {which}: a detector needs at least {FEWEST} to learn from")
    if kept.sum() >= FEW:
        try:
            splits = load(replace(data, source=str(frames.keep(table, folder))))
        except EmptySplit:
            pass
        else:
            if splits.calibrate is not None and min(len(splits.validate), len(splits.calibrate)) > 1:
                return splits
    column = "split"
    while column in table.column_names:
        column += "_"
    given = table.append_column(column, pa.array(exact_shares(kept, seed)))
    return load(replace(data, source=str(frames.keep(given, folder)), split=column))


def exact_shares(kept: np.ndarray[Any, np.dtype[np.bool_]], seed: int) -> list[str]:
    """The split of each row: of the rows that are kept (N,), those shares of train, validate and calibrate, in an order of chance."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
    held = max(2, round(SHARES[1] * len(order)))
    words = np.full(len(kept), "train", object)
    words[order[:held]], words[order[held : 2 * held]] = "validate", "calibrate"
    return list(words)


@dataclass
class _Search:
    """Models one after another in this process, until the trials or the time are used up."""

    study: Study
    splits: Splits
    say: Say
    deadline: float | None

    def published(self) -> Fitted:
        """The one model of a search that is none: only its heads are judged."""
        variant = self.study.variants[0]
        run = self._begin(variant, space.published(self.study, variant, self.splits.spec.shape), 0)
        self._train(run)
        if self.study.head_names == (ERROR,):
            return run.fitted()
        judge = selection.judge(self.study.search.selection, self.splits.for_search(), self.study.seed)
        return selection.judged(run, judge, self.study.head_names).fitted

    def run(self) -> list[Fitted]:
        """The fitted models of the best trials, best first."""
        study, shape = self.study, self.splits.spec.shape
        judge = selection.judge(study.search.selection, self.splits.for_search(), study.seed)
        trials: list[Trial] = []
        kept: dict[int, Fitted] = {}
        with _quiet():
            record = optuna.create_study(direction="maximize", sampler=space.sampler(study))
            space.enqueue(record, study, shape)
            # Past the time a model is still looked for, but in each variant once: where all fail there would be no end.
            while len(trials) < study.search.trials and not (self._late() and (kept or len(trials) >= len(study.variants))):
                asked = record.ask()
                variant, hyper = space.ask(study, asked, shape)
                start = time.perf_counter()
                try:
                    trial = self._judged(judge, asked.number, variant, hyper, kept)
                except selection.FAILURES as error:
                    trial = Trial(asked.number, variant, hyper, None, None, 0, 0.0, "failed", message=selection.brief(error))
                trials.append(replace(trial, seconds=time.perf_counter() - start))
                state = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[trial.status]
                record.tell(asked, trial.value if trial.status == "complete" else None, optuna.trial.TrialState[state])
                self.say(self._line(trials))
                kept = {t.number: kept[t.number] for t in self._able(trials, len(kept))} if kept else {}
        if study.committee != "auto":
            return [kept[t.number] for t in selection.best(trials, study.committee)]
        found = [kept[t.number] for t in self._able(trials, len(kept))]
        if len(found) == 1:
            return found
        chosen = committees.elected(found, judge, self.study.firm)
        self.say(chosen.told())
        return [found[place] for place in chosen.places]

    def _able(self, trials: Sequence[Trial], kept: int) -> list[Trial]:
        """Trials that may be members, of as many as are kept."""
        if self.study.committee == "auto":
            return committees.candidates(trials) or selection.best(trials, 1)
        return selection.best(trials, min(self.study.committee, kept))

    def _judged(self, judge: selection.Judge, number: int, variant: str, hyper: dict[str, Any], kept: dict[int, Fitted]) -> Trial:
        run = self._begin(variant, hyper, number)
        whole = self._train(run)
        found = selection.judged(run, judge, self.study.head_names)
        kept[number] = found.fitted
        loss, status = run.history[found.fitted.best_epoch - 1]["validation_loss"], "complete" if whole else "pruned"
        return Trial(
            number, variant, hyper, found.value, loss, run.done, 0.0, cast(Any, status), history=run.history, head=found.fitted.head,
            heads=found.heads,
        )  # fmt: skip

    def _begin(self, variant: str, hyper: dict[str, Any], number: int) -> Run:
        return Run(variant, hyper, self.splits, self.study.training, self.study.seed + number)

    def _train(self, run: Run) -> bool:
        """Train until the run or the time ends; whether it was the run."""
        last = False
        for epoch in run.epochs():
            last = epoch.last
            if self._late():
                break
        return last

    def _late(self) -> bool:
        return self.deadline is not None and time.perf_counter() > self.deadline

    def _line(self, trials: Sequence[Trial]) -> str:
        """trial 3/8 vae 0.9810 best 0.9840 1.2 s"""
        trial, values = trials[-1], [t.value for t in trials if t.value is not None]
        said = f"failed: {trial.message};" if trial.status == "failed" else f"{trial.value:.4f}"
        of = "" if self.study.search.trials == ENDLESS else f"/{self.study.search.trials}"
        best = f" best {max(values):.4f}" if values else ""
        return f"trial {len(trials)}{of} {trial.variant} {said}{best} {trial.seconds:.1f} s"


@contextmanager
def _unplaced(folder: Path) -> Iterator[None]:
    """Refusals speak of the caller's rows, not of the file in which they passed by."""
    try:
        yield
    except RaeflowError as error:
        text = str(error)
        for path in folder.glob("*.parquet"):
            text = text.replace(f"{path}, row group 0, ", "the rows, ").replace(str(path), "the rows")
        if text == str(error):
            raise
        raise type(error)(text) from None


@contextmanager
def _own_dice(training: Training) -> Iterator[None]:
    """Training seeds torch's global generators; the caller's go on as if nothing had been drawn."""
    cuda = resolve_device(training.device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says nothing below a warning."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
