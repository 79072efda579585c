"""How well does raeflow tell anomalies from normal rows, everything chosen without labels, beside peers on the same rows?

    RAEFLOW_DATA=... OMP_NUM_THREADS=1 python benchmarks/detection.py --out FILE.jsonl [--quick | --medium] [--processes 2]

Problems: each class of MNIST and of Fashion-MNIST alone against the nine others, beats (ECG5000), the shared tables of ADBench,
and the same tables with their own anomalies left among the train rows (`unclean`; see `detection_problems.py`). For each
problem and seed every variant is trained with its published hyperparameters and some random draws from its space (`--configs`
in all), as a search takes them, and every model is measured under every head:

- `chosen`: the model and head with the highest value of the default judge, the AUROC against synthetic anomalies made from
  validation rows (`raeflow.selection`): no label is seen;
- `committee`: what `Study(committee="auto")` elects (`raeflow.committees`); `5 best`: the five that the judge prefers;
- `head NAME`: what is chosen where only that head may be; a variant's own row shows its best model and head by the judge;
- `oracle`: the best model and head by the test labels, which nobody could choose: chosen on one half of the test rows and
  measured on the other, so that luck does not count. The regret of a choice is what it lies below that;
- kNN (k = 5) and IsolationForest, scikit-learn's, and PyOD's AutoEncoder and VAE with their defaults (without their own
  scaling on top; left out where PyOD is not installed), on the same scaled train and test rows.

Printed are the AUROC of each problem (mean over seeds), then for each contestant the means over problems of AUROC, of average
precision as the test rows are (`AP`) and at the share of anomalies that the whole set has (`AP set`: the tables' test rows
hold all anomalies and a fifth of the normal rows), the standard deviation of these means over seeds, and the regret. Tables
are told apart by whether raeflow's defaults were chosen on them. Every result is appended to `--out` when it is done, weights
are kept in `--models`: a run that was killed goes on from there, and another `--out` with the same `--models` trains nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detection_contestants import PEERS, Entry, group_key, read, run
from detection_problems import CHOSEN_ON, FAMILIES, IMAGES, SIGNALS, TABLES, Form, family, problems

from raeflow import variants
from raeflow.study import UNCLEAN, VARIANTS, head_names

TARGETS = {"mnist": 0.973, "fashion_mnist": 0.928}
DIMENSIONS = dict.fromkeys(IMAGES, 3) | dict.fromkeys(SIGNALS, 2) | dict.fromkeys(TABLES, 1)
FIELDS = ("auroc", "ap", "apn")


class Preset(NamedTuple):
    form: Form
    sets: tuple[str, ...]
    seeds: int
    image_configs: int
    table_configs: int


FULL = Preset(Form(rows=10_000, test=10_000, epochs=20), FAMILIES, 3, 3, 4)
MEDIUM = Preset(Form(rows=5_000, test=10_000, epochs=20), FAMILIES, 1, 1, 4)
QUICK = Preset(
    Form(rows=3_000, test=2_000, epochs=10),
    ("mnist/2", "mnist/8", "fashion_mnist/2", "fashion_mnist/8", "adbench/cardio", "adbench/ionosphere", "adbench/vowels", "adbench/wdbc"),
    1, 1, 2,
)  # fmt: skip

Results = dict[tuple[str, int], dict[str, dict[str, float]]]
"""What each contestant reached, by problem and seed."""


def gathered(entries: Sequence[Entry], results: dict[str, Any]) -> Results:
    """All that is there of some entries."""
    found: Results = {}
    for place, group in itertools.groupby(sorted(entries, key=_place), key=_place):
        own = list(group)
        done = results.get(group_key(own), {}).get("chosen", {})
        peers = {e.contestant: results[e.key] for e in own if e.contestant in PEERS and "auroc" in results.get(e.key, {})}
        if done or peers:
            found[place] = {**done, **peers}
    return found


def tables(entries: list[Entry], out: Path) -> None:
    """All tables, from the results that are there."""
    results = read(out)
    for record in (results[e.key] for e in entries if "failed" in results.get(e.key, {})):
        print(f"failed: {record['problem']}, {record['contestant']} {record['number']}: {record['failed']}")
    for name in FAMILIES:
        found = gathered([e for e in entries if family(e.problem) == name], results)
        if not found:
            continue
        show(name, found)
        if name in TABLES:
            for told, wanted in (("on which defaults were chosen", True), ("the others", False)):
                part = {p: q for p, q in found.items() if (p[0].split("/")[1] in CHOSEN_ON) is wanted}
                if part and len(part) < len(found):
                    means(f"{name}, {told}", part)
        verdict(name, found)


def _place(entry: Entry) -> tuple[str, int]:
    return entry.problem, entry.seed


def show(name: str, found: Results) -> None:
    """One family's AUROC problem by problem, then everybody's means."""
    everybody = list(dict.fromkeys(c for q in found.values() for c in q))
    print(f"\n{name}: AUROC, mean over {len({s for _, s in found})} seed(s)")
    print(f"{'':18}" + "".join(f"{_short(c):>9}" for c in everybody))
    for problem in sorted({p for p, _ in found}):
        values = [[q[c]["auroc"] for (p, _), q in found.items() if p == problem and c in q] for c in everybody]
        print(f"{problem.split('/')[1]:18}" + "".join(f"{np.mean(v):9.4f}" if v else f"{'-':>9}" for v in values))
    means(name, found)


def means(title: str, found: Results) -> None:
    """Everybody's means over problems, their spread over seeds, and the regret."""
    whole = common(found)
    counted = sorted({p for p, _ in found})
    print(f"\n{f'{title} ({len(counted)})':34}{'AUROC':>8}{'sd':>8}{'AP':>8}{'sd':>8}{'AP set':>8}{'sd':>8}{'regret':>9}")
    top = mean(found, "oracle", "auroc") if "oracle" in whole else np.nan
    for c in sorted(whole, key=lambda c: -mean(found, c, "auroc")):
        cells = "".join(spread(found, c, field) for field in FIELDS if c != "oracle" or field == "auroc")
        regret = f"{top - mean(found, c, 'auroc'):9.4f}" if c not in PEERS and c != "oracle" else ""
        more = f"   {mean(found, c, 'members'):.1f} members, {mean(found, c, 'cost'):.1f} x the cost" if c == "committee" else ""
        print(f"{c:34}{cells:48}{regret}{more}")


def common(found: Results) -> list[str]:
    """Contestants that are there for every problem and seed."""
    everybody = dict.fromkeys(c for q in found.values() for c in q)
    return [c for c in everybody if all(c in q for q in found.values())]


def mean(found: Results, contestant: str, field: str) -> float:
    """Mean over problems and seeds."""
    return float(np.nanmean([q[contestant].get(field, 1.0) for q in found.values()]))  # a half without an anomaly has no AUROC


def spread(found: Results, contestant: str, field: str) -> str:
    """The mean, and the standard deviation over seeds of the mean over problems."""
    seeds = sorted({s for _, s in found})
    of_seed = [np.mean([q[contestant][field] for (_, s), q in found.items() if s == seed]) for seed in seeds]
    return f"{mean(found, contestant, field):8.4f}" + (f"{np.std(of_seed, ddof=1):8.4f}" if len(of_seed) > 1 else f"{'-':>8}")


def verdict(name: str, found: Results) -> None:
    """Against the targets: fixed ones of the images, the peers on tables."""
    whole = common(found)
    ours = [c for c in ("chosen", "committee") if c in whole]
    peers = [c for c in PEERS[:2] if c in whole]
    if name in TARGETS and ours:
        if len({p for p, _ in found}) < 10:
            print(f"{name}: too few classes to hold against the target")
            return
        said = [f"{c} {mean(found, c, 'auroc'):.4f} {'reaches' if mean(found, c, 'auroc') >= TARGETS[name] else 'MISSES'} it" for c in ours]
        print(f"{name}: target {TARGETS[name]:.3f}; {', '.join(said)}")
    elif name in TABLES and ours and peers:
        for c in ours:
            gaps = [min(mean(found, c, field) - mean(found, p, field) for p in peers) for field in FIELDS]
            print(
                f"{name}: {c} less the better of {' and '.join(peers)}: "
                + ", ".join(f"{f} {g:+.4f}" for f, g in zip(FIELDS, gaps, strict=True))
            )


def _short(name: str) -> str:
    return {"IsolationForest": "IForest", "isolation_forest": "i_forest", "autoencoder": "autoenc", "committee": "committ"}.get(
        name, name.removeprefix("head ")
    )[:8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; results that are there are taken up")
    parser.add_argument("--models", type=Path, help="folder of weights; none: beside --out")
    parser.add_argument("--quick", action="store_true", help="two classes of each set of images, four tables, less of all")
    parser.add_argument("--medium", action="store_true", help="all problems, one seed, fewer rows and configurations")
    parser.add_argument("--variants", nargs="+", choices=variants.names(), metavar="NAME", help="none named: a study's defaults")
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"{', '.join(FAMILIES)}, or one problem: mnist/3, adbench/wbc")
    parser.add_argument("--seeds", type=int, help="seeds from 0")
    parser.add_argument("--configs", type=int, help="hyperparameters of each variant: the published, then random draws")
    parser.add_argument("--epochs", type=int, help="on images; tables take 2.5 times as many")
    parser.add_argument("--processes", type=int, default=1, help="one a core at most")
    parser.add_argument("--heads", nargs="+", choices=head_names(), metavar="HEAD", help="none named: all that a model can take")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--table", action="store_true", help="print from what is there, train nothing")
    asked = parser.parse_args()
    preset = QUICK if asked.quick else MEDIUM if asked.medium else FULL
    form = preset.form if asked.epochs is None else Form(preset.form.rows, preset.form.test, asked.epochs)
    entries = planned(asked, preset, form)
    if not asked.table:
        train(entries, asked.out, asked.models or asked.out.with_suffix(".models"), asked.processes, asked.heads)
    print(f"{form}; results in {asked.out}")
    tables(entries, asked.out)
    return 0


def planned(asked: argparse.Namespace, preset: Preset, form: Form) -> list[Entry]:
    """Every model of the run, those of one problem and seed together."""
    entries = []
    there = [p for p in PEERS if not p.startswith("PyOD") or importlib.util.find_spec("pyod")]
    for seed, problem in itertools.product(range(asked.seeds or preset.seeds), problems(asked.sets or list(preset.sets))):
        table = family(problem) in TABLES
        configs = range(asked.configs or (preset.table_configs if table else preset.image_configs))
        for name in asked.variants or (UNCLEAN if family(problem) == "unclean" else VARIANTS[DIMENSIONS[family(problem)]]):
            entries += [Entry(problem, seed, name, number, form) for number in configs]
        entries += [] if asked.no_peers else [Entry(problem, seed, name, 0, form) for name in there]
    return entries


def train(entries: list[Entry], out: Path, models: Path, processes: int, heads: list[str] | None) -> None:
    """Everything that is not in `out` yet, a problem and seed at a time."""
    known = read(out)
    groups = [list(group) for _, group in itertools.groupby(entries, key=_place)]
    todo = [g for g in groups if group_key(g) not in known or any(e.key not in known for e in g if e.contestant in PEERS)]
    total, done, start = sum(map(len, todo)), 0, time.perf_counter()
    print(f"{total} of {len(entries)} models to go, in {len(todo)} groups of a problem and seed", file=sys.stderr, flush=True)
    # Groups are handed out one by one and processes start clean, so that a kill loses one group of each.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for count in pool.imap_unordered(_run, [(group, out, models, heads) for group in todo]):
            done += count
            print(f"  {done}/{total} after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def _run(task: tuple[list[Entry], Path, Path, list[str] | None]) -> int:
    return run(*task)


if __name__ == "__main__":
    raise SystemExit(main())
