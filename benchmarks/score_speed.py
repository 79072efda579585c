"""How fast are rows scored, Parquet in and Parquet out, beside a hand-written loop, a bare forward pass and PyOD?

    python benchmarks/score_speed.py                 2 M rows x 64 floats, five rounds
    python benchmarks/score_speed.py --quick         a smaller one, to see that it runs
    python benchmarks/score_speed.py --layout columns   64 columns instead of one list column
    python benchmarks/score_speed.py --layout mixed     20 columns of numbers, flags, words and a clock with gaps (score_mixed.py)

Every contender runs in a process of its own, in turn, round after round, on the same files and the same
trained model; medians over rounds are compared. Each warms up on one small file, which is not timed.

    forward     (a) the forward pass alone, on tensors that are in memory already
    loop        (b) pyarrow and torch by hand: read batches, view them as tensors, score, append the same four columns, write;
                    with all cores (torch's and pyarrow's own threads) and with one thread
    pyod        (c) PyOD's AutoEncoder of the same layers: decision_function on an array in memory, on fewer rows
    copy        pyarrow alone, a thread for each core: reads and writes the same columns and scores nothing; what any way
                through Parquet is bound by
    plain       raeflow.scoring.score in one process
    plain, id   the same, keeping the id alone beside the four columns, as near as Parquet comes to what pyod gives
    ray         raeflow.cluster.score with two actors of one thread each, from its first fragment to its last
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import score_mixed

F, LAYERS, LATENT = 64, (64, 32), 9
FILES, GROUP, BATCH = 4, 125_000, 1024
CORES = len(os.sched_getaffinity(0))
# name: (what runs, threads)
CONTENDERS = {
    "forward": ("forward", CORES), "loop": ("loop", CORES), "loop, 1 thread": ("loop", 1), "pyod": ("pyod", CORES),
    "pyod, batches of 1024": ("pyod_large", CORES), "copy": ("copy", CORES), "plain": ("plain", CORES),
    "plain, 1 thread": ("plain", 1), "plain, id": ("plain_id", CORES), "ray, 2 x 1 thread": ("ray", 1),
}  # fmt: skip


def main() -> None:
    """Run all contenders in turn and print rows/s and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layout", choices=("list", "columns", "mixed"), default="list")
    parser.add_argument("--quick", action="store_true", help="200,000 rows, one round")
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out, such as ray")
    parser.add_argument("--folder", type=Path, help="where to put the data (a temporary folder)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("RESULT", json.dumps(globals()[arguments.child](arguments.folder, arguments.rows)))
        return
    rows, rounds = (200_000, 1) if arguments.quick else (arguments.rows, arguments.rounds)
    folder = Path(tempfile.mkdtemp(prefix="score_speed", dir=arguments.folder))
    try:
        make_data(folder, rows, arguments.layout)
        stored = sum(f.stat().st_size for f in (folder / "in").iterdir()) / 1e6
        what = "20 mixed columns" if arguments.layout == "mixed" else f"{F} floats ({arguments.layout})"
        print(f"{rows:,} rows x {what}, {FILES} files, {stored:,.0f} MB of Parquet, {CORES} cores")
        fitting = score_mixed.CONTENDERS if arguments.layout == "mixed" else [run for run, _ in CONTENDERS.values()]
        names = [n for n, (run, _) in CONTENDERS.items() if run in fitting and run not in arguments.without]
        compare(folder, rows, rounds, names)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, rows: int, rounds: int, names: list[str]) -> None:
    """Rounds of all contenders, medians, ratios."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            results[name].append(child(folder, rows, *CONTENDERS[name]))
            print(f"  round {number + 1}: {name:24s} {results[name][-1]['rate']:12,.0f} rows/s", flush=True)
    rate = {name: statistics.median(r["rate"] for r in found) for name, found in results.items()}
    print(f"\n{'':26s}{'rows/s':>12s}{'peak RSS':>12s}   (medians of {rounds})")
    for name, found in results.items():
        print(f"{name:26s}{rate[name]:12,.0f}{statistics.median(r['rss'] for r in found):9,.0f} MB")
    small = child(folder, rows, "plain_quarter", 1)
    print(f"\npeak RSS of plain, 1 thread, on a quarter of the rows: {small['rss']:,.0f} MB")
    loops = [name for name in names if name.startswith("loop")]
    if loops:
        best = max(loops, key=lambda name: rate[name])
        print(f"the faster hand-written loop is '{best}' ({CORES if best == 'loop' else 1} torch and pyarrow threads)")
        ratio("plain", best, results, 0.95)
        ratio("plain, 1 thread", "loop, 1 thread", results, 0.95)
        ratio("ray, 2 x 1 thread", best, results, 1.2)
        ratio("ray, 2 x 1 thread", "loop, 1 thread", results, 1.2)
    ratio("plain", "pyod", results, 20)
    ratio("plain, id", "pyod", results, 20)
    ratio("plain", "pyod, batches of 1024", results, None)
    ratio("plain", "forward", results, None)
    ratio("plain", "copy", results, None)
    ratio("copy", "pyod", results, None)
    for name in ("ray, 2 x 1 thread",):
        if name in results:
            print(f"ray: {statistics.median(r['start'] for r in results[name]):.1f} s from the call to the first fragment")


def ratio(one: str, other: str, results: dict[str, list[dict[str, float]]], target: float | None) -> None:
    """Median over rounds of the ratio within a round, which a slow spell of the machine hits less than the ratio of medians."""
    if one in results and other in results:
        value = statistics.median(a["rate"] / b["rate"] for a, b in zip(results[one], results[other], strict=True))
        verdict = "" if target is None else f"   target {target}: {'met' if value >= target else 'MISSED'}"
        print(f"{one} / {other}: {value:.2f}{verdict}")


def child(folder: Path, rows: int, what: str, threads: int) -> dict[str, float]:
    """One contender in a fresh process, with so many threads for torch and pyarrow."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    os.sync()  # nobody writes back what another left behind
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder), "--rows", str(rows)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{what} failed:\n{done.stdout}\n{done.stderr}")
    result: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def timed(act: Callable[[], None], rows: int) -> dict[str, float]:
    """Rows/s of one call, and the process's peak of resident memory in MB."""
    start = time.perf_counter()
    act()
    return {"rate": rows / (time.perf_counter() - start), "rss": peak()}


def peak() -> float:
    """Most resident memory this process has had, in MB; `getrusage` would count what its parent had before it started."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def make_data(folder: Path, rows: int, layout: str) -> None:
    """Correlated rows with noise, as measured quantities are, and a detector trained on the first of them."""
    if layout == "mixed":
        score_mixed.make_data(folder, rows, FILES, LAYERS, LATENT)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from raeflow import variants
    from raeflow.data.load import load
    from raeflow.data.rows import Rows, RowSpec, Splits
    from raeflow.data.scaling import fit_scaling
    from raeflow.detector import Detector
    from raeflow.study import Calibration, Data, Training
    from raeflow.training import fit

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, F)).astype(np.float32)

    def draw(count: int) -> np.ndarray:
        return rng.normal(size=(count, 8)).astype(np.float32) @ mixing + 0.3 * rng.normal(size=(count, F)).astype(np.float32)

    def table(x: np.ndarray, start: int) -> pa.Table:
        ids = pa.array(np.arange(start, start + len(x)))
        if layout == "list":
            return pa.table({"id": ids, "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), F)})
        return pa.table({"id": ids, **{f"f{i}": x[:, i] for i in range(F)}})

    for sub in ("in", "warm"):
        (folder / sub).mkdir()
    each = rows // FILES
    for number in range(FILES):
        writer = None
        for start in range(0, each, GROUP):
            part = table(draw(min(GROUP, each - start)), number * each + start)
            writer = writer or pq.ParquetWriter(folder / "in" / f"part-{number}.parquet", part.schema, compression="zstd")
            writer.write_table(part)
        writer.close()
    pq.write_table(table(draw(5000), 0), folder / "warm" / "warm.parquet", compression="zstd")
    if layout == "columns":
        pq.write_table(table(draw(30_000), 0), folder / "train.parquet")
        whole = load(Data(folder / "train.parquet", columns=[f"f{i}" for i in range(F)]))
    else:
        splits = [Rows(torch.from_numpy(draw(n))) for n in (20_000, 5_000, 5_000)]
        spec = RowSpec(("x",), layout, (F,), "float32")
        whole = Splits(spec, fit_scaling("auto", (F,), torch.float32, [splits[0].x]), *splits, None)
    hyper = {"layers": LAYERS, "latent": LATENT}
    fitted = fit("autoencoder", hyper, whole, Training(epochs=3, device="cpu"))
    dense = [m.out_features for m in variants.build("autoencoder", (F,), hyper).modules() if isinstance(m, torch.nn.Linear)]
    assert dense == [64, 32, 9, 32, 64, 64]  # what PyOD builds of [64, 32, 9]
    Detector.assemble([fitted], whole, Calibration()).save(folder / "detector")


# --- contenders, each alone in its process -----------------------------------------------------------------------------------


def forward(folder: Path, rows: int) -> dict[str, float]:
    """Scores of resident rows; as many as fit, a quarter of the data."""
    import torch

    from raeflow.detector import Detector

    graph = Detector.load(folder / "detector", "cpu").graph
    x = torch.randn(rows // 4, F)

    def act() -> None:
        out = torch.empty(len(x))
        with torch.inference_mode():
            for start in range(0, len(x), BATCH):
                out[start : start + BATCH] = graph(x[start : start + BATCH])

    act()
    return timed(act, len(x))


def loop(folder: Path, rows: int) -> dict[str, float]:
    """What one would write by hand, with care: no copies, no needless work, batches that fit the cache."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from raeflow.detector import Detector

    threads = int(os.environ["OMP_NUM_THREADS"])
    pa.set_cpu_count(threads)
    detector = Detector.load(folder / "detector", "cpu")
    if detector.spec.kind == "mixed":
        run = score_mixed.loop(folder)
        run(folder / "warm", folder / "out" / "warm")
        return timed(lambda: run(folder / "in", folder / "out" / "in"), rows)
    model, limit = detector.graph, detector.threshold.value

    def view(batch: pa.RecordBatch) -> np.ndarray:
        if detector.spec.kind == "list":
            return batch.column("x").flatten().to_numpy().reshape(-1, F)
        return np.stack([batch.column(name).to_numpy() for name in detector.spec.columns], 1)

    def run(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            writer = None
            file = pq.ParquetFile(path)
            for batch in file.iter_batches(65_536, use_threads=threads > 1):
                x = torch.from_numpy(view(batch))
                with torch.inference_mode():
                    scores = torch.cat([model(part) for part in x.split(BATCH)]).numpy()
                out = pa.Table.from_batches([batch])
                out = out.append_column("anomaly_score", pa.array(scores))
                out = out.append_column("is_anomaly", pa.array(scores > limit))
                out = out.append_column("threshold", pa.array(np.full(len(scores), limit)))
                out = out.append_column("detector", pa.array([detector.id] * len(scores)))
                writer = writer or pq.ParquetWriter(target / path.name, out.schema, compression="zstd")
                writer.write_table(out)
            writer.close()

    run(folder / "warm", folder / "out" / "warm")
    return timed(lambda: run(folder / "in", folder / "out" / "in"), rows)


def copy(folder: Path, rows: int) -> dict[str, float]:
    """No scores: every file read and written again, without compression, each core its own files."""
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow.parquet as pq

    def run(source: Path, target: Path) -> None:
        target.mkdir(parents=True)

        def one(path: Path) -> None:
            with (
                pq.ParquetFile(path) as file,
                pq.ParquetWriter(
                    target / path.name, file.schema_arrow, compression="none", use_dictionary=False, write_statistics=False
                ) as writer,
            ):
                for batch in file.iter_batches(65_536, use_threads=False):
                    writer.write_batch(batch)

        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(one, sorted(source.iterdir())))

    run(folder / "warm", folder / "out" / "warm")
    return timed(lambda: run(folder / "in", folder / "out" / "in"), rows)


def plain(folder: Path, rows: int, pattern: str = "*", columns: list[str] | None = None) -> dict[str, float]:
    """The library in one process."""
    from raeflow.detector import Detector
    from raeflow.scoring import score

    detector = Detector.load(folder / "detector", "cpu")
    score(detector, [str(folder / "warm")], folder / "out" / "warm")
    sources = [str(p) for p in sorted((folder / "in").glob(pattern))]

    def act() -> None:
        if score(detector, sources, folder / "out" / "in", columns).rows != rows:
            sys.exit("rows are missing")

    return timed(act, rows)


def plain_id(folder: Path, rows: int) -> dict[str, float]:
    """The library in one process, with no more than the id kept of the input."""
    return plain(folder, rows, columns=["id"])


def plain_quarter(folder: Path, rows: int) -> dict[str, float]:
    """A quarter of the rows, to see that memory does not grow with them."""
    return plain(folder, rows // FILES, "part-0.parquet")


def ray(folder: Path, rows: int) -> dict[str, float]:
    """The library on two actors; the rate counts from the start of the first fragment to the end of the last."""
    from raeflow.cluster.score import score

    summary = score(folder / "detector", [str(folder / "in")], folder / "out" / "in", scorers=2)
    assert summary.rows == rows
    return {"rate": summary.rate, "rss": peak(), "start": summary.seconds - rows / summary.rate}


def pyod(_: Path, rows: int, batch_size: int = 32) -> dict[str, float]:
    """PyOD's AutoEncoder with the same layers and its own way of scoring in its default batches, on an array in memory."""
    from pyod.models.auto_encoder import AutoEncoder

    rng = np.random.default_rng(0)
    model = AutoEncoder(
        hidden_neuron_list=[*LAYERS, LATENT], batch_norm=False, dropout_rate=0, epoch_num=1, batch_size=256, verbose=0, device="cpu"
    ).fit(rng.normal(size=(5_000, F)).astype(np.float32))
    model.batch_size = batch_size
    x = rng.normal(size=(min(rows, 50_000), F)).astype(np.float32)
    model.decision_function(x[:2_000])
    return timed(lambda: print(model.decision_function(x).mean()), len(x))


def pyod_large(folder: Path, rows: int) -> dict[str, float]:
    """The same in batches as large as ours."""
    return pyod(folder, rows, BATCH)


if __name__ == "__main__":
    main()
