"""`raeflow`: verbs over the functions that jobs and Python call. Imports nothing heavy until a verb runs."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raeflow import __version__
from raeflow.errors import RaeflowError

if TYPE_CHECKING:
    from raeflow.study import Study

EPILOG = """\
examples:
  raeflow study quickstart                 search, train, calibrate, score and report a study
  raeflow init readings.parquet            write a study file for your own rows
  raeflow score runs/quickstart/detector new.parquet --out scored
STUDY is a name in ./studies or the path of a Python file that defines STUDY.
"""


def parser() -> argparse.ArgumentParser:
    """The command line, without importing what the verbs need."""
    top = argparse.ArgumentParser(
        prog="raeflow", description="Find anomalies with autoencoders and GANs: Parquet in, calibrated detector and scored Parquet out.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"raeflow {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("study", "run a whole study: search, train, calibrate, score, report"),
        ("search", "search variants and hyperparameters"),
        ("train", "train the best trials in full (or, without a search, published values)"),
        ("calibrate", "set the threshold on held-out rows and save the detector"),
        ("report", "judge on the test split and write the page"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("study", metavar="STUDY", help="a name in ./studies, or a Python file that defines STUDY")
        verb.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field, as in search.trials=8")
        verb.add_argument("--full", action="store_true", help="the study's full form, FULL, for a GPU and hours (where it has one)")
        verb.add_argument("--home", help="folder that keeps the study's folder (default: the study's own, runs)")
        if name in ("study", "search"):
            verb.add_argument("--fresh", action="store_true", help="forget what an earlier run of this name left")
        if name == "train":
            verb.add_argument("--variant", help="train this variant only")
            verb.add_argument("--again", action="store_true", help="train even where nothing has changed")
    verb = verbs.add_parser("score", help="score Parquet with a saved detector", description="Score Parquet with a saved detector.")
    verb.add_argument("detector", help="folder of a detector, or of a study")
    verb.add_argument("source", nargs="+", help="path, folder, glob or URI of Parquet")
    verb.add_argument("--out", required=True, help="folder or URI for the scored Parquet")
    verb.add_argument("--columns", help="input columns to keep, separated by commas (default: all)")
    verb.add_argument("--scorers", type=int, default=0, help="Ray actors that share the work (default: none, score in this process)")
    verb.add_argument("--gpus", type=float, default=0, help="GPUs of each actor")
    verb.add_argument(
        "--bad-rows", choices=("flag", "refuse"), default="flag",
        help="flag: a row that cannot be scored (infinity, a null list, a broken image, ...) keeps its place with its problem (default); "
        "refuse: files with such rows are not written, and the run fails at its end",
    )  # fmt: skip
    verb.add_argument(
        "--most-bad", type=float, default=0.1, metavar="SHARE",
        help="fail at the end where more than this share of all rows is flagged (default: 0.1)",
    )  # fmt: skip
    verb.add_argument(
        "--at", choices=("last", "all"), default="last",
        help="of readings in order of time, last: no reading after the scored one is seen (default); all: looking back",
    )  # fmt: skip
    verb.add_argument(
        "--joined", type=float, default=0, metavar="SECONDS",
        help="of readings in order of time: alerts no further apart than this are one event (default: 0, only readings on end)",
    )  # fmt: skip
    data = verbs.add_parser("data", help="list, show, fetch and convert data sets", description="List, show, fetch and convert data sets.")
    acts = data.add_subparsers(dest="act", metavar="ACT", required=True)
    acts.add_parser("list", help="the named sets, and where they are")
    act = acts.add_parser("show", help="what raeflow sees in Parquet or a named set")
    act.add_argument("source", nargs="+", help="path, folder, glob or URI of Parquet, or a named set")
    act.add_argument("--label", help="column of labels, where there is one")
    act.add_argument("--columns", help="columns that are the row, separated by commas")
    act = acts.add_parser("fetch", help="download a named set from its public source")
    act.add_argument("name")
    act.add_argument("--to", help="folder (default: the cache)")
    act = acts.add_parser("convert", help="write CSV files, or a folder of images, as Parquet")
    act.add_argument("source", nargs="+", help="CSV, TSV or other text of one header, plain or packed, or a folder of images")
    act.add_argument("--out", help="file to write (default: the first source's name, ending in .parquet)")
    act.add_argument("--encoding", help="of text, as in latin-1 (default: UTF-8, or UTF-16 where the file says so)")
    act.add_argument("--header", action=argparse.BooleanOptionalAction, help="whether the first line of text holds the names of columns")
    act.add_argument("--skip-bad", action="store_true", help="leave out files of the folder that are no images")
    verb = verbs.add_parser("variants", help="list the variants and their hyperparameters")
    verb.add_argument("name", nargs="?", help="show this variant's hyperparameters")
    verb = verbs.add_parser("init", help="write a study file for your own Parquet")
    verb.add_argument("source", nargs="+", help="path, folder, glob or URI of Parquet")
    verb.add_argument("--out", help="file to write (default: <name>.py)")
    verb.add_argument("--name", help="name of the study (default: from the first source)")
    verb.add_argument("--label", help="column of labels (default: a column called label, labels, class, ..., where there is one)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 refused or failed, 130 interrupted."""
    arguments = parser().parse_args(argv)
    try:
        return _run(arguments)
    except RaeflowError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"raeflow: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("raeflow: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, say) has gone; nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the user gets one line, the log keeps the rest
        if arguments.debug:
            raise
        return _bug(error)


def _bug(error: Exception) -> int:
    log = Path("raeflow-error.log")
    try:
        log.write_text("".join(traceback.format_exception(error)))
        kept = f"the traceback is in {log.resolve()}"
    except OSError:
        kept = "run again with --debug for the traceback"
    told = str(error).strip().splitlines()
    said = f"{type(error).__name__}{f': {told[0]}' if told else ''}"
    print(f"raeflow: a bug of raeflow stopped this: {said} ({kept})", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb in ("study", "search", "train", "calibrate", "report"):
        from raeflow import verbs

        study, module = load_study(arguments.study, "FULL" if arguments.full else "STUDY")
        study = override(study, arguments.set)
        if arguments.home:
            study = study.but(home=arguments.home)
        return int(getattr(verbs, arguments.verb)(study, module, arguments))
    from raeflow import verbs

    return int(getattr(verbs, arguments.verb)(arguments))


def load_study(name: str, form: str = "STUDY") -> tuple[Study, Any]:
    """A study and the module that defines it, from `studies/NAME.py` here or beside the package, or from a file.

    `form` names the variable that holds it: STUDY, or FULL for the same question at the source's budget.
    """
    from raeflow.study import Study

    path = study_file(name)
    spec = importlib.util.spec_from_file_location(f"raeflow_study_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RaeflowError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except RaeflowError as error:
        raise RaeflowError(f"{path}: {error}") from error
    except Exception as error:
        line = next((f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), None)
        at = getattr(error, "lineno", None) or line
        raise RaeflowError(f"{path}, line {at}: {type(error).__name__}: {error}") from error
    study = getattr(module, form, None)
    if not isinstance(study, Study):
        raise RaeflowError(f"{path} defines no {form} = raeflow.Study(...)")
    return study, module


def study_file(name: str) -> Path:
    """The file of a study, by path or by name."""
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise RaeflowError(f"there is no study file {name}")
        return path.resolve()
    folders = (Path("studies"), Path(__file__).resolve().parent.parent / "studies")
    for folder in folders:
        if (folder / f"{name}.py").is_file():
            return (folder / f"{name}.py").resolve()
    known = sorted({f.stem for folder in folders for f in folder.glob("*.py") if not f.stem.startswith("_")})
    raise RaeflowError(f"there is no study {name!r}: known are {', '.join(known) or 'none'}, or give the path of a Python file")


def override(study: Study, changes: Sequence[str]) -> Study:
    """The study with `field=value` or `record.field=value` applied; values are Python literals or text."""
    for change in changes:
        path, sign, text = change.partition("=")
        if not sign:
            raise RaeflowError(f"--set {change}: write FIELD=VALUE, as in search.trials=8")
        study = _put(study, path.split("."), _literal(text), change)
    return study


def _put(record: Any, path: list[str], value: Any, change: str) -> Any:
    fields = [f.name for f in dataclasses.fields(record)]
    if path[0] not in fields:
        raise RaeflowError(f"--set {change}: {type(record).__name__} has no field {path[0]!r}; it has {', '.join(fields)}")
    if len(path) > 1:
        inner = getattr(record, path[0])
        if not dataclasses.is_dataclass(inner):
            raise RaeflowError(f"--set {change}: {path[0]} has no fields")
        value = _put(inner, path[1:], value, change)
    try:
        return dataclasses.replace(record, **{path[0]: value})
    except TypeError as error:
        raise RaeflowError(f"--set {change}: {value!r} does not fit {path[0]} ({error})") from error


def _literal(text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
