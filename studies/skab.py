"""DOCSTRING"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow import Calibration, Data, Search, Study, Training

if TYPE_CHECKING:
    import torch

    from raeflow.data.rows import Splits
    from raeflow.pipeline import Outcome
    from raeflow.variants._contract import Variant

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SENSORS = (
    "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage", "Volume_Flow_RateRMS",
)  # fmt: skip
KNOWN = 400
"""First readings of an experiment, which are all that a model and its threshold may know."""
WINDOW, SMOOTHED = 32, 20
"""Readings of a window, and of the mean that takes the sensors' noise out of residuals."""
LAGS, HORIZON = (20, 200), 2 * KNOWN
"""Lags over which a residual's wandering is measured in the known readings, and the one to which it is extrapolated."""
MARGIN = 1.5
"""An alert is a score above so many times the largest of the known readings."""
SEEDS = (0, 1, 2, 3, 4)
DEVELOPED = (*(f"other/{n}" for n in range(1, 6)), *(f"valve2/{n}" for n in range(4)))
"""Experiments on whose labels the choices above were made."""
PUBLISHED = {"f1": 0.78, "false_alarm_rate": 0.136, "missed_alarm_rate": 0.280}

MLP: dict[str, Any] = {"backbone": "mlp", "layers": (64,), "latent": 8}
CONV: dict[str, Any] = {"backbone": "conv", "layers": (32, 16), "kernels": (7, 7), "strides": (2, 2), "latent": 8}
TCN: dict[str, Any] = {"backbone": "tcn", "layers": (16, 16), "latent": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense autoencoder": ("autoencoder", MLP),
    "convolutional autoencoder": ("autoencoder", CONV),
    "temporal convolutions": ("autoencoder", TCN),
    "knn": ("knn", {"k": 5}),
}
TRAINING = Training(epochs=60, batch_size=32, patience=10, device="cpu")

STUDY = Study(
    name="skab",
    heads="error",
    committee=1,
    data=Data("skab/anomaly_free", time="datetime", window=WINDOW, stride=4),
    variants=("autoencoder",),
    search=Search(trials=1, selection="validation_loss"),
    training=Training(epochs=10),
    calibration=Calibration(method="quantile", quantile=0.99),
    hyper={"autoencoder": CONV},
    refit=False,
)


@dataclass(frozen=True)
class Experiment:
    """One run of the pump, N readings in order of time."""

    name: str
    time: Values
    """(N,) moments, to the second."""
    values: Values
    """(N, 8) float32, as the sensors gave them."""
    truth: Values
    """(N,) bool."""


def experiments(source: str = "skab") -> list[Experiment]:
    """All experiments of a named set, in the order of its file."""
    import pyarrow.parquet as pq

    from raeflow.data import resolve

    (path,) = resolve(Data(source)).sources
    table = pq.read_table(path)
    names = table["series"].to_numpy()
    values = np.stack([table[name].to_numpy() for name in SENSORS], 1).astype(np.float32)
    time, truth = table["datetime"].to_numpy(), table["anomaly"].to_numpy().astype(np.bool_)
    return [Experiment(str(name), time[own], values[own], truth[own]) for name in dict.fromkeys(names) for own in [names == name]]


def known_splits(experiment: Experiment) -> Splits:
    """Windows of the known readings alone: the first 320 train, the last 48 of the others validate; there is nothing else to leak."""
    import pyarrow as pa

    from raeflow.data import load

    columns = {name: experiment.values[:KNOWN, place] for place, name in enumerate(SENSORS)}
    table = pa.table({"time": experiment.time[:KNOWN], **columns})
    return load(Data(table, time="time", columns=SENSORS, window=WINDOW, fractions=(0.8, 0.2, 0, 0)))


def residuals(model: Variant | None, splits: Splits, experiment: Experiment) -> Values:
    """(N, 8) of each reading, what the window that ends with it has at that reading less what the model makes of it.

    No window goes over a gap, no reading's residual knows a later one; None is the model that expects what train was on average.
    """
    import torch

    from raeflow.data import timeline
    from raeflow.events import ReadingScores

    encoded = splits.encoding.encode(torch.from_numpy(experiment.values), 0)
    if model is None:
        return np.asarray(encoded.numpy(), np.float64)
    ticks, bounds = experiment.time.astype("datetime64[s]").astype(np.int64), np.array([0, len(encoded)])
    step = np.array([timeline.median_step(ticks[:KNOWN])])
    starts = timeline.starts(timeline.gaps(ticks, bounds, step, STUDY.data.max_gap), WINDOW, 1)
    windows = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(encoded.numpy(), WINDOW, axis=0)[starts])
    with torch.no_grad():
        maps = windows - model.reconstruct(windows)
    found = ReadingScores(len(encoded), WINDOW, at="last", channels=len(SENSORS))
    found.add(starts, maps.numpy())
    return np.asarray(found.channel_errors(), np.float64)


def drift_scores(residual: Values) -> Floats:
    """(N,) the largest shift of a channel, in units of what that channel may wander by itself.

    Shifts are means over the last `SMOOTHED` residuals (N, C) less the mean of the known ones. A channel wanders by a power of time:
    its mean squared change over lags within the known readings is extrapolated to `HORIZON`. A flow that stands still there has a
    small unit, a temperature that drifts there a large one.
    """
    shifts = smoothed(residual)
    known = shifts[:KNOWN]
    shifts = shifts - np.nanmean(known, 0)
    lags = np.unique(np.geomspace(*LAGS, 12).astype(int))
    changes = np.array([np.nanmean((known[lag:] - known[:-lag]) ** 2, 0) for lag in lags]) + 1e-12
    x, y = np.log(lags) - np.log(lags).mean(), np.log(changes)
    powers = np.clip((x[:, None] * y).sum(0) / (x**2).sum(), 0, 2)
    wander = np.exp(y.mean(0) + powers * (np.log(HORIZON) - np.log(lags).mean()))
    return largest(np.abs(shifts) / np.sqrt(wander + FLOOR**2))


FLOOR = 0.02
"""Least unit of a shift, in standard deviations of readings: a channel that never changes has no other."""


def error_scores(residual: Values) -> Floats:
    """(N,) the mean squared residual (N, C), smoothed: what a model scores by default, without a view of drift."""
    found: Floats = smoothed((residual**2).mean(1, keepdims=True))[:, 0]
    return found


def smoothed(values: Values) -> Floats:
    """(N, C) means over the last `SMOOTHED` readings that have a value; NaN where fewer than a quarter of them have one."""
    there = ~np.isnan(values)
    sums = np.cumsum(np.where(there, values, 0.0), axis=0)
    counts = np.cumsum(there, axis=0)
    sums[SMOOTHED:], counts[SMOOTHED:] = sums[SMOOTHED:] - sums[:-SMOOTHED], counts[SMOOTHED:] - counts[:-SMOOTHED]
    return np.divide(sums, counts, out=np.full(values.shape, np.nan), where=counts >= SMOOTHED // 4)


def largest(values: Values) -> Floats:
    """(N,) of (N, C), NaN where all are."""
    found: Floats = np.where(np.isnan(values), -np.inf, values).max(1)
    return np.where(np.isinf(found), np.nan, found)


def in_units(score: Floats) -> Floats:
    """(N,) scores as multiples of the threshold, which the known readings alone set: an alert is above 1."""
    return score / (MARGIN * np.nanmax(score[:KNOWN]))


def published_scores(experiment: Experiment, seed: int) -> dict[str, Floats]:
    """(N,) scores of the leaderboard's convolutional autoencoder in units of its thresholds, by the name of the rule.

    A reading's score is the least of the windows of 60 that hold it: an alert needs all of them. It sees 59 later readings, and the
    last 118 have no score; windows go over gaps.
    """
    import torch

    known = experiment.values[:KNOWN]
    scaled = ((experiment.values - known.mean(0)) / np.maximum(known.std(0), 1e-12)).astype(np.float32)
    windows = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(scaled, PUBLISHED_WINDOW, axis=0).copy())
    net = published_network(windows[: KNOWN - PUBLISHED_WINDOW + 1], seed)
    with torch.no_grad():
        errors = (windows - net(windows)).abs().mean(2).sum(1).numpy()
    count, length = len(errors), PUBLISHED_WINDOW
    least = np.full(len(scaled), np.nan)
    least[length - 1 : count - length + 1] = np.lib.stride_tricks.sliding_window_view(errors, length - 1).min(1)[: count - 2 * length + 2]
    own = errors[: KNOWN - length + 1]
    return {name: least / (np.quantile(own, quantile) * factor) for name, (quantile, factor) in RULES.items()}


PUBLISHED_WINDOW = 60
RULES = {"0.999 quantile x 4/3": (0.999, 4 / 3), "0.99 quantile x 3/2": (0.99, 3 / 2)}


def published_network(windows: torch.Tensor, seed: int) -> torch.nn.Module:
    """The leaderboard's network, trained on windows (n, 8, 60) as published: Adam(1e-3), batches of 32, at most 100 epochs.

    Two convolutions of 7 with stride 2 (32 and 16 maps), two back, and one to a single map that all eight sensors are compared with;
    dropout of 0.2 after the first of each pair. The last tenth of the windows stops training after 5 epochs without gain.
    """
    import torch
    from torch import nn

    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv1d(windows.shape[1], 32, 7, 2, 3), nn.ReLU(), nn.Dropout(0.2), nn.Conv1d(32, 16, 7, 2, 3), nn.ReLU(),
        nn.ConvTranspose1d(16, 16, 7, 2, 3, 1), nn.ReLU(), nn.Dropout(0.2), nn.ConvTranspose1d(16, 32, 7, 2, 3, 1), nn.ReLU(),
        nn.ConvTranspose1d(32, 1, 7, 1, 3),
    )  # fmt: skip
    for layer in net:
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    held = len(windows) - len(windows) // 10
    train, validate = windows[:held], windows[held:]
    optimizer, best, waited = torch.optim.Adam(net.parameters(), 1e-3, eps=1e-7), np.inf, 0
    for _ in range(100):
        net.train()
        for batch in torch.randperm(held).split(32):
            optimizer.zero_grad()
            (net(train[batch]) - train[batch]).square().mean().backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            loss = float((net(validate) - validate).square().mean())
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == 5:
            break
    return net
