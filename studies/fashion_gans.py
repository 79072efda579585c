"""Which game draws the likeliest clothes, and what do mixed styles show?

The source builds a dense GAN and a DCGAN on Fashion-MNIST, shows the dense one's blurred items, and describes progressive
growing and StyleGAN in words. Here all four are played on the same 44,764 items and judged by the same numbers, in the
features of a small classifier of clothes (`raeflow.health`): the Frechet distance, precision and coverage (does a drawn item
look real, and is every real one represented). Real items that no game saw stand beside them.

The dense GAN is the source's: a code of 30, layers 100-150 and 150-100, selu, a sigmoid, batches of 32; Adam in place of
RMSprop, 15 of its 50 epochs. The others keep their papers' rules on narrower networks, with rates that suit few passes; R1's
gamma is 1 (10 in the paper, at 1024 x 1024). They see as many rows each, in two passes: seven times fewer than the dense GAN,
for a row costs them eleven to twenty-one times as much. Rows seen and seconds on one core are in the table.

    raeflow study fashion_gans
    raeflow study fashion_gans --full

The full form gives all four 50 epochs, as in the source, the DCGAN its code of 100 and 64-128 channels, and the growing
networks up to 256 channels: for a GPU.

Measured on 2 cores: 5 min 48 s, one seed.

                      Frechet  precision   recall  coverage  modes  rows seen  seconds
    real, held out       4.67       0.97     0.96      0.97     10
    dense GAN             912       0.85     0.23      0.35      7    671,460       73
    DCGAN                26.3       0.76     0.95      0.67     10     89,528      111
    progressive          57.9       0.84     0.52      0.44     10     89,528      198
    StyleGAN              191       0.80     0.37      0.33      9     89,528      207

With two passes the DCGAN is far ahead, and its clothes are plain to see; the growing games spend a seventh of their time alone
at full resolution, and their items are coarse. In a sheet of mixed styles the line gives the shape, the column the texture.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raeflow import Calibration, Data, Search, Study, Training

if TYPE_CHECKING:
    from torch import Tensor

    from raeflow.cluster.many import Done
    from raeflow.health import Gauge
    from raeflow.pipeline import Outcome

KINDS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
MEASURES = ("frechet_distance", "precision", "recall", "density", "coverage", "modes")
DRAWN = 2048
SHOWN, COLUMNS = 48, 12
LINES, ACROSS = 6, 8
"""Styles left of a sheet of mixtures, and above it."""
CROSSOVERS = {"styles_coarse": 2, "styles_middle": 4}
"""Layers that take the style on the left: those of 4 x 4 pixels, or those of 4 x 4 and 7 x 7."""

DENSE: dict[str, Any] = {
    "backbone": "mlp", "layers": (150, 100), "kernels": (), "latent": 30, "activation": "selu", "output": "sigmoid",
}  # fmt: skip


@dataclass(frozen=True)
class Played:
    """One game: its variant and hyperparameters, and how long it lasts."""

    title: str
    variant: str
    hyper: dict[str, Any]
    epochs: int


GROWING: dict[str, Any] = {"layers": (8, 16, 32, 32), "latent": 32, "lr": 2e-3}
SMALL = (
    Played("StyleGAN", "stylegan", {**GROWING, "r1": 1.0}, 2),
    Played("progressive", "progressive", GROWING, 2),
    Played("DCGAN", "dcgan", {"layers": (32, 64), "kernels": (5, 5), "latent": 64, "lr": 4e-4}, 2),
    Played("dense GAN", "gan", DENSE, 15),
)
"""The longest first, so that no core waits for it at the end."""
WIDE: dict[str, Any] = {"layers": (64, 128, 256, 256), "latent": 128}
LARGE = (
    Played("StyleGAN", "stylegan", {**WIDE, "r1": 1.0}, 50),
    Played("progressive", "progressive", WIDE, 50),
    Played("DCGAN", "dcgan", {"layers": (64, 128), "kernels": (5, 5), "latent": 100}, 50),
    Played("dense GAN", "gan", DENSE, 50),
)

STUDY = Study(
    name="fashion_gans",
    heads="error",
    committee=1,
    data=Data("fashion_mnist"),
    variants=("gan",),
    search=Search(trials=1, selection="validation_loss"),
    training=Training(epochs=2, batch_size=32, patience=None, health=0),
    calibration=Calibration(method="quantile", quantile=0.99),
    hyper={"gan": DENSE},
    refit=False,
)
"""The pipeline makes a detector of the dense GAN; `conclude` plays the four games, which learn no encoder."""
FULL = STUDY.but(
    name="fashion_gans_full",
    search=Search(trials=1, selection="validation_loss", gpus=0.25),
    training=Training(epochs=50, batch_size=32, patience=None, health=0),
)


def conclude(outcome: Outcome) -> str:
    """The four games in one table, a sheet of each, and the mixed styles of StyleGAN."""
    import torch

    from raeflow.health import Gauge
    from raeflow.report.sheets import sheet

    played = LARGE if outcome.study.name == FULL.name else SMALL
    done = play(outcome, played)
    gauge = Gauge(outcome.splits, outcome.study.seed, rows=DRAWN)
    heads = "".join(f"{name.replace('_', ' '):>18}" for name in MEASURES)
    told = [f"{'beside real clothes':22}{heads}{'rows seen':>12}{'seconds':>9}", line("real, held out", held_out(outcome, gauge))]
    places, distances = [], {}
    for game, one in reversed(list(zip(played, done, strict=True))):
        model = one.fitted.model()
        found = gauge(model)
        distances[game.title] = found["frechet_distance"]
        rows = game.epochs * len(outcome.splits.train)
        outcome.tracker.step(f"clothes {game.title}", {"variant": game.variant, "epochs": game.epochs}, {**found, "seconds": one.seconds})
        told.append(line(game.title, found) + f"{rows:12,}{one.seconds:9.0f}")
        figure = sheet(gauge.drawn(model, SHOWN), COLUMNS)
        places.append(outcome.picture(game.title.replace(" ", "_").lower(), figure))
    stylegan = done[[game.variant for game in played].index("stylegan")].fitted.model()
    with torch.no_grad():
        places += [outcome.picture(name, mixtures(stylegan, at, outcome.study.seed)) for name, at in CROSSOVERS.items()]
    nearest = min(distances, key=lambda title: distances[title])
    return "\n".join([*told, f"nearest to real clothes: {nearest}", *(f"picture  {place}" for place in places)])


def play(outcome: Outcome, played: tuple[Played, ...]) -> list[Done]:
    """Every game on all training rows, on a core or the study's share of a GPU each."""
    import dataclasses

    from raeflow import variants
    from raeflow.cluster.many import fit_many
    from raeflow.cluster.train import Task

    shape, study = outcome.splits.spec.shape, outcome.study
    tasks = []
    for game in played:
        hyper = variants.hyper(game.variant, {**game.hyper, "game": 1.0}, variants.get(game.variant).published(shape))
        training = dataclasses.replace(study.training, epochs=game.epochs)
        tasks.append((Task(game.variant, dataclasses.asdict(hyper), training, study.seed), outcome.splits))

    def tell(place: int, one: Done) -> None:
        print(f"{played[place].title}: {one.seconds:.0f} s", file=sys.stderr, flush=True)

    return fit_many(tasks, gpus=study.search.gpus, ended=tell)


def held_out(outcome: Outcome, gauge: Gauge) -> dict[str, float]:
    """What the same measures say of real clothes of the test split."""
    assert outcome.splits.test is not None
    rows: Tensor = outcome.splits.encoding(outcome.splits.test.some(DRAWN).x)
    return {**gauge.compared(gauge.features(rows)), "modes": float(gauge.modes(rows))}


def line(title: str, found: dict[str, float]) -> str:
    """One line of the table."""
    return f"{title:22}" + "".join(f"{found[name]:18.2f}" for name in MEASURES)


def mixtures(model: Any, crossover: int, seed: int) -> Any:
    """A sheet of rows whose layers below `crossover` take the style on the left, the others that above."""
    import torch

    from raeflow.report.sheets import sheet

    codes = torch.randn(LINES + ACROSS, model.hyper.latent, generator=torch.Generator().manual_seed(seed))
    styles = model.styles(codes)
    first, second = styles[:LINES], styles[LINES:]
    mixed = model.mixed(first.repeat_interleave(ACROSS, 0), second.repeat(LINES, 1), crossover).unflatten(0, (LINES, ACROSS))
    own = model.decode(styles)
    empty = torch.full_like(own[:1], torch.nan)
    lines = [torch.cat([own[number : number + 1], mixed[number]]) for number in range(LINES)]
    return sheet(torch.cat([empty, own[LINES:], *lines]), 1 + ACROSS, corner=True)
