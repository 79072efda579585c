"""What the sparse and the contractive autoencoder claim of themselves, checked against their sources."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.distributions import Bernoulli, kl_divergence

from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import fit
from raeflow.variants import contractive, sparse
from raeflow.variants._contract import Batch

SHAPES = [(6,), (2, 9), (1, 7, 6)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def batch(x: Tensor, seed: int = 0) -> Batch:
    return Batch(x, generator=torch.Generator().manual_seed(seed))


def digits() -> Splits:
    pixels = torch.tensor(load_digits().data, dtype=torch.uint8)
    spec = RowSpec(("pixels",), "list", (64,), "uint8")
    return Splits(spec, fit_scaling("unit", (64,), pixels.dtype, [pixels]), Rows(pixels[:1536]), Rows(pixels[1536:]), None, None)


def codes(name: str, module: Any, epochs: int = 40, **values: Any) -> Tensor:
    """Codes of held-out digits after a training of a second."""
    splits, hyper = digits(), dataclasses.asdict(module.Hyper(**values))
    model = fit(name, hyper, splits, Training(epochs=epochs, batch_size=128, patience=None, device="cpu")).model()
    with torch.no_grad():
        found: Tensor = model.encode(splits.encoding(splits.validate.x))
    return found


# Sparse


def test_published_sparse_is_the_stack_of_the_source() -> None:
    hyper = sparse.published((1, 28, 28))
    model = sparse.Model((1, 28, 28), hyper)
    sizes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(784, 100), (100, 300), (300, 100), (100, 784)]
    assert [type(m) for m in (*model.encoder[1:], model.code_activation)] == [nn.Linear, nn.SELU, nn.Linear, nn.Sigmoid]
    assert (hyper.loss, hyper.l1, hyper.kl, hyper.activity) == ("bce", 1e-3, 0.05, 0.1)
    assert sparse.published((12,)).loss == "mse"


def test_the_divergence_is_that_of_coins() -> None:
    means = torch.rand(300)
    expected = kl_divergence(Bernoulli(torch.tensor(0.1)), Bernoulli(means)).sum()
    torch.testing.assert_close(sparse.divergence(0.1, means), expected)
    assert sparse.divergence(0.1, torch.full((7,), 0.1)).item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(sparse.divergence(0.1, torch.tensor([0.0, 1.0])))


def test_the_kl_penalty_is_of_the_mean_over_the_batch() -> None:
    model, x = sparse.Model((6,), sparse.Hyper(sparsity="kl", kl=0.3, activity=0.2)), torch.randn(5, 6)
    means = torch.sigmoid(model.encoder(x)).mean(0)
    penalty = 0.3 * kl_divergence(Bernoulli(torch.tensor(0.2)), Bernoulli(means)).sum()
    ((player, loss),) = model.turns(batch(x), 0.0)
    assert player == "sparse"
    torch.testing.assert_close(loss, (model.reconstruct(x) - x).square().mean() + penalty)


def test_the_l1_penalty_is_the_sum_over_codes_and_the_mean_over_rows() -> None:
    model = sparse.Model((2,), sparse.Hyper(sparsity="l1", l1=0.5, latent=3, depth=0, code_activation=False))
    with torch.no_grad():
        model.encoder[0].weight.copy_(torch.tensor([[1.0, 0], [0, 2], [-1, 1]]))
        model.encoder[0].bias.zero_()
    x = torch.tensor([[1.0, 1.0], [-3.0, 0.0]])  # codes (1, 2, 0) and (-3, 0, 3)
    ((_, loss),) = model.turns(batch(x), 0.0)
    torch.testing.assert_close(loss, (model.reconstruct(x) - x).square().mean() + 0.5 * (3 + 6) / 2)


def test_the_gradient_of_the_kl_is_that_of_ng() -> None:
    """Its derivative by each mean activation: -rho / q + (1 - rho) / (1 - q) (lecture notes, section 3)."""
    q = torch.rand(9).requires_grad_()
    (gradient,) = torch.autograd.grad(sparse.divergence(0.05, q), q)
    torch.testing.assert_close(gradient, -0.05 / q.detach() + 0.95 / (1 - q.detach()))


def test_training_brings_each_code_near_its_mean_activation() -> None:
    values = {"latent": 100, "layers": (50,), "activation": "selu", "loss": "bce", "lr": 3e-3}
    means = codes("sparse", sparse, **values).mean(0)
    assert means.mean().item() == pytest.approx(0.1, abs=0.02)
    assert ((means - 0.1).abs() < 0.05).float().mean() > 0.9
    assert codes("sparse", sparse, **values, kl=0.0).mean().item() > 0.3


def test_l1_makes_codes_small() -> None:
    values = {"sparsity": "l1", "latent": 100, "layers": (50,), "activation": "selu", "loss": "bce", "lr": 3e-3}
    light, free = codes("sparse", sparse, **values, l1=1e-3), codes("sparse", sparse, **values, l1=0.0)
    assert light.mean() < 0.5 * free.mean()
    # Sparse, rather than small all over: few values hold most of the activity.
    assert (light > 0.5).float().mean() > 0.01
    assert (light < 0.1).float().mean() > 0.6


def test_workers_agree_on_the_kl_of_all_rows() -> None:
    """A worker's own share counts with the others' means: what `Batch.mean` is for."""
    model, x = sparse.Model((6,), sparse.Hyper()), torch.randn(8, 6)
    z = model.encode(x)

    class Shared(Batch):
        def mean(self, values: Tensor) -> Tensor:
            return z.detach().mean(0) + values.mean(0) - values.mean(0).detach()

    halves = [torch.autograd.grad(model.penalty(model.encode(part), Shared(part)), model.encoder[0].weight)[0] for part in (x[:4], x[4:])]
    (whole,) = torch.autograd.grad(model.penalty(z, batch(x)), model.encoder[0].weight)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)


# Contractive


def squares(model: Any, x: Tensor) -> Tensor:
    """(B,): squared Frobenius norms by torch's own Jacobian, a row at a time."""
    return torch.stack([jacobian(lambda row: model.encode(row[None])[0], one).square().sum() for one in x])


@each_shape
@pytest.mark.parametrize(
    "values",
    [
        {"backbone": "mlp", "depth": 0},
        {"backbone": "mlp", "depth": 0, "code_activation": False},
        {"backbone": "mlp", "depth": 1, "latent": 0, "activation": "relu"},
        {"jacobian": "exact"},
        {"jacobian": "exact", "depth": 1, "activation": "tanh"},
        {"latent": 3, "activation": "elu"},
        {"depth": 1, "tied": False, "jacobian": "exact"},
        {"backbone": "recurrent", "layers": (4,), "latent": 0, "tied": False, "jacobian": "exact"},
    ],
    ids=str,
)
def test_the_penalty_is_the_squared_frobenius_norm(shape: tuple[int, ...], values: dict[str, Any]) -> None:
    model, x = contractive.Model(shape, contractive.Hyper(**values)), torch.randn(5, *shape)
    z, found = model.contracted(batch(x))
    torch.testing.assert_close(z, model.encode(x))
    torch.testing.assert_close(found, squares(model, x))
    ((player, loss),) = model.turns(batch(x), 0.0)
    assert player == "contractive"
    # The paper sums both terms over the row, here both are divided by its values.
    expected = ((model.reconstruct(x) - x).square().flatten(1).sum(1) + 0.1 * found).mean() / x[0].numel()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("values", [{"depth": 0, "latent": 5}, {"jacobian": "exact"}, {"jacobian": "estimate"}], ids=str)
def test_the_gradient_of_the_penalty_is_the_difference_quotient(values: dict[str, Any]) -> None:
    model = contractive.Model((5,), contractive.Hyper(activation="tanh", **values)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    weight = model.encoder[0].weight

    (gradient,) = torch.autograd.grad(model.contracted(batch(x, seed=9))[1].mean(), weight)
    step = torch.zeros_like(weight)
    step[1, 2] = 1e-5
    with torch.no_grad():
        weight += step
    up = model.contracted(batch(x, seed=9))[1].mean()
    with torch.no_grad():
        weight -= 2 * step
    down = model.contracted(batch(x, seed=9))[1].mean()
    torch.testing.assert_close(gradient[1, 2], (up - down) / 2e-5, rtol=1e-5, atol=1e-9)


@each_shape
@pytest.mark.parametrize("probes", [1, 3])
def test_the_estimate_is_unbiased(shape: tuple[int, ...], probes: int) -> None:
    hyper = contractive.Hyper(jacobian="estimate", probes=probes, latent=5, activation="tanh")
    model, x = contractive.Model(shape, hyper), torch.randn(1, *shape)
    draws = model.contracted(batch(x.expand(4000, *shape)))[1].detach()
    error = draws.std() / len(draws) ** 0.5
    assert error > 0
    assert abs(draws.mean() - squares(model, x)[0]) < 4 * error


def test_more_probes_estimate_closer() -> None:
    x = torch.randn(1, 6).expand(2000, 6)
    model = contractive.Model((6,), contractive.Hyper(jacobian="estimate", latent=5))
    many = contractive.Model((6,), contractive.Hyper(jacobian="estimate", latent=5, probes=8))
    many.load_state_dict(model.state_dict())
    ratio = model.contracted(batch(x))[1].var() / many.contracted(batch(x))[1].var()
    assert ratio.item() == pytest.approx(8, rel=0.25)


def test_published_contractive_is_one_layer_of_a_thousand_sigmoids_and_its_transpose() -> None:
    model = contractive.Model((1, 28, 28), contractive.published((1, 28, 28)))
    x = torch.rand(2, 1, 28, 28)
    weight, bias = model.encoder[1].weight, model.decoder[0].bias
    code = torch.sigmoid(x.flatten(1) @ weight.T + model.encoder[1].bias)
    torch.testing.assert_close(model.encode(x), code)
    torch.testing.assert_close(model.reconstruct(x).flatten(1), torch.sigmoid(code @ weight + bias))
    assert sum(p.numel() for p in model.parameters()) == 784 * 1000 + 1000 + 784
    assert model._only_layer() is not None
    assert contractive.published((12,)).latent == 15


@pytest.mark.parametrize("values", [{"depth": 0, "backbone": "mlp"}, {"jacobian": "exact"}, {"jacobian": "estimate"}], ids=str)
def test_the_penalty_stays_float32_under_autocast(values: dict[str, Any]) -> None:
    model, x = contractive.Model((1, 7, 6), contractive.Hyper(**values)), torch.rand(4, 1, 7, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, inside = model.contracted(batch(x))
        assert model.encode(x).dtype == torch.bfloat16
    assert z.dtype == inside.dtype == torch.float32
    assert torch.equal(inside, model.contracted(batch(x))[1])


def test_training_contracts_the_code() -> None:
    splits, found = digits(), []
    for weight in (0.0, 0.1, 1.0):
        hyper = {**dataclasses.asdict(contractive.published((64,))), "contraction": weight}
        model = fit("contractive", hyper, splits, Training(epochs=20, batch_size=64, patience=None, device="cpu")).model()
        x = splits.encoding(splits.validate.x)
        with torch.no_grad():
            error = model.score(x).mean().item()
        found.append((model.contracted(batch(x))[1].mean().item(), error))
    norms, errors = zip(*found, strict=True)
    assert norms[1] < 0.95 * norms[0] and norms[2] < 0.6 * norms[1]
    assert errors[1] < 1.15 * errors[0], "the code still tells rows apart"
    assert errors[0] < errors[2] < float(splits.encoding(splits.train.x).var(0).mean())


def test_nonsense_is_refused_with_its_value() -> None:
    for module, values, said in [
        (sparse, {"sparsity": "l0"}, "sparsity='l0'"),
        (sparse, {"activity": 1.0}, "activity=1.0"),
        (sparse, {"kl": -1.0}, "kl=-1.0"),
        (sparse, {"code_activation": False}, "code_activation=False"),
        (contractive, {"jacobian": "guess"}, "jacobian='guess'"),
        (contractive, {"contraction": -0.1}, "contraction=-0.1"),
        (contractive, {"probes": 0}, "probes=0"),
        (contractive, {"backbone": "recurrent"}, "tied=True: with backbone='recurrent'"),
    ]:
        with pytest.raises(RaeflowError) as refusal:
            module.Hyper(**values)
        assert said in str(refusal.value)
