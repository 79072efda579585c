"""Do games detect anomalies through an encoder for their frozen generator, and how far behind autoencoders are they?

One class is normal, the nine others are anomalies, each class in turn: mean AUROC over the ten, on MNIST and on
Fashion-MNIST. gan, wgan_gp and wgan_div play on one network (three strided convolutions of 16, 32 and 64 channels in
critic and encoder, mirrored in the generator, codes of 32); then an encoder learns by f-AnoGAN's izi_f (Schlegl et al. 2019,
Medical Image Analysis 54) and a row's score is its squared error plus 0.1 times that of the critic's features. Beside them
three autoencoders on the same rows with their published values.

The 2-core form has eight epochs of batches of 32, one critic step for each of the generator's, and five to twenty times the
sources' learning rates. The full form has the sources' rates and critic steps, and 60 epochs.

    raeflow study fanogan
    raeflow study fanogan --full

Measured on 2 cores: 14 min 22 s, one seed; on 5,000 test rows of each set, the same for all methods,

    mean AUROC     gan   wgan_gp  wgan_div  autoencoder  denoising     vae
    MNIST       0.8917    0.9514    0.9411       0.9564     0.9597  0.9571
    Fashion     0.8891    0.9108    0.9084       0.9020     0.8834  0.9104

and 0.9184 on all 10,000 test digits for the 2 alone, through the whole pipeline. wgan_gp comes within 0.009 of the best
autoencoder on MNIST and is level with the best on Fashion-MNIST; the plain game is behind it on both, most on the digit 8 (0.687
beside wgan_gp's 0.875).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raeflow import Data, Search, Study, Training

if TYPE_CHECKING:
    from raeflow.cluster.many import Done
    from raeflow.data.rows import Splits
    from raeflow.pipeline import Outcome

SETS = ("mnist", "fashion_mnist")
CLASSES = range(10)
GAMES = ("gan", "wgan_gp", "wgan_div")
AUTOENCODERS = ("autoencoder", "denoising", "vae")
WANTED = 0.93
NETWORK: dict[str, Any] = {"backbone": "conv", "layers": (16, 32, 64), "kernels": (), "strides": (), "latent": 32, "kappa": 0.1}


@dataclass(frozen=True)
class Budget:
    """What one form of the study spends."""

    training: Training
    games: dict[str, dict[str, Any]]
    """Hyperparameters of each game beside the network."""
    judged: int
    """Test rows of each set that are scored."""


SMALL = Budget(
    Training(epochs=8, batch_size=32, patience=None, health=0),
    {
        "gan": {"lr": 1e-3, "encoder_lr": 2e-3},
        "wgan_gp": {"lr": 2e-3, "critic_steps": 1, "encoder_lr": 2e-3},
        "wgan_div": {"lr": 2e-3, "critic_steps": 1, "encoder_lr": 2e-3},
    },
    5_000,
)
LARGE = Budget(Training(epochs=60, batch_size=64, patience=None, health=0), {"gan": {}, "wgan_gp": {}, "wgan_div": {}}, 10_000)

STUDY = Study(
    name="fanogan",
    heads="error",
    committee=1,
    data=Data("mnist", normal=[("label", "==", 2)]),
    variants=("wgan_gp",),
    search=Search(trials=1),
    training=SMALL.training,
    hyper={"wgan_gp": {**NETWORK, **SMALL.games["wgan_gp"]}},
    refit=False,
)
"""One of the hard classes, through the whole pipeline; `conclude` has the others."""
FULL = STUDY.but(
    name="fanogan_full",
    search=Search(trials=1, gpus=0.25),
    training=LARGE.training,
    hyper={"wgan_gp": {**NETWORK, **LARGE.games["wgan_gp"]}},
)


def conclude(outcome: Outcome) -> str:
    """Mean AUROC of every method on both sets, and what each class gave."""
    budget = LARGE if outcome.study.name == FULL.name else SMALL
    areas, seconds = measured(outcome, budget)
    means = {key: sum(values) / len(values) for key, values in areas.items()}
    lines = [f"{'mean AUROC, one class against nine':36}" + "".join(f"{name:>15}" for name in SETS) + f"{'seconds each':>14}"]
    for method in (*GAMES, *AUTOENCODERS):
        row = "".join(f"{means[name, method]:15.4f}" for name in SETS)
        lines.append(f"{method:36}{row}{sum(seconds[name, method] for name in SETS) / len(SETS):14.1f}")
    lines.append("")
    for name in SETS:
        lines.append(f"{name + ', by class':36}" + "".join(f"{kind:8}" for kind in CLASSES))
        lines += [f"  {method:34}" + "".join(f"{area:8.3f}" for area in areas[name, method]) for method in (*GAMES, *AUTOENCODERS)]
    best = max(GAMES, key=lambda game: means["mnist", game])
    found = means["mnist", "wgan_gp"]
    lines += [
        "",
        f"wanted of wgan_gp on MNIST: {WANTED:.2f} or more; measured {found:.4f}: {'reached' if found >= WANTED else 'missed'}",
        f"the game that detects best on MNIST: {best} ({means['mnist', best]:.4f}); the best autoencoder there: "
        f"{max(means['mnist', method] for method in AUTOENCODERS):.4f}",
    ]
    return "\n".join(lines)


def measured(outcome: Outcome, budget: Budget) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], float]]:
    """AUROC of each class and mean seconds of a training, by set and method; each also a nested run of the study's."""
    from raeflow.cluster.many import fit_many
    from raeflow.cluster.train import Task
    from raeflow.data import load, resolve

    whole: dict[str, Splits] = {name: load(resolve(Data(name))) for name in SETS}
    plan = [(name, method, kind) for name in SETS for method in (*GAMES, *AUTOENCODERS) for kind in CLASSES]
    rows = {(name, kind): whole[name].of_class(kind) for name in SETS for kind in CLASSES}
    tasks = []
    for name, method, kind in plan:
        shape = whole[name].spec.shape
        tasks.append((Task(method, hyper_of(method, shape, budget), budget.training, outcome.study.seed), rows[name, kind]))
    area: dict[int, float] = {}

    def judge(place: int, done: Done) -> None:
        name, method, kind = plan[place]
        area[place] = auroc_of(done, rows[name, kind], budget.judged)
        told = f"{len(area)}/{len(plan)} {method}, class {kind} of {name}: AUROC {area[place]:.4f}, {done.seconds:.1f} s"
        print(told, file=sys.stderr, flush=True)

    done = fit_many(tasks, gpus=outcome.study.search.gpus, ended=judge)
    areas: dict[tuple[str, str], list[float]] = {}
    seconds: dict[tuple[str, str], float] = {}
    for place, (name, method, _) in enumerate(plan):
        areas.setdefault((name, method), []).append(area[place])
        seconds[name, method] = seconds.get((name, method), 0.0) + done[place].seconds / len(CLASSES)
    for (name, method), found in areas.items():
        metrics = {"mean_auroc": sum(found) / len(found), "seconds": seconds[name, method]}
        outcome.tracker.step(f"{method} on {name}", {"variant": method, "data": name}, metrics)
    return areas, seconds


def hyper_of(method: str, shape: tuple[int, ...], budget: Budget) -> dict[str, Any]:
    """The games on one network, the autoencoders with their published values."""
    import dataclasses

    from raeflow import variants

    own = {**NETWORK, **budget.games[method]} if method in GAMES else {}
    return dataclasses.asdict(variants.hyper(method, own, variants.get(method).published(shape)))


def auroc_of(done: Done, splits: Splits, count: int) -> float:
    """AUROC on `count` test rows, the same for all; drawn at random, for the first half of MNIST's is the easier one."""
    from raeflow.metrics import auroc
    from raeflow.training import scores

    assert splits.test is not None
    test = splits.test.some(count)
    assert test.anomaly is not None
    return auroc(test.anomaly.numpy(), scores(done.fitted.model(), splits.encoding, test).numpy())
