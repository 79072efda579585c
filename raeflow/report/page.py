"""One self-contained HTML page per study: question, data, choice, threshold, test, trials, strange rows, what next."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raeflow import checkpoint
from raeflow.commands import finding, program
from raeflow.data import aside
from raeflow.report import examples, judge, markup, plots, readings
from raeflow.report.terminal import chosen_text, hyper_text, leaders, member_text, number, value_text, varied
from raeflow.stored import load_fitted
from raeflow.study import without_passwords

if TYPE_CHECKING:
    from raeflow.data.rows import Splits
    from raeflow.detector import Detector
    from raeflow.selection import Trial
    from raeflow.study import Study

MOST_EXPLAINED = 2000
MOST_HYPER = 8
FEWEST_POINTS = 4
"""Trials of a variant from which its hyperparameters are drawn: fewer show nothing."""
MOST_TRIALS = 200
"""Rows of the table of trials; the study's folder holds them all."""
METRICS = {
    "auroc": "AUROC", "average_precision": "average precision", "accuracy": "accuracy at the threshold", "precision": "precision",
    "recall": "recall", "f1": "F1", "alert_rate": "rows flagged", "false_alarm_rate": "normal rows flagged",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Judged:
    """The test split as the detector and the baselines see it, scored once for the whole page."""

    scores: judge.Floats
    alerts: judge.Flags
    truth: judge.Flags | None
    peers: Mapping[str, judge.Floats]
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]


def write(
    study: Study,
    trials: Sequence[Trial],
    detector: Detector,
    splits: Splits,
    out: str | Path,
    peers: Mapping[str, judge.Floats] | None = None,
) -> Path:
    """Write the page to `out` (a folder gets `report.html`), whole or not at all; returns its path.

    `peers` are the baselines' scores where they are there already.
    """
    place = Path(out) if Path(out).suffix in (".html", ".htm") else Path(out) / "report.html"
    seen, runs = _judge(study, detector, splits, peers), _runs(study, trials, detector)
    sections = [
        _head(study, trials, detector, seen),
        _data(study, splits),
        _choice(detector),
        _test(detector, seen),
        readings.section(detector, splits, seen.scores, seen.metrics) if seen is not None else "",
        _rows(detector, splits, seen),
        _trials(trials, splits),
        _training(runs),
        _health(runs),
        _next(study, detector),
    ]
    text = markup.page(f"{study.name} - raeflow", sections)
    place.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_file(place, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return place


def _judge(study: Study, detector: Detector, splits: Splits, peers: Mapping[str, judge.Floats] | None) -> Judged | None:
    if splits.test is None or not len(splits.test):
        return None
    truth = judge.truth(splits)
    scores = detector.score(splits.test)
    alerts = detector.flags(scores)
    if truth is None:
        return Judged(scores, alerts, None, {}, {}, {})
    known = peers if peers is not None else judge.peers(splits, study.seed)
    metrics = {**judge.judged(detector, truth, scores), **readings.figures(detector, splits, scores)}
    return Judged(scores, alerts, truth, known, metrics, judge.baselines(splits, known))


def _head(study: Study, trials: Sequence[Trial], detector: Detector, seen: Judged | None) -> str:
    t = detector.threshold
    asked = f"Which of {', '.join(study.variants)} fits these rows, where is the alarm threshold, and which rows are anomalous?"
    found = f"Of {len(trials):,} trials, {_named(detector)} was chosen." if trials else f"{_named(detector).capitalize()} was trained."
    alarm = (
        f"It flags rows that score above {t.value:.4g}: expect {t.alert_rate:.2%} of normal rows to be flagged "
        f"(95 % confidence: {t.alert_low:.2%} to {t.alert_high:.2%})."
    )
    figures = []
    if seen is not None:
        m = seen.metrics
        if m:
            figures = [("test AUROC", f"{m['auroc']:.4f}"), ("test average precision", f"{m['average_precision']:.4f}")]
            figures += [("accuracy at the threshold", f"{m['accuracy']:.4f}")]
            figures += [(f"{name} AUROC", f"{found['auroc']:.4f}") for name, found in seen.baselines.items()]
        figures += [("test rows flagged", f"{seen.alerts.mean():.2%}")]
    figures.append(("normal rows flagged, expected", f"{t.alert_rate:.2%}"))
    return "\n".join(
        [
            f"<header><h1>{study.name}</h1>",
            markup.paragraph(asked, "soft"),
            markup.paragraph(f"{found} {alarm}", "lead"),
            markup.tiles(figures),
            "</header>",
        ]
    )


def _data(study: Study, splits: Splits) -> str:
    data, spec = study.data, splits.spec
    parts: list[tuple[str, Any, str]] = [
        ("train", splits.train, "weights and scaling"), ("validate", splits.validate, "selection and early stopping"),
        ("calibrate", splits.calibrate, "the threshold"), ("test", splits.test, "this page alone"),
    ]  # fmt: skip
    rows = []
    for name, split, use in parts:
        anomaly = getattr(split, "anomaly", None) if name == "test" else None
        known = "-" if anomaly is None else f"{int(anomaly.sum()):,}"
        rows.append([name, "0" if split is None else f"{len(split):,}", known, use])
    listed = data.source if isinstance(data.source, tuple) else (data.source,)
    columns = ", ".join(spec.columns[:12]) + (f" and {len(spec.columns) - 12} more" if len(spec.columns) > 12 else "")
    if spec.held:
        columns = f"{len(spec.columns)} columns, {spec.shape[0]} values for the model"
    facts = [
        ("source", without_passwords(", ".join(map(str, listed[:4]))) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")),
        ("row", columns if spec.held else f"{'x'.join(map(str, spec.shape))} of {spec.dtype}, from {columns}"),
        ("scaling", str(splits.encoding.mode)),
    ]
    facts += [(name, str(value)) for name, value in (("normal rows", _condition(data.normal)), ("label", data.label)) if value]
    if splits.set_aside is not None:
        facts.append(("cleaning", f"{splits.set_aside.told()}; they are in {study.folder / aside.NAME}"))
    facts.append(("fingerprint", splits.fingerprint or "-"))
    table = markup.grid(["split", "rows", "anomalies known", "used for"], rows, numbers=(1, 2))
    told = markup.folded("What each column is", markup.grid(["column", "what it is"], splits.told())) if spec.held or spec.windows else ""
    return markup.section("Data", table, markup.pairs(facts), told)


def _condition(value: Any) -> str:
    """A filter in words: `label != 5 and size > 2`; a tuple of tuples of conditions is a choice between them."""
    if not isinstance(value, tuple) or not value:
        return "" if value is None else str(value)
    if isinstance(value[0], str):
        return " ".join(map(str, value))
    if isinstance(value[0][0], str):
        return " and ".join(map(_condition, value))
    return " or ".join(f"({_condition(part)})" for part in value)


def _choice(detector: Detector) -> str:
    t = detector.threshold
    members = []
    for place, member in enumerate(detector.members, 1):
        values = [(k, value_text(v)) for k, v in member.hyper.items()]
        members.append(markup.folded(f"{place}. {member_text(member)}: all hyperparameters", markup.pairs(values)))
    how = {
        "mean_std": f"mean + {t.k:g} std",
        "median_mad": f"median + {t.k:g} MAD",
        "quantile": f"quantile {t.quantile:g}",
    }.get(t.method, t.method)
    unit = "rows" if t.per == "row" else f"batches of {t.batch_size} rows"
    facts = [
        ("model", chosen_text(detector)),
        ("threshold", f"{t.value:.6g} = {how} of {t.count:,} losses ({unit}) of the calibrate split"),
        ("their mean and std", f"{t.mean:.6g} and {t.std:.6g}"),
        ("alerts on normal rows", f"{t.alert_rate:.2%} expected, {t.alert_low:.2%} to {t.alert_high:.2%} with 95 % confidence"),
        ("detector", detector.id),
    ]
    if t.set_aside is not None:
        told = f"{t.set_aside:,} calibrate rows were set aside; the rate above counts them, from all in doubt being anomalies to none"
        facts.insert(4, ("with unclean rows", told))
    return markup.section("Detector and threshold", markup.pairs(facts), *members)


def _test(detector: Detector, seen: Judged | None) -> str:
    if seen is None:
        return markup.section("Test", markup.paragraph("There is no test split, so nothing was judged."))
    t = detector.threshold
    parts = []
    if seen.metrics:
        columns = [seen.metrics, *seen.baselines.values()]
        rows = [[said, *(number(column.get(name), 4) for column in columns)] for name, said in METRICS.items()]
        counts = f"{seen.metrics['rows']:,.0f} test rows, {seen.metrics['anomalies']:,.0f} of them anomalies"
        heads = ["metric", "detector", *seen.baselines]
        parts.append(markup.grid(heads, rows, counts, numbers=tuple(range(1, len(heads)))))
    else:
        parts.append(
            markup.paragraph("No truth is known for the test rows (or all are of one kind), so scores are shown, not judged.", "soft")
        )
    said = f"Histogram of {len(seen.scores):,} test scores with the threshold at {t.value:.4g}"
    parts.append(
        markup.picture(plots.score_histogram(seen.scores, t.value, seen.truth), said, "Rows right of the dashed line are flagged.")
    )
    if seen.truth is not None:
        curves = plots.roc_and_precision(seen.truth, {"detector": seen.scores, **seen.peers}, t.value)
        others = "".join(f", {name} {found['auroc']:.4f}" for name, found in seen.baselines.items())
        said = f"ROC and precision-recall curves; AUROC {seen.metrics['auroc']:.4f}{others}"
        parts.append(markup.picture(curves, said, "The dot is the calibrated threshold; dotted lines are what chance would give."))
    return markup.section("Test", *parts)


def _rows(detector: Detector, splits: Splits, seen: Judged | None) -> str:
    if seen is None or splits.test is None:
        return ""
    found = examples.groups(seen.scores, seen.alerts, seen.truth)
    parts = [examples.shown(group, detector, splits.test, seen.scores, seen.truth) for group in found]
    if len(detector.spec.shape) == 1:
        flagged = np.flatnonzero(seen.alerts)[:MOST_EXPLAINED]
        errors = detector.explain(splits.test.take(torch.from_numpy(flagged if len(flagged) else found[0].index)))
        told = "Which features raise the alarm: mean share of the error over flagged rows."
        parts.append(markup.picture(plots.features(errors, examples.feature_names(detector)), told, told))
    return markup.section("Rows to look at", *parts)


def _trials(trials: Sequence[Trial], splits: Splits) -> str:
    if not trials:
        return ""
    firsts = leaders(trials)
    tested = {t.number: judge.judge_trial(t, splits) for t in firsts}
    judged = any(tested.values())
    best = [[t.variant, *_described(t, trials), *_tested(tested[t.number], judged), str(t.epochs), f"{t.seconds:.1f}"] for t in firsts]
    tests = ["test AUROC", "test AP"] if judged else []
    heads = ["variant", "hyperparameters", "selection score", "validation loss", *tests, "epochs", "seconds"]
    parts = [markup.grid(heads, best, "The best trial of each variant, with its own weights.", numbers=range(2, len(heads)))]
    parts += _by_head(firsts)
    if firsts:
        hollow = " Hollow marks were stopped early." if any(t.status == "pruned" for t in trials) else ""
        told = f"Selection score of {len(trials)} trials, higher is better.{hollow}"
        parts.append(markup.picture(plots.trials_by_number(trials), told, told))
    for first in firsts:
        own = [t for t in trials if t.variant == first.variant and t.value is not None]
        names = [n for n in varied(first, trials) if len({str(t.hyper.get(n)) for t in own}) > 1][:MOST_HYPER]
        if names and len(own) >= FEWEST_POINTS:
            told = f"Selection score of {first.variant} by {', '.join(names)}."
            parts.append(markup.picture(plots.trials_by_hyper(trials, first.variant, names), told, told))
    ranked = sorted(trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))[:MOST_TRIALS]
    rows = [
        [
            str(t.number),
            t.variant,
            *_described(t, trials),
            str(t.epochs),
            f"{t.seconds:.1f}",
            ": ".join(filter(None, (t.status, t.message))),
        ]
        for t in ranked
    ]
    heads = ["trial", "variant", "hyperparameters", "selection score", "validation loss", "epochs", "seconds", "status"]
    every = markup.grid(heads, rows, "Best first.", numbers=(0, 3, 4, 5, 6))
    return markup.section("Trials", *parts, markup.folded(f"All {len(trials):,} trials", every))


def _by_head(firsts: Sequence[Trial]) -> list[str]:
    """What the judge said of every head, a line each, for the best trial of each variant."""
    judged = [t for t in firsts if t.heads]
    titles = list(dict.fromkeys(title for trial in judged for title in trial.heads))
    if not titles:
        return []
    rows = [[title, *(number(t.heads.get(title), 4) for t in judged)] for title in titles]
    told = "Selection score of the same models under every head: what becomes of code and residual as a score."
    return [markup.grid(["head", *(t.variant for t in judged)], rows, told, numbers=range(1, len(judged) + 1))]


def _described(trial: Trial, trials: Sequence[Trial]) -> list[str]:
    return [hyper_text(trial, trials), number(trial.value, 4), number(trial.validation_loss)]


def _tested(test: dict[str, float], judged: bool) -> list[str]:
    return [number(test.get("auroc"), 4), number(test.get("average_precision"), 4)] if judged else []


def _runs(study: Study, trials: Sequence[Trial], detector: Detector) -> dict[str, Sequence[dict[str, float]]]:
    """Histories by name: of the final training, where there was one, and of the best trial of each variant."""
    runs = {f"chosen: {name}": history for name, history in _final(study, detector).items()}
    return runs | {t.variant: t.history for t in leaders(trials) if len(t.history) > 1}


def _training(runs: dict[str, Sequence[dict[str, float]]]) -> str:
    if not runs:
        return ""
    told = "Losses by epoch: final training of the chosen model where there was one, and the best trial of each variant."
    return markup.section("Training", markup.picture(plots.history(runs), told, told))


def _health(runs: dict[str, Sequence[dict[str, float]]]) -> str:
    """Drawn rows beside real ones, for games alone."""
    measured = {name: records for name, records in runs.items() if any("frechet_distance" in r for r in records)}
    if not measured:
        return ""
    told = (
        "Drawn rows beside real ones while the game lasted, in features learned from the same rows. Distance is best at 0; "
        "precision and density fall where drawn rows look like no real ones, recall and coverage where real ones are not drawn."
    )
    last = {name: [r for r in records if "collapsed" in r][-1:] for name, records in measured.items()}
    alarms = [name for name, records in last.items() if records and records[0]["collapsed"]]
    warning = [markup.paragraph(f"Drawn rows are next to nothing but likes at the end of {', '.join(alarms)}.", "lead")] if alarms else []
    return markup.section("Health", *warning, markup.picture(plots.health(measured), told, told))


def _final(study: Study, detector: Detector) -> dict[str, Sequence[dict[str, float]]]:
    """Histories of the detector's members, where the study's folder keeps them; of a committee that of the first."""
    place = study.folder / "models" / "0"
    if not (place / "fitted.json").exists():
        return {}
    fitted = load_fitted(place)
    own = detector.members[0]
    return {fitted.variant: fitted.history} if fitted.variant == own.variant and len(fitted.history) > 1 else {}


def _next(study: Study, detector: Detector) -> str:
    uri = study.tracking or f"sqlite:///{(Path(study.home) / 'mlflow.db').resolve()}"
    tracking, folder = shlex.quote(without_passwords(uri)), shlex.quote(str(study.folder / "detector"))
    see = "" if uri.startswith("http") else f"# every run, metric and model\n{program('mlflow')} ui --backend-store-uri {tracking}\n\n"
    python = f"from raeflow import Detector; print(Detector.load({str(study.folder / 'detector')!r}).threshold)"
    lines = f"""# score new Parquet
{program("raeflow")} score {folder} NEW.parquet --out scored

# score rows in a process of your own
{program("python")} -c {shlex.quote(python)}

{see}# serve the detector over HTTP
{finding("uvicorn")}MLFLOW_TRACKING_URI={tracking} \\
  {program("mlflow")} models serve -m models:/{study.name}@champion --env-manager local --port 5001"""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    foot = f"Written {made} by raeflow {metadata.version('raeflow')}; detector {detector.id}, seed {study.seed}."
    return markup.section("Go on", markup.commands(lines), markup.paragraph(foot, "soft"))


def _named(detector: Detector) -> str:
    names = [m.variant for m in detector.members]
    if len(names) > 1:
        return f"a committee of {len(names)} models"
    latent = detector.members[0].hyper.get("latent")
    numbers = f" with {latent} latent numbers" if isinstance(latent, int) and not math.isnan(latent) else ""
    return f"the {member_text(detector.members[0])}{numbers}"
