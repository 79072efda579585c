"""What progressive growing and StyleGAN claim of themselves, checked against their papers' definitions."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.health import Gauge
from raeflow.study import Training
from raeflow.training import Run
from raeflow.variants import _growing, progressive, stylegan
from raeflow.variants._adversarial import Wasserstein
from raeflow.variants._contract import Batch
from raeflow.variants._equalised import BatchDeviation, Equalised, PixelNorm, enlarge, shrink, smooth_enlarge, smooth_shrink

SMALL: dict[str, Any] = {"layers": (4, 6, 8), "latent": 5}
both = pytest.mark.parametrize("module", [progressive, stylegan], ids=["progressive", "stylegan"])


def batch(x: Tensor, seed: int = 0) -> Batch:
    return Batch(x, generator=torch.Generator().manual_seed(seed))


def model(module: Any, shape: tuple[int, ...] = (2, 9, 11), seed: int = 0, **values: Any) -> Any:
    torch.manual_seed(seed)
    return module.Model(shape, module.Hyper(**{**SMALL, **values}))


def step(made: Any, x: Tensor, progress: float, optimizers: Any) -> None:
    for player, loss in made.turns(batch(x), progress):
        optimizers[player].zero_grad()
        loss.backward()
        optimizers[player].step()


@pytest.mark.parametrize("size", [(), (12,), (6, 7)], ids=str)
def test_equalised_weights_are_normal_and_scaled_by_he(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = Equalised(64, 48, size), torch.randn(32, 64, *size)
    fan_in = 64 * 3 ** len(size)
    assert float(layer.weight.detach().std()) == pytest.approx(1, abs=0.03)
    plain = {0: functional.linear, 1: functional.conv1d, 2: functional.conv2d}[len(size)]
    named = {"padding": 1} if size else {}
    expected = plain(x, layer.weight * math.sqrt(2 / fan_in), layer.bias, **named)  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    linear = Equalised(64, 256, size, gain=1.0)(x)
    inside = linear[(slice(None), slice(None), *(slice(1, -1),) * len(size))]
    assert float(inside.detach().std()) == pytest.approx(1, rel=0.05)


def test_a_multiplied_rate_keeps_the_function_and_slows_its_weights() -> None:
    """StyleGAN's mapping: same deviation at the start, steps of the effective weight a hundredth as long."""
    torch.manual_seed(0)
    slow, x = Equalised(64, 64, rate=0.01), torch.randn(256, 64)
    plain = Equalised(64, 64)
    assert float(slow(x).detach().std()) == pytest.approx(float(plain(x).detach().std()), rel=0.1)
    moved = []
    for layer in (slow, plain):
        before = layer(x).detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        layer(x).square().mean().backward()
        optimizer.step()
        moved.append(float((layer(x) - before).detach().norm()))
    assert moved[0] / moved[1] == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("shape", [(7,), (7, 5), (7, 3, 4)], ids=str)
def test_pixel_normalisation_divides_by_the_root_mean_square_of_the_channels(shape: tuple[int, ...]) -> None:
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PixelNorm()(x), x / torch.sqrt(x.square().mean(1, keepdim=True) + 1e-8))


def test_the_deviation_of_a_mini_batch_by_hand() -> None:
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    seen = BatchDeviation()(x)
    assert torch.equal(seen[:, :3], x)
    for group in (slice(0, 4), slice(4, 8)):
        told = x[group].std(0, correction=0).mean()
        torch.testing.assert_close(seen[group, 3], told.expand(4, 2, 2))


@pytest.mark.parametrize(("rows", "group"), [(6, 3), (5, 1), (2, 2), (9, 3), (12, 4)])
def test_groups_are_the_largest_that_divide_the_rows(rows: int, group: int) -> None:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    told = x.view(-1, group, 2).std(1, correction=0).mean(1).repeat_interleave(group)
    torch.testing.assert_close(BatchDeviation()(x)[:, 2], told, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("places", [1, 2])
def test_smooth_resampling_is_nearest_and_average_with_a_blur(places: int) -> None:
    x = torch.randn(1, 1, *(8,) * places, generator=torch.Generator().manual_seed(0))
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = line.view(1, 1, 3) if places == 1 else (line[:, None] * line).view(1, 1, 3, 3)
    blur: Any = functional.conv1d if places == 1 else functional.conv2d
    inner = (..., *(slice(1, -1),) * places)
    torch.testing.assert_close(smooth_enlarge(x, (16,) * places)[inner], blur(enlarge(x, (16,) * places), kernel))
    torch.testing.assert_close(smooth_shrink(x, (4,) * places)[inner], shrink(blur(x, kernel, padding=1), (4,) * places)[inner])


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 28, 28), [(4, 4), (7, 7), (14, 14), (28, 28)]),
        ((3, 17, 13), [(5, 4), (9, 7), (17, 13)]),
        ((2, 37), [(5,), (10,), (19,), (37,)]),
        ((9,), [()]),
    ],
    ids=str,
)
@both
def test_sizes_are_halved_and_rounded_up(module: Any, shape: tuple[int, ...], sizes: list[tuple[int, ...]]) -> None:
    ladder = _growing.Ladder.of(shape, module.published(shape))
    assert list(ladder.sizes) == sizes


def test_stages_are_equal_shares_of_training_and_fading() -> None:
    ladder = _growing.Ladder.of((1, 16), progressive.Hyper(layers=(4, 4, 4)))
    told = [ladder.stage(done) for done in (0.0, 0.19, 0.2, 0.3, 0.5, 0.65, 0.7, 0.9, 1.0)]
    assert [s.level for s in told] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert [s.alpha for s in told] == pytest.approx([1, 1, 0, 0.5, 1, 0.25, 0.5, 1, 1])


@both
def test_progress_sets_the_stage_over_growths_share_of_the_game(module: Any) -> None:
    made, x = model(module, game=0.8, growth=0.5), torch.rand(4, 2, 9, 11)
    for progress, level, alpha in ((0.0, 0, 1.0), (0.12, 1, 0.5), (0.28, 2, 0.5), (0.41, 2, 1.0), (0.9, 2, 1.0)):
        next(made.turns(batch(x), progress))
        assert (made.stage.level, made.stage.alpha) == (level, pytest.approx(alpha, abs=1e-5))
        assert made.averaged.stage is made.generator.stage is made.features.stage is made.stage


@both
def test_coarse_rows_that_resemble_one_another_are_no_collapse(module: Any) -> None:
    made, x = model(module, (1, 9, 8)), torch.rand(40, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (1, 9, 8), "float32")
    gauge = Gauge(Splits(spec, fit_scaling("none", (1, 9, 8), torch.float32, [x]), Rows(x), Rows(x), None, None))
    for weight in made.averaged.buffers():
        weight.zero_()
    made.reach(0.5)
    assert not made.whole and gauge(made)["collapsed"] == 0
    made.reach(1.0)
    assert made.whole and gauge(made)["collapsed"] == 1


@both
def test_a_level_fades_in_from_the_one_before(module: Any) -> None:
    """At alpha 0 a new level is not there yet, at 1 it is all there is, and in between the blend is straight."""
    made, x = model(module).eval(), torch.rand(3, 2, 9, 11)
    codes = torch.randn(3, 5)

    def seen(level: int, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        made.stage.level, made.stage.alpha = level, alpha
        shown = made.shown(batch(x)).x
        assert shown.shape[2:] == made.ladder.sizes[level]
        with torch.no_grad():
            return made.decode(codes), shown, made.features(x)

    (low, real_low, told_low), (start, real_start, told_start) = seen(0, 1.0), seen(1, 0.0)
    torch.testing.assert_close(start, low)
    torch.testing.assert_close(real_start, enlarge(real_low, (5, 6)))
    torch.testing.assert_close(told_start, told_low)
    (half, real_half, told_half), (end, real_end, told_end) = seen(1, 0.5), seen(1, 1.0)
    for middle, one, other in ((half, start, end), (real_half, real_start, real_end), (told_half, told_start, told_end)):
        torch.testing.assert_close(middle, (one + other) / 2)
    assert not torch.equal(end, start)


@both
def test_the_drawing_weights_are_the_running_average(module: Any) -> None:
    made, x = model(module, average=0.3), torch.rand(4, 2, 9, 11)
    players = made.optimizers()
    weights = [copy.deepcopy(dict(made.generator.named_parameters()))]
    for _ in range(4):
        step(made, x, 0.1, players)
        weights.append(copy.deepcopy(dict(made.generator.named_parameters())))
    expected = {name: value.detach().clone() for name, value in weights[0].items()}
    for count, own in enumerate(weights[1:], start=1):
        decay = min(0.3, count / (9 + count))
        expected = {name: decay * value + (1 - decay) * own[name].detach() for name, value in expected.items()}
    found = dict(made.averaged.named_buffers())
    assert set(found) == set(expected)
    assert not list(made.averaged.parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@both
def test_a_game_resumes_while_a_level_fades_in(module: Any, tmp_path: Any) -> None:
    x = torch.rand(24, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (2, 9, 11), "float32")
    splits = Splits(spec, fit_scaling("auto", (2, 9, 11), torch.float32, [x]), Rows(x[:16]), Rows(x[16:]), None, None)
    name, hyper = module.__name__.rsplit(".", 1)[1], dataclasses.asdict(module.Hyper(**SMALL, game=0.9))
    training = Training(epochs=6, batch_size=8, patience=None, device="cpu")
    whole = Run(name, hyper, splits, training, seed=1)
    for epoch in whole.epochs():
        if epoch.number == 2:
            whole.save(tmp_path / "two")
            stage, loaded = dataclasses.replace(whole.model.stage), whole.fitted().model()  # type: ignore[arg-type]
            assert 0 < stage.alpha < 1
            assert loaded.stage == stage, "a loaded model stands where it stood"
            torch.testing.assert_close(loaded.score(x), whole.model.score(x))
    again = Run(name, hyper, splits, training, seed=1)
    again.resume(tmp_path / "two")
    for _ in again.epochs():
        pass
    assert again.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True))


def test_the_critic_pays_for_slope_and_drift() -> None:
    made, x = model(progressive, drift=0.5), torch.rand(4, 2, 3, 3)
    made.reach(0.0)
    dice = batch(x)
    with torch.no_grad():
        fake = made.drawn(dice)
    slope = made.slopes(Wasserstein.between(dice, fake))
    real = made.judge(x)
    expected = made.judge(fake).mean() - real.mean() + 10 * (slope - 1).square().mean() + 0.5 * real.square().mean()
    torch.testing.assert_close(next(made.turns(batch(x), 0.0))[1], expected)


def test_the_discriminator_pays_half_gamma_for_its_squared_slope_at_real_rows() -> None:
    """R1 of Mescheder et al. 2018 with the logistic losses of Goodfellow et al. 2014."""
    made, x = model(stylegan, r1=7.0), torch.rand(4, 2, 3, 3)
    made.reach(0.0)
    dice = batch(x)
    with torch.no_grad():
        first = made.drawn(dice)
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(made.judge(at).sum(), at)
    chance = [torch.sigmoid(made.judge(rows)) for rows in (x, first)]
    r1 = 7.0 / 2 * slope.flatten(1).norm(dim=1).square().mean()
    turns = made.turns(batch(x), 0.0)
    torch.testing.assert_close(next(turns)[1], -chance[0].log().mean() - (1 - chance[1]).log().mean() + r1)
    second = made.drawn(dice)
    torch.testing.assert_close(next(turns)[1], -torch.sigmoid(made.judge(second)).log().mean())


@pytest.mark.parametrize("size", [(), (6,), (5, 4)], ids=str)
def test_a_style_sets_mean_and_deviation_of_each_map(size: tuple[int, ...]) -> None:
    """AdaIN (equation 1): y_s (x - mean) / deviation + y_b, of each map of each row, or of a table's features."""
    torch.manual_seed(0)
    layer = stylegan.Styled(3, nn.Identity(), 8, size, nn.Identity())
    x, w = torch.randn(4, 8, *size), torch.randn(4, 3)
    with torch.no_grad():
        out = layer(x, w, torch.randn(4, math.prod(size)))
        scale, shift = layer.style(w).view(4, 2, 8).unbind(1)
    if size:
        torch.testing.assert_close(out.flatten(2).mean(2), shift, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.flatten(2).std(2, correction=0), (scale + 1).abs(), rtol=1e-4, atol=1e-5)
    else:
        plain = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
        torch.testing.assert_close(out, (scale + 1) * plain + shift, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        layer.strength.fill_(0.5)
        noise = torch.randn(4, math.prod(size))
        noisy = layer(x, w, noise)
        torch.testing.assert_close(noisy, layer(x + 0.5 * noise.view(4, 1, *size), w, 0 * noise), rtol=1e-4, atol=1e-4)


def test_styles_cross_over_once_in_nine_rows_of_ten() -> None:
    chance = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    at = stylegan.crossovers(chance, 0.9, 6)
    assert float((at < 6).float().mean()) == pytest.approx(0.9, abs=0.02)
    counts = torch.bincount(at, minlength=7)
    assert counts[0] == 0
    assert (counts[1:6] > 600).all()  # 720 each, when even
    first, second = torch.zeros(3, 2), torch.ones(3, 2)
    crossed = stylegan.crossed(first, second, torch.tensor([1, 3, 4]), 4)
    assert crossed[:, :, 0].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(9,), (2, 21), (2, 9, 11)], ids=str)
def test_mixed_rows_are_the_second_and_the_first_at_the_ends(shape: tuple[int, ...]) -> None:
    made = model(stylegan, shape).eval()
    made.reach(1.0)
    first, second = made.styles(torch.randn(4, 5)), made.styles(torch.randn(4, 5))
    layers = made.averaged.layers()
    assert layers == (4 if len(shape) == 1 else 6)
    torch.testing.assert_close(made.mixed(first, second, 0), made.decode(second))
    torch.testing.assert_close(made.mixed(first, second, layers), made.decode(first))
    between = made.mixed(first, second, 2)
    assert not torch.allclose(between, made.decode(first)) and not torch.allclose(between, made.decode(second))
    with pytest.raises(RaeflowError, match="crossover=7"):
        made.mixed(first, second, 7)


def test_truncation_draws_styles_to_their_mean() -> None:
    made = model(stylegan, truncation=0.0).eval()
    made.reach(1.0)
    made.get_buffer("mean").normal_(generator=torch.Generator().manual_seed(2))
    z = torch.randn(6, 5)
    w, mean = made.styles(z), made.get_buffer("mean")
    torch.testing.assert_close(made.styles(z, 0.7), mean + 0.7 * (w - mean))
    drawn = made.sample(6)  # the strength of noise is 0 before training
    torch.testing.assert_close(drawn, made.decode(mean[None]).expand_as(drawn), rtol=1e-4, atol=1e-5)


def test_the_mean_style_follows_the_batches() -> None:
    made, x = model(stylegan, mixing=0.0), torch.rand(4, 2, 9, 11)
    z = batch(x).normal(5)
    with torch.no_grad():
        expected = 0.005 * made.generator.mapping(z).mean(0)
    next(made.turns(batch(x), 0.0))
    torch.testing.assert_close(made.get_buffer("mean"), expected)


@pytest.mark.parametrize("name", ["progressive", "stylegan"])
@pytest.mark.parametrize(
    ("values", "said"),
    [({"depth": 0}, "depth=0"), ({"growth": 0.0}, "growth=0"), ({"growth": 1.5}, "growth=1.5"), ({"average": 1.0}, "average=1.0"),
     ({"backbone": "mlp"}, "backbone='mlp'")],
)  # fmt: skip
def test_nonsense_is_refused_with_its_value(name: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        variants.hyper(name, values)
    assert said in str(refusal.value)
