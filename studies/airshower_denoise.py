"""Does a convolutional denoiser find air showers in noisy radio traces, and where does it fail?

Traces of 500 samples through four 1-D convolutions, each followed by max-pooling, to a code of 16 channels x 31, and
back by repeated samples; trained on pairs of noisy and clean traces. The source counts the test traces whose
recovered peak lies within 2 % of the true one: 69 % under realistic noise, 95 % under uniform noise, 98 % under one cosine.

"Within 2 %" is read as a place, 10 of the 500 samples, since the source tracks the location; the other reading, the
height of the peak, is printed beside it. The source prints no signal-to-noise ratio. Its realistic traces are those of
exercise 9.2 of "Deep Learning for Physics Research", which gives two anchors: its own traces have a ratio of 2 (peak over
RMS of the whole trace), and observatories reconstruct well from about 3. So every noise is judged at 3, and the
curve shows the rest. Two figures that need no network stand beside it: the peak of the noisy trace itself, and a matched
filter that knows the very pulse it looks for, which no denoiser does.

    raeflow study airshower_denoise

Measured on one of 2 shared cores: 101 s for the realistic network, then 3 min 26 s. At a ratio of 3: uniform 96.1 %,
cosine 100.0 %, realistic 57.8 %; realistic noise reaches the source's 69 % between 3 (57.8 %) and 4 (85.8 %). What this
metric hides: under realistic and uniform noise the peak of the noisy trace itself is the better guess of the place
(60.8 % and 99.6 % at 3), since uniform noise is bounded and the realistic one fills the very band of the pulses; what the
denoiser adds is the pulse's form and spectrum. Read as a height within 2 %, hardly any peak is right (1.3 %, 4.6 % and
6.2 % at 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raeflow import Data, Search, Study, Training

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from raeflow.data.rows import Splits
    from raeflow.data.sets.airshower import AirShower
    from raeflow.pipeline import Outcome

    Traces = np.ndarray[Any, np.dtype[np.floating[Any]]]
    Denoise = Callable[[Traces], Traces]

NETWORK = {
    "corruption": "target", "backbone": "conv", "layers": (32, 32, 32, 16), "kernels": (9, 9, 9, 9), "strides": (), "pooling": "max",
    "upsampling": "nearest", "latent": 0, "output": "identity", "loss": "mse", "lr": 2e-3,
}  # fmt: skip
STUDY = Study(
    name="airshower_denoise",
    data=Data("airshower/realistic"),
    variants=("denoising",),
    search=Search(trials=1, selection="validation_loss"),
    training=Training(epochs=12, batch_size=64, patience=None),
    hyper={"denoising": NETWORK},
    refit=False,
)
SOURCE = {"realistic": 0.69, "uniform": 0.95, "cosine": 0.98}
JUDGED = 3.0
"""Signal-to-noise ratio at which the source's figures are compared."""
RATIOS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
TRACES = 1000
"""Of each noise and ratio, all with a shower, none of which a model has seen."""
SEED = 1
"""The named sets are drawn with seed 0."""
ROWS = 6_000
"""Traces drawn to train on, of each noise of which the source made its own set; realistic ones are the named set's."""
DRAWN = (1.5, 10.0)
"""Their ratios: the named sets' go to 20, and squared errors of such pulses leave little weight to faint ones."""
OTHERS = Training(epochs=10, batch_size=64, patience=None)


def conclude(outcome: Outcome) -> str:
    """Accuracy of the recovered peaks under each noise, over the signal-to-noise ratio."""
    from raeflow.data.sets.airshower import NOISES, simulate
    from raeflow.metrics import peak_accuracy

    places: dict[str, list[float]] = {}
    heights: dict[str, list[float]] = {}
    raw: dict[str, list[float]] = {}
    known: dict[str, list[float]] = {}
    drawn: list[Path] = []
    for noise in NOISES:
        denoise = outcome.detector.reconstruct if noise == "realistic" else trained(noise, outcome)
        for kept in (places, heights, raw, known):
            kept[noise] = []
        for ratio in RATIOS:
            test = simulate(TRACES, noise, ratio, seed=SEED, showers=1.0)
            recovered = denoise(test.noisy[:, None])[:, 0]
            places[noise].append(peak_accuracy(recovered, test.clean))
            heights[noise].append(peak_accuracy(recovered, test.clean, by="amplitude"))
            raw[noise].append(peak_accuracy(test.noisy, test.clean))
            known[noise].append(matched(noise, test))
            if ratio == JUDGED:
                drawn += pictures(outcome, noise, test, recovered)
    drawn.append(outcome.picture("accuracy", curve(places)))
    at = RATIOS.index(JUDGED)
    lines = [
        f"share of {TRACES:,} traces with a shower whose recovered peak lies within 2 % of the window (10 samples), at SNR {JUDGED:g}",
        f"{'':12}{'source':>8}{'here':>8}{'height within 2 %':>20}{'noisy trace':>14}{'pulse known':>14}",
        *(
            f"{n:12}{SOURCE[n]:>8.1%}{places[n][at]:>8.1%}{heights[n][at]:>20.1%}{raw[n][at]:>14.1%}{known[n][at]:>14.1%}"
            for n in NOISES
        ),
        "",
        f"{'by SNR (peak / RMS of the noise)':44}" + "".join(f"{ratio:>8g}" for ratio in RATIOS),
    ]  # fmt: skip
    for noise in NOISES:
        for what, found in (("recovered", places), ("recovered, height", heights), ("noisy trace", raw), ("pulse known", known)):
            lines.append(f"{noise + ', ' + what:44}" + "".join(f"{share:>8.1%}" for share in found[noise]))
    lines += ["", *(f"picture   {place}" for place in drawn), "command   raeflow study airshower_denoise"]
    return "\n".join(lines)


def trained(noise: str, outcome: Outcome) -> Denoise:
    """The study's network trained under another noise, on traces drawn for it: noisy traces (N, 1, 500) to clean ones, in uV/m."""
    import dataclasses

    import torch

    from raeflow import variants
    from raeflow.training import fit

    splits = drawn_for(noise)
    hyper = variants.hyper("denoising", NETWORK, variants.get("denoising").published(splits.spec.shape))
    model = fit("denoising", dataclasses.asdict(hyper), splits, OTHERS, outcome.study.seed).model()

    def denoise(noisy: Traces) -> Traces:
        x = torch.from_numpy(noisy)
        with torch.inference_mode():
            rebuilt = torch.cat([model.reconstruct(splits.encoding(part)) for part in x.split(128)])
        clean: Traces = splits.encoding.inverse(rebuilt, x).numpy()
        return clean

    return denoise


def drawn_for(noise: str) -> Splits:
    """Pairs of noisy and clean traces to train and validate on, of the ratios `DRAWN`."""
    import torch

    from raeflow.data.rows import Rows, RowSpec, Splits
    from raeflow.data.scaling import fit_scaling
    from raeflow.data.sets.airshower import SAMPLES, simulate

    pairs = simulate(ROWS + ROWS // 10, noise, DRAWN, seed=SEED + 2, showers=0.9)
    x, target = (torch.from_numpy(v)[:, None] for v in (pairs.noisy, pairs.clean))
    train, validate = (Rows(x[part], target[part]) for part in (slice(0, ROWS), slice(ROWS, None)))
    scaling = fit_scaling("global", (1, SAMPLES), x.dtype, [train.x])
    return Splits(RowSpec(("noisy",), "list", (1, SAMPLES), "float32"), scaling, train, validate, None, None)


def matched(noise: str, test: AirShower) -> float:
    """Share of pulses that a filter matched to each one's own shape puts within 2 % of the window of where it is.

    Noise is taken to be stationary, with the spectrum of traces that hold nothing else.
    """
    import numpy as np

    from raeflow.data.sets.airshower import SAMPLES, simulate

    background = simulate(TRACES, noise, seed=SEED + 1, showers=0.0).noisy
    power = (np.abs(np.fft.rfft(background)) ** 2).mean(0)
    filtered = np.fft.irfft(np.fft.rfft(test.noisy) * np.conj(np.fft.rfft(test.clean)) / power, SAMPLES)
    late = np.abs(filtered).argmax(1)
    return float((np.minimum(late, SAMPLES - late) <= 0.02 * SAMPLES).mean())


def pictures(outcome: Outcome, noise: str, test: AirShower, recovered: Traces) -> list[Path]:
    """Some traces, and mean amplitude spectra of true, recovered and noisy ones."""
    import numpy as np

    from raeflow.data.sets.airshower import RATE, SAMPLES
    from raeflow.report.curves import spectra
    from raeflow.report.signalplots import traces

    some = slice(0, 6)
    gap = np.abs(np.abs(recovered[some]).argmax(1) - np.abs(test.clean[some]).argmax(1))
    titles = [f"SNR {JUDGED:g}, peak off by {int(g)} of {SAMPLES} samples" for g in gap]
    lines = {"noisy": test.noisy[some], "true": test.clean[some], "recovered": recovered[some]}
    spectrum = spectra({"true": test.clean, "recovered": recovered, "noisy": test.noisy}, rate=RATE, unit="MHz")
    return [
        outcome.picture(f"traces_{noise}", traces(lines, titles, ("time (us)", "field (uV/m)"), rate=RATE)),
        outcome.picture(f"spectra_{noise}", spectrum),
    ]


def curve(places: dict[str, list[float]]) -> Any:
    """Accuracy over signal-to-noise ratio, the source's figures as dotted lines."""
    from raeflow.report.curves import curves

    levels = {f"source, {noise}": SOURCE[noise] for noise in places}
    return curves(RATIOS, places, ("SNR: peak / RMS of the noise", "share of peaks within 2 % of the window"), levels)
