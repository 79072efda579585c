"""What each verb of the command line does: call the pipeline, print the result, where it is, and what comes next."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raeflow import pipeline
from raeflow.commands import program
from raeflow.errors import RaeflowError
from raeflow.study import ROLES, Study, without_passwords


def study(study: Study, module: Any, arguments: argparse.Namespace) -> int:
    """`raeflow study`: everything in turn; a study's own `conclude(outcome) -> str` adds to what is printed."""
    outcome = pipeline.run(study, fresh=arguments.fresh)
    print(f"\n{outcome.table}")
    conclude = getattr(module, "conclude", None)
    if conclude is not None:
        print(f"\n{conclude(outcome)}")
    folder = outcome.study.folder
    tracking = without_passwords(study.tracking or f"sqlite:///{Path(study.home).resolve() / 'mlflow.db'}")
    print(
        f"""
report    {outcome.report}
detector  {folder / "detector"}  (id {outcome.detector.id}, MLflow {outcome.model_uri})
scored    {outcome.summary.out}  {_counted(outcome.summary)}
search    {folder / "optuna.db"}
lineage   {program("mlflow")} ui --backend-store-uri {shlex.quote(tracking)}

next      {_score(folder / "detector")}"""
    )
    return 0


def _counted(summary: Any) -> str:
    """Rows, alerts and bad rows; of readings in order of time one more line, on events."""
    told = f"({summary.rows:,} rows, {summary.alerts:,} alerts, {summary.bad:,} bad rows)"
    return told if summary.events is None else f"{told}\nevents    {summary.events_at}  ({summary.events:,} events)"


def search(study: Study, _module: Any, arguments: argparse.Namespace) -> int:
    """`raeflow search`."""
    with _session(study, arguments.fresh) as session:
        session.search()
        print(_trial_table(session))
    print(f"\ntrials    {study.folder / 'trials.json'}\nnext      {_next('train', arguments)}")
    return 0


def train(study: Study, _module: Any, arguments: argparse.Namespace) -> int:
    """`raeflow train`."""
    with _session(study, variant=arguments.variant) as session:
        for number, fitted in enumerate(session.train(arguments.variant, arguments.again)):
            loss = fitted.history[fitted.best_epoch - 1]["validation_loss"]
            place = study.folder / "models" / str(number)
            print(f"{fitted.variant}: validation loss {loss:.6g} at epoch {fitted.best_epoch}, kept in {place}")
    print(f"\nnext      {_next('calibrate', arguments)}")
    return 0


def calibrate(study: Study, _module: Any, arguments: argparse.Namespace) -> int:
    """`raeflow calibrate`."""
    with _session(study) as session:
        detector = session.calibrate()
        uri = session.register(detector)
    folder = study.folder / "detector"
    print(f"threshold {detector.threshold.value:.6g}\ndetector  {folder}  (id {detector.id}, MLflow {uri})")
    print(f"\nnext      {_next('report', arguments)}\n          {_score(folder)}")
    return 0


def report(study: Study, _module: Any, arguments: argparse.Namespace) -> int:
    """`raeflow report`."""
    from raeflow.detector import Detector

    folder = study.folder / "detector"
    if not folder.exists():
        raise RaeflowError(f"{folder} holds no detector yet: run `raeflow calibrate {arguments.study}` first")
    with _session(study) as session:
        _, _, page, table = session.report(Detector.load(folder))
    print(f"{table}\n\nreport    {page}")
    return 0


def score(arguments: argparse.Namespace) -> int:
    """`raeflow score`."""
    folder = Path(arguments.detector)
    if not (folder / "detector.json").exists() and (folder / "detector" / "detector.json").exists():
        folder = folder / "detector"
    columns = arguments.columns.split(",") if arguments.columns else None
    summary = pipeline.score(
        folder, arguments.source, arguments.out, arguments.scorers, gpus=arguments.gpus, columns=columns, bad_rows=arguments.bad_rows,
        most_bad=arguments.most_bad, at=arguments.at, joined=arguments.joined,
    )  # fmt: skip
    share = summary.alerts / max(1, summary.rows - summary.bad - summary.unscored)
    print(
        f"scored    {summary.rows:,} rows in {summary.seconds:.1f} s ({summary.rate:,.0f} rows/s), {summary.alerts:,} alerts "
        f"({share:.2%}), {summary.bad:,} bad rows"
    )
    print(f"out       {summary.out}  ({summary.fragments} fragments, {summary.skipped} already there)")
    if summary.events is not None:
        print(f"events    {summary.events_at}  ({summary.events:,} events; {summary.unscored:,} readings have no full window)")
    return 0


def data(arguments: argparse.Namespace) -> int:
    """`raeflow data list|show|fetch|convert`."""
    if arguments.act == "list":
        return _list_sets()
    if arguments.act == "fetch":
        from raeflow.data.sets.fetch import fetch

        for path in fetch(arguments.name, arguments.to, progress=_downloading()):
            print(path)
        return 0
    return _convert(arguments) if arguments.act == "convert" else _show(arguments)


def _downloading() -> Callable[[str, int, int | None], None]:
    """Progress of downloads on stderr: a line for each file and each tenth of it."""
    told: dict[str, int] = {}

    def show(file: str, done: int, total: int | None) -> None:
        tenth = 10 * done // total if total else done >> 24
        if told.get(file) != tenth:
            told[file] = tenth
            of = f" of {total / 1e6:.1f} MB ({10 * tenth} %)" if total else " MB"
            print(f"{file}: {done / 1e6:.1f}{of}", file=sys.stderr)

    return show


def _list_sets() -> int:
    from raeflow.data.sources import located, named

    for name, entry in named().items():
        print(f"{name:<24} {entry.title:<52} {located(name) or f'absent: raeflow data fetch {name}'}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from raeflow.data.convert import Options, convert

    options = Options(arguments.encoding, arguments.header, arguments.skip_bad)
    done = convert(arguments.source, arguments.out, options, tell=print)
    for entry in done.schema:
        print(f"{entry.name:<24} {entry.type}")
    columns = len(done.schema)
    print(f"wrote     {done.path}  ({done.rows:,} rows, {columns} column{'s' if columns > 1 else ''})")
    for note in done.notes:
        print(f"note      {note}")
    print(f"next      raeflow init {shlex.quote(str(done.path))}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from raeflow.data import load, resolve
    from raeflow.study import Data

    columns = arguments.columns.split(",") if arguments.columns else None
    resolved = resolve(Data(arguments.source, columns=columns, label=arguments.label))
    splits = load(resolved)
    spec = splits.spec
    if spec.held:
        print(f"row       {len(spec.columns)} columns, {spec.shape[0]} values for the model, scaling {splits.encoding.mode}")
    else:
        print(f"row       {spec.shape} {spec.dtype} from {spec.kind} {', '.join(spec.columns)}, scaling {splits.encoding.mode}")
    told = splits.told()
    print("".join(f"  {name:<{max(len(n) for n, _ in told)}}  {what}\n" for name, what in told), end="")
    if spec.held:
        print(f"  to change one: Data(roles={{{spec.columns[0]!r}: ...}}) with {', '.join(ROLES)}")
    for name in ("train", "validate", "calibrate", "test"):
        rows = getattr(splits, name)
        anomalies = "" if rows is None or getattr(rows, "anomaly", None) is None else f", {int(rows.anomaly.sum()):,} anomalous"
        print(f"{name:<9} {0 if rows is None else len(rows):,} rows{anomalies}")
    return 0


def variants(arguments: argparse.Namespace) -> int:
    """`raeflow variants [NAME]`."""
    from raeflow import variants as all_variants

    if arguments.name is None:
        for name in all_variants.names():
            print(f"{name:<14} {(all_variants.get(name).__doc__ or '').strip().splitlines()[0]}")
        return 0
    module = all_variants.get(arguments.name)
    print((module.__doc__ or "").strip() + "\n")
    told = field_docs(module.Hyper)
    for f in dataclasses.fields(module.Hyper):
        print(f"{f.name:<14} {f.default!r:<16} {told.get(f.name, '')}")
    return 0


def field_docs(record: type) -> dict[str, str]:
    """The one line below each field of a dataclass, inherited ones first."""
    import ast
    import inspect
    import textwrap

    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    inherited = record.__base__
    told = field_docs(inherited) if inherited is not None and dataclasses.is_dataclass(inherited) else {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            text = getattr(after.value, "value", None)
            if isinstance(text, str):
                told[node.target.id] = " ".join(text.split())
    return told


def init(arguments: argparse.Namespace) -> int:
    """`raeflow init`: a study file for the user's own rows, checked by reading their schema."""
    from raeflow.init import study_name, study_text

    name = study_name(arguments.source, arguments.name)
    out = Path(arguments.out or f"{name}.py")
    if out.exists():
        raise RaeflowError(f"{out} is already there: name another file with --out")
    text = study_text(arguments.source, name, arguments.label)
    pipeline.write_text(out, text)
    print(f"wrote     {out}\nnext      {program('raeflow')} study {shlex.quote(str(out))}")
    return 0


@contextmanager
def _session(study: Study, fresh: bool = False, variant: str | None = None) -> Iterator[pipeline.Session]:
    """A pipeline session whose tracker is finished whatever happens."""
    session = pipeline.Session(study, fresh=fresh, variant=variant)
    status = "FAILED"
    try:
        yield session
        status = "FINISHED"
    finally:
        session.tracker.finish(status)


def _trial_table(session: pipeline.Session) -> str:
    from raeflow import report

    return report.table(session.trials(), None, session.splits, {}, {})


def _next(verb: str, arguments: argparse.Namespace) -> str:
    """The next verb for the same study, with the options by which it means the same."""
    words = [arguments.study, *(["--full"] if arguments.full else []), *(["--home", arguments.home] if arguments.home else [])]
    words += [word for change in arguments.set for word in ("--set", change)]
    return f"{program('raeflow')} {verb} {shlex.join(words)}"


def _score(folder: Path) -> str:
    return f"{program('raeflow')} score {shlex.quote(str(folder))} NEW.parquet --out scored"
