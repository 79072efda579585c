"""The mixed layout of `score_speed.py`: its data, and the loop that one would write by hand for such a table."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import mixed_rows
import numpy as np

TRAIN, WARM = 60_000, 5_000
CONTENDERS = ("loop", "copy", "plain", "ray")


def make_data(folder: Path, rows: int, files: int, layers: tuple[int, ...], latent: int) -> None:
    """Files of mixed columns, and a detector trained on some more of their kind."""
    from raeflow.data.load import load
    from raeflow.detector import Detector
    from raeflow.study import Calibration, Data, Training
    from raeflow.training import fit

    for sub in ("in", "warm"):
        (folder / sub).mkdir()
    for number in range(files):
        mixed_rows.write(folder / "in" / f"part-{number}.parquet", rows // files, seed=number + 2)
    mixed_rows.write(folder / "warm" / "warm.parquet", WARM, seed=1)
    splits = load(Data(mixed_rows.write(folder / "train.parquet", TRAIN)))
    fitted = fit("autoencoder", {"layers": layers, "latent": latent}, splits, Training(epochs=3, device="cpu"))
    Detector.assemble([fitted], splits, Calibration()).save(folder / "detector")


class ByHand:
    """Columns to the rows that the model was trained on, with what its training found: means, deviations, medians, levels."""

    def __init__(self, detector: Any) -> None:
        import pyarrow as pa
        import torch

        from raeflow.data.encoding.record import GAP, NUMBERS, OTHER

        encoding = detector.graph.encoding
        self.shift, self.scale, self.fill = encoding.shift, encoding.scale, encoding.fill
        self.gap_shift, self.gap_scale = encoding.gap_shift, encoding.gap_scale
        self.numbers = [c.name for c in encoding.columns if c.role in NUMBERS]
        self.gaps = [self.numbers.index(c.name) for c in encoding.columns if c.role in NUMBERS and c.gaps]
        self.tails = list(zip(encoding.tail_at.tolist(), encoding.centre.tolist(), encoding.breadth.tolist(), strict=True))
        self.clock, self.clock_gaps = encoding.clocks[0].name, encoding.clocks[0].gaps
        self.words, at = [], 0
        levels = {f.name: f.levels for f in detector.spec.fields}
        for c in encoding.categories:
            width = len(c.parts)
            none = c.parts.index(GAP) if GAP in c.parts else c.parts.index(OTHER) if OTHER in c.parts else width
            unseen = c.parts.index(OTHER) if OTHER in c.parts else width
            part = torch.tensor([*c.codes, unseen, none])
            own = slice(at, at + width)
            rows = (torch.eye(width + 1)[:, :width] - encoding.level_shift[own]) / encoding.level_scale[own]
            rows[width] = -encoding.level_shift[own] / encoding.level_scale[own]
            self.words.append((c.name, pa.array(levels[c.name]), rows[part]))
            at += width

    def __call__(self, batch: Any) -> Any:
        """(n, F) of n rows."""
        import pyarrow.compute as pc
        import torch

        columns = [batch.column(name).to_numpy(zero_copy_only=False).astype(np.float32) for name in self.numbers]
        raw = torch.from_numpy(np.stack(columns, 1))
        lacking = raw[:, self.gaps].isnan()
        values = torch.where(raw.isnan(), self.fill, raw)
        for place, centre, breadth in self.tails:
            values[:, place] = ((values[:, place] - centre) / breadth).asinh()
        parts = [(values - self.shift) / self.scale]
        clock = batch.column(self.clock)
        if self.clock_gaps:  # the clock is the last column that has gaps
            missing = torch.from_numpy(clock.is_null().to_numpy(zero_copy_only=False))
            lacking = torch.cat([lacking, missing.unsqueeze(1)], 1)
        parts.append((lacking.float() - self.gap_shift) / self.gap_scale)
        for name, levels, rows in self.words:
            column = batch.column(name)
            codes = pc.index_in(column, levels).fill_null(len(levels)).to_numpy().astype(np.int64)
            if column.null_count:
                codes = codes + column.is_null().to_numpy(zero_copy_only=False)
            parts.append(rows.index_select(0, torch.from_numpy(codes)))
        seconds = clock.cast("int64").fill_null(0).to_numpy() // 1_000_000
        turns = np.stack([seconds % 86_400 / 86_400, (seconds // 86_400 + 3) % 7 / 7], 1).astype(np.float32)
        angle = torch.from_numpy(turns) * (2 * math.pi)
        circles = torch.stack([angle.sin(), angle.cos()], 2).flatten(1) / math.sqrt(angle.shape[1])  # a clock weighs one number
        if clock.null_count:
            circles[missing] = 0
        return torch.cat([*parts, circles], 1)


def loop(folder: Path) -> Any:
    """What scores a folder of files into another, ready to be timed: batches, indicators by hand, the same network, the same codec."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from raeflow.detector import Detector

    threads = int(os.environ["OMP_NUM_THREADS"])
    pa.set_cpu_count(threads)
    detector = Detector.load(folder / "detector", "cpu")
    by_hand, model, limit = ByHand(detector), detector.models[0], detector.threshold.value
    check(detector, by_hand, pq.read_table(folder / "warm" / "warm.parquet").combine_chunks().to_batches()[0])

    def run(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            writer = None
            for batch in pq.ParquetFile(path).iter_batches(65_536, use_threads=threads > 1):
                with torch.inference_mode():
                    scores = torch.cat([model.score(part) for part in by_hand(batch).split(1024)]).numpy()
                out = pa.Table.from_batches([batch])
                out = out.append_column("anomaly_score", pa.array(scores))
                out = out.append_column("is_anomaly", pa.array(scores > limit))
                out = out.append_column("threshold", pa.array(np.full(len(scores), limit)))
                out = out.append_column("detector", pa.array([detector.id] * len(scores)))
                writer = writer or pq.ParquetWriter(target / path.name, out.schema, compression="snappy")
                writer.write_table(out)
            writer.close()

    return run


def check(detector: Any, by_hand: ByHand, batch: Any) -> None:
    """Both ways must give the same scores where a row has nothing that train never had, or their speeds say nothing."""
    import torch

    from raeflow.data.tensors import to_tensor

    with torch.inference_mode():
        plain = ~detector.graph.encoding.strange(to_tensor(batch, detector.spec)).any(1).numpy()
        mine = detector.models[0].score(by_hand(batch)).numpy()
    theirs = detector.score(batch)
    assert plain.mean() > 0.9
    np.testing.assert_allclose(mine[plain], theirs[plain], rtol=1e-3, atol=1e-4)
