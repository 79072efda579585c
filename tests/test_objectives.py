"""What each method claims of itself, checked against its source."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.study import Calibration, Training
from raeflow.training import Run, fit
from raeflow.variants import autoencoder, vae, wgan_gp
from raeflow.variants._contract import Batch


def batch(x: Tensor, seed: int = 0) -> Batch:
    return Batch(x, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("depth", [0, 1])
def test_a_linear_autoencoder_spans_the_principal_subspace(depth: int) -> None:
    """Within a degree on the real digits, codes and reconstructions alike (Baldi & Hornik 1989)."""
    digits, k = torch.tensor(load_digits().data[:1792], dtype=torch.float32), 4
    spec = RowSpec(("pixels",), "list", (64,), "float32")
    splits = Splits(spec, fit_scaling("standard", (64,), digits.dtype, [digits]), Rows(digits), Rows(digits[:64]), None, None)
    hyper = autoencoder.Hyper(latent=k, depth=depth, activation="identity", lr=1e-2)
    plan = Training(epochs=400, batch_size=1792, patience=None, device="cpu")
    model = fit("autoencoder", dataclasses.asdict(hyper), splits, plan).model()
    x = splits.encoding(digits)
    with torch.no_grad():
        codes, rebuilt = model.encode(x).numpy(), model.reconstruct(x).numpy()
    pca = PCA(k).fit(x.numpy())
    columns = np.linalg.svd(rebuilt - rebuilt.mean(0), full_matrices=False)[2][:k].T
    assert np.degrees(subspace_angles(columns, pca.components_.T)).max() < 1
    assert np.degrees(subspace_angles(codes - codes.mean(0), pca.transform(x.numpy()))).max() < 1


def test_published_values_at_28_x_28_are_the_layers_of_the_source() -> None:
    model = autoencoder.Model((1, 28, 28), autoencoder.published((1, 28, 28)))
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.ReLU)
    told = [str(m).split(", kernel_size")[0] for m in model.modules() if isinstance(m, kinds)]
    assert told == [
        "Conv2d(1, 16", "ReLU(inplace=True)", "Conv2d(16, 32", "ReLU(inplace=True)", "Conv2d(32, 64",
        "Linear(in_features=64, out_features=20, bias=True)", "Linear(in_features=20, out_features=64, bias=True)",
        "ConvTranspose2d(64, 32", "ReLU(inplace=True)", "ConvTranspose2d(32, 16", "ReLU(inplace=True)", "ConvTranspose2d(16, 1",
    ]  # fmt: skip
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert [m.kernel_size[0] for m in convolutions] == [3, 3, 7, 7, 3, 3]
    assert [m.stride[0] for m in convolutions] == [2, 2, 1, 1, 2, 2]
    assert [m.padding[0] for m in convolutions] == [1, 1, 0, 0, 1, 1]
    assert sum(p.numel() for p in model.parameters()) == 213_013
    rebuilt = model.reconstruct(torch.rand(2, 1, 28, 28))
    assert rebuilt.min() >= 0
    assert rebuilt.max() <= 1


def test_the_code_may_be_one_more_layer_of_the_stack() -> None:
    hyper = autoencoder.Hyper(layers=(64,), latent=32, code_activation=True)
    assert autoencoder.Model((12,), hyper).encode(torch.randn(20, 12)).min() == 0
    assert autoencoder.Model((12,), dataclasses.replace(hyper, code_activation=False)).encode(torch.randn(20, 12)).min() < 0


def test_cross_entropy_is_that_of_the_reconstruction() -> None:
    model = autoencoder.Model((1, 8, 8), autoencoder.Hyper(loss="bce"))
    x = torch.rand(4, 1, 8, 8)
    (turn,) = model.turns(batch(x), 0.0)
    torch.testing.assert_close(turn[1], nn.functional.binary_cross_entropy(model.reconstruct(x), x))


def test_scores_are_mean_squared_errors() -> None:
    for module in (autoencoder, vae):
        model, x = module.Model((3, 9), module.Hyper()), torch.randn(5, 3, 9)
        torch.testing.assert_close(model.score(x), (x - model.reconstruct(x)).square().mean((1, 2)))


@pytest.mark.parametrize(
    ("module", "values"),
    [
        (autoencoder, {"loss": "bce"}),
        (autoencoder, {"output": "sigmoid"}),
        (vae, {"likelihood": "bernoulli"}),
        (wgan_gp, {"output": "sigmoid"}),
    ],
)
def test_a_sigmoid_refuses_rows_beyond_0_1_at_once(module: object, values: dict[str, str]) -> None:
    model = module.Model((6,), module.Hyper(**values))  # type: ignore[attr-defined]
    with pytest.raises(RaeflowError, match=r"spans 0 to 3.*Data\(scaling='unit'\)"):
        next(model.turns(batch(torch.tensor([[0.0, 1, 2, 3, 1, 1]])), 0.0))
    next(model.turns(batch(torch.rand(2, 6)), 0.0))


def test_the_divergence_is_the_closed_form() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(vae.divergence(mean, log_variance), expected)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_vae_minimises_the_negative_lower_bound(likelihood: str) -> None:
    """Against torch.distributions, with the codes of the same draws."""
    model = vae.Model((6,), vae.Hyper(latent=2, beta=0.5, likelihood=likelihood))
    x, noise = torch.rand(7, 6), batch(torch.zeros(7, 6), seed=4).normal(2)
    mean, log_variance = model.encoder(x).chunk(2, 1)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    rebuilt = model.decode(mean + posterior.stddev * noise)
    if likelihood == "gaussian":
        fit_B = Normal(rebuilt, 1.0).log_prob(x).sum(1) + 6 * 0.5 * np.log(2 * np.pi)
    else:
        fit_B = Bernoulli(rebuilt, validate_args=False).log_prob(x).sum(1)
    expected = (-fit_B + 0.5 * kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)).mean()
    (turn,) = model.turns(batch(x, seed=4), 0.5)
    torch.testing.assert_close(turn[1], expected)


def test_the_kl_weight_warms_up_and_the_bound_can_score() -> None:
    x = torch.randn(4, 6)
    cold, warm = (vae.Hyper(latent=2, beta=beta, warm_up=up) for beta, up in ((3.0, 0.5), (1.5, 0.0)))
    torch.manual_seed(0)
    one = vae.Model((6,), cold)
    torch.manual_seed(0)
    two = vae.Model((6,), warm)
    # A quarter of the way, half of the warm-up of beta = 3 is done.
    torch.testing.assert_close(next(one.turns(batch(x), 0.25))[1], next(two.turns(batch(x), 0.25))[1])
    bound = vae.Model((6,), vae.Hyper(latent=2, beta=2.0, anomaly_score="elbo", samples=3))
    mean, log_variance = bound.encoder(x).chunk(2, 1)
    rebuilt_SBF = torch.stack([bound.decode(mean + (0.5 * log_variance).exp() * draw) for draw in vae.draws(3, 2)])
    expected = 0.5 * (x - rebuilt_SBF).square().sum(2).mean(0) + 2.0 * vae.divergence(mean, log_variance)
    torch.testing.assert_close(bound.score(x), expected)
    with pytest.raises(RaeflowError, match="samples=0"):
        vae.Hyper(samples=0)


@pytest.mark.parametrize("anomaly_score", ["reconstruction", "elbo"])
def test_no_epoch_of_the_warm_up_is_the_best(anomaly_score: str) -> None:
    """Without the weight of the KL term rows are rebuilt best, so that patience would take an epoch of the warm-up."""
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (6,), "float32")
    splits = Splits(spec, fit_scaling("standard", (6,), x.dtype, [x]), Rows(x[:192]), Rows(x[192:]), None, None)
    hyper = {"latent": 4, "warm_up": 0.6, "beta": 4.0, "lr": 1e-2, "anomaly_score": anomaly_score}
    run = Run("vae", hyper, splits, Training(epochs=10, batch_size=32, patience=1, device="cpu"))
    settled = [epoch.settled for epoch in run.epochs()]
    assert settled[:6] == [False] * 5 + [True]
    losses = [record["validation_loss"] for record in run.history]
    assert run.best_epoch >= 6
    if anomaly_score == "reconstruction":
        assert min(losses[:5]) < losses[run.best_epoch - 1], "what the warm-up rebuilds better counts for nothing"


def linear_gaussian(samples: int) -> tuple[vae.Model, Tensor]:
    """x = W z + b + noise with orthogonal columns of W, whose true posterior is diagonal and linear, and W."""
    torch.manual_seed(0)
    hyper = vae.Hyper(latent=2, depth=0, activation="identity", anomaly_score="elbo", samples=samples)
    model = vae.Model((5,), hyper)
    (encoder,), (decoder,) = ([m for m in half.modules() if isinstance(m, nn.Linear)] for half in (model.encoder, model.decoder))
    weight = torch.linalg.qr(torch.randn(5, 2))[0] * torch.tensor([2.0, 0.7])
    variance = 1 / (1 + weight.square().sum(0))
    with torch.no_grad():
        decoder.weight.copy_(weight)
        encoder.weight.copy_(torch.cat([variance[:, None] * weight.T, torch.zeros(2, 5)]))
        encoder.bias.copy_(torch.cat([-variance * (weight.T @ decoder.bias), variance.log()]))
    return model, weight


@torch.no_grad()
def test_the_bound_of_a_linear_model_is_its_likelihood_and_the_value_at_the_mean_code_is_no_bound() -> None:
    """With the true posterior the lower bound is the log-likelihood of N(b, W W^T + 1); with another it lies below."""
    x = 2 * torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    errors = {}
    for samples in (2, 32, 4096):
        model, weight = linear_gaussian(samples)
        bias = model.decode(torch.zeros(1, 2))[0]
        law = torch.distributions.MultivariateNormal(bias, weight @ weight.T + torch.eye(5))
        true = -law.log_prob(x) - 2.5 * np.log(2 * np.pi)
        errors[samples] = float((model.score(x) - true).abs().mean())
    assert errors[4096] < 0.05 < errors[32] < errors[2]
    mean, log_variance = model._posterior(x)
    at_mean = 0.5 * (x - model.decode(mean)).square().sum(1) + vae.divergence(mean, log_variance)
    assert (at_mean < true - 0.3).all(), "what the spread of codes costs is left out"
    model.encoder[-1].bias[2:] += 0.8  # codes too wide: a looser bound
    assert (model.score(x) > true + 0.1).all()


@torch.no_grad()
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_bound_lies_above_the_likelihood_of_any_model(likelihood: str) -> None:
    """The negative log-likelihood by importance sampling (Burda, Grosse & Salakhutdinov 2016) with 20,000 codes a row."""
    torch.manual_seed(0)
    model = vae.Model((6,), vae.Hyper(latent=2, width=16, depth=1, anomaly_score="elbo", samples=512, likelihood=likelihood))
    for weight in model.decoder.parameters():
        weight *= 3
    x = torch.rand(8, 6, generator=torch.Generator().manual_seed(2))
    mean, log_variance = model._posterior(x)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    z_SBZ = posterior.sample((20_000,))
    many = x.expand(20_000, 8, 6).flatten(0, 1)
    misfit_SB = model._misfit(model.decoder(z_SBZ.flatten(0, 1)), many).unflatten(0, (20_000, 8))
    weight_SB = Normal(0.0, 1.0).log_prob(z_SBZ).sum(2) - posterior.log_prob(z_SBZ).sum(2) - misfit_SB
    true = -(weight_SB.logsumexp(0) - np.log(20_000))
    assert (model.score(x) > true).all()


def test_a_detector_of_the_bound_is_saved_and_exported(tmp_path: Path) -> None:
    x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (6,), "float32")
    splits = Splits(spec, fit_scaling("standard", (6,), x.dtype, [x]), Rows(x), Rows(x[:8]), Rows(x), None)
    fitted = fit("vae", {"latent": 2, "width": 8, "anomaly_score": "elbo", "samples": 4}, splits, Training(epochs=1, batch_size=32))
    assert not any("draws" in name for name in fitted.weights)
    detector = Detector.assemble([fitted], splits, Calibration())
    expected = detector.score(x)
    assert np.array_equal(Detector.load(detector.save(tmp_path / "detector"), device="cpu").score(x), expected)
    program = torch.export.load(detector.export(tmp_path / "program.pt2")).module()
    for count in (1, 5):
        np.testing.assert_allclose(program(x[:count]).numpy(), expected[:count], rtol=1e-5)


def test_the_draws_of_the_bound_are_no_state_and_the_same_everywhere() -> None:
    hyper = vae.Hyper(latent=3, anomaly_score="elbo", samples=6)
    torch.manual_seed(0)
    one = vae.Model((6,), hyper)
    torch.manual_seed(1)
    two = vae.Model((6,), hyper)
    assert torch.equal(one.get_buffer("draws"), two.get_buffer("draws"))
    assert "draws" not in one.state_dict()
    assert set(one.state_dict()) == set(vae.Model((6,), dataclasses.replace(hyper, anomaly_score="reconstruction")).state_dict())
    torch.testing.assert_close(one.get_buffer("draws").sum(0), torch.zeros(3))
    x = torch.randn(9, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([one.score(row[None]) for row in x]), one.score(x))


def test_the_published_galaxy_network_can_be_written() -> None:
    """49152-500-50-50-500-49152, relu, sigmoid at the end; its weights are counted without being made."""
    hyper = vae.Hyper(backbone="mlp", layers=(500,), latent=50, output="sigmoid", activation="relu")
    with torch.device("meta"):
        model = vae.Model((3, 128, 128), hyper)
    sizes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(49152, 500), (500, 2 * 50), (50, 500), (500, 49152)]  # mean and log-variance from one matrix
    encoder, decoder = 49152 * 500 + 500 + 2 * (500 * 50 + 50), 50 * 500 + 500 + 500 * 49152 + 49152
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder == 49_277_252
    small = vae.Model((3, 4, 4), dataclasses.replace(hyper, layers=(7,), latent=5))
    assert sum(p.numel() for p in small.parameters()) == 48 * 7 + 7 + 2 * (7 * 5 + 5) + 5 * 7 + 7 + 7 * 48 + 48
    rebuilt = small.reconstruct(torch.rand(2, 3, 4, 4))
    assert rebuilt.shape == (2, 3, 4, 4)
    assert rebuilt.min() > 0
    assert rebuilt.max() < 1


def test_the_published_dense_network_of_28_x_28_can_be_written() -> None:
    """784-150-100-10-100-150-784, selu, sigmoid at the end, cross-entropy."""
    model = vae.Model((1, 28, 28), vae.Hyper(backbone="mlp", layers=(150, 100), latent=10, activation="selu", likelihood="bernoulli"))
    told = [(type(m).__name__, getattr(m, "out_features", None)) for m in model.modules() if isinstance(m, (nn.Linear, nn.SELU))]
    assert told == [
        ("Linear", 150), ("SELU", None), ("Linear", 100), ("SELU", None), ("Linear", 20),
        ("Linear", 100), ("SELU", None), ("Linear", 150), ("SELU", None), ("Linear", 784),
    ]  # fmt: skip
    encoder = 784 * 150 + 150 + 150 * 100 + 100 + 2 * (100 * 10 + 10)
    assert sum(p.numel() for p in model.parameters()) == encoder + 10 * 100 + 100 + 100 * 150 + 150 + 150 * 784 + 784
    assert model.output == "sigmoid"


def test_a_dense_layer_may_stand_between_convolutions_and_the_code() -> None:
    """The published VAE of Fashion-MNIST, 32-64-64-64 and a dense 32: a kernel over the whole map is that layer."""
    hyper = vae.Hyper(backbone="conv", layers=(32, 64, 64, 64, 32), kernels=(3, 3, 3, 3, 0), strides=(1, 2, 1, 1, 1), latent=2)
    model = vae.Model((1, 28, 28), hyper)
    convolutions = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in convolutions] == [
        (1, 32, 1),
        (32, 64, 2),
        (64, 64, 1),
        (64, 64, 1),
        (64, 32, 1),
    ]
    dense, features = convolutions[-1], torch.rand(3, 64, 14, 14)
    assert dense.weight[0].numel() == 14 * 14 * 64
    torch.testing.assert_close(dense(features).flatten(1), features.flatten(1) @ dense.weight.flatten(1).T + dense.bias)
    assert [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)] == [(32, 4), (2, 32)]


def test_the_game_is_five_critic_turns_then_the_generator_and_after_it_the_encoder() -> None:
    model, x = wgan_gp.Model((6,), wgan_gp.Hyper(game=0.5, critic_steps=5)), torch.randn(4, 6)
    assert [player for player, _ in model.turns(batch(x), 0.49)] == ["critic"] * 5 + ["generator"]
    assert [player for player, _ in model.turns(batch(x), 0.5)] == ["encoder"]
    assert 0.5 < model.settled_from < 1


def test_the_critic_sees_new_noise_at_each_of_its_turns() -> None:
    model, x = wgan_gp.Model((6,), wgan_gp.Hyper()), torch.randn(4, 6)
    losses = [float(loss.detach()) for player, loss in model.turns(batch(x), 0.0) if player == "critic"]
    assert all(a != b for a, b in itertools.combinations(losses, 2))


@pytest.mark.parametrize("shape", [(6,), (2, 20), (1, 8, 8)], ids=str)
def test_the_penalty_is_that_of_the_slope_between_real_and_generated(shape: tuple[int, ...]) -> None:
    """A linear critic has one slope everywhere, so its penalty is known."""
    model = wgan_gp.Model(shape, wgan_gp.Hyper(activation="identity", latent=2))
    x, fake, point = torch.randn(4, *shape), torch.randn(4, *shape), torch.zeros(1, *shape, requires_grad=True)
    (slope,) = torch.autograd.grad(model.critic(model.features(point)).sum(), point)
    torch.testing.assert_close(model.penalty(batch(x), fake), 10 * (slope.norm() - 1).square())


def test_the_gradient_of_the_penalty_is_the_difference_quotient() -> None:
    model = wgan_gp.Model((5,), wgan_gp.Hyper(activation="tanh", layers=(7, 7), latent=2))
    x, fake = torch.randn(6, 5), torch.randn(6, 5)
    weight = model.features[0].weight

    def penalty() -> Tensor:
        return model.penalty(batch(x, seed=9), fake)

    (gradient,) = torch.autograd.grad(penalty(), weight)
    step = torch.zeros_like(weight)
    step[1, 2] = 1e-2
    with torch.no_grad():
        weight += step
    up = penalty()
    with torch.no_grad():
        weight -= 2 * step
    torch.testing.assert_close(gradient[1, 2], (up - penalty()) / 2e-2, rtol=2e-2, atol=1e-4)


def test_the_penalty_stays_float32_under_autocast() -> None:
    model = wgan_gp.Model((6,), wgan_gp.Hyper())
    x, fake = torch.randn(4, 6), torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model.penalty(batch(x), fake)
        assert model.features(x).dtype == torch.bfloat16
    assert inside.dtype == torch.float32
    assert torch.equal(inside, model.penalty(batch(x), fake))


def test_a_critic_without_slope_has_a_finite_penalty() -> None:
    model, x = wgan_gp.Model((6,), wgan_gp.Hyper()), torch.randn(4, 6)
    for p in (*model.features.parameters(), *model.critic.parameters()):
        nn.init.zeros_(p)
    loss = next(model.turns(batch(x), 0.0))[1]
    assert loss.item() == pytest.approx(10.0)
    gradients = torch.autograd.grad(loss, list(model.features.parameters()), allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


def test_the_encoder_learns_while_the_game_is_frozen() -> None:
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (6,), "float32")
    splits = Splits(spec, fit_scaling("none", (6,), rows.dtype, [rows]), Rows(rows[:48]), Rows(rows[48:]), None, None)
    hyper = dataclasses.asdict(wgan_gp.Hyper(latent=2, width=16, game=0.5))
    half = fit("wgan_gp", hyper, splits, Training(epochs=2, batch_size=16, patience=None, device="cpu"))
    assert [set(h) & {"loss_critic", "loss_encoder"} for h in half.history] == [{"loss_critic"}, {"loss_encoder"}]
    # The same game of one epoch, cut off before the encoder's turn, leaves the same critic and generator.
    only = fit("wgan_gp", {**hyper, "game": 0.999}, splits, Training(epochs=1, batch_size=16, patience=None, device="cpu"))
    for key, weight in only.weights.items():
        assert torch.equal(weight, half.weights[key]) is not key.startswith("encoder"), key


def test_the_score_adds_both_errors_of_f_anogan() -> None:
    hyper = wgan_gp.Hyper(kappa=0.3)
    model, x = wgan_gp.Model((6,), hyper), torch.randn(4, 6)
    rebuilt = model.reconstruct(x)
    expected = (x - rebuilt).square().mean(1) + 0.3 * (model.features(x) - model.features(rebuilt)).square().mean(1)
    torch.testing.assert_close(model.score(x), expected)
    (turn,) = model.turns(batch(x), 0.9)
    torch.testing.assert_close(turn[1], expected.mean())


def test_nonsense_is_refused_with_its_value() -> None:
    for module, values, said in [
        (autoencoder, {"loss": "l1"}, "loss='l1'"),
        (vae, {"beta": -1.0}, "beta=-1.0"),
        (vae, {"likelihood": "poisson"}, "likelihood='poisson'"),
        (wgan_gp, {"game": 1.5}, "game=1.5"),
        (wgan_gp, {"critic_steps": 0}, "critic_steps=0"),
        (wgan_gp, {"beta1": 1.0}, "beta1=1.0"),
    ]:
        with pytest.raises(RaeflowError) as refusal:
            module.Hyper(**values)
        assert said in str(refusal.value)


def test_three_dimensions_to_two_by_gradient_descent_is_pca() -> None:
    """The smallest linear autoencoder: plain SGD of rate 0.1 on a noisy, bent sheet finds PCA's plane within a degree."""
    noise = torch.Generator().manual_seed(4)
    angle = torch.rand(512, generator=noise) * 1.5 * np.pi - 0.5
    columns = [angle.cos() + angle.sin() / 2, 0.7 * angle.sin(), 0.1 * angle.cos() + 0.3 * angle.sin()]
    x = torch.stack(columns, 1) + 0.05 * torch.randn(512, 3, generator=noise)
    spec = RowSpec(("a", "b", "c"), "columns", (3,), "float32")
    splits = Splits(spec, fit_scaling("standard", (3,), x.dtype, [x]), Rows(x), Rows(x[:64]), None, None)
    hyper = autoencoder.Hyper(latent=2, depth=0, optimizer="sgd", lr=0.1)
    model = autoencoder.Model((3,), hyper)
    assert [str(m) for m in model.modules() if isinstance(m, nn.Linear)] == [
        "Linear(in_features=3, out_features=2, bias=True)",
        "Linear(in_features=2, out_features=3, bias=True)",
    ]
    assert isinstance(model.optimizers()["autoencoder"], torch.optim.SGD)
    plan = Training(epochs=60, batch_size=32, patience=None, device="cpu")
    model = fit("autoencoder", dataclasses.asdict(hyper), splits, plan).model()
    scaled = splits.encoding(x)
    with torch.no_grad():
        rebuilt = model.reconstruct(scaled).numpy()
    plane = np.linalg.svd(rebuilt - rebuilt.mean(0), full_matrices=False)[2][:2].T
    pca = PCA(2).fit(scaled.numpy())
    assert np.degrees(subspace_angles(plane, pca.components_.T)).max() < 1
    best = np.square(scaled.numpy() - pca.inverse_transform(pca.transform(scaled.numpy()))).mean()
    assert np.square(scaled.numpy() - rebuilt).mean() < 1.1 * best


def test_the_stacked_dense_network_is_that_of_the_source() -> None:
    """784-100-30-100-784 with selu after every layer but the last, a sigmoid there, trained by cross-entropy."""
    hyper = autoencoder.Hyper(backbone="mlp", layers=(100,), latent=30, activation="selu", code_activation=True, loss="bce")
    model = autoencoder.Model((1, 28, 28), hyper)
    halves = [
        [str(part).split(", bias")[0] for part in half if not isinstance(part, nn.Flatten)] for half in (model.encoder, model.decoder)
    ]
    assert [*halves[0], str(model.code_activation)] == [
        "Linear(in_features=784, out_features=100", "SELU()", "Linear(in_features=100, out_features=30", "SELU()",
    ]  # fmt: skip
    assert halves[1][:3] == ["Linear(in_features=30, out_features=100", "SELU()", "Linear(in_features=100, out_features=784"]
    assert [type(part) for part in model.decoder[3:]] == [nn.Unflatten]
    assert sum(p.numel() for p in model.parameters()) == 784 * 100 + 100 + 100 * 30 + 30 + 30 * 100 + 100 + 100 * 784 + 784 == 163_814
    x = torch.rand(5, 1, 28, 28)
    flat, (first, second, third, fourth) = x.flatten(1), [m for m in model.modules() if isinstance(m, nn.Linear)]
    code = nn.functional.selu(second(nn.functional.selu(first(flat))))
    torch.testing.assert_close(model.encode(x), code)
    rebuilt = torch.sigmoid(fourth(nn.functional.selu(third(code)))).view_as(x)
    torch.testing.assert_close(model.reconstruct(x), rebuilt)
    for loss, expected in (("bce", nn.functional.binary_cross_entropy(rebuilt, x)), ("mse", (rebuilt - x).square().mean())):
        other = autoencoder.Model((1, 28, 28), dataclasses.replace(hyper, loss=loss, output="sigmoid"))
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(next(other.turns(batch(x), 0.0))[1], expected)
