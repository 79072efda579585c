"""Who collapses to a few samples, and who shows the full spectrum?

The source shows pictures: a basic GAN repeats a few samples, WGAN-GP and WGAN-div do not. Here modes are counted, as
Metz et al. 2017 (arXiv:1611.02163) and Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761) count them: 2,500 points drawn of
a ring of 8 and of a grid of 25 Gaussians (`raeflow.data.sets.gaussians`), where a point within three standard deviations of a
centre is of high quality and covers that mode; and 26,000 images of stacked MNIST, three digits in three channels, which a
classifier of single digits names: 1,000 modes. KL is that of the modes' histogram to the uniform one, in nats.

Six methods, three seeds each: the game of `gan` plain, with experience replay and with mini-batch discrimination, `dcgan`,
`wgan_gp` and `wgan_div`. On one set all have the same networks (dcgan adds its batch normalisation), the same Adam, as many
steps of the generator and as many rows a step; the Wasserstein critics take five steps for each of the generator, each on rows
of its own, as published, and so cost about five times as much. On the plane learning rates fall to 0: at a fixed rate a
generator goes on circling the modes, and what is counted is where it happens to stand. The penalty of `wgan_gp` is 0.1 there,
as in its authors' code for such sets.

For two cores networks are small and trained briefly, and digits are averaged to 14 x 14; `--full` has the budget of that code.
Published, with other networks: a GAN covers 1 of the ring's 8 modes, 3.3 of the grid's 25, and a DCGAN 99 of the 1,000 at a KL
of 3.4 (Srivastava et al. 2017).

    raeflow study mode_collapse
    raeflow study mode_collapse --full

Measured on 2 cores: 13 min 31 s. Noise is what the count comes to by chance: points spread evenly over a square somewhat wider
than the centres, images of which each pixel is that of another real one.

    set                   method              modes by seed    mean  spread  high quality      KL  spread
    ring (8)              gan                         7 7 8     7.3     0.5         79.7%   0.527   0.438
    ring (8)              gan, replay                 8 7 8     7.7     0.5         67.1%   0.960   0.125
    ring (8)              gan, mini-batch             8 8 8     8.0     0.0         84.2%   0.503   0.476
    ring (8)              dcgan                       6 2 1     3.0     2.2          1.4%   1.306   0.707
    ring (8)              wgan_gp                     8 8 8     8.0     0.0         80.0%   0.003   0.002
    ring (8)              wgan_div                    8 8 8     8.0     0.0         80.8%   0.004   0.001
    ring (8)              noise                       6 3 6     5.0     1.4          0.4%   0.612   0.362
    grid (25)             gan                      22 17 23    20.7     2.6         69.3%   0.811   0.170
    grid (25)             gan, replay              17 21 15    17.7     2.5         44.9%   1.276   0.304
    grid (25)             gan, mini-batch          16 18 13    15.7     2.1         35.9%   2.012   0.089
    grid (25)             dcgan                     2 23 21    15.3     9.5         10.4%   1.301   0.960
    grid (25)             wgan_gp                  25 25 25    25.0     0.0         43.1%   0.178   0.128
    grid (25)             wgan_div                 25 25 25    25.0     0.0         70.9%   0.036   0.034
    grid (25)             noise                    24 21 24    23.0     1.4          2.1%   0.213   0.052
    stacked MNIST (1000)  gan                         4 1 1     2.0     1.4             -   6.596   0.441
    stacked MNIST (1000)  gan, replay                14 1 1     5.3     6.1             -   6.735   0.245
    stacked MNIST (1000)  gan, mini-batch       931 922 934   929.0     5.1             -   0.907   0.060
    stacked MNIST (1000)  dcgan                 168 488 566   407.3   172.2             -   2.554   0.787
    stacked MNIST (1000)  wgan_gp               980 972 965   972.3     6.1             -   0.611   0.071
    stacked MNIST (1000)  wgan_div              973 969 948   963.3    11.0             -   0.636   0.125
    stacked MNIST (1000)  noise                 526 552 555   544.3    13.0             -   2.845   0.011

The ordering holds on all three sets, by modes and by KL: wgan_gp and wgan_div cover all 8 and all 25 with every seed, no other
method does on the grid. That the plain game repeats a few samples is to be seen on stacked MNIST alone, where it draws one to
four of the 1,000; on the plane it loses modes, and what it shows of the others is often as sharp as wgan_gp's (on the grid
69 % of high quality beside 43 %). Mini-batch discrimination repairs most of that on digits and nothing on the grid, replay
little anywhere. On the grid evenly spread points cover 23 modes, so a count means little there without its share of high
quality: that of dcgan, whose normalised networks do not suit the plane, is not far from chance. The settings of the plane were
chosen by trainings of the Wasserstein games on the grid, so the others might do better with their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raeflow import Data, Search, Study, Training

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from raeflow.cluster.many import Done
    from raeflow.cluster.train import Task
    from raeflow.data.rows import Splits
    from raeflow.pipeline import Outcome
    from raeflow.training import Fitted

SEEDS = (0, 1, 2)
ROUNDS: dict[str, Any] = {"critic_steps": 5, "fresh_rows": True}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gan": ("gan", {}),
    "gan, replay": ("gan", {"replay": 1024}),
    "gan, mini-batch": ("gan", {"batch_kernels": 16}),
    "dcgan": ("dcgan", {}),
    "wgan_gp": ("wgan_gp", ROUNDS),
    "wgan_div": ("wgan_div", ROUNDS),
}
WASSERSTEIN = ("wgan_gp", "wgan_div")
NOISE = "noise"
"""What counts come to by chance: points spread evenly, images of independent pixels."""
FEW = 0.1
"""Share of the modes up to which a game is said to repeat a few samples."""
PLANE_PENALTY = 0.1
SETS = {"ring": 8, "grid": 25, "stacked MNIST": 1000}
POINTS, IMAGES, CHUNK = 2_500, 26_000, 1_000
SHOWN = 12


@dataclass(frozen=True)
class Budget:
    """What one form of the study may spend on each training."""

    steps: dict[str, int]
    """Steps of the generator on each set."""
    batch: dict[str, int]
    """Rows that a step of either player looks at, on each set."""
    rows: int
    """Stacked digits to train on."""
    pool: int
    """Digits are averaged over squares of so many pixels."""
    plane: dict[str, Any]
    """Hyperparameters of all methods on the ring and the grid."""
    images: dict[str, Any]
    """The same for stacked MNIST."""


@dataclass(frozen=True)
class Count:
    """What one training came to."""

    modes: int
    """Modes that at least one sample covers."""
    good: float
    """Share of samples of high quality; NaN where every sample counts."""
    kl: float
    """Of the covered modes' histogram to the uniform one, nats; infinite where no sample is of high quality."""


_ADAM = {"beta1": 0.5, "beta2": 0.999}
_QUICK = Budget(
    steps={"ring": 1_200, "grid": 3_200, "stacked MNIST": 800},
    batch={"ring": 200, "grid": 200, "stacked MNIST": 64},
    rows=12_800,
    pool=2,
    plane={"layers": (128, 128, 128), "latent": 2, "activation": "relu", "lr": 2e-3, "decay": 1.0, "beta1": 0.5, "beta2": 0.9},
    images={"layers": (16, 32), "kernels": (5, 5), "latent": 64, "output": "sigmoid", "lr": 5e-4, **_ADAM},
)
# 100,000 steps of the generator and the plane's networks as in the code of Gulrajani et al. 2017; 200 rows a step for its 256,
# so that whole batches fill an epoch.
_FULL = Budget(
    steps={"ring": 100_000, "grid": 100_000, "stacked MNIST": 100_000},
    batch={"ring": 200, "grid": 200, "stacked MNIST": 64},
    rows=128_000,
    pool=1,
    plane={"layers": (512, 512, 512), "latent": 2, "activation": "relu", "lr": 1e-4, "decay": 1.0, "beta1": 0.5, "beta2": 0.9},
    images={"layers": (64, 128, 256), "kernels": (5, 5, 5), "latent": 100, "output": "sigmoid", "lr": 2e-4, **_ADAM},
)


def rows_and_epochs(budget: Budget, kind: str, variant: str, train: int) -> tuple[int, int]:
    """Rows a batch, and epochs over so many train rows that hold the set's steps; a critic's five steps share a batch."""
    batch = budget.batch[kind] * (ROUNDS["critic_steps"] if variant in WASSERSTEIN else 1)
    return batch, round(budget.steps[kind] * batch / train)


_PLANE_ROWS = 16_000


def plain(budget: Budget) -> Training:
    """The plain game on the grid: the training that the study itself says, from which `task` makes all others."""
    batch, epochs = rows_and_epochs(budget, "grid", "gan", _PLANE_ROWS)
    return Training(epochs=epochs, batch_size=batch, patience=None, health=0)


STUDY = Study(
    name="mode_collapse",
    heads="error",
    committee=1,
    data=Data("gaussians/grid", scaling="none"),
    variants=("gan",),
    search=Search(trials=1, selection="validation_loss"),
    training=plain(_QUICK),
    hyper={"gan": {**_QUICK.plane, "game": 1.0}},
    refit=False,
)
FULL = STUDY.but(
    name="mode_collapse_full",
    search=Search(trials=1, selection="validation_loss", gpus=0.25),
    training=plain(_FULL),
    hyper={"gan": {**_FULL.plane, "game": 1.0}},
)


def conclude(outcome: Outcome) -> str:
    """One line for each method on each set, what the numbers say of the claim, and the pictures."""
    from raeflow.cluster.many import fit_many

    budget = _QUICK if outcome.study.name == STUDY.name else _FULL
    known, rows = prepared(outcome, budget)
    # The longest first, so that no core waits for them at the end.
    plan = [(kind, method, seed) for method in sorted(METHODS, key=lambda m: m not in WASSERSTEIN) for kind in SETS for seed in SEEDS]
    tasks = [(task(outcome.study.training, budget, kind, method, seed, len(rows[kind].train)), rows[kind]) for kind, method, seed in plan]

    def tell(place: int, one: Done) -> None:
        kind, method, seed = plan[place]
        print(f"{method} on {kind}, seed {seed}: {one.seconds:.0f} s", file=sys.stderr, flush=True)

    done = fit_many(tasks, gpus=outcome.study.search.gpus, ended=tell)
    fitted = dict(zip(plan, (one.fitted for one in done), strict=True))
    counts = {key: counted(one, key[0], rows[key[0]], known) for key, one in fitted.items()}
    counts |= {(kind, NOISE, seed): counts_of(noise(kind, rows[kind], seed), kind, known) for kind in SETS for seed in SEEDS}
    for (kind, method, seed), count in counts.items():
        outcome.tracker.step(f"{kind} {method.replace(', ', ' ')} {seed}", {}, vars(count))
    figures = {**clouds(fitted, rows), "stacked_digits": stacks(fitted, rows["stacked MNIST"]), "modes": bars(counts)}
    places = [f"picture  {outcome.picture(name, figure)}" for name, figure in figures.items()]
    return "\n".join([*lines(counts), "", read(known, rows["stacked MNIST"]), *verdict(counts), *places])


def task(training: Training, budget: Budget, kind: str, method: str, seed: int, train: int) -> Task:
    """One training on so many train rows: the set's networks and steps, the method's own fields, no encoder."""
    import dataclasses

    from raeflow import variants
    from raeflow.cluster.train import Task

    variant, own = METHODS[method]
    batch, epochs = rows_and_epochs(budget, kind, variant, train)
    common = budget.images if kind == "stacked MNIST" else budget.plane
    hyper = {**common, **own, "game": 1.0}
    if variant == "wgan_gp" and common is budget.plane:
        hyper["penalty"] = PLANE_PENALTY
    settings = dataclasses.asdict(variants.hyper(variant, hyper))
    return Task(variant, settings, dataclasses.replace(training, batch_size=batch, epochs=epochs), seed)


def prepared(outcome: Outcome, budget: Budget) -> tuple[torch.nn.Module, dict[str, Splits]]:
    """A classifier of single digits, trained on real ones, and the rows of the three sets."""
    import dataclasses

    import torch
    from torch.nn import functional

    from raeflow import pretrain, variants
    from raeflow.data import load
    from raeflow.data.rows import Rows

    mnist = load(Data("mnist"))
    train = next(iter(mnist.train.batches(len(mnist.train))))
    assert train.label is not None
    digits = functional.avg_pool2d(train.x.float(), budget.pool).round()
    torch.manual_seed(outcome.study.seed)
    shape = tuple(digits.shape[1:])
    start = variants.build("autoencoder", shape, vars(variants.hyper("autoencoder", {"channels": 16, "depth": 2, "latent": 64})))
    known = pretrain.Classifier(start, shape, 10)
    pretrain.fit_classifier(known, digits / 255, train.label, epochs=3, batch_size=64, seed=outcome.study.seed)
    images, _ = stacked(digits, train.label, budget.rows, outcome.study.seed)
    spec, few = dataclasses.replace(mnist.spec, shape=tuple(images.shape[1:])), Rows(images[:CHUNK])
    stack = dataclasses.replace(mnist, spec=spec, train=Rows(images), validate=few, calibrate=None, test=None, fingerprint="stacked")
    return known, {"ring": load(Data("gaussians/ring", scaling="none")), "grid": outcome.splits, "stacked MNIST": stack}


def stacked(digits: torch.Tensor, label: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stacked digits (count, 3, H, W) uint8 and their modes (count,), 0 to 999, of digits (N, 1, H, W) and labels (N,)."""
    import torch

    chosen_N3 = torch.randint(len(digits), (count, 3), generator=torch.Generator().manual_seed(seed))
    return digits[chosen_N3].flatten(1, 2).to(torch.uint8), number(label[chosen_N3])


def number(digits: torch.Tensor) -> torch.Tensor:
    """(N, 3) digits to (N,) numbers of three digits."""
    return digits[:, 0] * 100 + digits[:, 1] * 10 + digits[:, 2]


def named(known: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in 0-1 to (N,): the number that the classifier reads, channel by channel."""
    import torch

    with torch.no_grad():
        read = [known(part.flatten(0, 1).unsqueeze(1)).argmax(1).view(-1, 3) for part in torch.split(images, CHUNK)]
    return number(torch.cat(read))


def read(known: torch.nn.Module, splits: Splits) -> str:
    """What the classifier makes of real stacked digits: the best that a generator could come to."""
    images = next(iter(splits.train.batches(IMAGES))).x
    counts = named(known, images.float() / 255).bincount(minlength=SETS["stacked MNIST"]).numpy()
    return f"stacked MNIST: {(counts > 0).sum()} modes at a KL of {kl_to_uniform(counts):.3f} in {len(images):,} real images"


def samples(fitted: Fitted, splits: Splits, count: int) -> torch.Tensor:
    """(count, *shape) rows that a trained generator draws, in the data's own units."""
    from raeflow.health import drawn

    return splits.encoding.inverse(drawn(fitted.model(), count))


def counted(fitted: Fitted, kind: str, splits: Splits, known: torch.nn.Module) -> Count:
    """Modes, quality and KL of a trained generator's samples."""
    return counts_of(samples(fitted, splits, IMAGES if kind == "stacked MNIST" else POINTS), kind, known)


def counts_of(rows: torch.Tensor, kind: str, known: torch.nn.Module) -> Count:
    """The same of any rows (N, *shape) in the data's own units."""
    import numpy as np

    from raeflow.data.sets.gaussians import MIXTURES

    if kind in MIXTURES:
        counts = MIXTURES[kind].counts(rows.numpy())
        return Count(int((counts > 0).sum()), float(counts.sum()) / len(rows), kl_to_uniform(counts))
    counts = np.bincount(named(known, rows.clamp(0, 255) / 255).numpy(), minlength=SETS[kind])
    return Count(int((counts > 0).sum()), float("nan"), kl_to_uniform(counts))


def noise(kind: str, splits: Splits, seed: int) -> torch.Tensor:
    """Rows that know no mode: points even over a square somewhat wider than the centres, pixels each of a real image of its own."""
    import torch

    from raeflow.data.sets.gaussians import MIXTURES

    dice = torch.Generator().manual_seed(seed)
    if kind in MIXTURES:
        reach = 1.1 * float(abs(MIXTURES[kind].centres).max())
        return reach * (2 * torch.rand(POINTS, 2, generator=dice) - 1)
    real = next(iter(splits.train.batches(len(splits.train)))).x
    chosen = torch.randint(len(real), (IMAGES, real[0].numel()), generator=dice)
    return real.flatten(1).gather(0, chosen).view(IMAGES, *real.shape[1:]).float()


def kl_to_uniform(counts: NDArray[Any]) -> float:
    """KL divergence of the histogram (K,) to the uniform one, nats: 0 where all are alike, log K where one has all."""
    import numpy as np

    if not counts.sum():
        return float("inf")
    share = counts[counts > 0] / counts.sum()
    return float((share * np.log(share * len(counts))).sum())


def lines(counts: dict[tuple[str, str, int], Count], seeds: tuple[int, ...] = SEEDS) -> list[str]:
    """The table: a line for each method on each set, mean and spread over the seeds."""
    import numpy as np

    told = [f"{'set':22}{'method':17}{'modes by seed':>16}{'mean':>8}{'spread':>8}{'high quality':>14}{'KL':>8}{'spread':>8}"]
    for kind, most in SETS.items():
        for method in (*METHODS, NOISE):
            some = [counts[kind, method, seed] for seed in seeds]
            modes, kl, good = (np.array([getattr(one, name) for one in some]) for name in ("modes", "kl", "good"))
            share = "-" if np.isnan(good).all() else f"{good.mean():.1%}"
            apart = f"{kl.std():.3f}" if np.isfinite(kl).all() else "-"
            each = " ".join(str(one) for one in modes)
            told.append(
                f"{f'{kind} ({most})':22}{method:17}{each:>16}{modes.mean():8.1f}{modes.std():8.1f}{share:>14}{kl.mean():8.3f}{apart:>8}"
            )
    return told


def verdict(counts: dict[tuple[str, str, int], Count], seeds: tuple[int, ...] = SEEDS) -> list[str]:
    """What the numbers say of the claim: who covers everything, and who stands above a Wasserstein method by its means."""
    import numpy as np

    told = []
    for kind, most in SETS.items():
        full = {m: sum(counts[kind, m, seed].modes == most for seed in seeds) for m in METHODS}
        told.append(f"{kind}: all {most} modes covered in " + ", ".join(f"{n} of {len(seeds)} seeds by {m}" for m, n in full.items()))
        modes, kl, good = (
            {m: float(np.mean([getattr(counts[kind, m, seed], name) for seed in seeds])) for m in METHODS}
            for name in ("modes", "kl", "good")
        )
        pairs = [(o, w) for o in METHODS if o not in WASSERSTEIN for w in WASSERSTEIN]
        above = [f"{o} covers more modes than {w}" for o, w in pairs if modes[o] > modes[w]]
        above += [f"{o} has a lower KL than {w}" for o, w in pairs if kl[o] < kl[w]]
        told.append(f"{kind}: the claimed ordering " + ("holds, by modes and by KL" if not above else f"does not hold: {'; '.join(above)}"))
        few = "repeats a few samples, as the source says" if modes["gan"] <= FEW * most else "does not repeat a few samples here"
        told.append(f"{kind}: the plain game covers {modes['gan']:.1f} modes in the mean: it {few}")
        better = [f"{o} than {w}" for o, w in pairs if good[o] > good[w]]
        if better:
            told.append(f"{kind}: more points of high quality has {', '.join(better)}")
    return told


def clouds(fitted: dict[tuple[str, str, int], Fitted], rows: dict[str, Splits]) -> dict[str, Any]:
    """For the ring and the grid: each method's points of the first seed over the true centres."""
    from raeflow.data.sets.gaussians import MIXTURES
    from raeflow.report.canvas import ANOMALY, NORMAL, panels, styled

    @styled
    def drawn(kind: str) -> Any:
        figure, axes = panels(len(METHODS), (7.4, 2.6), 3)
        centres = MIXTURES[kind].centres
        reach = 1.3 * abs(centres).max()
        for panel, method in zip(axes, METHODS, strict=True):
            points = samples(fitted[kind, method, SEEDS[0]], rows[kind], POINTS).numpy()
            panel.plot(
                centres[:, 0], centres[:, 1], "o", markersize=8, markerfacecolor="none", markeredgecolor=ANOMALY, markeredgewidth=0.8
            )
            panel.plot(points[:, 0], points[:, 1], ".", markersize=2, color=NORMAL, alpha=0.5, markeredgewidth=0)
            panel.set(title=method, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        return figure

    return {kind: drawn(kind) for kind in MIXTURES}


def stacks(fitted: dict[tuple[str, str, int], Fitted], splits: Splits) -> Any:
    """Stacked digits: real ones, and each method's of the first seed, a line each."""
    from raeflow.report.latentplots import reconstructions

    real = next(iter(splits.train.batches(SHOWN))).x.numpy() / 255
    shown = {method: samples(fitted["stacked MNIST", method, SEEDS[0]], splits, SHOWN).clamp(0, 255).numpy() / 255 for method in METHODS}
    return reconstructions({"real": real, **shown})


def bars(counts: dict[tuple[str, str, int], Count], seeds: tuple[int, ...] = SEEDS) -> Any:
    """Share of the modes that each method covers: a bar for the mean, a point for each seed."""
    import numpy as np

    from raeflow.report.canvas import INK, NORMAL, panels, styled

    @styled
    def drawn() -> Any:
        figure, axes = panels(len(SETS), (7.4, 2.8), len(SETS))
        places = np.arange(len(METHODS))[::-1]
        for panel, (kind, most) in zip(axes, SETS.items(), strict=True):
            each = np.array([[counts[kind, method, seed].modes for seed in seeds] for method in METHODS])
            panel.barh(places, each.mean(1), color=NORMAL, height=0.6)
            panel.plot(each, np.repeat(places[:, None], len(seeds), 1), ".", color=INK, markersize=4)
            panel.set(title=kind, xlim=(0, 1.05 * most), xlabel=f"modes covered of {most}")
            panel.set_yticks(places, list(METHODS) if panel is axes[0] else [""] * len(METHODS))
        return figure

    return drawn()
