"""What `dcgan` and `acgan` claim of themselves, checked against their papers and closed forms."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torch.nn import functional

from raeflow import Data, Study, Training, pipeline, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.training import Run, fit
from raeflow.variants import acgan, dcgan, gan
from raeflow.variants._adversarial import Adversarial
from raeflow.variants._contract import Batch, Conditional, Variant
from raeflow.variants._norm import BatchNorm

SHAPE = (3, 16, 16)
NORMS = (BatchNorm, nn.modules.batchnorm._BatchNorm)


def batch(x: Tensor, label: Tensor | None = None, seed: int = 0) -> Batch:
    return Batch(x, label=label, generator=torch.Generator().manual_seed(seed))


def kinds(net: nn.Module) -> list[str]:
    """The layers, without those that only change the order in memory."""
    return [type(m).__name__ for m in net.modules() if not list(m.children()) and type(m).__name__ not in ("_ChannelsLast", "Flatten")]


# Batch normalisation


@pytest.mark.parametrize("shape", [(9,), (9, 5), (9, 3, 4)], ids=str)
def test_batch_norm_is_torchs(shape: tuple[int, ...]) -> None:
    plain = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)](9)
    own = BatchNorm(9)
    dice = torch.Generator().manual_seed(0)
    for made in (plain, own):
        made.weight.data, made.bias.data = torch.linspace(0.5, 2, 9), torch.linspace(-1, 1, 9)
    for _ in range(3):
        x = (3 * torch.randn(6, *shape, generator=dice) + 1).requires_grad_()
        torch.testing.assert_close(own(x), plain(x))
        slopes = [torch.autograd.grad(made(x).pow(3).sum(), [x, made.weight, made.bias]) for made in (own, plain)]
        torch.testing.assert_close(*slopes)
    torch.testing.assert_close(own.mean, plain.running_mean)
    torch.testing.assert_close(own.variance, plain.running_var)
    torch.testing.assert_close(own.eval()(x), plain.eval()(x))


def test_a_single_value_is_normalised_by_what_is_known() -> None:
    norm = BatchNorm(2)
    norm.get_buffer("mean").fill_(1.0)
    norm.get_buffer("variance").fill_(4.0)
    torch.testing.assert_close(norm(torch.tensor([[3.0, 5.0]])), torch.tensor([[1.0, 2.0]]), rtol=1e-4, atol=0.0)
    assert norm.get_buffer("mean").tolist() == [1.0, 1.0]


def test_a_last_batch_of_one_row_trains() -> None:
    x = torch.rand(33, 6, generator=torch.Generator().manual_seed(0))
    splits = Splits(RowSpec(("row",), "list", (6,), "float32"), fit_scaling("none", (6,), x.dtype, [x]), Rows(x), Rows(x[:8]), None, None)
    fitted = fit("dcgan", {"latent": 2, "width": 8}, splits, Training(epochs=3, batch_size=32, patience=None, device="cpu"))
    assert all(torch.isfinite(weight).all() for weight in fitted.weights.values())


# The networks of dcgan


def test_published_networks_follow_the_papers_rules() -> None:
    model = dcgan.Model((3, 32, 32), dcgan.published((3, 32, 32)))
    hyper = model.hyper
    assert (hyper.lr, hyper.beta1, hyper.beta2, hyper.critic_steps) == (2e-4, 0.5, 0.999, 1)
    assert kinds(model.features) == [
        "_Signed", "Conv2d", "LeakyReLU", "Conv2d", "BatchNorm", "LeakyReLU", "Conv2d", "BatchNorm", "LeakyReLU",
    ]  # fmt: skip
    assert kinds(model.critic) == ["Linear"]
    assert kinds(model.generator) == [
        "Linear", "Unflatten", "BatchNorm", "ReLU", "ConvTranspose2d", "BatchNorm", "ReLU",
        "ConvTranspose2d", "BatchNorm", "ReLU", "ConvTranspose2d",
    ]  # fmt: skip
    assert [m.negative_slope for m in model.features.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 3
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert all(m.stride == (2, 2) and m.kernel_size == (5, 5) for m in convolutions)
    assert not any(isinstance(m, NORMS) for m in model.encoder.modules())
    # The projection is normalised by the maps' channels, and only what nothing normalises has a bias.
    assert [len(m.weight) for m in model.generator.modules() if isinstance(m, BatchNorm)] == [64, 32, 16]
    assert [m.bias is not None for m in model.generator if hasattr(m, "bias") and not isinstance(m, NORMS)] == [False, False, False, True]


@pytest.mark.parametrize("shape", [(40,), (2, 64)], ids=str)
def test_tables_and_signals_follow_the_same_rules(shape: tuple[int, ...]) -> None:
    model = dcgan.Model(shape, dcgan.published(shape))
    features, generator = kinds(model.features), kinds(model.generator)
    map_in, map_out = ("Linear", "Linear") if len(shape) == 1 else ("Conv1d", "ConvTranspose1d")
    assert features[:4] == [map_in, "LeakyReLU", map_in, "BatchNorm"] and features.count("BatchNorm") == features.count(map_in) - 1
    assert generator[-3:] == ["BatchNorm", "ReLU", map_out] and generator.count("BatchNorm") == 3


def test_weights_start_from_a_normal_of_0_02() -> None:
    torch.manual_seed(0)
    model = dcgan.Model((3, 32, 32), dcgan.published((3, 32, 32)))
    players = [*model.features.modules(), *model.generator.modules(), model.critic]
    for layer in players:
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            count = layer.weight.numel()
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=4 / (2 * count) ** 0.5 + 0.01), layer
            assert abs(float(layer.weight.detach().mean())) < 4 * 0.02 / count**0.5
            assert layer.bias is None or not layer.bias.any()
    gains = torch.cat([layer.weight.detach() for layer in players if isinstance(layer, BatchNorm)])
    assert float(gains.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(gains.std()) == pytest.approx(0.02, rel=0.25)
    assert float(model.encoder[0].weight.detach().std()) > 0.03, "the encoder's are torch's"


def test_the_discriminator_sees_rows_as_a_tanh_makes_them() -> None:
    torch.manual_seed(0)
    model = dcgan.Model(SHAPE, dcgan.Hyper(output="tanh", channels=4)).eval()
    z, x = torch.randn(5, 8), torch.rand(5, *SHAPE)
    torch.testing.assert_close(model.decode(z), (torch.tanh(model.generator(z)) + 1) / 2)
    torch.testing.assert_close(model.features[1](model.features[0](x)), model.features[1](2 * x - 1))
    with pytest.raises(RaeflowError, match=r"dcgan with a tanh output needs rows scaled to 0-1.*spans -1 to 1"):
        next(model.turns(batch(torch.tensor([-1.0, 1.0]).expand(2, *SHAPE[:-1], -1).repeat(1, 1, 1, 8)), 0.0))


def test_the_game_of_dcgan_is_that_of_gan() -> None:
    torch.manual_seed(0)
    model, x = dcgan.Model((6,), dcgan.Hyper(latent=2, width=8)).train(), torch.randn(7, 6)
    dice = batch(x)
    first, second = (model.drawn(dice) for _ in range(2))
    chance = [torch.sigmoid(model.judge(rows)) for rows in (x, first, second)]
    (one, judged), (two, made) = model.turns(batch(x), 0.0)
    assert (one, two) == ("discriminator", "generator")
    torch.testing.assert_close(judged, -chance[0].log().mean() - (1 - chance[1]).log().mean())
    torch.testing.assert_close(made, -chance[2].log().mean())


def test_running_statistics_rest_once_the_game_is_over() -> None:
    model, x = dcgan.Model((6,), dcgan.Hyper(latent=2, width=8)).train(), torch.randn(7, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    list(model.turns(batch(x), 0.9))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    list(model.train().turns(batch(x), 0.1))
    moved = {k.rsplit(".", 1)[1] for k, v in model.state_dict().items() if not torch.equal(before[k], v)}
    assert moved == {"mean", "variance"}


def test_learning_rates_fall_to_nothing_over_the_end_of_the_game() -> None:
    hyper = dcgan.Hyper(latent=2, width=8, lr=1e-3, game=0.8, decay=0.5, encoder_lr=2e-3)
    model, x = dcgan.Model((6,), hyper).train(), torch.randn(7, 6)
    players = model.optimizers()
    for progress, rate in ((0.0, 1e-3), (0.3, 1e-3), (0.6, 5e-4), (0.76, 1e-4), (0.9, 1e-4)):
        list(model.turns(batch(x), progress))
        found = [players[name].param_groups[0]["lr"] for name in ("discriminator", "generator", "encoder")]
        assert found == pytest.approx([rate, rate, 2e-3])
    assert dcgan.Model((6,), dcgan.Hyper()).rate(0.5) == 2e-4


def test_critics_under_a_gradient_penalty_carry_no_batch_norm() -> None:
    """Every game that asks for the critic's slopes, found by its code: the penalty is on each row's slope alone."""
    import inspect

    found = []
    for name in variants.names():
        model = variants.get(name).Model
        if not issubclass(model, Adversarial):
            continue
        own = "".join(inspect.getsource(kind) for kind in model.__mro__ if issubclass(kind, Variant) and kind is not Adversarial)
        if not any(call in own for call in ("slopes(", "steepness(", "autograd.grad")):
            continue
        found.append(name)
        for shape in ((12,), (1, 32), (1, 16, 16)):
            made = model(shape, variants.get(name).published(shape))
            critic = [m for part in ("features", "critic") for m in getattr(made, part).modules()]
            assert not any(isinstance(m, NORMS) for m in critic), name
    assert {"wgan_gp", "wgan_div"} <= set(found) and not {"gan", "dcgan", "acgan"} & set(found)


# acgan


def conditional(classes: int = 3, **changes: Any) -> acgan.Model:
    torch.manual_seed(0)
    return acgan.Model(SHAPE, acgan.Hyper(classes=classes, latent=4, channels=4, output="tanh", **changes)).train()


def test_both_losses_are_those_of_the_paper() -> None:
    """-(L_S + L_C) for the discriminator, -(L_C - L_S) for the generator, whose source part does not saturate."""
    model, x, label = conditional(class_weight=0.7), torch.rand(6, *SHAPE), torch.tensor([0, 2, 1, 1, 0, 2])

    def chances(rows: Tensor) -> tuple[Tensor, Tensor]:
        seen = model.features(rows)
        return torch.sigmoid(model.critic(seen)).flatten(), torch.softmax(model.head(seen), 1)[torch.arange(6), label]

    dice, fakes = batch(x), []
    for _ in range(2):
        dice.uniform()
        fakes.append(model.decode(torch.cat([dice.normal(4), torch.eye(3)[label]], 1)))
    (real, named), (first, first_named), (second, second_named) = (chances(rows) for rows in (x, *fakes))
    (one, judged), (two, made) = model.turns(batch(x, label), 0.0)
    assert (one, two) == ("discriminator", "generator")
    source, kind = real.log().mean() + (1 - first).log().mean(), named.log().mean() + first_named.log().mean()
    torch.testing.assert_close(judged, -source - 0.7 * kind)
    torch.testing.assert_close(made, -second.log().mean() - 0.7 * second_named.log().mean())


def test_the_class_of_generated_rows_may_be_left_out_of_the_discriminators_loss() -> None:
    model, x, label = conditional(named_fakes=0.0), torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    dice = batch(x)
    (fake, _), (other, _) = (model.asked(dice, label) for _ in range(2))
    (_, judged), (_, made) = model.turns(batch(x, label), 0.0)
    torch.testing.assert_close(judged, model.loss(x, label, 1.0) + model.told_apart(fake, 0.0))
    torch.testing.assert_close(made, model.loss(other, label, 1.0))
    torch.testing.assert_close(conditional(named_fakes=0.0, replay=8).unmasked(batch(x), fake, label), model.told_apart(fake, 0.0))


def test_rows_of_unknown_class_count_in_the_source_loss_alone() -> None:
    model, x, label = conditional(), torch.rand(4, *SHAPE), torch.tensor([0, -1, 2, -1])
    seen = model.features(x)
    some = -torch.log_softmax(model.head(seen), 1)[[0, 2], [0, 2]].sum() / 4
    torch.testing.assert_close(model.loss(x, label, 1.0), model.told_apart(x, 1.0) + some)
    torch.testing.assert_close(model.loss(x, torch.full((4,), -1), 1.0), model.told_apart(x, 1.0))
    fake, asked = model.asked(batch(x), label)
    assert fake.shape == x.shape and asked[[0, 2]].tolist() == [0, 2] and int(asked.min()) >= 0 and int(asked.max()) < 3
    assert all(torch.isfinite(loss) for _, loss in model.turns(batch(x, label), 0.0))


def test_replay_shows_earlier_rows_to_the_source_alone() -> None:
    model, x, label = conditional(replay=8), torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    earlier, fake = torch.rand(2, 4, *SHAPE)
    seen = model.unmasked(batch(x), earlier, label)  # the buffer is empty: all are new
    torch.testing.assert_close(seen, model.loss(earlier, label, 0.0))
    assert int(model.get_buffer("kept")) == 4
    shown = copy.deepcopy(model).mixed(batch(x, seed=3), fake)
    replayed = [any(torch.equal(row, old) for old in earlier) for row in shown]
    assert 0 < sum(replayed) < 4, "some rows of each"
    named = model.hyper.class_weight * model.misnamed(model.features(fake), label)
    torch.testing.assert_close(model.unmasked(batch(x, seed=3), fake, label), model.told_apart(shown, 0.0) + named)


def test_a_code_is_noise_and_the_chance_of_each_class() -> None:
    model, x = conditional().eval(), torch.rand(5, *SHAPE)
    codes = model.encode(x)
    assert codes.shape == (5, 7) == (5, model.code_size)
    torch.testing.assert_close(codes[:, :4], model.encoder(x))
    torch.testing.assert_close(codes[:, 4:], torch.softmax(model.head(model.features(x)), 1))
    rebuilt = model.decode(codes)
    expected = (x - rebuilt).square().flatten(1).mean(1) + (model.features(x) - model.features(rebuilt)).square().mean(1)
    torch.testing.assert_close(model.score(x), expected)
    torch.testing.assert_close(conditional(kappa=0.0).eval().score(x), (x - rebuilt).square().flatten(1).mean(1))


def test_samples_are_of_the_class_that_is_asked() -> None:
    model = conditional().eval()
    assert isinstance(model, Conditional) and model.classes == 3
    noise = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))

    def drawn(label: Any) -> Tensor:
        return model.sample(4, torch.Generator().manual_seed(1), label)

    for kind in range(3):
        torch.testing.assert_close(drawn(kind), model.decode(torch.cat([noise, torch.eye(3)[kind].expand(4, 3)], 1)))
    mixed = drawn(torch.tensor([2, 0, 1, 2]))
    for row, kind in enumerate([2, 0, 1, 2]):
        torch.testing.assert_close(mixed[row], drawn(kind)[row])
    assert drawn(None).shape == (4, *SHAPE) and model.sample(2).shape == (2, *SHAPE)
    assert torch.equal(drawn(torch.tensor([2, 0, 1, 2], dtype=torch.int32)), mixed)
    for wrong in (torch.tensor([0, 1]), 1.0, torch.tensor([0.0, 1, 2, 2]), torch.zeros(4, 1, dtype=torch.long)):
        with pytest.raises(RaeflowError, match=r"sample\(4, label=...\) takes one class or 4 of them"):
            drawn(wrong)


def test_classes_are_drawn_in_the_shares_of_the_rows_of_the_game() -> None:
    model, label = conditional(), torch.tensor([1, 1, 1, 0, 1, -1, 1, 1])
    assert model.shares().tolist() == pytest.approx([1 / 3] * 3)
    for _ in model.turns(batch(torch.rand(8, *SHAPE), label), 0.0):
        pass
    assert model.get_buffer("counts").tolist() == [1, 6, 0]
    _, asked = model.asked(batch(torch.rand(4000, *SHAPE)), torch.full((4000,), -1))
    assert asked.bincount(minlength=3).div(4000).tolist() == pytest.approx([1 / 7, 6 / 7, 0], abs=0.02)
    named: list[Tensor] = []
    model.joined = lambda z, label: (named.append(label), torch.cat([z, functional.one_hot(label, 3)], 1))[1]  # type: ignore[method-assign,func-returns-value]
    model.eval().sample(4000, torch.Generator().manual_seed(0))
    assert named[0].bincount(minlength=3).div(4000).tolist() == pytest.approx([1 / 7, 6 / 7, 0], abs=0.02)


def test_without_classes_it_plays_the_game_of_dcgan() -> None:
    hyper = {"latent": 2, "width": 8}
    x = torch.randn(7, 6)
    for classes in (0, 1):
        made = []
        for model in (dcgan.Model, acgan.Model):
            torch.manual_seed(0)
            record = dcgan.Hyper(**hyper) if model is dcgan.Model else acgan.Hyper(**hyper, classes=classes)
            made.append([float(loss.detach()) for _, loss in model((6,), record).train().turns(batch(x), 0.0)])  # type: ignore[arg-type]
        assert made[0] == made[1]
    alone = acgan.Model((6,), acgan.Hyper(**hyper, classes=1))
    assert (alone.classes, alone.code_size) == (0, 2)


def digits(count: int = 1500) -> Splits:
    data = load_digits()
    x, label = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    keep = label < 2
    x, label = x[keep][:count], label[keep][:count]
    spec = RowSpec(("image",), "list", (1, 8, 8), "float32")
    return Splits(spec, fit_scaling("unit", (1, 8, 8), x.dtype, [x]), Rows(x, label=label), Rows(x[:32]), None, None)


def test_it_learns_to_draw_the_digit_that_is_asked() -> None:
    """Zeros and ones: a nearest-mean rule, fitted to real digits, names nearly all of the generated ones."""
    splits = digits()
    hyper = {"classes": 2, "channels": 16, "latent": 8, "output": "tanh", "lr": 1e-3, "game": 1.0}
    model = fit("acgan", hyper, splits, Training(epochs=25, batch_size=32, patience=None, device="cpu")).model()
    rows = splits.train
    assert isinstance(rows, Rows) and rows.label is not None
    means = torch.stack([rows.x[rows.label == kind].mean(0) for kind in (0, 1)])
    for kind in (0, 1):
        drawn = model.sample(200, torch.Generator().manual_seed(kind), kind)  # type: ignore[operator]
        nearest = (drawn[:, None] - means).square().flatten(2).sum(2).argmin(1)
        assert (nearest == kind).float().mean() > 0.95
        assert drawn.std(0).mean() > 0.3 * rows.x[rows.label == kind].std(0).mean(), "they differ from one another"


# Several workers


def _work(rank: int, world: int, folder: str) -> None:
    """One of two workers: a normalised map of its rows with all slopes, then a game with classes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    x, norm = _map_of_rows()
    own = x[4 * rank : 4 * rank + 4].clone().requires_grad_()
    out = norm(own)
    slopes = torch.autograd.grad(out.pow(3).sum(), [own, norm.weight, norm.bias])
    found = {"out": out.detach(), **dict(zip(("x", "weight", "bias"), slopes, strict=True)), **dict(norm.named_buffers())}
    save_file({**found, **_game().fitted().weights}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def _map_of_rows() -> tuple[Tensor, BatchNorm]:
    norm = BatchNorm(3)
    norm.weight.data, norm.bias.data = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 1.0, -1.0])
    # One worker's rows are larger than the other's.
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9.0).view(-1, 1, 1) + 100, norm


def _game() -> Run:
    run = Run("acgan", {"classes": 2, "channels": 4, "latent": 3, "output": "tanh"}, digits(96), _PLAN, seed=3)
    for _ in run.epochs():
        pass
    return run


_PLAN = Training(epochs=3, batch_size=32, patience=None, device="cpu")


def test_two_workers_normalise_and_name_as_one(tmp_path: Path) -> None:
    spawn(_work, (2, str(tmp_path)), nprocs=2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    x, norm = _map_of_rows()
    out = norm(x.requires_grad_())
    slope, weight, bias = torch.autograd.grad(out.pow(3).sum(), [x, norm.weight, norm.bias])
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([first["x"], second["x"]]), slope, **close)
    torch.testing.assert_close(first["weight"] + second["weight"], weight, **close)
    torch.testing.assert_close(first["bias"] + second["bias"], bias, **close)
    for key, value in norm.named_buffers():
        torch.testing.assert_close(first[key], value, rtol=1e-5, atol=0.0)
    for key, value in _game().fitted().weights.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, at=key: f"{at}: {m}")


# What is refused, and what a study sets


@pytest.mark.parametrize(
    ("module", "values", "said"),
    [
        (dcgan, {"backbone": "recurrent"}, "backbone='recurrent'"),
        (dcgan, {"pooling": "max"}, "pooling='max'"),
        (dcgan, {"upsampling": "nearest"}, "upsampling='nearest'"),
        (dcgan, {"kernels": (3, 0)}, r"kernels=(3, 0)"),
        (dcgan, {"generator_activation": "sine"}, "generator_activation='sine'"),
        (dcgan, {"decay": 1.5}, "decay=1.5"),
        (dcgan, {"output": "softplus"}, "output='softplus'"),
        (gan, {"output": "tanh"}, "output='tanh'"),
        (acgan, {"classes": -1}, "classes=-1"),
        (acgan, {"class_weight": -0.5}, "class_weight=-0.5"),
        (acgan, {"named_fakes": -1.0}, "named_fakes=-1.0"),
    ],
    ids=str,
)
def test_nonsense_is_refused_with_its_value(module: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        module.Hyper(**values)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_classes_that_are_not_there_are_refused() -> None:
    model, x = conditional(), torch.rand(3, *SHAPE)
    with pytest.raises(RaeflowError, match=r"classes=3 needs the class of each row.*Data\(label=\.\.\.\)"):
        next(model.turns(batch(x), 0.0))
    for label, said in (([0, 7, 1], "label 7"), ([0, -2, 1], "label -2")):
        with pytest.raises(RaeflowError, match=f"{said} in the first batch is none of the 3 classes"):
            next(model.turns(batch(x, torch.tensor(label)), 0.0))
    for wrong in (3, -1, torch.tensor([0, 1, 5])):
        with pytest.raises(RaeflowError, match="in sample is none of the 3 classes"):
            model.sample(3, label=wrong)
    with pytest.raises(RaeflowError, match="rows without classes"):
        conditional(classes=0).sample(3, label=1)


def test_a_study_takes_the_classes_from_its_labels() -> None:
    rows = digits(96)
    bare = dataclasses.replace(rows, train=Rows(rows.train.x))  # type: ignore[union-attr]

    def hyper(splits: Splits, **fixed: Any) -> dict[str, Any]:
        study = Study(name="classes", data=Data("digits"), variants=("acgan", "gan"), hyper={"acgan": fixed})
        return pipeline.with_classes(study, splits).hyper["acgan"]

    assert hyper(rows, latent=3) == {"latent": 3, "classes": 2}
    assert hyper(bare) == {}, "rows without labels are rows without classes"
    assert hyper(rows, classes=0) == {"classes": 0}
    assert hyper(rows, classes=5) == {"classes": 5}
    with pytest.raises(RaeflowError, match=r"acgan with classes=3 needs the class of each row.*Data\(label=\.\.\.\)"):
        hyper(bare, classes=3)
    three = dataclasses.replace(rows, train=Rows(rows.validate.x, label=torch.arange(len(rows.validate)) % 3))
    with pytest.raises(RaeflowError, match="acgan with classes=2: the rows have label 2"):
        hyper(three, classes=2)
    for label, wrong in ((-2, -2), (10**9, 10**9)):
        ids = dataclasses.replace(rows, train=Rows(rows.validate.x, label=torch.full((len(rows.validate),), label)))
        with pytest.raises(RaeflowError, match=f"acgan: label {wrong} is no class"):
            hyper(ids)
        assert hyper(ids, classes=0) == {"classes": 0}


def test_classes_without_labels_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path, home = tmp_path / "rows.parquet", tmp_path / "runs"
    pixels = load_digits(n_class=3).data
    inner = {f"p{i}": pixels[:, i] for i in (18, 19, 20, 26, 27, 28)}
    pq.write_table(pa.table(inner), path)
    plan = {"variants": ("acgan",), "training": Training(batch_size=64), "home": str(home)}
    with pytest.raises(RaeflowError, match="classes=3 needs the class of each row"):
        pipeline.Session(Study(name="classes", data=Data(path), hyper={"acgan": {"classes": 3}}, **plan), say=lambda _line: None)
    assert not home.exists()


def test_json_keeps_the_classes() -> None:
    hyper = acgan.Hyper(classes=3, class_weight=0.5)
    assert variants.hyper("acgan", dataclasses.asdict(hyper)) == hyper
