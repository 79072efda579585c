"""How fast does raeflow train beside its peers, at equal final loss?

    RAEFLOW_DATA=... python benchmarks/train_speed.py [--quick] [--threads 1]

(a) The loop of the source: the convolutional autoencoder on MNIST (1-16-32-64, code of 20), batch 64, Adam,
    a `DataLoader` whose items are made one by one as torchvision's MNIST and ToTensor make them (uint8 image
    through PIL, to float, / 255: torchvision itself is not needed here), `.item()` every batch, validation
    after each epoch. `lean` is the same loop with the cheapest transform an item can have.
(b) PyOD's `AutoEncoder.fit` on a real table of 64 features (ADBench optdigits): same layers (dense 64-32-64,
    code activated as PyOD does it; no batch norm, no dropout), batch, epochs, Adam and learning rate. Its fit
    ends with scores of the training rows; raeflow's validates rows after each epoch. `train` is PyOD's loop alone.

Both start from the same weights as raeflow. Repetitions are interleaved, so that a busy machine hits all
alike; figures are medians, as wall-clock and as CPU time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.study import Training
from raeflow.training import Run


@dataclasses.dataclass(frozen=True)
class Timed:
    wall: float
    cpu: float
    loss: float


class Watch:
    """Wall-clock and CPU seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self, loss: float) -> Timed:
        return Timed(time.perf_counter() - self.wall, time.process_time() - self.cpu, loss)


class Digits(Dataset):
    """MNIST as torchvision's dataset with ToTensor gives it, item by item."""

    def __init__(self, images: Tensor, lean: bool) -> None:
        self.images, self.lean = images, lean

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.lean:
            return self.images[index].to(torch.float32).div(255), 0
        picture = Image.fromarray(self.images[index, 0].numpy())
        pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(picture.size[1], picture.size[0], 1)
        return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255), 0


def splits(train: Tensor, validate: Tensor, mode: str) -> Splits:
    shape = tuple(train.shape[1:])
    spec = RowSpec(("row",), "list", shape, str(train.dtype).removeprefix("torch."))
    return Splits(spec, fit_scaling(mode, shape, train.dtype, [train]), Rows(train), Rows(validate), None, None)


def run(data: Splits, hyper: variants.Any, epochs: int, batch: int) -> Run:
    training = Training(epochs=epochs, batch_size=batch, patience=None, device="cpu")
    return Run("autoencoder", dataclasses.asdict(hyper), data, training)


def raeflow_loop(data: Splits, hyper: variants.Any, epochs: int, batch: int) -> Timed:
    mine = run(data, hyper, epochs, batch)
    watch = Watch()
    for _ in mine.epochs():
        pass
    return watch.stop(mine.history[-1]["validation_loss"])


def source_loop(data: Splits, hyper: variants.Any, epochs: int, batch: int, lean: bool) -> Timed:
    start = run(data, hyper, epochs, batch).model
    net = nn.Sequential(start.get_submodule("encoder"), start.get_submodule("decoder"), nn.Sigmoid())
    train = DataLoader(Digits(data.train.x, lean), batch_size=batch, shuffle=True)
    validate = DataLoader(Digits(data.validate.x, lean), batch_size=batch, shuffle=True)
    criterion, optimizer = nn.MSELoss(), torch.optim.Adam(net.parameters(), lr=hyper.lr)
    watch = Watch()
    for _ in range(epochs):
        losses, held_out = [], []
        for image, _label in train:
            loss = criterion(net(image), image)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            for image, _label in validate:
                held_out.append(criterion(net(image), image).item())
    return watch.stop(statistics.fmean(held_out))


def pyod_fit(data: Splits, hyper: variants.Any, epochs: int, batch: int) -> tuple[Timed, Timed]:
    """All of PyOD's fit, and its training loop alone."""
    from pyod.models.auto_encoder import AutoEncoder

    loop: list[Timed] = []

    class Peer(AutoEncoder):
        def training_prepare(self) -> None:
            mine = run(data, hyper, epochs, batch).model.parameters()
            for theirs, own in zip(self.model.parameters(), mine, strict=True):
                theirs.data.copy_(own.data)
            super().training_prepare()

        def train(self, train_loader: DataLoader) -> None:
            inner = Watch()
            super().train(train_loader)
            loop.append(inner.stop(0.0))

    peer = Peer(
        hidden_neuron_list=[*hyper.layers, hyper.latent], batch_norm=False, dropout_rate=0.0, lr=hyper.lr,
        batch_size=batch, epoch_num=epochs, verbose=0, device=torch.device("cpu"), optimizer_params={"weight_decay": 0.0},
    )  # fmt: skip
    rows = data.train.x.numpy()
    watch = Watch()
    peer.fit(rows)
    fitted = watch.stop(0.0)
    with torch.no_grad():
        x = data.encoding(data.validate.x)
        fitted = dataclasses.replace(fitted, loss=float((peer.model.eval()(x) - x).square().mean()))
    return fitted, loop[0]


def interleave(contestants: dict[str, Callable[[], Timed]], repetitions: int) -> dict[str, Timed]:
    """Medians over repetitions in which everyone runs once; one short-lived warm-up is the first, left out."""
    times: dict[str, list[Timed]] = {name: [] for name in contestants}
    for repetition in range(repetitions + 1):
        for name, contestant in contestants.items():
            timed = contestant()
            if repetition:
                times[name].append(timed)
    return {
        name: Timed(*(statistics.median(getattr(t, field) for t in timed) for field in ("wall", "cpu", "loss")))
        for name, timed in times.items()
    }


def show(title: str, rows: int, results: dict[str, Timed], targets: dict[str, float]) -> None:
    mine = results["raeflow"]
    print(f"\n{title}")
    print(f"  {'':28}{'rows/s':>10}{'rows/CPU s':>12}{'final loss':>12}{'raeflow x':>11}{'by CPU':>8}  target")
    for name, timed in results.items():
        ratio, by_cpu = timed.wall / mine.wall, timed.cpu / mine.cpu
        target = f"{targets[name]:.1f}" if name in targets else ""
        loss = f"{timed.loss:12.5f}" if timed.loss else f"{'':12}"
        print(f"  {name:28}{rows / timed.wall:10,.0f}{rows / timed.cpu:12,.0f}{loss}{ratio:11.2f}{by_cpu:8.2f}  {target}")


def mnist(folder: Path, quick: bool) -> None:
    column = pq.read_table(folder / "mnist" / "mnist_train.parquet", columns=["image"])["image"].combine_chunks()
    images = torch.from_numpy(column.flatten().to_numpy().reshape(-1, 1, 28, 28).copy())
    batch = 64  # the source's
    rows, epochs, repetitions = (3_200, 1, 3) if quick else (9_600, 2, 5)
    data = splits(images[:rows], images[50_000 : 50_000 + rows // 6], "unit")
    hyper = variants.get("autoencoder").published((1, 28, 28))
    results = interleave(
        {
            "raeflow": lambda: raeflow_loop(data, hyper, epochs, batch),
            "(a) source's loop": lambda: source_loop(data, hyper, epochs, batch, lean=False),
            "    lean transform": lambda: source_loop(data, hyper, epochs, batch, lean=True),
        },
        repetitions,
    )
    title = f"MNIST, convolutional autoencoder, {rows:,} rows x {epochs} epochs, batch {batch}, medians of {repetitions}"
    show(title, rows * epochs, results, {"(a) source's loop": 1.4})


def table(folder: Path, quick: bool, batch: int) -> None:
    column = pq.read_table(folder / "adbench" / "26_optdigits.parquet", columns=["features"])["features"].combine_chunks()
    values = torch.from_numpy(column.flatten().to_numpy().reshape(len(column), -1).copy()).to(torch.float32)
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    rows, epochs, repetitions = 16 * 256, 5 if quick else 10, 3 if quick else 7
    data = splits(values[:rows], values[rows : rows + rows // epochs], "standard")
    hyper = variants.get("autoencoder").Hyper(layers=(64,), latent=32, code_activation=True)
    loops: list[Timed] = []

    def peer() -> Timed:
        fitted, loop = pyod_fit(data, hyper, epochs, batch)
        loops.append(loop)
        return fitted

    results = interleave({"raeflow": lambda: raeflow_loop(data, hyper, epochs, batch), "(b) PyOD's fit": peer}, repetitions)
    results["    train alone"] = Timed(*(statistics.median(getattr(t, f) for t in loops[1:]) for f in ("wall", "cpu")), loss=0.0)
    title = f"Table of 64 features, dense 64-32-64, {rows:,} rows x {epochs} epochs, batch {batch}, medians of {repetitions}"
    show(title, rows * epochs, results, {"(b) PyOD's fit": 3.0} if batch == 256 else {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and repetitions, about a fifth of the time")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of every contestant (1)")
    options = parser.parse_args()
    folder = os.environ.get("RAEFLOW_DATA")
    if not folder:
        print("set RAEFLOW_DATA to the folder with mnist and adbench", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s) each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for batch in (256, 32):  # raeflow's default, and PyOD's
        table(Path(folder), options.quick, batch)
    mnist(Path(folder), options.quick)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
