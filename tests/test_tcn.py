"""Residual blocks of dilated convolutions: the equations of their source, what they see, and every variant on them."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow import variants
from raeflow.backbones import Layers, backbone
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.study import Calibration, Training
from raeflow.training import fit
from raeflow.variants._contract import OneShot

SHAPE = (2, 37)
OWN_NETWORKS = {"dcgan": "must be one of auto, mlp, conv", "acgan": "must be one of auto, mlp, conv", "masked": "is a transformer",
                "progressive": "networks of its own", "stylegan": "networks of its own"}  # fmt: skip
TAKERS = [name for name in variants.names() if name not in OWN_NETWORKS]


def layers(**values: object) -> Layers:
    return Layers(backbone="tcn", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 9), (1, 64), (2, 1)], ids=str)
@pytest.mark.parametrize("strides", [(1, 1, 1), (4, 1, 1), (2, 3, 1), (1, 2, 2), (5, 5, 5)], ids=str)
@pytest.mark.parametrize("latent", [0, 2])
def test_signals_of_any_length_are_undone(shape: tuple[int, ...], strides: tuple[int, ...], latent: int) -> None:
    for kernels in ((1, 3, 5), (7, 1, 3)):
        net = backbone(shape, layers(layers=(4, 4, 3), kernels=kernels, strides=strides, latent=latent))
        x = torch.randn(2, *shape)
        features = net.encoder()(x)
        assert features.shape == (2, net.features)
        assert net.decoder()(features).shape == x.shape


def normalised(layer: nn.Module, out: int) -> Tensor:
    """Salimans & Kingma 2016, eq. 2: g v / |v| for each output channel, which is axis `out`."""
    g, v = (layer.get_parameter(f"parametrizations.weight.original{i}") for i in (0, 1))
    return g * v / v.square().sum([axis for axis in range(3) if axis != out], keepdim=True).sqrt()


def test_blocks_are_those_of_their_source() -> None:
    """Bai, Kolter & Koltun 2018, figure 1b, with convolutions that look both ways: relu(x' + relu(w2 * relu(w1 * x)))."""
    torch.manual_seed(0)
    net = backbone(SHAPE, layers(layers=(5, 5, 5), kernels=(3, 3, 5), latent=0))
    encoder = net.encoder()
    for weights in encoder.parameters():  # lengths that are not those of a fresh direction
        nn.init.normal_(weights, std=0.4)
    x = y = torch.randn(3, *SHAPE)
    for block, dilation, kernel in zip(encoder, (1, 2, 4), (3, 3, 5), strict=False):
        first, second = (m for m in block.branch if isinstance(m, nn.Conv1d))
        where = {"padding": dilation * (kernel - 1) // 2, "dilation": dilation}
        h = functional.conv1d(y, normalised(first, 0), first.bias, **where).relu()
        h = functional.conv1d(h, normalised(second, 0), second.bias, **where).relu()
        past = functional.conv1d(y, block.shortcut.weight, block.shortcut.bias) if dilation == 1 else y
        y = (h + past).relu()
    torch.testing.assert_close(encoder(x), y.flatten(1))
    assert [isinstance(block.shortcut, nn.Identity) for block in list(encoder)[:3]] == [False, True, True]


def test_the_decoder_s_weights_are_normalised_by_output_channel() -> None:
    decoder = backbone(SHAPE, layers(layers=(5,), latent=0)).decoder()
    for weights in decoder.parameters():
        nn.init.normal_(weights)
    (block,) = (m for m in decoder if hasattr(m, "branch"))
    for layer in (m for m in block.branch if isinstance(m, nn.ConvTranspose1d)):
        torch.testing.assert_close(layer.weight, normalised(layer, 1))


@pytest.mark.parametrize(
    ("kernels", "strides", "seen"),
    [
        # Two convolutions a block, each of which adds (kernel - 1) x dilation; dilations are 1, 2, 4.
        ((3, 3, 3), (1, 1, 1), 1 + 2 * 2 * (1 + 2 + 4)),
        ((5, 3, 1), (1, 1, 1), 1 + 2 * (4 * 1 + 2 * 2)),
        # After a stride of 4 a step is 4 samples long, and dilations are 1, 2: first block (k - 1) + 4 (k - 1).
        ((3, 3, 3), (4, 1, 1), 1 + (2 + 8) + 4 * 2 * 2 * (1 + 2)),
        # A stride in the middle starts dilations anew.
        ((3, 3, 3), (1, 2, 1), 1 + 2 * 2 + (2 + 4) + 2 * 2 * 2 * 1),
    ],
    ids=str,
)
def test_a_step_of_the_code_sees_as_far_to_both_sides(kernels: tuple[int, ...], strides: tuple[int, ...], seen: int) -> None:
    torch.manual_seed(0)
    length = 301
    net = backbone((1, length), layers(layers=(3, 3, 3), kernels=kernels, strides=strides, activation="tanh", latent=0))
    x = torch.randn(1, 1, length, dtype=torch.float64, requires_grad=True)
    code = net.encoder().double()(x).view(3, -1)
    factor = -(-length // code.shape[1])
    middle = code.shape[1] // 2
    (slope,) = torch.autograd.grad(code[:, middle].sum(), x)
    places = slope[0, 0].nonzero().flatten()
    assert (int(places[0]), int(places[-1])) == (middle * factor - seen // 2, middle * factor + seen // 2)


def test_sizes_follow_depth_and_layers_overrule_them() -> None:
    def channels(module: nn.Module) -> list[int]:
        return [m.out_channels for m in module.modules() if isinstance(m, nn.Conv1d) and m.kernel_size[0] == 3]

    assert channels(backbone(SHAPE, layers(channels=6, depth=2)).encoder()) == [6, 6, 6, 6]
    assert channels(backbone(SHAPE, layers(layers=(6, 4))).encoder()) == [6, 6, 4, 4]
    assert backbone(SHAPE, layers(depth=0)).features == 2 * 37
    assert backbone((1, 500), layers(layers=(32, 16), strides=(4, 1), latent=0)).features == 16 * 125


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("latent", [0, 2])
def test_identity_makes_the_network_affine(latent: int, dense: bool) -> None:
    net = backbone(SHAPE, layers(activation="identity", depth=3, channels=4, latent=latent, feature_activation=dense))
    both = nn.Sequential(net.encoder(), net.decoder())
    x, y = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    torch.testing.assert_close(both(x + y) + both(torch.zeros_like(x)), both(x) + both(y), atol=1e-4, rtol=1e-4)


def test_layers_next_to_the_code_and_the_last_one_may_be_linear() -> None:
    x = torch.randn(50, *SHAPE)
    for bent in (True, False):
        net = backbone(SHAPE, layers(depth=2, channels=4, latent=2, feature_activation=bent))
        assert bool((net.encoder()(x) >= 0).all()) is bent
        assert any(isinstance(m, nn.ReLU) for m in net.decoder()) is bent
        rebuilt = net.decoder()(net.encoder()(x))
        assert rebuilt.min() < 0 < rebuilt.max()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"layers": (4, 4), "kernels": (3, 4)}, r"kernels=\(3, 4\): backbone='tcn' needs odd kernels"),
        ({"layers": (4, 4), "kernels": (0, 3)}, r"kernels=\(0, 3\)"),
        ({"pooling": "max"}, r"pooling='max': backbone='tcn'.*'none'"),
        ({"upsampling": "nearest"}, r"upsampling='nearest': backbone='tcn'.*'transposed'"),
    ],
    ids=str,
)
def test_what_blocks_cannot_do_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(RaeflowError, match=said):
        backbone(SHAPE, layers(**values))


@pytest.mark.parametrize("shape", [(12,), (1, 8, 8)], ids=str)
def test_tables_and_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RaeflowError, match=r"backbone='tcn' needs rows of shape \(C, L\), these rows are \(.*choose 'mlp'"):
        backbone(shape, layers())


def test_an_encoder_is_differentiated_twice() -> None:
    """The gradient of a gradient, against central differences, in float64."""
    torch.manual_seed(0)
    encoder = backbone((2, 9), layers(layers=(3, 2), strides=(2, 1), activation="tanh", latent=0)).encoder().double()
    assert torch.autograd.gradgradcheck(encoder, torch.randn(2, 2, 9, dtype=torch.float64, requires_grad=True))


def test_a_tied_decoder_is_the_encoder_s_transpose() -> None:
    """Without activations <E x, z> = <x, D z> for the linear parts of encoder and decoder, strides and shortcuts included."""
    torch.manual_seed(0)
    hyper = {"backbone": "tcn", "layers": (4, 5, 5), "kernels": (5, 3, 3), "strides": (2, 1, 1), "latent": 3, "activation": "identity"}
    model = variants.build("tied", SHAPE, {**hyper, "code_activation": False}).double()
    x, z = torch.randn(1, *SHAPE, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    forth = model.encoder(x) - model.encoder(torch.zeros_like(x))
    back = model.decoder(z) - model.decoder(torch.zeros_like(z))
    torch.testing.assert_close((forth * z).sum(), (x * back).sum())
    assert all(p.dim() == 1 for p in model.decoder.parameters())  # its biases


def splits() -> Splits:
    """Bumps of any height and place."""
    dice = torch.Generator().manual_seed(0)
    height, place = torch.rand(96, 2, 1, generator=dice) + 0.5, torch.rand(96, 1, 1, generator=dice) * 24 + 6
    rows = height * torch.exp(-((torch.arange(37) - place) ** 2) / 8) + 0.01 * torch.rand(96, *SHAPE, generator=dice)
    spec = RowSpec(("row",), "list", SHAPE, "float32")
    return Splits(spec, fit_scaling("unit", SHAPE, rows.dtype, [rows]), Rows(rows[:64]), Rows(rows[64:80]), Rows(rows[80:]), None)


@pytest.mark.parametrize("name", variants.names())
def test_every_variant_trains_is_saved_and_exported_or_says_why_not(name: str, tmp_path: Path) -> None:
    values = {"backbone": "tcn", "layers": (4, 3), "kernels": (5, 3), "strides": (2, 1), "latent": 2}
    module = variants.get(name)
    if isinstance(variants.build(name, SHAPE, dataclasses.asdict(module.published(SHAPE))), OneShot):
        with pytest.raises(RaeflowError, match="no hyperparameter 'backbone'"):
            variants.hyper(name, values, module.published(SHAPE))
        return
    if name in OWN_NETWORKS:
        with pytest.raises(RaeflowError, match=f"backbone='tcn': .*{OWN_NETWORKS[name]}"):
            variants.hyper(name, values, module.published(SHAPE))
        return
    found = splits()
    hyper = dataclasses.asdict(variants.hyper(name, values, module.published(SHAPE)))
    fitted = fit(name, hyper, found, Training(epochs=3, batch_size=16, patience=None, device="cpu"))
    assert any(isinstance(m, nn.Conv1d) for m in fitted.model().modules())
    detector = Detector.assemble([fitted], found, Calibration())
    rows = found.train.take(slice(0, 9)).x
    expected = torch.from_numpy(detector.score(rows))
    assert expected.isfinite().all()
    again = Detector.load(detector.save(tmp_path / "detector"), device="cpu")
    assert torch.equal(torch.from_numpy(again.score(rows)), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        program = torch.export.load(detector.export(tmp_path / "program.pt2")).module()
    torch.testing.assert_close(program(rows[:5]), expected[:5], rtol=1e-4, atol=1e-6)


def test_a_narrow_code_learns_bumps() -> None:
    """Heights and place are three numbers; without learning them nothing is far better than the mean row."""
    found = splits()
    values = {"backbone": "tcn", "layers": (8, 8, 4), "kernels": (5, 3, 3), "strides": (2, 2, 1), "latent": 4, "lr": 1e-2}
    hyper = dataclasses.asdict(variants.hyper("autoencoder", values, variants.get("autoencoder").published(SHAPE)))
    fitted = fit("autoencoder", hyper, found, Training(epochs=60, batch_size=16, patience=None, device="cpu"))
    held = found.encoding(found.validate.x)
    mean = (held - found.encoding(found.train.x).mean(0)).square().mean()
    with torch.no_grad():
        assert fitted.model().score(held).mean() < 0.3 * mean
