"""Tables for the tests of columns, encodings and detectors: every kind of column, with gaps, of a stated seed."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raeflow import variants
from raeflow.data import load
from raeflow.detector import Detector
from raeflow.study import Calibration, Data
from raeflow.training import Fitted

DAY_US = 86_400_000_000


def holed(values, kind, share, drawn):
    """An Arrow array with a share of nulls."""
    return pa.array(values, kind, mask=drawn.random(len(values)) < share)


def mixed(rows=1200, seed=0, gaps=0.1):
    """A column of every role; those named g_ have gaps."""
    drawn = np.random.default_rng(seed)
    words = np.array(["tcp", "udp", "icmp", "a", "b", "c"])[drawn.choice(6, rows, p=[0.6, 0.25, 0.135, 0.005, 0.005, 0.005])]
    days = drawn.integers(17_000, 18_500, rows)
    moments = days * DAY_US + drawn.integers(0, DAY_US, rows)
    return {
        "number": pa.array(drawn.normal(5, 3, rows)),
        "g_number": holed(drawn.normal(-2, 1e-3, rows), pa.float64(), gaps, drawn),
        "tail": pa.array(np.concatenate([drawn.lognormal(0, 1, rows - 1), [1e9]])[drawn.permutation(rows)]),
        "flag": pa.array(drawn.random(rows) < 0.3),
        "g_flag": holed(drawn.random(rows) < 0.3, pa.bool_(), gaps, drawn),
        "word": pa.array(words, pa.string()),
        "g_word": holed(np.array(["x", "y", "z"])[drawn.integers(0, 3, rows)], pa.string(), gaps, drawn),
        "moment": pa.array(moments, pa.timestamp("us")),
        "g_moment": holed(moments[::-1], pa.timestamp("us"), gaps, drawn).cast(pa.timestamp("us", "Europe/Berlin")),
        "day": pa.array(days.astype(np.int32), pa.int32()).cast(pa.date32()),
        "time": pa.array(drawn.integers(0, 86_400, rows).astype(np.int32), pa.int32()).cast(pa.time32("s")),
        "still": pa.array(np.full(rows, 7.0)),
    }


def write(path, columns, group=300, **options):
    """Columns as Parquet; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)
    return path


def trained(folder, columns, held=None, **said):
    """Splits whose train rows are all rows of `columns`, in their order; every other split is `held`, or the same rows."""
    files = {name: write(folder / f"{name}.parquet", columns if name == "train" or held is None else held) for name in
             ("train", "validate", "calibrate", "test")}  # fmt: skip
    return load(Data(files.pop("train"), **files, **{"columns": list(columns), **said}))


def untrained(loaded, seed=0, members=1):
    """A detector of models that no training has touched: what it does with rows does not depend on how good it is."""
    fitted = []
    for i in range(members):
        torch.manual_seed(seed + i)
        hyper = dataclasses.asdict(variants.get("autoencoder").published(loaded.spec.shape))
        model = variants.build("autoencoder", loaded.spec.shape, hyper)
        fitted.append(Fitted("autoencoder", hyper, loaded.spec.shape, model.state_dict(), [{"epoch": 1, "validation_loss": 0.5}], 1))
    return Detector.assemble(fitted, loaded, Calibration())
