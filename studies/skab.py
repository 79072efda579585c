"""Are faults of a pump found from the first 400 readings of each experiment, at no more false alarms than the best published?

SKAB (Katser & Kozitsin 2020): 34 experiments, eight sensors, one reading a second, a fault of some 400 readings in each. The protocol of
its leaderboard: a model for each experiment, whose first 400 readings train it and set its threshold; the others are test, and true and
false alarms of all experiments are added up. Best published: a convolutional autoencoder, F1 0.78 with 13.6 % false and 28.0 % missed
alarms. Flagging everything has 0.70.

    raeflow study skab
    python -m studies.skab     # the table alone; scores are kept in runs/skab/scores, and taken up from there

Contestants. `drift of readings`: means of a sensor's last 20 readings, told in units of how far it wanders by itself within the 400
readings (mean squared change by lag, a power of the lag); the largest is the score, an alert above twice the largest of the 400. Reasons:
faults last while noise is new each second; a shift of a flow that stood still says more than one of a temperature that drifts anyway. The
same for residuals of an autoencoder and of nearest neighbours on windows of 32 (320 readings train, 48 validate), and for both their plain
squared errors. `leaderboard's`: its autoencoder, built from its description, with two thresholds, of which its code has 0.999 x 4/3;
its last layer has one map for all eight sensors, as published. An alert of it needs all windows of 60 that hold a reading, so it waits
for the 59 readings that follow; all others see no later reading.

Choices (20 readings, the horizon, the margin, the largest channel) were made on the nine experiments of `DEVELOPED` and on the share of
false alarms in the anomaly-free series, and were fixed before the other 25 were scored. Measured on 2 shared cores, one seed; `drift of
readings` has no dice, so any five seeds give the same:

                                   all 34                  the 25 others            the 9 looked at      events delay  VUS-PR aff. P aff. R
                               F1    false missed       F1    false missed       F1    false missed      found   s
    drift of readings         0.785  12.7 % 28.4 %     0.758  14.2 % 31.6 %     0.868   8.2 % 17.7 %      30     36    0.868  0.908  0.867
    leaderboard's, 0.999x4/3  0.781  14.1 % 28.2 %     0.783  14.8 % 27.6 %     0.775  11.8 % 30.0 %      31     47    0.887  0.924  0.875
    leaderboard's, 0.99x3/2   0.745  10.4 % 35.4 %     0.753  11.1 % 33.9 %     0.716   8.2 % 40.1 %      29     51    0.886  0.935  0.818
    error of readings         0.745  33.6 % 23.4 %     0.734  33.4 % 25.5 %     0.779  34.3 % 16.4 %      32     20    0.792  0.812  0.921
    flag everything           0.698 100.0 %  0.0 %     0.702 100.0 %  0.0 %     0.687 100.0 %  0.0 %      34      0    0.777  0.644  1.000

So 0.78 at no more false alarms is met over all experiments (0.785 at 12.7 %), but barely: on those that nobody had looked at
it is 0.758 at 14.2 %, less than the rebuilt leaderboard's 0.783 at 14.8 %. The goal of 0.82 is not met. The published figures are met by
the network rebuilt here (0.781, 14.1 %, 28.2 %).

What failed, on the nine alone: models of windows. Trained on 320 readings they fit these better than any later ones, so that a threshold
of the first 400 is too low: drift of the convolutional autoencoder 0.856 at 20.1 % false alarms, of temporal convolutions 0.814 at 30.8 %,
of a dense autoencoder 0.780 at 37.8 %, of neighbours 0.758 at 41.2 %; plain errors 0.763 at 35.0 %, 0.773 at 26.3 %, 0.722 at 24.7 % and
0.785 at 32.2 %. Temporal convolutions are no better than plain ones. The mean of `drift of readings` and the leaderboard's scores was
not better on the nine (0.859 at 12.3 %); it has 0.800 at 15.7 % on all. Seeds of the trained contestants are yet to be measured.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raeflow import Calibration, Data, Search, Study, Training

if TYPE_CHECKING:
    from pathlib import Path

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
LAGS, HORIZON = (20, KNOWN // 2), KNOWN
"""Lags over which a residual's wandering is measured in the known readings, and the one to which it is extrapolated."""
MARGIN = 2.0
"""An alert is a score above so many times the largest of the known readings."""
SEEDS = (0, 1, 2, 3, 4)
DEVELOPED = (*(f"other/{n}" for n in range(1, 6)), *(f"valve2/{n}" for n in range(4)))
"""Experiments on whose labels the choices above were made."""
PUBLISHED = {"f1": 0.78, "false_alarm_rate": 0.136, "missed_alarm_rate": 0.280}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv. autoencoder": ("autoencoder", {"backbone": "conv", "layers": (32, 16), "kernels": (7, 7), "strides": (2, 2), "latent": 8}),
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
    hyper={"autoencoder": MODELS["conv. autoencoder"][1]},
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


def conclude(outcome: Outcome) -> str:
    """The table of the protocol; the model of the pipeline saw the anomaly-free series and takes no part in it."""
    return report(outcome.study.folder / "scores")


def report(folder: Path, runs: Sequence[Experiment] | None = None, seeds: Sequence[int] = SEEDS) -> str:
    """One line for each contestant, on all experiments, and F1, false and missed alarms on those nobody looked at by themselves."""
    runs = experiments() if runs is None else runs
    others = [run.name not in DEVELOPED for run in runs]
    lines = [
        f"{'':32}{'F1':>14}{'false':>8}{'missed':>8} |{'others: F1':>15}{'false':>8}{'missed':>8} |" + "".join(f"{n:>9}" for n in FIGURES)
    ]
    for name, contestant in CONTESTANTS.items():
        found = [[kept(folder, run, seed, contestant) for run in runs] for seed in seeds]
        every = mean_std([board(runs, scores) for scores in found])
        own = [[score for score, other in zip(scores, others, strict=True) if other] for scores in found]
        rest = mean_std([board([run for run, other in zip(runs, others, strict=True) if other], scores) for scores in own])
        more = mean_std([figures(runs, scores) for scores in found])
        parts = [f"{p['f1'][0]:8.3f} +-{p['f1'][1]:.3f}" + "".join(f"{p[n][0]:8.1%}" for n in RATES) for p in (every, rest)]
        lines.append(f"{name:32}{parts[0]} |{parts[1]:>31} |" + "".join(f"{more[n][0]:9.3f}" for n in FIGURES.values()))
    told = f"{'published':32}{PUBLISHED['f1']:8.2f}{'':6}" + "".join(f"{PUBLISHED[n]:8.1%}" for n in RATES)
    return "\n".join([*lines, told])


RATES = ("false_alarm_rate", "missed_alarm_rate")
FIGURES = {
    "found": "found", "delay, s": "delay_seconds", "false/d": "false_alarms_per_day", "VUS-PR": "vus_pr",
    "aff. P": "affiliation_precision", "aff. R": "affiliation_recall",
}  # fmt: skip


def board(runs: Sequence[Experiment], scores: Sequence[Floats]) -> dict[str, float]:
    """The leaderboard's figures of scores in units of their thresholds; no score, no alert."""
    from raeflow.series_metrics import leaderboard

    names = np.repeat([run.name for run in runs], [len(run.time) for run in runs])
    return leaderboard(np.concatenate([run.truth for run in runs]), np.nan_to_num(np.concatenate(scores)) > 1, names, KNOWN)


def figures(runs: Sequence[Experiment], scores: Sequence[Floats]) -> dict[str, float]:
    """What `raeflow.series_metrics` says of the readings behind the known ones."""
    from raeflow.series_metrics import measures

    tests = [
        (run.truth[KNOWN:], score[KNOWN:], run.time[KNOWN:], np.repeat(run.name, len(score) - KNOWN))
        for run, score in zip(runs, scores, strict=True)
    ]
    truth, score, time, names = (np.concatenate(part) for part in zip(*tests, strict=True))
    return measures(truth, score, 1.0, time, names, buffer=WINDOW, joined=JOINED)


JOINED = 60
"""Seconds: alerts no further apart are one."""


def mean_std(found: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of each figure."""
    return {name: (float(np.mean(values)), float(np.std(values))) for name in found[0] for values in [[one[name] for one in found]]}


def kept(folder: Path, run: Experiment, seed: int, contestant: Contestant) -> Floats:
    """Scores (N,) in units of their threshold; taken up from `folder` where the same were made before."""
    seed = seed if contestant.seeded else 0
    key = repr((run.name, seed, contestant.make.__qualname__, contestant.settings, KNOWN, WINDOW)).encode() + run.values.tobytes()
    path = folder / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.npy"
    if path.exists():
        raw: Values = np.load(path)
    else:
        raw = contestant.make(run, seed)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, raw)
        partial.replace(path)
    return contestant.score(raw)


def known_splits(experiment: Experiment) -> Splits:
    """Windows of the known readings alone: the first 320 train, the last 48 of the others validate; there is nothing else to leak."""
    import pyarrow as pa

    from raeflow.data import load

    columns = {name: experiment.values[:KNOWN, place] for place, name in enumerate(SENSORS)}
    table = pa.table({"time": experiment.time[:KNOWN], **columns})
    return load(Data(table, time="time", columns=SENSORS, window=WINDOW, fractions=(0.8, 0.2, 0, 0)))


def residuals_of(name: str | None) -> Callable[[Experiment, int], Values]:
    """What makes the residuals of an experiment by one of `MODELS`, or by none; see `residuals`."""

    def make(run: Experiment, seed: int) -> Values:
        from raeflow.training import fit

        splits = known_splits(run)
        return residuals(None if name is None else fit(*MODELS[name], splits, TRAINING, seed).model(), splits, run)

    return make


def residuals(model: Variant | None, splits: Splits, experiment: Experiment) -> Values:
    """(N, 8) of each reading, what the window that ends with it has at that reading less what the model makes of it.

    No window goes over a gap, no reading's residual knows a later one; None is the model that expects what train was on average.
    """
    import torch

    from raeflow.data import order as ordering
    from raeflow.events import ReadingScores

    encoded = splits.encoding.encode(torch.from_numpy(experiment.values), 0)
    if model is None:
        return np.asarray(encoded.numpy(), np.float64)
    ticks, bounds = experiment.time.astype("datetime64[s]").astype(np.int64), np.array([0, len(encoded)])
    step = np.array([ordering.median_step(ticks[:KNOWN])])
    starts = ordering.starts(ordering.gaps(ticks, bounds, step, STUDY.data.max_gap), WINDOW, 1)
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
    """(N, C) means over the last `SMOOTHED` readings that have values; NaN where a reading has none itself, or fewer came before it."""
    there = ~np.isnan(values).any(1)
    sums = np.cumsum(values[there], axis=0)
    sums[SMOOTHED:] -= sums[:-SMOOTHED].copy()
    sums[: SMOOTHED - 1] = np.nan
    found = np.full(values.shape, np.nan)
    found[there] = sums / SMOOTHED
    return found


def largest(values: Values) -> Floats:
    """(N,) of (N, C), NaN where all are."""
    found: Floats = np.where(np.isnan(values), -np.inf, values).max(1)
    return np.where(np.isinf(found), np.nan, found)


def everything(values: Values) -> Floats:
    """(N,) above every threshold."""
    return np.full(len(values), 2.0)


def in_units(score: Floats) -> Floats:
    """(N,) scores as multiples of the threshold, which the known readings alone set: an alert is above 1."""
    return score / (MARGIN * np.nanmax(score[:KNOWN]))


def published_errors(run: Experiment, seed: int) -> Values:
    """(N - 59,) errors of the windows of 60 that begin at each reading, of the leaderboard's autoencoder; they go over gaps."""
    import torch

    known = run.values[:KNOWN]
    scaled = ((run.values - known.mean(0)) / np.maximum(known.std(0), 1e-12)).astype(np.float32)
    windows = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(scaled, PUBLISHED_WINDOW, axis=0).copy())
    net = published_network(windows[: KNOWN - PUBLISHED_WINDOW + 1], seed)
    with torch.no_grad():
        errors: Values = (windows - net(windows)).abs().mean(2).sum(1).numpy()
    return errors


def published_scores(errors: Values, quantile: float, factor: float) -> Floats:
    """(N,) the least error of the windows that hold a reading, over `factor` times a quantile of the known windows' errors.

    An alert needs all of these windows, so 59 later readings are seen, and the last 118 have no score.
    """
    length = PUBLISHED_WINDOW
    found = np.full(len(errors) + length - 1, np.nan)
    least = np.lib.stride_tricks.sliding_window_view(errors, length - 1).min(1)
    found[length - 1 : len(errors) - length + 1] = least[: len(errors) - 2 * length + 2]
    scores: Floats = found / (np.quantile(errors[: KNOWN - length + 1], quantile) * factor)
    return scores


PUBLISHED_WINDOW = 60


def published_network(windows: torch.Tensor, seed: int, epochs: int = 100) -> torch.nn.Module:
    """The leaderboard's network, trained on windows (n, 8, 60) as published: Adam(1e-3), batches of 32, so many epochs at most.

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
    for _ in range(epochs):
        net.train()
        for batch in torch.split(torch.randperm(held), 32):
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


@dataclass(frozen=True)
class Contestant:
    """How an experiment becomes scores in units of their threshold."""

    make: Callable[[Experiment, int], Values]
    """Of an experiment and a seed, what takes time."""
    score: Callable[[Values], Floats]
    """Of that, scores (N,)."""
    seeded: bool = True
    settings: object = None
    """What `make` depends on."""


_CONV, _KNN = ((name, MODELS[name], TRAINING) for name in MODELS)
CONTESTANTS = {
    "drift of readings": Contestant(residuals_of(None), lambda r: in_units(drift_scores(r)), False),
    "drift of conv. autoencoder": Contestant(residuals_of("conv. autoencoder"), lambda r: in_units(drift_scores(r)), True, _CONV),
    "error of conv. autoencoder": Contestant(residuals_of("conv. autoencoder"), lambda r: in_units(error_scores(r)), True, _CONV),
    "drift of knn": Contestant(residuals_of("knn"), lambda r: in_units(drift_scores(r)), False, _KNN),
    "error of readings": Contestant(residuals_of(None), lambda r: in_units(error_scores(r)), False),
    "error of knn": Contestant(residuals_of("knn"), lambda r: in_units(error_scores(r)), False, _KNN),
    "leaderboard's, 0.999 x 4/3": Contestant(published_errors, lambda e: published_scores(e, 0.999, 4 / 3)),
    "leaderboard's, 0.99 x 3/2": Contestant(published_errors, lambda e: published_scores(e, 0.99, 3 / 2)),
    "flag everything": Contestant(residuals_of(None), everything, False),
}


if __name__ == "__main__":
    print(report(STUDY.folder / "scores"))
