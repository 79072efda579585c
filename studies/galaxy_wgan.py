"""Do 32 galaxies drawn by a Wasserstein GAN with lambda = 10 span the data, and does a plain GAN's sheet not?

The source shows two sheets and counts nothing: its basic GAN repeats three galaxies, its WGAN-GP with lambda = 10 shows "the
full spectrum of the dataset". Here both play on EFIGI's galaxies at 64x64x3 with the same networks, batches and epochs, and
are compared with real galaxies of the train split, beside real galaxies that were held out, which is what can be attained:
Frechet distance, precision, recall, density and coverage in the features of a small classifier trained on the same galaxies,
and the kinds of galaxy that this classifier finds in a sheet of 32. A game is said to span the data where it covers 0.8 of
what held-out galaxies do. The plain game is played at DCGAN's learning rate and at that of the other.

The 2-core form has narrow networks (16, 32, 64 and 128 channels), batches of 32, one critic step for each of the generator's,
ten times the paper's learning rate for WGAN-GP, and rates that fall to 0 over the second half. The full form has 64 to 512
channels, the papers' rates, and five critic steps for WGAN-GP, which so costs about five times as much as the plain game.

    raeflow study galaxy_wgan
    raeflow study galaxy_wgan --full

Measured on 2 cores: 8 min 4 s, one seed.

                          Frechet  precision   recall  density  coverage  kinds  seconds
    real, held out          0.122      0.982    0.987    1.006     0.956   3.62
    wgan_gp, lambda 10      0.941      0.981    0.949    0.887     0.817   3.24      280
    gan, rate 0.0002       10.296      0.974    0.352    0.956     0.325   3.00      204
    gan, rate 0.001         8.966      0.981    0.944    0.943     0.813   3.16      162

wgan_gp spans the data, as the source says. Whether the plain game does hangs on its learning rate here: at DCGAN's it repeats
one bright core, at five times that it covers as much as wgan_gp, though its galaxies are ten times as far from real ones and
show a lattice.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raeflow import Data, Search, Study, Training

if TYPE_CHECKING:
    from torch import Tensor

    from raeflow.health import Gauge
    from raeflow.pipeline import Outcome
    from raeflow.training import Fitted

LAMBDA = 10.0
SHEET, SHEETS = 32, 50
"""Galaxies of a sheet, and sheets over which its kinds are counted."""
REAL = "real, held out"
SPANS = 0.8
"""Share of the coverage of held-out galaxies from which a game is said to span the data."""
MEASURES = ("frechet_distance", "precision", "recall", "density", "coverage")
NETWORK: dict[str, Any] = {"backbone": "conv", "kernels": (), "strides": (), "output": "sigmoid", "game": 0.95}
SMALL: dict[str, Any] = {**NETWORK, "layers": (16, 32, 64, 128), "latent": 64, "decay": 0.5}
LARGE: dict[str, Any] = {**NETWORK, "layers": (64, 128, 256, 512), "latent": 128, "kernels": (5, 5, 5, 5)}

STUDY = Study(
    name="galaxy_wgan",
    heads="error",
    committee=1,
    data=Data("galaxies_efigi", scaling="unit"),
    variants=("wgan_gp", "gan"),
    search=Search(trials=2, selection="generation", stop_early=False, stop_collapsed=False),
    training=Training(epochs=30, batch_size=32, patience=None),
    hyper={"wgan_gp": {**SMALL, "penalty": LAMBDA, "critic_steps": 1, "lr": 1e-3}, "gan": SMALL},
    refit=False,
)
FULL = STUDY.but(
    name="galaxy_wgan_full",
    search=dataclasses.replace(STUDY.search, gpus=0.5),
    training=Training(epochs=1000, batch_size=64, patience=None, health=25),
    hyper={"wgan_gp": {**LARGE, "penalty": LAMBDA}, "gan": LARGE},
)


def conclude(outcome: Outcome) -> str:
    """The games and held-out galaxies beside real ones, a sentence for each game, and sheets."""
    import torch

    from raeflow.health import Gauge
    from raeflow.report.sheets import sheet

    splits = outcome.splits
    gauge = Gauge(splits, outcome.study.seed, rows=2048)
    parts = [part for part in (splits.validate, splits.calibrate, splits.test) if part is not None]
    held = torch.cat([splits.encoding(part.x) for part in parts])
    shown: dict[str, Tensor] = {REAL: held[torch.randperm(len(held), generator=torch.Generator().manual_seed(0))]}
    spent = {REAL: ""}
    for name, (fitted, seconds) in games(outcome).items():
        shown[name] = gauge.drawn(fitted.model(), len(held))
        spent[name] = f"{seconds:.0f} s"

    heads = "".join(f"{measure.replace('_', ' '):>18}" for measure in MEASURES)
    lines = [f"{'beside real galaxies of train':30}{heads}{f'kinds in {SHEET}':>13}"]
    covered = {}
    for name, rows in shown.items():
        found = gauge.compared(gauge.features(rows))
        kinds = kinds_in_sheets(gauge, rows)
        covered[name] = found["coverage"]
        row = "".join(f"{found[m]:18.3f}" for m in MEASURES)
        lines.append(f"{name:30}{row}{kinds:13.2f}{spent[name]:>8}")
        outcome.tracker.step(f"galaxies {name.replace(',', '')}", {"rows": len(rows)}, {**found, "kinds_in_sheet": kinds})
    label = torch.cat([part.label for part in parts if part.label is not None])
    right = float((gauge.named(held) == label).double().mean())
    lines += ["", f"kinds as a classifier names them, {right:.0%} of held-out galaxies rightly", *verdict(covered)]
    slugs = {name: name.replace(",", "").replace(" ", "_") for name in shown}
    places = [outcome.picture(slugs[name], sheet(rows[:SHEET], columns=8)) for name, rows in shown.items()]
    return "\n".join([*lines, *(f"picture  {place}" for place in places)])


def games(outcome: Outcome) -> dict[str, tuple[Fitted, float]]:
    """Each game and its seconds: those of the study, and the plain one once more at the other's learning rate."""
    from raeflow.cluster.many import fit_many
    from raeflow.cluster.train import Task
    from raeflow.errors import RaeflowError
    from raeflow.stored import load_fitted

    study, trials = outcome.study, {trial.variant: trial for trial in outcome.trials}
    for trial in trials.values():
        if trial.folder is None:
            raise RaeflowError(f"{study.name}: {trial.variant} cannot be compared: {trial.message}")
    gp, plain = trials["wgan_gp"], trials["gan"]
    task = Task("gan", {**plain.hyper, "lr": gp.hyper["lr"]}, study.training, study.seed)
    (again,) = fit_many([(task, outcome.splits)], gpus=study.search.gpus)
    return {
        f"wgan_gp, lambda {LAMBDA:g}": (load_fitted(Path(str(gp.folder))), gp.seconds),
        f"gan, rate {plain.hyper['lr']:g}": (load_fitted(Path(str(plain.folder))), plain.seconds),
        f"gan, rate {gp.hyper['lr']:g}": (again.fitted, again.seconds),
    }


def verdict(covered: dict[str, float]) -> list[str]:
    """For each game, whether it spans the data: its coverage beside that of real galaxies."""
    told = []
    for name, coverage in covered.items():
        if name != REAL:
            claimed, found = name.startswith("wgan_gp"), coverage >= SPANS * covered[REAL]
            how = f"covers {coverage / covered[REAL]:.2f} of what held-out galaxies do: {'spans' if found else 'does not span'} the data"
            told.append(f"{name} {how}, {'as' if claimed == found else 'not as'} the source says")
    return told


def kinds_in_sheets(gauge: Gauge, rows: Tensor) -> float:
    """Kinds of galaxy in a sheet, as the classifier names them; mean over sheets."""
    named = gauge.named(rows)[: SHEET * SHEETS].tolist()
    sheets = [named[start : start + SHEET] for start in range(0, len(named), SHEET)]
    return sum(len(set(one)) for one in sheets) / len(sheets)
