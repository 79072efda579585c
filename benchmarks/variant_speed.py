"""How fast does each variant train beside the plainest hand-written torch loop for the same network?

    RAEFLOW_DATA=... OMP_NUM_THREADS=1 python benchmarks/variant_speed.py [--quick] [--variants vae ...] [--cases image ...]
    RAEFLOW_DATA=... python benchmarks/variant_speed.py --device cuda --precision bf16 --cases image "conv image"

The hand-written loop is what a person writes who wants this one model and nothing else: rows scaled
beforehand and resident as float32, a shuffled `index_select` for each batch, the method's loss as in its
paper, `zero_grad`, `backward`, `step` of `torch.optim` with its default settings, `.item()` for the log, the
mean score of held-out rows after each epoch. The network is the variant's own, from the same weights, so that
both run the same kernels; what is compared is all the rest. raeflow starts from the bytes that it keeps
resident and scales each batch.

A round times one whole training of each (with all its phases), the order changing from round to round; the
figure is the median over rounds of the ratio of raeflow's rows/s to the loop's. `by CPU` is the same ratio in
CPU seconds, which other work on the machine disturbs less, and the one that the target is held against. A game
takes one step of its generator for each batch while it lasts, so the ratio is that of seconds per generator step,
the encoder's phase counted in. Health is not measured here (`health=0`).

On a GPU the loop stays what a person writes first, float32 and rows as they come; raeflow keeps images with channels
last and takes `--precision`. Wall seconds count there, and the target is 1.5 with bf16.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from variant_speed_loops import LOOPS, train

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import Run

TARGET, GPU_TARGET = 0.95, 1.5
HELD_OUT = 256
EPOCHS = 6  # enough for every variant's phases to have whole epochs of their own


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of one kind, a batch size, and the network."""

    read: Callable[[Path], Tensor]
    scaling: str
    batch: int
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters in place of the published ones, where the variant's published network is of another kind."""


def images(folder: Path) -> Tensor:
    column = pq.read_table(folder / "mnist" / "mnist_test.parquet", columns=["image"])["image"].combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy().reshape(-1, 1, 28, 28).copy())


def table(folder: Path) -> Tensor:
    column = pq.read_table(folder / "adbench" / "26_optdigits.parquet", columns=["features"])["features"].combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy().reshape(len(column), -1).copy()).to(torch.float32)


def signals(folder: Path) -> Tensor:
    column = pq.read_table(sorted((folder / "ecg5000").glob("*test*.parquet"))[0], columns=["signal"])["signal"].combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy().reshape(len(column), 1, -1).copy()).to(torch.float32)


PLAIN: dict[str, Any] = {"kernels": (), "strides": (), "feature_activation": True}
CASES = {
    "table": Case(table, "standard", 256),
    "image": Case(images, "unit", 64),
    "dense image": Case(images, "unit", 256, {**PLAIN, "backbone": "mlp", "layers": (128, 64)}),
    "conv image": Case(images, "unit", 64, {**PLAIN, "backbone": "conv", "layers": (16, 32)}),
    "pooled image": Case(images, "unit", 64, {**PLAIN, "backbone": "conv", "layers": (16, 32), "pooling": "max"}),
    "signal": Case(signals, "global", 64),
    "recurrent signal": Case(signals, "global", 64, {**PLAIN, "backbone": "recurrent", "layers": (32,)}),
}


def hyper_of(variant: str, shape: tuple[int, ...], network: dict[str, Any]) -> Any:
    """The published values for this shape, with the case's network where it has one; None where that is no other, or is refused."""
    published = variants.get(variant).published(shape)
    if not network:
        return published
    own = published.backbone if published.backbone != "auto" else "conv"
    if own == network["backbone"] and "pooling" not in network:
        return None
    try:
        return dataclasses.replace(published, **network)
    except RaeflowError:  # a variant that only takes networks of its own
        return None


def splits(rows: Tensor, count: int, mode: str) -> Splits:
    """`count` training rows (repeated where there are fewer) and `HELD_OUT` others."""
    held, rest = rows[:HELD_OUT], rows[HELD_OUT:]
    train = rest[torch.arange(count) % len(rest)]
    shape = tuple(rows.shape[1:])
    spec = RowSpec(("row",), "list", shape, str(rows.dtype).removeprefix("torch."))
    return Splits(spec, fit_scaling(mode, shape, rows.dtype, [train]), Rows(train), Rows(held), None, None)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where both train, and how raeflow does."""

    device: str
    precision: Any


def timed(work: Callable[[], float]) -> tuple[float, float, float]:
    """Wall and CPU seconds, and what the work gave; it ends by reading a number back, so a GPU is done by then."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def ours(variant: str, hyper: Any, data: Splits, batch: int, place: Place) -> tuple[float, float, float]:
    training = Training(epochs=EPOCHS, batch_size=batch, patience=None, device=place.device, precision=place.precision, health=0)
    run = Run(variant, dataclasses.asdict(hyper), data, training)

    def work() -> float:
        for _ in run.epochs():
            pass
        return run.history[-1]["validation_loss"]

    return timed(work)


def by_hand(variant: str, hyper: Any, data: Splits, batch: int, place: Place) -> tuple[float, float, float]:
    torch.manual_seed(0)  # raeflow's weights
    model = variants.get(variant).Model(data.spec.shape, hyper).to(place.device)
    x, held = (data.encoding(rows.x).to(place.device) for rows in (data.train, data.validate))
    step = LOOPS[variant](model, hyper)
    return timed(lambda: train(model, step, x, held, EPOCHS, batch))


def measure(variant: str, hyper: Any, rows: Tensor, case: Case, rounds: int, seconds: float, place: Place) -> dict[str, float]:
    """Medians over rounds; rows a training are chosen so that one takes about `seconds`."""
    contestants = (ours, by_hand)
    small = splits(rows, 4 * case.batch, case.scaling)
    by_hand(variant, hyper, small, case.batch, place)  # warms the allocator and the kernels' caches
    clock = 1 if place.device == "cpu" else 0  # CPU seconds say nothing of a GPU
    pace = by_hand(variant, hyper, small, case.batch, place)[clock] / 4
    data = splits(rows, max(2, round(seconds / pace)) * case.batch, case.scaling)
    wall, cpu, rates, losses = [], [], [], ([], [])
    for number in range(rounds):
        found: dict[Any, tuple[float, float, float]] = {}
        for contestant in contestants if number % 2 else contestants[::-1]:
            found[contestant] = contestant(variant, hyper, data, case.batch, place)
        mine, theirs = found[ours], found[by_hand]
        wall.append(theirs[0] / mine[0])
        cpu.append(theirs[1] / mine[1])
        rates.append((EPOCHS * len(data.train) / mine[clock], EPOCHS * len(data.train) / theirs[clock]))
        losses[0].append(mine[2])
        losses[1].append(theirs[2])
    return {
        "ours": statistics.median(r[0] for r in rates), "loop": statistics.median(r[1] for r in rates),
        "wall": statistics.median(wall), "cpu": statistics.median(cpu), "low": min(cpu), "high": max(cpu),
        "loss": statistics.median(losses[0]), "loop loss": statistics.median(losses[1]),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.3 s in place of 9 of 1 s: minutes in all")
    names = [name for name in variants.names() if not hasattr(variants.get(name).Model, "fit_rows")]  # networks: the others take no step
    parser.add_argument("--variants", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, help="trainings of each contestant")
    parser.add_argument("--seconds", type=float, help="CPU seconds of one training, about")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"), help="raeflow's; the loop's is float32")
    asked = parser.parse_args()
    folder = os.environ.get("RAEFLOW_DATA")
    if not folder:
        print("set RAEFLOW_DATA to the folder with mnist, adbench and ecg5000", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    rounds, seconds = asked.rounds or (3 if asked.quick else 9), asked.seconds or (0.3 if asked.quick else 1.0)
    place = Place(asked.device, asked.precision)
    target, judged = (TARGET, "cpu") if place.device == "cpu" else (GPU_TARGET, "wall")
    where = "1 thread" if place.device == "cpu" else f"{torch.cuda.get_device_name()}, {place.precision}"
    print(f"torch {torch.__version__}, {where}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {rounds} rounds")
    columns = (("rows/CPU s", 11), ("the loop", 10), ("ratio", 7), ("by CPU", 8), ("(range)", 13), ("loss", 10), ("the loop", 10))
    print(f"{'variant':14}{'case':18}" + "".join(f"{name:>{width}}" for name, width in columns))
    missed, unknown = [], [name for name in asked.variants if name not in LOOPS]
    for name in asked.cases:
        case, rows = CASES[name], CASES[name].read(Path(folder))
        for variant in asked.variants:
            hyper = hyper_of(variant, tuple(rows.shape[1:]), case.network)
            if hyper is None or variant in unknown:
                continue
            m = measure(variant, hyper, rows, case, rounds, seconds, place)
            spread = f"{m['low']:.2f}-{m['high']:.2f}"
            print(
                f"{variant:14}{name:18}{m['ours']:11,.0f}{m['loop']:10,.0f}{m['wall']:7.2f}{m['cpu']:8.2f}{spread:>13}"
                f"{m['loss']:10.4g}{m['loop loss']:10.4g}", flush=True,
            )  # fmt: skip
            if m[judged] < target:
                missed.append(f"{variant} on {name} ({m[judged]:.2f})")
    if unknown:
        print(f"no hand-written loop yet for {', '.join(unknown)}: add one to variant_speed_loops.py")
    print(f"below {target}: {', '.join(missed)}" if missed else f"every variant reaches {target}")
    return 1 if unknown else 0


if __name__ == "__main__":
    raise SystemExit(main())
