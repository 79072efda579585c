"""Backbones rebuild every shape exactly, and the layers are the ones asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raeflow.backbones import ACTIVATIONS, Layers, backbone
from raeflow.errors import RaeflowError

SHAPES = [(1,), (12,), (1, 1), (1, 64), (2, 37), (3, 5), (1, 28, 28), (3, 17, 13), (1, 1, 1), (2, 1, 9)]


@pytest.mark.parametrize(("kind", "shape"), [(k, s) for s in SHAPES for k in ("mlp", "conv") if k == "mlp" or len(s) > 1], ids=str)
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
