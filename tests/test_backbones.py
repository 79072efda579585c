"""Backbones rebuild every shape exactly, and the layers are the ones asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from raeflow import variants
from raeflow.backbones import ACTIVATIONS, KINDS, Layers, backbone
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.pretrain import Classifier
from raeflow.study import Calibration, Training
from raeflow.training import Run, fit
from raeflow.variants import _layers
from raeflow.variants._adversarial import Game

SHAPES = [(1,), (12,), (1, 1), (1, 64), (2, 37), (3, 5), (1, 28, 28), (3, 17, 13), (1, 1, 1), (2, 1, 9)]


DIMENSIONS = {"conv": (2, 3), "tcn": (2,)}


@pytest.mark.parametrize(("kind", "shape"), [(k, s) for s in SHAPES for k in KINDS if len(s) in DIMENSIONS.get(k, (1, 2, 3))], ids=str)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_features_in_and_the_very_shape_out(kind: str, shape: tuple[int, ...], depth: int) -> None:
    net = backbone(shape, Layers(backbone=kind, depth=depth, channels=4, width=16))
    x = torch.randn(2, *shape)
    features = net.encoder()(x)
    assert features.shape == (2, net.features)
    assert net.decoder()(features).shape == x.shape


@pytest.mark.parametrize("kernel", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(9,), (10,), (7, 12)], ids=str)
def test_any_kernel_and_stride_is_undone(kernel: int, stride: int, size: tuple[int, ...]) -> None:
    layers = Layers(backbone="conv", layers=(3, 4), kernels=(kernel, 3), strides=(stride, 2))
    net = backbone((2, *size), layers)
    x = torch.randn(2, 2, *size)
    assert net.decoder()(net.encoder()(x)).shape == x.shape


POOLED = [("max", "transposed"), ("max_same", "transposed"), ("max", "nearest"), ("max_same", "nearest"), ("none", "nearest")]


@pytest.mark.parametrize(("pooling", "upsampling"), POOLED)
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1], ids=str)
@pytest.mark.parametrize("latent", [0, 2])
def test_pooled_maps_of_any_size_are_undone(pooling: str, upsampling: str, shape: tuple[int, ...], latent: int) -> None:
    for kernel, window in itertools.product((0, 1, 2, 3, 4, 5), (1, 2, 3)):
        layers = Layers(layers=(3, 4), kernels=(kernel, 3), strides=(window, 2), pooling=pooling, upsampling=upsampling, latent=latent)
        if upsampling == "transposed" and 0 < kernel < window:
            continue
        net = backbone(shape, layers)
        x = torch.randn(2, *shape)
        features = net.encoder()(x)
        assert features.shape == (2, net.features)
        assert net.decoder()(features).shape == x.shape


def test_a_transposed_kernel_that_cannot_undo_its_pooling_is_refused() -> None:
    layers = Layers(layers=(4,), kernels=(1,), strides=(2,), pooling="max")
    assert backbone((1, 8), layers).features == 16
    with pytest.raises(RaeflowError, match="kernel 1 cannot undo max-pooling by 2 of a map of 7; choose kernels of at least 2"):
        backbone((1, 7), layers)


def shapes(parts: nn.Sequential, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Sizes of one row's values wherever the innermost modules change them, kinds of maps aside."""
    found = [tuple(x.shape[1:])]

    def note(module: nn.Module, given: object, made: torch.Tensor) -> None:
        if tuple(made.shape[1:]) != found[-1]:
            found.append(tuple(made.shape[1:]))

    hooks = [m.register_forward_hook(note) for m in parts.modules() if not list(m.children())]
    parts(x)
    for hook in hooks:
        hook.remove()
    return found


def test_the_pooled_stack_of_16_32_64_is_its_source_s() -> None:
    """Conv2D(16, 32, 64; 3, same, selu), each max-pooled, and Conv2DTranspose(32, valid), (16, same), (1, same), stride 2."""
    net = backbone((1, 28, 28), Layers(layers=(16, 32, 64), pooling="max", activation="selu", latent=0))
    encoder, decoder = net.encoder(), net.decoder()
    x = torch.rand(2, 1, 28, 28)
    inwards = [(1, 28, 28), (16, 28, 28), (16, 14, 14), (32, 14, 14), (32, 7, 7), (64, 7, 7), (64, 3, 3), (576,)]
    assert shapes(encoder, x) == inwards
    assert shapes(decoder, encoder(x)) == [(576,), (64, 3, 3), (32, 7, 7), (16, 14, 14), (1, 28, 28)]
    back = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.kernel_size[0], m.stride[0], m.padding[0], m.output_padding[0]) for m in back] == [(3, 2, 0, 0), (3, 2, 1, 1), (3, 2, 1, 1)]
    assert [isinstance(m, nn.SELU) for m in decoder] == [False, False, False, True, False, True, False]
    assert sum(p.numel() for m in (encoder, decoder) for p in m.parameters()) == 160 + 4640 + 18496 + 18464 + 4624 + 145


def test_the_denoiser_of_64_32_16_is_its_source_s() -> None:
    """Conv2D and 2 x 2 pooling, both "same"; Conv2D(16), (32), (64), each upsampled, and Conv2D(1)."""
    net = backbone((1, 28, 28), Layers(layers=(64, 32, 16), pooling="max_same", upsampling="nearest", latent=0))
    encoder, decoder = net.encoder(), net.decoder()
    code = encoder(torch.rand(2, 1, 28, 28))
    assert code.shape == (2, 16 * 4 * 4)
    across = [(256,), (16, 4, 4), (16, 7, 7), (32, 7, 7), (32, 14, 14), (64, 14, 14), (64, 28, 28), (1, 28, 28)]
    assert shapes(decoder, code) == across
    weights = [p.numel() for m in (encoder, decoder) for p in m.parameters() if p.dim() > 1]
    assert weights == [9 * a * b for a, b in ((1, 64), (64, 32), (32, 16), (16, 16), (16, 32), (32, 64), (64, 1))]


def test_the_network_for_documents_is_its_source_s() -> None:
    net = backbone((1, 258, 540), Layers(layers=(64,), pooling="max_same", upsampling="nearest", latent=0))
    encoder, decoder = net.encoder(), net.decoder()
    code = encoder(torch.rand(1, 1, 258, 540))
    assert shapes(decoder, code) == [(64 * 129 * 270,), (64, 129, 270), (64, 258, 540), (1, 258, 540)]
    assert [p.numel() for m in (encoder, decoder) for p in m.parameters() if p.dim() > 1] == [9 * 64, 9 * 64 * 64, 9 * 64]


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_traces_of_500_become_16_maps_of_31(upsampling: str) -> None:
    net = backbone((1, 500), Layers(layers=(64, 64, 32, 16), pooling="max", upsampling=upsampling, latent=0))
    code = net.encoder()(torch.rand(2, 1, 500))
    assert code.shape == (2, 16 * 31)
    lengths = [s[1] for s in shapes(net.encoder(), torch.rand(2, 1, 500)) if len(s) == 2]
    assert [k for k, _ in itertools.groupby(lengths)] == [500, 250, 125, 62, 31]
    assert net.decoder()(code).shape == (2, 1, 500)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("size", [(21,), (9, 10)], ids=str)
def test_pooling_is_that_of_the_activated_maps(name: str, size: tuple[int, ...]) -> None:
    """Values and gradients are those of convolution, activation, pooling in the published order, whatever is done first."""
    torch.manual_seed(0)
    encoder = backbone((2, *size), Layers(layers=(4, 5), activation=name, pooling="max")).encoder()
    x = torch.randn(3, 2, *size)
    convolution, pool = (
        (nn.functional.conv1d, nn.functional.max_pool1d) if len(size) == 1 else (nn.functional.conv2d, nn.functional.max_pool2d)
    )
    y = x
    for layer in (m for m in encoder if isinstance(m, (nn.Conv1d, nn.Conv2d))):
        y = pool(ACTIVATIONS[name]()(convolution(y, layer.weight, layer.bias, padding=1)), 2)
    parameters = list(encoder.parameters())
    expected = torch.autograd.grad(y.square().sum(), parameters)
    found = encoder(x)
    torch.testing.assert_close(found, y.flatten(1))
    for mine, theirs in zip(torch.autograd.grad(found.square().sum(), parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9,), (1, 16), (1, 8, 8)], ids=str)
def test_a_code_that_is_the_last_layer_is_activated_once(shape: tuple[int, ...]) -> None:
    layers = Layers(activation="selu", depth=2, width=4, channels=2, latent=0)
    net, dense = backbone(shape, layers), backbone(shape, dataclasses.replace(layers, latent=1))

    def bends(parts: nn.Module) -> int:
        return sum(isinstance(m, nn.SELU) for m in parts.modules())

    assert (bends(net.encoder()), bends(net.decoder())) == (2, 1)
    assert (bends(dense.encoder()), bends(dense.decoder())) == (2, 2)


@pytest.mark.parametrize("shape", [(3, 7), (3, 7, 5)], ids=str)
def test_a_kernel_over_the_whole_map_equals_the_convolution(shape: tuple[int, ...]) -> None:
    net = backbone(shape, Layers(backbone="conv", layers=(6,), kernels=(0,), strides=(1,), feature_activation=False))
    encoder, decoder = net.encoder(), net.decoder()
    gather = next(m for m in encoder.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d)))
    spread = next(m for m in decoder.modules() if isinstance(m, (nn.ConvTranspose1d, nn.ConvTranspose2d)))
    x, z = torch.randn(4, *shape), torch.randn(4, 6)
    torch.testing.assert_close(encoder(x), gather(x).flatten(1))
    torch.testing.assert_close(decoder(z), spread(z.reshape(4, 6, *(1,) * (len(shape) - 1))))
    assert spread(z.reshape(4, 6, *(1,) * (len(shape) - 1))).shape == x.shape


def test_width_and_channels_follow_depth_and_layers_overrule_them() -> None:
    def sizes(module: nn.Module, kind: type[nn.Module], of: str) -> list[int]:
        return [getattr(m, of) for m in module.modules() if isinstance(m, kind)]

    dense = backbone((20,), Layers(width=64, depth=3, latent=4))
    assert sizes(dense.encoder(), nn.Linear, "out_features") == [64, 32, 16]
    assert sizes(dense.decoder(), nn.Linear, "out_features") == [32, 64, 20]
    assert sizes(backbone((20,), Layers(width=64, depth=3, latent=40)).encoder(), nn.Linear, "out_features") == [64, 40, 40]
    assert sizes(backbone((20,), Layers(layers=(9, 5))).encoder(), nn.Linear, "out_features") == [9, 5]
    assert sizes(backbone((1, 8, 8), Layers(channels=4, depth=2)).encoder(), nn.Conv2d, "out_channels") == [4, 8]


@pytest.mark.parametrize("shape", [(9,), (1, 16), (1, 8, 8)], ids=str)
def test_identity_makes_the_network_affine(shape: tuple[int, ...]) -> None:
    net = backbone(shape, Layers(activation="identity", depth=2, channels=2))
    both = nn.Sequential(net.encoder(), net.decoder())
    x, y = torch.randn(3, *shape), torch.randn(3, *shape)
    torch.testing.assert_close(both(x + y) + both(torch.zeros_like(x)), both(x) + both(y), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [a for a in ACTIVATIONS if a != "identity"])
def test_every_activation_bends(name: str) -> None:
    net = backbone((5,), Layers(activation=name, depth=1))
    both = nn.Sequential(net.encoder(), net.decoder())
    x = torch.randn(3, 5)
    assert not torch.allclose(both(x) + both(-x), 2 * both(torch.zeros_like(x)), atol=1e-4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"latent": -1}, "latent=-1"),
        ({"depth": -1}, "depth=-1"),
        ({"activation": "step"}, "activation='step'"),
        ({"backbone": "resnet"}, "backbone='resnet'"),
        ({"pooling": True}, "pooling=True: pooling must be one of none, max, max_same"),
        ({"upsampling": "bilinear"}, "upsampling='bilinear'"),
        ({"layers": (8, 0)}, "layers=(8, 0)"),
        ({"layers": (8, 8), "kernels": (3,)}, "kernels=(3,)"),
        ({"depth": 3, "strides": (2, 2)}, "strides=(2, 2)"),
    ],
)
def test_nonsense_is_refused_with_its_value(values: dict, said: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        Layers(**values)
    assert said in str(refusal.value)


def test_convolutions_refuse_tables() -> None:
    with pytest.raises(RaeflowError, match=r"\(12,\)"):
        backbone((12,), Layers(backbone="conv"))


def recurrent(**values: object) -> Layers:
    return Layers(backbone="recurrent", **values)


def test_the_recurrent_network_of_100_30_is_its_source_s() -> None:
    """LSTM(100) and LSTM(30) over rows of 28 pixels; repeated, LSTM(100), a dense layer of 28 for each row."""
    net = backbone((1, 28, 28), recurrent(layers=(100, 30), latent=0))
    encoder, decoder = net.encoder(), net.decoder()
    cells = [(m.input_size, m.hidden_size) for half in (encoder, decoder) for m in half.modules() if isinstance(m, nn.LSTM)]
    assert cells == [(28, 100), (100, 30), (30, 100)]
    assert [(m.in_features, m.out_features) for m in decoder.modules() if isinstance(m, nn.Linear)] == [(100, 28)]
    assert encoder(torch.rand(3, 1, 28, 28)).shape == (3, 30)
    assert decoder(torch.rand(3, 30)).shape == (3, 1, 28, 28)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 7, 5)], ids=str)
def test_a_row_is_read_and_written_step_by_step(shape: tuple[int, ...]) -> None:
    """Against the equations of the cell (Hochreiter & Schmidhuber 1997, with forget gates), one step after the other."""
    torch.manual_seed(0)
    net = backbone(shape, recurrent(layers=(4, 3), latent=0))
    encoder, decoder = net.encoder(), net.decoder()
    x = torch.randn(2, *shape)
    steps = {1: lambda i: x[:, i, None], 2: lambda i: x[:, :, i], 3: lambda i: x[:, :, i].flatten(1)}[len(shape)]

    def step(cell: nn.LSTM, given: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
        gates = given @ cell.weight_ih_l0.T + cell.bias_ih_l0 + state[0] @ cell.weight_hh_l0.T + cell.bias_hh_l0
        i, f, g, o = gates.chunk(4, 1)
        state[1] = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        state[0] = o.sigmoid() * state[1].tanh()
        return state[0]

    def fresh(cell: nn.LSTM) -> list[torch.Tensor]:
        return [torch.zeros(2, cell.hidden_size) for _ in range(2)]

    first, second = (m for m in encoder.modules() if isinstance(m, nn.LSTM))
    one, two = fresh(first), fresh(second)
    for i in range(7):
        code = step(second, step(first, steps(i), one), two)
    torch.testing.assert_close(encoder(x), code)
    (third,) = (m for m in decoder.modules() if isinstance(m, nn.LSTM))
    (dense,) = (m for m in decoder.modules() if isinstance(m, nn.Linear))
    three = fresh(third)
    written = torch.stack([dense(step(third, code, three)) for _ in range(7)], 1)
    found = decoder(code)
    back = {1: lambda: found[:, :, None], 2: lambda: found.transpose(1, 2), 3: lambda: found.transpose(1, 2).flatten(2)}[len(shape)]()
    torch.testing.assert_close(back, written)


def test_weights_of_a_recurrent_network_serve_rows_of_any_length() -> None:
    short, long = (backbone((2, steps), recurrent(layers=(5, 3), latent=0)) for steps in (6, 50))
    one, two = short.encoder(), long.encoder()
    two.load_state_dict(one.state_dict())
    long.decoder().load_state_dict(short.decoder().state_dict())
    x = torch.randn(3, 2, 50)
    torch.testing.assert_close(one(x), two(x))
    torch.testing.assert_close(two(x[..., :6]), one(x[..., :6]))


def test_forget_gates_start_open() -> None:
    for cell in (m for m in backbone((2, 6), recurrent(layers=(5, 3))).encoder().modules() if isinstance(m, nn.LSTM)):
        forget = slice(cell.hidden_size, 2 * cell.hidden_size)
        assert torch.equal((cell.bias_ih_l0 + cell.bias_hh_l0)[forget], torch.ones(cell.hidden_size))


@pytest.mark.parametrize("shape", [(6,), (2, 9), (1, 6, 5)], ids=str)
def test_a_recurrent_encoder_is_differentiated_twice(shape: tuple[int, ...]) -> None:
    """The gradient of a gradient, against central differences, in float64."""
    torch.manual_seed(0)
    encoder = backbone(shape, recurrent(layers=(3, 2), latent=0)).encoder().double()
    assert torch.autograd.gradgradcheck(encoder, torch.randn(2, *shape, dtype=torch.float64, requires_grad=True))


def test_a_critic_may_be_recurrent() -> None:
    x = torch.rand(32, 2, 9, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (2, 9), "float32")
    splits = Splits(spec, fit_scaling("standard", (2, 9), x.dtype, [x]), Rows(x), Rows(x[:8]), None, None)
    hyper = {"backbone": "recurrent", "layers": (6, 4), "latent": 2}
    fitted = fit("wgan_gp", hyper, splits, Training(epochs=3, batch_size=16, patience=None, device="cpu"))
    assert set(fitted.history[0]) == {"epoch", "validation_loss", "loss_critic", "loss_generator"}
    assert "loss_encoder" in fitted.history[-1]


RECURRENT = {"autoencoder", "contractive", "denoising", "gan", "sparse", "vae", "wgan_div", "wgan_gp"}


def takes_lstms(name: str) -> dict[str, object]:
    """Hyperparameters of a small recurrent network of a variant."""
    game = {"game": 0.5, "critic_steps": 1} if issubclass(variants.get(name).Hyper, Game) else {}
    return {"backbone": "recurrent", "layers": (6, 4), "latent": 2, **game, **({"tied": False} if name == "contractive" else {})}


def test_variants_with_lstms_are_those_tested() -> None:
    found = set()
    for name in variants.names():
        with contextlib.suppress(RaeflowError):
            variants.build(name, (2, 9), takes_lstms(name))
            found.add(name)
    assert found == RECURRENT


@pytest.fixture
def differentiated() -> Iterator[list[bool]]:
    """Mode of each LSTM whose output has a gradient: cuDNN goes back through those in training mode alone."""
    modes: list[bool] = []

    def see(module: nn.Module, _: object, output: object) -> None:
        if isinstance(module, nn.RNNBase) and output[0].requires_grad:  # type: ignore[index]
            modes.append(module.training)

    handle = nn.modules.module.register_module_forward_hook(see)
    yield modes
    handle.remove()


@pytest.mark.parametrize("name", sorted(RECURRENT))
def test_gradients_pass_through_lstms_in_training_mode_alone(name: str, differentiated: list[bool]) -> None:
    x = torch.rand(32, 2, 9, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", (2, 9), "float32")
    splits = Splits(spec, fit_scaling("unit", (2, 9), x.dtype, [x]), Rows(x), Rows(x[:8]), None, None)
    run = Run(name, takes_lstms(name), splits, Training(epochs=2, batch_size=16, patience=None, device="cpu"))
    for _ in run.epochs():
        pass
    Classifier(run.fitted().model(), (2, 9), classes=2)  # looks for the weights that a code is made of
    assert differentiated
    assert all(differentiated)


def test_what_is_frozen_keeps_its_statistics_and_its_values() -> None:
    model = nn.Sequential(nn.LSTM(3, 4), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(4)))
    _layers.frozen(model)
    assert [part.training for part in model.modules()] == [False, True, False, False, False]
    x = torch.randn(5, 3)
    assert torch.equal(model[0](x)[0], model[0].eval()(x)[0])


@pytest.mark.parametrize("shape", [(6,), (2, 9), (1, 6, 5)], ids=str)
@pytest.mark.parametrize(
    "values", [{"backbone": "recurrent"}, {"backbone": "auto", "pooling": "max_same", "upsampling": "nearest"}], ids=str
)
def test_a_detector_of_any_network_is_saved_and_exported(shape: tuple[int, ...], values: dict[str, str], tmp_path: Path) -> None:
    rows = torch.rand(40, *shape, generator=torch.Generator().manual_seed(0))
    spec = RowSpec(("row",), "list", shape, "float32")
    splits = Splits(spec, fit_scaling("unit", shape, rows.dtype, [rows]), Rows(rows), Rows(rows[:8]), Rows(rows), None)
    fitted = fit("autoencoder", {**values, "depth": 2, "width": 6, "channels": 3, "latent": 2}, splits, Training(epochs=1, batch_size=20))
    detector = Detector.assemble([fitted], splits, Calibration())
    expected = torch.from_numpy(detector.score(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        program = torch.export.load(detector.export(tmp_path / "program.pt2")).module()
    for count in (1, 5):
        torch.testing.assert_close(program(rows[:count]), expected[:count], rtol=1e-4, atol=1e-6)
    again = Detector.load(detector.save(tmp_path / "detector"), device="cpu")
    assert torch.equal(torch.from_numpy(again.score(rows)), expected)
