"""The verbs in order: search, train, calibrate, score, report; `run` does them all.

Each verb keeps its result in the study's folder under a key made of everything that went into it, so
a verb that is called again with nothing changed takes up what is there, and a killed study goes on
where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raeflow import checkpoint
from raeflow.errors import RaeflowError
from raeflow.study import Study, to_json, without_passwords

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from raeflow.calibration import Threshold
    from raeflow.data.rows import Splits
    from raeflow.detector import Detector
    from raeflow.scoring import Summary
    from raeflow.selection import Judge, Trial
    from raeflow.tracking import Tracker
    from raeflow.training import Fitted

Say = Callable[[str], None]
FEW_REPEATS = 0.9
"""Share of different rows among the calibrate rows up to which a warning is said."""


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout holds results alone."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True)
class Outcome:
    """What a whole study found, and where it is kept."""

    study: Study
    trials: list[Trial]
    detector: Detector
    metrics: dict[str, float]
    """AUROC, AP and the rest on the test split; empty where no truth is known."""
    baseline: dict[str, float]
    """scikit-learn's IsolationForest on the same split; empty where no truth is known."""
    knn: dict[str, float]
    """Likewise its mean distance to the nearest train rows."""
    summary: Summary
    report: Path
    table: str
    model_uri: str
    splits: Splits = field(repr=False)
    tracker: Tracker = field(repr=False)

    def picture(self, name: str, figure: Figure) -> Path:
        """Keep a figure as `<folder>/pictures/<name>.png` and as an artifact of the study's run; where it lies."""
        from raeflow.report.canvas import save

        place = save(figure, self.study.folder / "pictures" / f"{name}.png")
        self.tracker.artifact(place)
        return place


@dataclass(frozen=True)
class Pick:
    """A member of the detector to be."""

    variant: str
    hyper: dict[str, Any]
    folder: str | None = None
    """Where the search left its weights; None: it is yet to be trained."""
    value: float | None = None
    """What the judge said of them."""

    @classmethod
    def of(cls, trial: Trial) -> Pick:
        """A trial's."""
        return cls(trial.variant, trial.hyper, trial.folder, trial.value)


class Session:
    """One study at work: its data, tracker and folder, opened once and shared by the verbs."""

    def __init__(self, study: Study, say: Say | None = None, fresh: bool = False, variant: str | None = None) -> None:
        """`variant` is one that is to be trained alone; where it is none of the study's, it makes another study."""
        from raeflow.data import load, resolve
        from raeflow.devices import resolve_device
        from raeflow.tracking import Tracker
        from raeflow.training import check_batch

        self.study = study.but(data=resolve(study.data, study.folder / "data"))
        self.say: Say = say or _say
        self.fresh = fresh
        resolve_device(study.training.device)
        self.splits: Splits = load(self.study.data)
        check_batch(self.splits.train, study.training.batch_size, max(1, study.cluster.workers))
        named = self.study.of_shape(self.splits.spec.shape)
        if variant is not None and variant not in named.variants:
            named = named.but(variants=(variant,))
        self.study = with_classes(named, self.splits)
        check_shapes(self.study, self.splits)
        if fresh and self.folder.exists():
            shutil.rmtree(self.folder)
            resolve(study.data, study.folder / "data")  # rows in memory lay in there, and lie in there again
        self.claim()
        self.tracker: Tracker = Tracker(self.study, fingerprint=self.splits.fingerprint)
        counts = {name: 0 if rows is None else len(rows) for name, rows in self._parts().items()}
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        if self.splits.skipped is not None:
            skipped = self.splits.skipped
            self.say(f"skipped {skipped.rows:,} of {skipped.of:,} rows: {skipped.first}")
        self._tell_set_aside()
        spec = self.splits.spec
        what = f"rows of {len(spec.columns)} columns, {spec.shape[0]} values for the model" if spec.held else f"rows of shape {spec.shape}"
        if spec.windows is not None:
            what = f"windows of {spec.windows.window} readings of {len(spec.columns)} columns, {spec.shape[0]} channels for the model"
        for said in self.splits.series:
            self.say(f"{study.name}: {said}")
        self.say(f"{study.name}: {what}: {listed}")
        self.say_columns()

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return self.study.folder

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self.splits, name) for name in ("train", "validate", "calibrate", "test")}

    def claim(self) -> None:
        """Refuse to mix two different studies in one folder."""
        path = self.folder / "study.json"
        mine = {"study": to_json(identity(self.study)), "data": self.splits.fingerprint, **self._encoded()}
        if path.exists():
            theirs = json.loads(path.read_text())
            change = difference(theirs["identity"], mine)
            if change:
                raise RaeflowError(
                    f"{self.folder} holds another study of this name ({change}): give this one a new name, or start over with --fresh"
                )
        text = json.dumps({"identity": mine, "study": to_json(self.study)}, indent=1)
        write_text(path, without_passwords(text))

    def _tell_set_aside(self) -> None:
        """What cleaning took out of the splits: said, tracked, and kept in the study's folder to be looked at."""
        from raeflow.data import aside

        found = self.splits.set_aside
        if found is None:
            return
        place = self.folder / aside.NAME
        if not place.exists():  # the folder holds this study alone, and the same rows give the same verdict
            aside.write(found, place)
        self.say(f"{found.told()}; look at them in {place}")
        numbers = {f"{name}_rows": float(count) for name, count in found.counts().items()}
        self.tracker.step("set aside", {"contamination": found.contamination, "rows": str(place)}, numbers)

    def say_columns(self) -> None:
        """One line for the columns of a table that tell the model nothing; `raeflow data show` tells of each."""
        told = [f"{name} ({why})" for name, why in self.splits.unused()]
        if told and (self.splits.spec.held or self.splits.spec.windows):
            more = f" and {len(told) - 6} more" if len(told) > 6 else ""
            self.say(f"{self.study.name}: {len(told)} columns tell the model nothing: {'; '.join(told[:6])}{more}")

    def _encoded(self) -> dict[str, Any]:
        """What columns of a table are to the model, where not all are plain numbers: trained models stand and fall with it."""
        encoding, spec = self.splits.encoding, self.splits.spec
        encoding = encoding.reading if spec.windows is not None else encoding
        if not (spec.held or spec.windows) or not hasattr(encoding, "columns"):
            return {}
        if encoding.plain and not any(c.why for c in encoding.columns):
            return {}
        return {"encoding": {c.name: c.told() for c in encoding.columns}}

    def search(self) -> list[Trial]:
        """Search variants and hyperparameters; trials come back best first."""
        from raeflow.cluster.search import search

        s = self.study.search
        within = "" if s.minutes is None else f" within {s.minutes:g} min"
        self.say(f"searching {', '.join(self.study.variants)}: {s.trials} trials{within}, judged by {s.selection}")
        trials = search(self.study, self.splits, on_trial=self.tracker.trial, progress=self.say, resume=not self.fresh)
        write_json(self.folder / "trials.json", [dataclasses.asdict(t) for t in trials])
        return trials

    def trials(self) -> list[Trial]:
        """The trials of an earlier search, best first; none where there was none."""
        from raeflow.selection import Trial

        path = self.folder / "trials.json"
        return [Trial(**values) for values in json.loads(path.read_text())] if path.exists() else []

    def train(self, variant: str | None = None, force: bool = False) -> list[Fitted]:
        """The models of the detector: the best trials, trained again in full where the study says so.

        Without a search, or with `variant` named, that variant's published values are trained.
        """
        from raeflow.stored import load_fitted, save_fitted

        chosen = self.choose(variant)
        refit = self.refits(len(chosen))
        fitted: list[Fitted] = []
        for number, pick in enumerate(chosen):
            place = self.folder / "models" / str(number)
            asked = (pick.variant, pick.hyper, refit or pick.folder is None, to_json(self.study.training), self.study.seed)
            # Two trials may have the same hyperparameters, and each its own dice; older keys do not say which it was.
            key = digest(*asked, pick.folder and Path(pick.folder).name)
            if not force and read_key(place) in (key, digest(*asked)):
                fitted.append(load_fitted(place))
                self.say(f"model {number + 1}/{len(chosen)}: {pick.variant} kept from an earlier run")
                continue
            model = load_fitted(Path(pick.folder)) if pick.folder and not refit else self._fit(pick, number, len(chosen))
            save_fitted(model, place)
            write_json(place / "key.json", key)
            fitted.append(model)
        for stale in sorted((self.folder / "models").glob("[0-9]*")):
            if int(stale.name) >= len(chosen):
                shutil.rmtree(stale)
        return fitted

    def refits(self, members: int) -> bool:
        """Whether the chosen configurations are trained again."""
        if self.study.refit is not None:
            return self.study.refit
        return members == 1 and (self.study.search.epochs or self.study.training.epochs) < self.study.training.epochs

    def choose(self, variant: str | None = None) -> list[Pick]:
        """The members of the detector, best first: of a search its best trials, else the variant's published values."""
        from raeflow import variants
        from raeflow.committees import candidates
        from raeflow.selection import best

        trials = [t for t in self.trials() if variant in (None, t.variant)]
        if trials and self.study.committee != "auto":
            return [Pick.of(t) for t in best(trials, self.study.committee)]
        if trials:
            return self._elect([Pick.of(t) for t in candidates(trials) or best(trials, 1)])
        name = variant or self.study.variants[0]
        published = variants.get(name).published(self.splits.spec.shape)
        return [Pick(name, dataclasses.asdict(variants.hyper(name, self.study.hyper.get(name, {}), published)))]

    def _elect(self, picks: list[Pick]) -> list[Pick]:
        """Those who vote together."""
        from raeflow.committees import elected
        from raeflow.stored import load_fitted

        able = [pick for pick in picks if pick.folder is not None]  # another machine's database may be read where its weights are not
        if len(able) < 2:
            return able or picks[:1]
        picks = able
        found = elected([load_fitted(str(pick.folder)) for pick in picks], self.judge, self.study.firm)
        if not math.isnan(found.alone):
            self.say(found.told())
        return [picks[place] for place in found.places]

    @functools.cached_property
    def judge(self) -> Judge:
        """The judge of the search, in this process: committees and refits are judged as trials were."""
        from raeflow.selection import judge

        return judge(self.study.search.selection, self.splits.for_search(), self.study.seed)

    def _fit(self, pick: Pick, number: int, count: int) -> Fitted:
        """Train in full, give it its head, and keep the search's model where the judge likes that better."""
        from raeflow.cluster.train import train
        from raeflow.selection import headed
        from raeflow.stored import load_fitted

        name, training = pick.variant, self.study.training
        self.say(f"training {name} ({number + 1}/{count}) for up to {training.epochs} epochs")
        start = time.perf_counter()
        fitted = train(self.study, name, pick.hyper, self.splits, seed=self.study.seed)
        seconds = time.perf_counter() - start
        last = fitted.history[fitted.best_epoch - 1]
        self.say(f"trained {name}: validation loss {last['validation_loss']:.6g} at epoch {fitted.best_epoch}, {seconds:.1f} s")
        self._warn_of_collapse(fitted)
        metrics = {"validation_loss": last["validation_loss"], "best_epoch": float(fitted.best_epoch), "seconds": seconds}
        self.tracker.step(f"train {name}", {"variant": name, **pick.hyper}, metrics, fitted.history)
        if self.study.head_names == ("error",) and pick.folder is None:
            return fitted
        found = headed(fitted, fitted.model(), self.splits, self.judge, self.study.head_names)
        if pick.folder is None or pick.value is None or found.value >= pick.value:
            return found.fitted
        self.say(f"the search's {name} is kept: judged {pick.value:.4f}, the one trained again {found.value:.4f}")
        return load_fitted(Path(pick.folder))

    def _warn_of_collapse(self, fitted: Fitted) -> None:
        from raeflow.health import collapse
        from raeflow.training import evaluations

        why = collapse(fitted.history, len(evaluations(self.study.training, fitted.model().game_share)))
        if why:
            self.say(f"warning: {fitted.variant}: {why}")

    def calibrate(self, fitted: Sequence[Fitted] | None = None) -> Detector:
        """Set the threshold on the calibrate split, save and register the detector."""
        from raeflow.detector import Detector
        from raeflow.stored import load_fitted

        if fitted is None:
            places = sorted((self.folder / "models").glob("[0-9]*"), key=lambda p: int(p.name))
            if not places:
                raise RaeflowError(f"{self.folder} holds no trained model yet: run `raeflow train` first")
            fitted = [load_fitted(place) for place in places]
        detector = Detector.assemble(fitted, self.splits, self.study.calibration, self.study.name)
        detector.save(self.folder / "detector")
        t = detector.threshold
        self.say(
            f"calibrated on {t.count:,} losses: threshold {t.value:.6g} ({t.method}); on normal rows expect "
            f"{t.alert_rate:.2%} alerts ({t.alert_low:.2%} to {t.alert_high:.2%} with 95 % confidence)"
        )
        if t.set_aside is not None:
            self.say(f"{t.set_aside:,} calibrate rows were set aside; the rate counts them, from all in doubt being anomalies to none")
        self._warn_of_repeats(t)
        values = {k: float(v) for k, v in t.to_json().items() if isinstance(v, (int, float))}
        self.tracker.step("calibrate", to_json(self.study.calibration), values)
        return detector

    def _warn_of_repeats(self, t: Threshold) -> None:
        """Say where the alert rate rests on far fewer rows than there seem to be."""
        rows = len(self.splits.calibrate or ())
        if t.distinct is None or t.distinct > FEW_REPEATS * rows:
            return
        if self.splits.spec.windows is not None:
            self.say(
                f"{rows:,} calibrate windows share readings with their neighbours, so the interval counts the {t.distinct:,} stretches of "
                "a window's length that they begin in"
            )
        else:
            self.say(
                f"warning: calibrate rows: {rows:,}, of which {t.distinct:,} differ; equal rows fall in one split together, "
                "so the interval counts different rows"
            )
        if t.method == "quantile" and t.per == "row" and t.set_aside is None and t.alert_rate > 1 - t.quantile + 1e-9:
            self.say(f"warning: so few different rows cannot keep the quantile {t.quantile:g}: the threshold is their highest score")

    def register(self, detector: Detector) -> str:
        """Log the detector as a model of MLflow, registered under the study's name; its URI."""
        example = self.splits.validate.values(slice(0, 2)).numpy()
        return self.tracker.detector(detector, self.folder / "detector", example)

    def score(self, detector: Detector) -> Summary:
        """Score every row of the study's own Parquet into `<folder>/scored`."""
        summary = score(
            self.folder / "detector",
            self.study.data.sources,
            self.folder / "scored",
            self.study.cluster.scorers,
            say=self.say,
            detector=detector,
        )
        numbers = {
            "rows": float(summary.rows), "alerts": float(summary.alerts), "bad_rows": float(summary.bad), "seconds": summary.seconds,
            **({} if summary.events is None else {"unscored": float(summary.unscored), "events": float(summary.events)}),
        }  # fmt: skip
        self.tracker.step("score", {"detector": detector.id, "out": str(summary.out)}, numbers)
        return summary

    def report(self, detector: Detector) -> tuple[dict[str, float], dict[str, dict[str, float]], Path, str]:
        """Test metrics, the baselines' by name, the page and the table."""
        from raeflow import report

        trials = self.trials()
        metrics = report.judge_test(detector, self.splits)
        peers = report.peers(self.splits, self.study.seed)
        baselines = report.baselines(self.splits, peers)
        page = report.write(self.study, trials, detector, self.splits, self.folder / "report.html", peers)
        table = report.table(trials, detector, self.splits, metrics, baselines)
        self.tracker.step("report", {}, metrics, artifacts=[page])
        return metrics, baselines, page, table


def check_shapes(study: Study, splits: Splits) -> None:
    """Every variant must be able to build its published model for these rows, and to take a head, before anything starts."""
    from raeflow import heads, variants
    from raeflow.variants._contract import Generative

    for name in study.variants:
        fixed = study.hyper.get(name, {})
        shape = splits.spec.shape
        try:
            model = variants.get(name).Model(shape, variants.hyper(name, fixed, variants.get(name).published(shape)))
        except (ValueError, TypeError) as error:
            raise RaeflowError(f"variant {name!r} cannot take rows of shape {shape} with {fixed or 'its defaults'}: {error}") from error
        if study.search.selection == "generation" and not isinstance(model, Generative):
            raise RaeflowError(f"Search(selection='generation'): variant {name!r} draws no rows")
        if study.search.selection in ("synthetic", "labels"):
            try:
                heads.candidates(model, shape, study.head_names)
            except RaeflowError as error:
                raise RaeflowError(f"variant {name!r} on rows of shape {shape}: {error}") from error


def with_classes(study: Study, splits: Splits) -> Study:
    """The study with `classes` set for each variant that has such a hyperparameter, where the study leaves it open: one
    class for each label up to the largest of the train rows. Without labels, or with streamed rows, it stays as published.

    Raises RaeflowError where the study asks for classes that the rows do not have.
    """
    from raeflow import variants
    from raeflow.data.rows import Resident
    from raeflow.health import MOST_CLASSES, real_rows
    from raeflow.variants._contract import UNKNOWN

    resident = isinstance(splits.train, Resident)
    label = real_rows(splits).label
    known = 0 if label is None else int(label.max()) + 1
    hyper = dict(study.hyper)
    for name in study.variants:
        fixed = hyper.get(name, {})
        if not hasattr(variants.get(name).Hyper, "classes"):
            continue
        asked = fixed.get("classes")
        if label is not None and asked != 0:
            low = int(label.min())
            if low < UNKNOWN or known > MOST_CLASSES:
                wrong = low if low < UNKNOWN else known - 1
                raise RaeflowError(
                    f"{name}: label {wrong} is no class (0 to {MOST_CLASSES - 1}, or {UNKNOWN} where it is unknown); "
                    f"name a column of classes in Data(label=...), or set classes=0"
                )
        if asked is None and known > 0 and resident:
            hyper[name] = {**fixed, "classes": known}
        if asked is not None and asked > 1 and label is None:
            raise RaeflowError(f"{name} with classes={asked} needs the class of each row: name its column in Data(label=...)")
        if asked is not None and 1 < asked < known:
            raise RaeflowError(f"{name} with classes={asked}: the rows have label {known - 1}, and classes go from 0 to {asked - 1}")
    return study.but(hyper=hyper)


def run(study: Study, say: Say | None = None, fresh: bool = False) -> Outcome:
    """The whole way: search, train, calibrate, register, score, report.

    Raises RaeflowError with one sentence where something is wrong with the study or its data.
    """
    from raeflow.report.judge import FOREST, KNN

    session = Session(study, say, fresh)
    status = "FAILED"
    try:
        trials = session.search()
        detector = session.calibrate(session.train())
        uri = session.register(detector)
        summary = session.score(detector)
        metrics, baselines, page, table = session.report(detector)
        status = "FINISHED"
        forest, knn = (baselines.get(name, {}) for name in (FOREST, KNN))
        return Outcome(session.study, trials, detector, metrics, forest, knn, summary, page, table, uri, session.splits, session.tracker)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        session.tracker.finish(status)


def score(
    folder: str | Path,
    sources: Sequence[str],
    out: str | Path,
    scorers: int = 0,
    *,
    gpus: float = 0,
    columns: Sequence[str] | None = None,
    bad_rows: str = "flag",
    most_bad: float = 0.1,
    at: str = "last",
    joined: float = 0,
    say: Say | None = None,
    detector: Detector | None = None,
) -> Summary:
    """Score Parquet with a saved detector, in this process or on `scorers` Ray actors; see `raeflow.scoring.score`."""
    from raeflow.detector import Detector

    ways: dict[str, Any] = {
        "columns": columns, "progress": say or _say, "bad_rows": bad_rows, "most_bad": most_bad, "at": at, "joined": joined,
    }  # fmt: skip
    if scorers:
        from raeflow.cluster.score import score as spread

        return spread(Path(folder), sources, str(out), scorers=scorers, gpus=gpus, **ways)
    from raeflow.scoring import score as plain

    return plain(detector or Detector.load(Path(folder)), sources, str(out), **ways)


def identity(study: Study) -> dict[str, Any]:
    """The part of a study that its trials depend on: change it, and old trials no longer answer it."""
    search = {k: v for k, v in to_json(study.search).items() if k in ("epochs", "selection", "stop_early", "stop_collapsed")}
    named = {} if study.head_names is None else {"heads": list(study.head_names)}
    return {
        "variants": list(study.variants), "training": to_json(study.training), "search": search,
        "hyper": to_json(study.hyper), "seed": study.seed, **named,
    }  # fmt: skip


def difference(old: Any, new: Any, path: str = "") -> str:
    """The first value in which two JSON trees differ, in words; empty where they are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return ""
    return "" if old == new else f"{path.removeprefix('study.')} was {old!r}, now {new!r}"


def digest(*values: Any) -> str:
    """Key of everything that goes into a result."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_key(place: Path) -> str | None:
    """Key of the result in a folder; None where there is none."""
    path = place / "key.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    write_text(path, json.dumps(value, indent=1, default=str))


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_file(path, lambda temporary: temporary.write_text(text))
