"""How well do the variants tell anomalies from normal rows, chosen without labels, beside peers on the same rows?

    RAEFLOW_DATA=... OMP_NUM_THREADS=1 python benchmarks/detection.py --out FILE.jsonl [--quick | --medium] [--processes 2]

Problems: each class of MNIST and of Fashion-MNIST alone against the nine others, and the shared tables of ADBench;
models see normal rows alone (`detection_problems.py`). Contestants, for each problem and seed:

- every variant with its published hyperparameters and some random draws from its space (`--configs` in all), as a
  search takes them; a variant's own column shows the one of them that the judge prefers;
- `chosen`: the model with the highest value of raeflow's default judge of a search, the AUROC against synthetic
  anomalies made from validation rows (`raeflow.selection`), over all variants and hyperparameters: no label is seen;
- `5 best`: a committee of the five that the judge prefers; `each`: of the preferred model of every variant. Members
  vote by the mean of their standardised log-scores, as a `Detector` of several members does;
- `oracle`: the best single model by the test labels, which nobody could choose;
- PyOD's AutoEncoder and VAE with their defaults, but without their own scaling on top, and scikit-learn's
  IsolationForest, on the same scaled train and test rows.

Printed are the AUROC of each problem (mean over seeds), then for each contestant the mean AUROC and average precision
over the problems, the standard deviation of that mean over seeds, and that over problems. Every result is appended
to `--out` when it is done: a run that was killed goes on from there, and one with more variants adds to it.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detection_contestants import PEERS, Entry, read, run, scores_folder
from detection_problems import FAMILIES, IMAGES, Form, family, problems

from raeflow import metrics, variants
from raeflow.calibration import combine, log_moments

TARGETS = {"mnist": 0.96, "fashion_mnist": 0.90}
COMMITTEE = 5


class Preset(NamedTuple):
    form: Form
    sets: tuple[str, ...]
    seeds: int
    image_configs: int
    table_configs: int
    not_on_images: tuple[str, ...] = ()
    """Variants that take minutes for a class of images; left out there unless they are named."""
    not_on_tables: tuple[str, ...] = ()


FULL = Preset(Form(rows=10_000, test=10_000, epochs=20), FAMILIES, 3, 3, 6)
MEDIUM = Preset(Form(rows=6_000, test=4_000, epochs=20), FAMILIES, 1, 1, 3, ("gan", "masked", "wgan_div", "wgan_gp"), ("masked",))
QUICK = Preset(
    Form(rows=3_000, test=2_000, epochs=18),
    ("mnist/2", "mnist/8", "fashion_mnist/2", "fashion_mnist/8", "adbench/cardio", "adbench/ionosphere", "adbench/vowels", "adbench/wdbc"),
    1, 1, 2, ("gan", "masked", "wgan_div", "wgan_gp"),
)  # fmt: skip


class Quality(NamedTuple):
    auroc: float
    ap: float


def judged(entries: Sequence[Entry], results: dict[str, Any], out: Path) -> dict[str, Quality]:
    """Contestants of one problem and seed."""
    done = [results[e.key] for e in entries if "auroc" in results.get(e.key, {})]
    models = sorted((r for r in done if r["contestant"] not in PEERS), key=lambda r: -r["judge"])
    found: dict[str, Quality] = {}
    if models:
        preferred = {name: next(r for r in models if r["contestant"] == name) for name in dict.fromkeys(r["contestant"] for r in models)}
        groups = {"chosen": models[:1], f"{COMMITTEE} best": models[:COMMITTEE], "each": list(preferred.values())}
        found = {name: committee(members, out) for name, members in groups.items()}
        found["oracle"] = max((quality(r) for r in models), key=lambda q: q.auroc)
        found |= {name: quality(preferred[name]) for name in sorted(preferred)}
    return found | {name: quality(r) for name in PEERS for r in done if r["contestant"] == name}


def quality(record: dict[str, Any]) -> Quality:
    return Quality(record["auroc"], record["ap"])


def committee(members: list[dict[str, Any]], out: Path) -> Quality:
    if len(members) == 1:
        return quality(members[0])
    kept = [np.load(scores_folder(out) / f"{r['key']}.npz") for r in members]
    moments = [log_moments(k["validate"]) for k in kept]
    scores = combine([torch.from_numpy(k["test"]) for k in kept], moments).numpy()
    return Quality(metrics.auroc(kept[0]["truth"], scores), metrics.average_precision(kept[0]["truth"], scores))


def tables(entries: list[Entry], out: Path) -> None:
    """All tables, from the results that are there."""
    results = read(out)
    failed = [results[e.key] for e in entries if "failed" in results.get(e.key, {})]
    for record in failed:
        print(f"failed: {record['problem']}, {record['contestant']} {record['number']}: {record['failed']}")
    for name in FAMILIES:
        mine = [e for e in entries if family(e.problem) == name]
        found: dict[tuple[str, int], dict[str, Quality]] = {}
        for (problem, seed), group in itertools.groupby(sorted(mine, key=_place), key=_place):
            found[problem, seed] = judged(list(group), results, out)
        found = {place: q for place, q in found.items() if q}
        if found:
            show(name, found)


def _place(entry: Entry) -> tuple[str, int]:
    return entry.problem, entry.seed


def show(name: str, found: dict[tuple[str, int], dict[str, Quality]]) -> None:
    """One family's AUROC problem by problem, then everybody's means."""
    rows, seeds = sorted({p for p, _ in found}), sorted({s for _, s in found})
    everybody = list(dict.fromkeys(c for q in found.values() for c in q))
    whole = [c for c in everybody if all(c in q for q in found.values())]
    print(f"\n{name}: AUROC, mean over {len(seeds)} seed(s)")
    print(f"{'':18}" + "".join(f"{_short(c):>9}" for c in everybody))
    for problem in rows:
        values = [[q[c].auroc for (p, _), q in found.items() if p == problem and c in q] for c in everybody]
        print(f"{problem.split('/')[1]:18}" + "".join(f"{np.mean(v):9.4f}" if v else f"{'-':>9}" for v in values))
    print(f"\n{'':18}{'AUROC':>9}{'sd seeds':>10}{'sd sets':>9}{'AP':>9}{'sd seeds':>10}{'sd sets':>9}")
    for c in whole:
        print(f"{c:18}" + "".join(spread(c, field, found, rows, seeds) for field in ("auroc", "ap")))
    for c in everybody:
        if c not in whole:
            print(f"{c:18} is not there for {sum(c not in q for q in found.values())} of {len(found)} runs")
    if len(rows) == len(problems([name])):
        verdict(name, whole, found)
    else:
        print(f"{name}: {len(rows)} of {len(problems([name]))} problems, too few to hold against the target")


def spread(c: str, field: str, found: dict[tuple[str, int], dict[str, Quality]], rows: list[str], seeds: list[int]) -> str:
    """Mean, standard deviation over seeds of the mean over problems, and over problems of the mean over seeds."""
    values = np.array([[getattr(found[p, s][c], field) if (p, s) in found else np.nan for s in seeds] for p in rows])
    text = f"{np.nanmean(values):9.4f}"
    for axis, width in ((0, 10), (1, 9)):
        means = np.nanmean(values, axis)
        text += f"{means.std(ddof=1):{width}.4f}" if len(means) > 1 else f"{'-':>{width}}"
    return text


def verdict(name: str, whole: list[str], found: dict[tuple[str, int], dict[str, Quality]]) -> None:
    """Against the targets: fixed ones of the images, the best peer's mean on tables."""
    mean = {c: float(np.mean([q[c].auroc for q in found.values()])) for c in whole}
    peers = {c: mean[c] for c in PEERS if c in mean}
    if name in TARGETS:
        target, what = TARGETS[name], "target"
    elif peers:
        best = max(peers, key=lambda c: peers[c])
        target, what = peers[best], f"best peer, {best}"
    else:
        return
    candidates = [c for c in ("chosen", f"{COMMITTEE} best", "each") if c in mean]
    said = [f"{c} {mean[c]:.4f} {'reaches' if mean[c] >= target else 'MISSES'} it" for c in candidates]
    print(f"{name}: {what} {target:.4f}; {', '.join(said)}")


def _short(name: str) -> str:
    return {"IsolationForest": "IForest", "autoencoder": "autoenc", "contractive": "contract"}.get(name, name)[:8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; results that are there are taken up")
    parser.add_argument("--quick", action="store_true", help="two classes of each set of images, four tables, less of all")
    parser.add_argument("--medium", action="store_true", help="all problems, one seed, fewer configurations and test rows")
    parser.add_argument("--variants", nargs="+", choices=variants.names(), metavar="NAME", help="all, if none is named")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="mnist, fashion_mnist, adbench, or one problem: mnist/3, adbench/wbc")
    parser.add_argument("--seeds", type=int, help="seeds from 0")
    parser.add_argument("--configs", type=int, help="hyperparameters of each variant: the published, then random draws")
    parser.add_argument("--epochs", type=int, help="on images; tables take 2.5 times as many")
    parser.add_argument("--processes", type=int, default=1, help="one a core at most")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--table", action="store_true", help="print from what is there, train nothing")
    asked = parser.parse_args()
    preset = QUICK if asked.quick else MEDIUM if asked.medium else FULL
    form = preset.form if asked.epochs is None else Form(preset.form.rows, preset.form.test, asked.epochs)
    entries = planned(asked, preset, form)
    if not asked.table:
        train(entries, asked.out, asked.processes)
    print(f"{form}; results in {asked.out}")
    for left_out, kind in ((preset.not_on_images, "images"), (preset.not_on_tables, "tables")):
        if left_out and not asked.variants:
            print(f"left out on {kind}, where they take minutes a problem, unless named in --variants: {', '.join(left_out)}")
    tables(entries, asked.out)
    return 0


def planned(asked: argparse.Namespace, preset: Preset, form: Form) -> list[Entry]:
    """Every model of the run, those of one problem and seed together."""
    entries = []
    for seed, problem in itertools.product(range(asked.seeds or preset.seeds), problems(asked.sets or list(preset.sets))):
        table = family(problem) not in IMAGES
        left_out = preset.not_on_tables if table else preset.not_on_images
        names = asked.variants or [name for name in variants.names() if name not in left_out]
        configs = range(asked.configs or (preset.table_configs if table else preset.image_configs))
        entries += [Entry(problem, seed, name, number, form) for number in configs for name in names]
        entries += [] if asked.no_peers else [Entry(problem, seed, name, 0, form) for name in PEERS]
    return entries


def train(entries: list[Entry], out: Path, processes: int) -> None:
    """Everything that is not in `out` yet, a problem and seed at a time."""
    known = read(out)
    todo = [list(group) for _, group in itertools.groupby((e for e in entries if e.key not in known), key=_place)]
    total, done, start = sum(map(len, todo)), 0, time.perf_counter()
    print(f"{total} of {len(entries)} models to train, in {len(todo)} groups of a problem and seed", file=sys.stderr, flush=True)
    # Groups are handed out one by one and processes start clean, so that a kill loses one model of each.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for count in pool.imap_unordered(_run, [(group, out) for group in todo]):
            done += count
            print(f"  {done}/{total} after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def _run(task: tuple[list[Entry], Path]) -> int:
    return run(*task)


if __name__ == "__main__":
    raise SystemExit(main())
