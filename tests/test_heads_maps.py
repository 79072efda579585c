"""Heads that look for the worst place of a row, the feature maps they read, and the critic's own word."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raeflow import checkpoint, export, heads, metrics, variants
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.graph import Graph
from raeflow.heads import _windows, patches, peak
from raeflow.heads._contract import Head, Outputs
from raeflow.variants._contract import HasCritic, Mapped, Variant

SHAPES = [(1, 64), (2, 37), (1, 28, 28), (3, 17, 13)]
GAMES = ["gan", "wgan_gp", "dcgan", "acgan", "progressive", "stylegan"]
BUILT = [
    *(("peak", h) for h in ({}, {"smooth": 5, "share": 0.01}, {"standardised": False}, {"smooth": 4, "share": 0.03})),
    *(("patches", {"of": of, "by": by}) for of in patches.PARTS for by in patches.WAYS),
    ("patches", {"of": "row", "by": "bank", "choice": "k_center", "bank": 32}),
]  # fmt: skip

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_head = pytest.mark.parametrize(("name", "hyper"), BUILT, ids=str)


def smooth(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """Waves with a phase and a height of their own, alike in all channels, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(0, 6, n) for n in shape[1:]), indexing="ij")
    draws = torch.rand(count, 2, generator=generator).view(count, 2, *(1,) * len(shape))
    waves = (0.5 + draws[:, 0]) * torch.sin(sum(axes) + draws[:, 1])
    return waves + 0.02 * torch.randn(count, *shape, generator=generator)


def seen_of(x: Tensor) -> Outputs:
    """Rows beside a reconstruction that is blurred, and maps that are as large."""
    blurred = torch.lerp(x, x.roll(1, -1), 0.5)
    return Outputs(x, blurred, maps=torch.cat([x, x.roll(2, -1) - x], 1))


def fitted(name: str, hyper: dict[str, Any], seen: Outputs) -> Head:
    head = heads.build(name, hyper)
    head.fit(seen)
    return head


def dented(x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """The rows with one reading raised, each somewhere else, and where (N, *places)."""
    generator, flat = torch.Generator().manual_seed(seed), x.clone().flatten(2)
    at = torch.randint(flat.shape[2], (len(x),), generator=generator)
    flat[torch.arange(len(x)), :, at] += 1.5
    return flat.view_as(x), at


def model(name: str, shape: tuple[int, ...], **changes: Any) -> Variant:
    torch.manual_seed(0)
    published = variants.get(name).published(shape)
    small = {"layers": (), "kernels": (), "strides": (), "width": 16, "channels": 4, "depth": 2, "latent": 2, "backbone": "auto"}
    made: Variant = variants.get(name).Model(shape, dataclasses.replace(published, **small | changes)).eval()
    return made


@each_head
@each_shape
def test_a_dent_is_found_and_shown(name: str, hyper: dict[str, Any], shape: tuple[int, ...]) -> None:
    head = fitted(name, hyper, seen_of(smooth(shape, 128)))
    clean = smooth(shape, 40, seed=2)
    broken, at = dented(clean)
    scores = torch.cat([head(seen_of(clean)), head(seen_of(broken))])
    assert scores.shape == (80,)
    assert scores.isfinite().all()
    assert metrics.auroc((torch.arange(80) >= 40).numpy(), scores.numpy()) > 0.85
    shown = head.attribute(seen_of(broken))
    assert shown is not None
    assert shown.shape == broken.shape
    # The mean of what is shown near the dent is above the mean elsewhere, in most rows.
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape[1:]), indexing="ij"), -1).flatten(0, -2)
    near = ((grid[None] - grid[at][:, None]).abs() <= 2).all(2)
    values = shown.mean(1).flatten(1)
    inside, outside = ((values * mask).sum(1) / mask.sum(1) for mask in (near, ~near))
    assert float((inside > outside).float().mean()) > 0.8


@each_head
def test_a_score_ignores_its_neighbours_and_survives_the_disk(name: str, hyper: dict[str, Any], tmp_path: Any) -> None:
    shape = (3, 17, 13)
    head = fitted(name, hyper, seen_of(smooth(shape, 96)))
    x = smooth(shape, 6, seed=3)
    together = head(seen_of(x))
    alone = torch.cat([head(seen_of(x[row : row + 1])) for row in range(len(x))])
    assert torch.allclose(together, alone, rtol=1e-4)
    checkpoint.save(tmp_path / "head", {"weights": head.state_dict()})
    read = heads.build(**heads.described(head))
    read.load_state_dict(checkpoint.load(tmp_path / "head")["weights"])
    assert torch.equal(read(seen_of(x)), together)
    assert read.width == head.width
    again = fitted(name, hyper, seen_of(smooth(shape, 96)))
    assert torch.equal(again(seen_of(x)), together)


@each_head
def test_it_is_traced_for_batches_of_any_size(name: str, hyper: dict[str, Any]) -> None:
    shape = (1, 12, 10)
    head = fitted(name, hyper, seen_of(smooth(shape, 96)))

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(seen_of(x))  # type: ignore[no-any-return]

    traced = torch.export.export(Whole(), (smooth(shape, 2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    x = smooth(shape, 5, seed=3)
    assert torch.allclose(traced.module()(x), head(seen_of(x)), rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "name", "hyper"),
    [
        ("autoencoder", "patches", {"by": "bank"}),
        ("vae", "patches", {"by": "place"}),
        ("autoencoder", "peak", {}),
        ("stylegan", "critic", {}),
    ],
)
def test_a_detector_with_such_a_head_is_exported(variant: str, name: str, hyper: dict[str, Any], tmp_path: Any) -> None:
    shape = (1, 16, 16)
    made, x = model(variant, shape), torch.sigmoid(smooth(shape, 80))
    head = heads.build(name, hyper)
    head.fit(heads.collect(made, x, [head]))
    graph = Graph(fit_scaling("unit", shape, torch.float32, [x]), [made], [None], scorers=[head]).eval()
    with torch.no_grad():
        place = export.program(graph, x[:2], {}, variant, tmp_path / "graph.pt2")
        assert torch.allclose(torch.export.load(place).module()(x[:5]), graph(x[:5]), rtol=1e-4)
        assert graph.errors(x[:3]).shape == (3, *shape)


def test_the_worst_place_is_the_mean_over_its_window() -> None:
    x = torch.zeros(2, 1, 9, 9)
    x[0, 0, 4, 4] = 3.0
    seen = Outputs(x, torch.zeros_like(x))
    for side, expected in ((1, 9.0), (3, 1.0)):
        head = heads.build("peak", {"smooth": side, "standardised": False})
        assert torch.allclose(head(seen), torch.tensor([expected, 0.0]))
    share = heads.build("peak", {"share": 2 / 81, "standardised": False})
    assert torch.allclose(share(seen), torch.tensor([4.5, 0.0]))


def test_channels_are_averaged_before_windows() -> None:
    x = torch.zeros(1, 2, 8)
    x[0, 0, 3], x[0, 1, 3] = 1.0, 3.0
    assert float(heads.build("peak", {"standardised": False})(Outputs(x, torch.zeros_like(x)))) == 5.0


def test_what_is_always_badly_rebuilt_is_no_peak() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 6, generator=generator) * torch.tensor([10.0, 1, 1, 1, 1, 1])
    odd = noise[:50].clone()
    odd[:, 3] += 6.0
    train = Outputs(noise[100:], torch.zeros(100, 6))
    truth = (torch.arange(100) >= 50).numpy()
    told = Outputs(torch.cat([noise[50:100], odd]), torch.zeros(100, 6))
    plain, against_usual = (metrics.auroc(truth, fitted("peak", {"standardised": s}, train)(told).numpy()) for s in (False, True))
    assert against_usual > 0.95 > plain


@each_shape
def test_pieces_are_the_values_about_each_place(shape: tuple[int, ...]) -> None:
    x = torch.arange(2 * math.prod(shape)).float().view(2, *shape)
    pieces = _windows.pieces(x)
    half = _windows.SIDE[len(shape) - 1] // 2
    assert pieces.shape[1] == math.prod(_windows.grid(shape))
    middle = pieces.unflatten(2, (shape[0], -1))[:, :, :, pieces.shape[2] // shape[0] // 2]
    assert torch.equal(middle.transpose(1, 2), x.flatten(2))
    inner = [slice(half, half + 1)] * (len(shape) - 1)
    window = [slice(0, 2 * half + 1)] * (len(shape) - 1)
    place = sum(half * math.prod(shape[axis + 1 :]) for axis in range(1, len(shape)))
    assert x[(slice(None), slice(None), *inner)].shape[2:].numel() == 1
    assert torch.equal(pieces[:, place], x[(slice(None), slice(None), *window)].flatten(1))


@pytest.mark.parametrize(("shape", "places"), [((1, 300), (150,)), ((3, 64, 64), (32, 32)), ((1, 258, 540), (22, 45))])
def test_large_rows_are_looked_at_in_steps(shape: tuple[int, ...], places: tuple[int, ...]) -> None:
    assert _windows.grid(shape) == places
    assert _windows.pieces(torch.zeros(1, *shape)).shape[1] == math.prod(places)


def test_a_wide_piece_keeps_some_of_its_values() -> None:
    x = smooth((4, 16, 16), 80)
    head = fitted("patches", {"of": "row", "by": "place"}, Outputs(x))
    assert isinstance(head, patches.Head)
    assert len(head.kept) == patches.WIDEST < _windows.pieces(x).shape[2]


@pytest.mark.parametrize("name", ["autoencoder", "vae", "tied", "greedy", "gan", "dcgan", "stylegan"])
@each_shape
def test_convolutional_encoders_have_maps(name: str, shape: tuple[int, ...]) -> None:
    made = model(name, shape)
    assert isinstance(made, Mapped)
    assert made.has_maps
    x = torch.rand(3, *shape)
    with torch.no_grad():
        maps = made.feature_maps(x)
        assert maps.shape[:2] == (3, 12)
        assert maps.shape[2:] == tuple(-(-n // 2) for n in shape[1:])
        assert torch.allclose(maps[1:2], made.feature_maps(x[1:2]), atol=1e-5)
        moved = made.feature_maps(x.roll(1, -1))
    assert not torch.allclose(maps, moved)


@pytest.mark.parametrize(("shape", "changes"), [((12,), {}), ((1, 64), {"backbone": "mlp"}), ((1, 64), {"backbone": "recurrent"})], ids=str)
def test_dense_and_recurrent_encoders_have_none(shape: tuple[int, ...], changes: dict[str, Any]) -> None:
    made = model("autoencoder", shape, **changes)
    assert isinstance(made, Mapped)
    assert not made.has_maps
    assert "maps" not in heads.able(made)
    assert all("maps" not in head.needs for head in heads.candidates(made, shape))


def test_maps_of_a_whole_kernel_and_of_large_rows_are_of_a_size() -> None:
    whole = model("autoencoder", (1, 28, 28), layers=(4, 8, 16), kernels=(3, 3, 0), strides=(2, 2, 1))
    large = model("autoencoder", (1, 100, 80))
    point = model("autoencoder", (1, 8, 8), layers=(4,), kernels=(0,), strides=(1,))
    with torch.no_grad():
        assert whole.feature_maps(torch.rand(2, 1, 28, 28)).shape == (2, 12, 14, 14)  # type: ignore[operator]
        assert large.feature_maps(torch.rand(2, 1, 100, 80)).shape == (2, 12, 13, 10)  # type: ignore[operator]
        assert point.feature_maps(torch.rand(2, 1, 8, 8)).shape == (2, 4, 1, 1)  # type: ignore[operator]


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("shape", [(12,), (1, 16, 16)], ids=str)
def test_a_critic_judges_each_row_by_itself(name: str, shape: tuple[int, ...]) -> None:
    made = model(name, shape, **({"batch_kernels": 4} if name == "gan" else {}))
    assert isinstance(made, HasCritic)
    x = torch.rand(6, *shape)
    with torch.no_grad():
        features, strange = made.criticise(x)
        one_features, one = made.criticise(x[2:3])
    assert features.dim() == 2
    assert strange.shape == (6,)
    assert torch.allclose(features[2:3], one_features, atol=1e-5)
    assert torch.allclose(strange[2:3], one, atol=1e-5)
    found = [head.name for head in heads.candidates(made, shape)]
    assert "critic" in found
    assert torch.equal(heads.collect(made, x, [heads.build("critic", {})]).critic, strange)  # type: ignore[arg-type]


def test_a_critic_that_learnt_real_rows_finds_others_strange() -> None:
    made = model("wgan_gp", (4,))
    generator = torch.Generator().manual_seed(0)
    real, other = torch.randn(256, 4, generator=generator), 3 + torch.randn(256, 4, generator=generator)
    critic = [*made.features.parameters(), *made.critic.parameters()]  # type: ignore[union-attr, operator]
    optimizer = torch.optim.Adam(critic, 1e-2)
    for _ in range(60):
        loss = made.judge(other).mean() - made.judge(real).mean() + sum(p.square().sum() for p in critic)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    told = heads.collect(made, torch.cat([real, other]), [heads.build("critic", {})])
    scores = heads.apply(heads.build("critic", {}), told)
    assert metrics.auroc((torch.arange(512) >= 256).numpy(), scores.numpy()) > 0.95


@pytest.mark.parametrize(
    ("name", "hyper", "said"),
    [
        ("peak", {"smooth": 0}, "smooth=0"), ("peak", {"share": 2.0}, "share=2.0"), ("patches", {"of": "code"}, "of='code'"),
        ("patches", {"by": "luck"}, "by='luck'"), ("patches", {"choice": "first"}, "choice='first'"), ("patches", {"bank": 0}, "bank=0"),
        ("patches", {"share": -1.0}, "share=-1.0"), ("critic", {"of": "row"}, "'of'"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(name: str, hyper: dict[str, Any], said: str) -> None:
    with pytest.raises(RaeflowError, match=said):
        heads.build(name, hyper)


def test_a_table_has_no_places() -> None:
    assert patches.candidates((12,)) == []
    assert peak.candidates((12,)) == [peak.Hyper()]
    with pytest.raises(RaeflowError, match=r"\(12,\)"):
        heads.build("patches", {"of": "row"}).fit(Outputs(torch.rand(8, 12)))
