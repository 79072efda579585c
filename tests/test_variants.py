"""What every variant owes its callers, asked of each one found, for tables, signals and images."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import itertools
import json
import math
import textwrap
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor

from raeflow import checkpoint, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import Fitted, Run, fit, owned, scores
from raeflow.variants._adversarial import Game
from raeflow.variants._contract import Batch, Generative, Latent, OneShot, Variant

SHAPES = [(12,), (2,), (1, 64), (2, 37), (1, 28, 28), (3, 17, 13)]
NAMES = variants.names()
ONE_SHOT = {name for name in NAMES if hasattr(variants.get(name).Model, "fit_rows")}
NETWORKS = [name for name in NAMES if name not in ONE_SHOT]
GAMES = {name for name in NAMES if issubclass(variants.get(name).Hyper, Game)}

each_variant = pytest.mark.parametrize("name", NAMES)
each_network = pytest.mark.parametrize("name", NETWORKS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
some_shapes = pytest.mark.parametrize("shape", [(12,), (1, 64), (3, 17, 13)], ids=str)


def small(name: str, shape: tuple[int, ...]) -> Any:
    """The published hyperparameters, where they say what the method is, on a network that trains in no time."""
    published = variants.get(name).published(shape)
    sizes = {"layers": (), "kernels": (), "strides": (), "width": 16, "channels": 4, "depth": 1, "latent": 2}
    return dataclasses.replace(published, **{k: v for k, v in sizes.items() if hasattr(published, k)})


def rows(shape: tuple[int, ...], count: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def make_splits(train: Tensor, validate: Tensor, mode: str = "auto") -> Splits:
    shape = tuple(train.shape[1:])
    spec = RowSpec(("row",), "list", shape, str(train.dtype).removeprefix("torch."))
    return Splits(spec, fit_scaling(mode, shape, train.dtype, [train]), Rows(train), Rows(validate), None, None)


def trained(name: str, shape: tuple[int, ...], epochs: int = 3) -> Run:
    splits = make_splits(rows(shape, 32), rows(shape, 8, seed=1))
    training = Training(epochs=epochs, batch_size=16, patience=None, device="cpu")
    run = Run(name, dataclasses.asdict(small(name, shape)), splits, training)
    for _ in run.epochs():
        pass
    return run


def model(name: str, shape: tuple[int, ...], seed: int = 0) -> Variant:
    torch.manual_seed(seed)
    return ready(variants.get(name).Model(shape, small(name, shape)), shape, seed).eval()


def ready(made: Variant, shape: tuple[int, ...], seed: int = 0) -> Variant:
    """A network scores as it is built; what is none must have seen rows first."""
    if isinstance(made, OneShot):
        made.fit_rows(rows(shape, 40, seed=seed + 5), seed)
    return made


def play(made: Variant, shape: tuple[int, ...], progress: float) -> list[tuple[str, Tensor]]:
    batch = Batch(rows(shape), generator=torch.Generator().manual_seed(3))
    return list(made.turns(batch, progress))


@each_variant
@each_shape
def test_the_space_builds_models_from_fields_of_hyper(name: str, shape: tuple[int, ...]) -> None:
    module = variants.get(name)
    fields = {f.name for f in dataclasses.fields(module.Hyper)}
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(8):
        trial = study.ask()
        hyper = module.space(trial, shape)
        assert isinstance(hyper, module.Hyper)
        assert trial.params
        assert ("latent" in trial.params) == (name not in ONE_SHOT)
        assert set(trial.params) <= fields
        assert {k: getattr(hyper, k) for k in trial.params} == trial.params
        assert module.space(FixedTrial(trial.params), shape) == hyper
        made = ready(module.Model(shape, hyper), shape).eval()
        with torch.no_grad():
            assert made.reconstruct(rows(shape, 2)).shape == (2, *shape)
            assert made.score(rows(shape, 2)).shape == (2,)


@each_variant
@each_shape
def test_published_values_build_and_cannot_copy_the_row(name: str, shape: tuple[int, ...]) -> None:
    module = variants.get(name)
    hyper = module.published(shape)
    with torch.no_grad():
        x = rows(shape, 2)
        made = ready(module.Model(shape, hyper), shape).eval()
        assert made.overcomplete or hyper.latent < math.prod(shape)
        assert made.reconstruct(x).shape == x.shape
        assert made.score(x).shape == (2,)


@each_variant
def test_a_row_of_one_value_is_no_exception(name: str) -> None:
    module = variants.get(name)
    made = ready(module.Model((1,), module.published((1,))), (1,)).eval()
    assert made.score(rows((1,))).shape == (8,)


@each_variant
@each_shape
def test_default_values_build_for_every_shape(name: str, shape: tuple[int, ...]) -> None:
    made = ready(variants.build(name, shape, {}), shape).eval()
    assert made.reconstruct(rows(shape)).shape == (8, *shape)


@each_variant
def test_every_field_of_hyper_has_a_line(name: str) -> None:
    hyper = variants.get(name).Hyper
    told = documented(hyper)
    assert {f.name for f in dataclasses.fields(hyper)} - set(told) == set()
    assert all(len(line) > 10 for line in told.values())
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(hyper))


def documented(record: type) -> dict[str, str]:
    """Fields that a string follows, over the record and those it extends."""
    told: dict[str, str] = {}
    for one in reversed(record.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        for field, line in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                told[field.target.id] = str(line.value.value)  # type: ignore[union-attr]
    return told


@each_variant
@each_shape
def test_hyper_survives_json(name: str, shape: tuple[int, ...]) -> None:
    published = variants.get(name).published(shape)
    values = json.loads(json.dumps(dataclasses.asdict(published)))
    assert variants.hyper(name, values) == published
    first = next(iter(values))
    assert variants.hyper(name, {first: values[first]}, published) == published
    if name in NETWORKS:
        assert variants.hyper(name, {"latent": 1}, published) == dataclasses.replace(published, latent=1)


@each_variant
def test_unknown_hyperparameters_are_refused(name: str) -> None:
    with pytest.raises(RaeflowError, match="latnet"):
        variants.hyper(name, {"latnet": 3})
    wrong = {"knn": "k", "rank_knn": "k", "hog_knn": "k", "isolation_forest": "trees"}.get(name, "lr")
    with pytest.raises(RaeflowError, match=f"{wrong}=0"):
        variants.hyper(name, {wrong: 0})


@each_variant
@some_shapes
def test_players_own_every_parameter_once(name: str, shape: tuple[int, ...]) -> None:
    made = model(name, shape)
    players = owned(made, made.optimizers())
    assert all(players.values())
    assert bool(players) == (name in NETWORKS)
    for progress in (0.0, 0.99):
        assert {player for player, _ in play(made, shape, progress)} <= set(players)


@each_network
@some_shapes
def test_same_seed_same_weights(name: str, shape: tuple[int, ...]) -> None:
    one, two, other = (model(name, shape, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


@each_network
@some_shapes
def test_training_moves_every_player(name: str, shape: tuple[int, ...]) -> None:
    run = trained(name, shape, epochs=6)
    torch.manual_seed(0)
    fresh = variants.build(name, shape, run.hyper)
    for player, parameters in owned(fresh, fresh.optimizers()).items():
        moved = [not torch.equal(a, b) for a, b in zip(parameters, run.players[player], strict=True)]
        assert any(moved), player
    assert all(math.isfinite(v) for record in run.history for v in record.values())


@each_network
@some_shapes
def test_a_turn_gives_a_finite_scalar_that_reaches_its_player(name: str, shape: tuple[int, ...]) -> None:
    for progress in (0.0, 0.99):
        made = model(name, shape).train()
        players = owned(made, made.optimizers())
        batch = Batch(rows(shape), generator=torch.Generator().manual_seed(3))
        for player, loss in made.turns(batch, progress):
            assert loss.shape == ()
            assert torch.isfinite(loss)
            assert any(g is not None for g in torch.autograd.grad(loss, players[player], allow_unused=True))


@each_variant
@each_shape
def test_a_row_scores_alone(name: str, shape: tuple[int, ...]) -> None:
    made = model(name, shape)
    x = rows(shape, 9)
    with torch.no_grad():
        together = made.score(x)
        alone = torch.cat([made.score(row[None]) for row in x])
        order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(made.score(x[order]), together[order], rtol=1e-4, atol=1e-6)
        assert together.dtype == torch.float32


@each_variant
@some_shapes
def test_scoring_leaves_no_trace(name: str, shape: tuple[int, ...]) -> None:
    run = trained(name, shape)
    before, dice = copy.deepcopy(run.model.state_dict()), torch.get_rng_state()
    first = scores(run.model, run.encoding, run.validate)
    second = scores(run.model, run.encoding, run.validate)
    assert torch.equal(first, second)
    assert torch.equal(dice, torch.get_rng_state())
    after = run.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@each_network
@some_shapes
def test_turns_draw_from_the_batch_alone(name: str, shape: tuple[int, ...]) -> None:
    made = model(name, shape).train()
    for progress in (0.0, 0.99):
        dice = torch.get_rng_state()
        first = play(made, shape, progress)
        assert torch.equal(dice, torch.get_rng_state())
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, play(made, shape, progress), strict=True))


@each_variant
@some_shapes
def test_saved_and_loaded_it_scores_the_same(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    run = trained(name, shape)
    fitted = run.fitted()
    checkpoint.save(tmp_path / "model", {"hyper": fitted.hyper, "weights": fitted.weights})
    read = checkpoint.load(tmp_path / "model")
    again = Fitted(name, read["hyper"], shape, read["weights"]).model()
    assert torch.equal(scores(again, run.encoding, run.validate), scores(run.model, run.encoding, run.validate))


@each_variant
@some_shapes
def test_codes_and_samples(name: str, shape: tuple[int, ...]) -> None:
    made = model(name, shape)
    x = rows(shape)
    if isinstance(made, Latent):
        codes = made.encode(x)
        assert codes.shape == (8, getattr(made, "code_size", 2))  # a code of each token has more values
        torch.testing.assert_close(made.decode(codes), made.reconstruct(x))
    if isinstance(made, Generative):
        dice = torch.get_rng_state()
        one, two = (made.sample(5, torch.Generator().manual_seed(7)) for _ in range(2))
        assert one.shape == (5, *shape)
        assert torch.equal(one, two)
        assert torch.equal(dice, torch.get_rng_state())
        assert made.sample(2).shape == (2, *shape)


def test_networks_have_codes_and_games_and_vae_draw() -> None:
    made = {name: model(name, (12,)) for name in NAMES}
    assert [name for name, m in made.items() if isinstance(m, Latent)] == NETWORKS
    assert {name for name, m in made.items() if not m.rebuilds} == ONE_SHOT
    assert {name for name, m in made.items() if isinstance(m, Generative)} == {"vae", *GAMES}


@each_variant
@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 8, 8)], ids=str)
def test_strange_rows_score_higher(name: str, shape: tuple[int, ...]) -> None:
    """Real digits: zeros are normal, all others strange, after seconds of training."""
    digits = load_digits()
    pixels, zero = torch.tensor(digits.data, dtype=torch.uint8).reshape(-1, *shape), digits.target == 0
    normal, strange = pixels[torch.from_numpy(zero)], pixels[torch.from_numpy(~zero)][:200]
    splits = make_splits(normal[:120], normal[120:140])
    layers = (64, 32) if len(shape) == 1 else (16, 32)
    quick = {"backbone": "auto", "layers": layers, "kernels": (), "strides": (), "latent": 8}
    published = variants.get(name).published(shape)
    hyper = dataclasses.replace(published, **{k: v for k, v in quick.items() if hasattr(published, k)})
    if hasattr(hyper, "critic_steps"):
        hyper = dataclasses.replace(hyper, lr=1e-3)  # a game of a few seconds
    if hasattr(hyper, "growth"):  # weights of deviation 1 need longer steps
        hyper = dataclasses.replace(hyper, lr=1e-2, encoder_lr=5e-3)
    epochs = 40 if hasattr(hyper, "mask_ratio") else 20  # each step tells a part of each row
    fitted = fit(name, dataclasses.asdict(hyper), splits, Training(epochs=epochs, batch_size=24, device="cpu"))
    test = Rows(torch.cat([normal[140:], strange]))
    truth = [0] * (len(normal) - 140) + [1] * len(strange)
    assert roc_auc_score(truth, scores(fitted.model(), splits.encoding, test).numpy()) > 0.9
