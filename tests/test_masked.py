"""The masked autoencoder: what its encoder sees, what its loss and score count, and that it learns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import Run
from raeflow.variants import _transformer, masked
from raeflow.variants._contract import Batch

SHAPES = [(12,), (2,), (2, 37), (1, 64), (1, 9, 8), (3, 17, 13)]
MEAN, DEVIATION = 0.3, 1.7
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def model(shape: tuple[int, ...], **values: Any) -> masked.Model:
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "decoder_depth": 1}
    made = masked.Model(shape, dataclasses.replace(masked.published(shape), **{**small, **values})).eval()
    made.mean.fill_(MEAN)
    made.deviation.fill_(DEVIATION)
    return made


def rows(shape: tuple[int, ...], count: int = 5) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def orders(made: masked.Model, count: int = 5) -> Tensor:
    return torch.rand(count, made.cut.tokens, generator=torch.Generator().manual_seed(2)).argsort(1)


def told_by_hand(made: masked.Model, row: Tensor, order: Tensor) -> Tensor:
    """(N - V, P): what one row's hidden tokens are told to be, from the visible ones gathered one by one."""
    patches = made.cut.cut((row[None] - MEAN) / DEVIATION)[0]
    seen, hidden = order[: made.seen].tolist(), order[made.seen :].tolist()
    tokens = (made.embed(patches[None])[0] + made.positions)[seen]
    codes = made.widen(made.project(made.encoder(tokens[None])))[0]
    # In the row's own order, as the paper puts it, not visible ones first.
    whole: list[Tensor] = [made.mask_token] * made.cut.tokens
    for place, code in zip(seen, codes, strict=True):
        whole[place] = code
    told: Tensor = made.predict(made.decoder((torch.stack(whole) + made.decoder_positions)[None])[0])
    return told[hidden] if made.hyper.normalise_patches else told[hidden] * DEVIATION + MEAN


@each_shape
def test_cutting_and_pasting_give_the_row_back(shape: tuple[int, ...]) -> None:
    cut, x = _transformer.Cut(shape, 4), rows(shape)
    patches = cut.cut(x)
    assert patches.shape == (5, cut.tokens, cut.values)
    assert torch.equal(cut.paste(patches), x)
    assert cut.valid.sum() == math.prod(shape)
    assert torch.equal(cut.cut(torch.ones(1, *shape))[0], cut.valid)


def test_a_patch_holds_a_square_of_the_image() -> None:
    image = torch.arange(2 * 5 * 7.0).reshape(1, 2, 5, 7)
    patches = _transformer.Cut((2, 5, 7), 3).cut(image)
    assert patches.shape == (1, 6, 18)
    assert torch.equal(patches[0, 1], image[0, :, 0:3, 3:6].permute(1, 2, 0).flatten())
    corner = torch.zeros(2, 3, 3)
    corner[:, :2, :1] = image[0, :, 3:, 6:]
    assert torch.equal(patches[0, 5], corner.permute(1, 2, 0).flatten())


@each_shape
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75, 0.9])
def test_every_token_is_hidden_and_visible_in_every_round(shape: tuple[int, ...], ratio: float) -> None:
    made = model(shape, mask_ratio=ratio, score_masks=9)
    tokens, seen = made.cut.tokens, made.seen
    assert seen == max(1, min(tokens - 1, math.ceil(tokens * (1 - ratio) - 1e-6)))
    assert len(made.order) >= 9
    once = model(shape, mask_ratio=ratio, score_masks=1).order
    assert torch.equal(made.order.sort(1).values, torch.arange(tokens).expand(len(made.order), -1))
    for masks in made.order.split(len(once)):
        visible = torch.stack([(masks[:, :seen] == token).sum() for token in range(tokens)])
        assert visible.min() >= 1
        assert visible.max() < len(masks)


def test_quarters_that_divide_the_row_are_a_partition_of_it() -> None:
    order = _transformer.covering(16, 4, 8)
    assert order.shape == (8, 16)
    for quarters in order[:, :4].split(4):
        assert quarters.flatten().sort().values.tolist() == list(range(16))
    assert torch.equal(order, _transformer.covering(16, 4, 8)), "the masks are always the same"


@each_shape
def test_what_is_hidden_from_the_encoder_changes_nothing(shape: tuple[int, ...]) -> None:
    """The codes under a mask have no gradient to the values that it hides, and one to those it leaves visible."""
    made, x = model(shape), rows(shape, 1).requires_grad_()
    codes = made.encode(x).reshape(len(made.order), -1)
    for mask, order in enumerate(made.order):
        (slope,) = torch.autograd.grad(codes[mask].square().sum(), x, retain_graph=True)
        reached = made.cut.cut(slope)[0].abs().sum(1)
        assert (reached[order[: made.seen]] > 0).all()
        assert (reached[order[made.seen :]] == 0).all()


@each_shape
def test_a_token_is_never_told_from_itself(shape: tuple[int, ...]) -> None:
    """Only the masks that hide a token count in its reconstruction, so its slope against itself is 0."""
    made = model(shape)
    x = rows(shape, 1)
    patches = made.cut.cut(x)[0]
    slope = torch.autograd.functional.jacobian(lambda p: made.cut.cut(made.reconstruct(made.cut.paste(p[None])))[0], patches)
    own = torch.stack([slope[n, :, n].abs().sum() for n in range(made.cut.tokens)])
    assert (own == 0).all()
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("shape", [(2, 37), (3, 17, 13)], ids=str)
def test_the_loss_counts_hidden_values_alone(shape: tuple[int, ...], normalise: bool) -> None:
    made, x = model(shape, normalise_patches=normalise, latent=3), rows(shape)
    order = orders(made)
    expected = []
    for row, mine in zip(x, order, strict=True):
        errors = []
        for told, patch, valid in zip(told_by_hand(made, row, mine), made.cut.cut(row[None])[0][mine[made.seen :]],
                                      made.cut.valid[mine[made.seen :]].bool(), strict=True):  # fmt: skip
            real = patch[valid]
            if normalise:  # the paper's section 3, the variance without bias as in its code
                real = (real - real.mean()) / (real.var() + 1e-6 * DEVIATION**2).sqrt()
            errors.append((told[valid] - real).square())
        expected.append(torch.cat(errors).mean())
    torch.testing.assert_close(made.loss(x, order), torch.stack(expected).mean())


@pytest.mark.parametrize("shape", [(12,), (2, 37), (3, 17, 13)], ids=str)
def test_the_score_is_the_mean_over_the_masks_that_hide_a_token(shape: tuple[int, ...]) -> None:
    made, x = model(shape, score_masks=6), rows(shape, 2)
    for row, score, rebuilt in zip(x, made.score(x), made.reconstruct(x), strict=True):
        patches = made.cut.cut(row[None])[0]
        found: list[list[Tensor]] = [[] for _ in range(made.cut.tokens)]
        for order in made.order:
            for token, told in zip(order[made.seen :].tolist(), told_by_hand(made, row, order), strict=True):
                found[token].append(told)
        error = torch.stack([(torch.stack(told) - patch).square().mean(0) for told, patch in zip(found, patches, strict=True)])
        torch.testing.assert_close(score, (error * made.cut.valid).sum() / math.prod(shape))
        mean = torch.stack([torch.stack(told).mean(0) for told in found])
        torch.testing.assert_close(rebuilt, made.cut.paste(mean[None])[0])


@pytest.mark.parametrize("shape", [(2, 37), (3, 17, 13)], ids=str)
def test_what_is_told_of_padding_has_no_influence(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = model(shape), rows(shape)
    assert (made._patches(x)[:, made.cut.valid == 0] == 0).all()
    tell, order, fixed = made._tell, orders(made), made.order.repeat(len(x), 1)
    before = made.loss(x, order), made.score(x), made.reconstruct(x)

    def spoil(shown: Tensor) -> None:
        padding = 1 - made.cut.valid[shown[:, made.seen :]]
        assert padding.any()
        monkeypatch.setattr(made, "_tell", lambda codes, places: tell(codes, places) + 1e3 * padding)

    spoil(order)
    assert torch.equal(made.loss(x, order), before[0])
    spoil(fixed)
    assert torch.equal(made.score(x), before[1])
    assert torch.equal(made.reconstruct(x), before[2])


def test_normalised_patches_come_back_in_their_own_units() -> None:
    made, x = model((1, 9, 8), normalise_patches=True), rows((1, 9, 8))
    # A patch of one value is its own mean, whatever the network tells of it.
    alike = made.cut.paste(made.cut.cut(x.sign()).mean(2, keepdim=True).expand(-1, -1, made.cut.values))
    torch.testing.assert_close(made.reconstruct(alike + 100), alike + 100, atol=0.05, rtol=0)
    assert (made.reconstruct(x) - x).abs().max() > 0.5
    torch.testing.assert_close(made.decode(made.encode(x)), made.reconstruct(x))
    assert made.encode(x).shape == (5, made.code_size)


def test_a_row_of_one_token_is_told_by_a_constant() -> None:
    made, x = model((1,)), rows((1,))
    assert made.seen == 0
    torch.testing.assert_close(made.reconstruct(x), made.reconstruct(x)[:1].expand(5, 1))
    torch.testing.assert_close(made.score(x), (x - made.reconstruct(x))[:, 0].square())
    assert made.encode(x).shape == (5, 0)
    torch.testing.assert_close(made.decode(made.encode(x)), made.reconstruct(x))


def test_few_rows_at_a_time_score_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = model((2, 37)), rows((2, 37), 50)
    whole = [made.score(x), made.reconstruct(x), made.encode(x)]
    monkeypatch.setattr(masked, "_TOKENS", {"cpu": 3 * made.order.numel(), "cuda": 1})
    for one, two in zip(whole, [made.score(x), made.reconstruct(x), made.encode(x)], strict=True):
        torch.testing.assert_close(one, two)


def test_the_learning_rate_follows_progress_alone() -> None:
    made = model((12,), lr=2e-3, warm_up=0.1)
    optimizer = made.optimizers()["masked"]
    batch = Batch(rows((12,)), generator=torch.Generator().manual_seed(0))
    for progress, rate in ((0.0, 0.0), (0.05, 1e-3), (0.1, 2e-3), (0.55, 1e-3), (0.999999, 0.0)):
        list(made.turns(batch, progress))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate], abs=1e-8)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert all(p.dim() == 2 for p in optimizer.param_groups[0]["params"])
    assert all(group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)


def test_a_block_is_that_of_torch() -> None:
    block, x = _transformer.Block(24, 4, "gelu"), rows((7, 24))
    for bias in (block.query_bias, block.value_bias):
        nn.init.normal_(bias)
    bias = torch.cat([block.query_bias, torch.randn(24), block.value_bias])  # a bias of the keys has no effect
    layer = nn.TransformerEncoderLayer(24, 4, 96, 0.0, nn.functional.gelu, 1e-6, batch_first=True, norm_first=True)
    names = {"self_attn.out_proj.": "outputs.", "linear1.": "mlp.0.", "linear2.": "mlp.2.",
             "norm1.": "attention_norm.", "norm2.": "mlp_norm."}  # fmt: skip
    state = block.state_dict()
    named = {f"{one}{kind}": state[f"{two}{kind}"] for one, two in names.items() for kind in ("weight", "bias")}
    layer.load_state_dict({**named, "self_attn.in_proj_weight": block.inputs.weight, "self_attn.in_proj_bias": bias})
    torch.testing.assert_close(block(x), layer(x))


@pytest.mark.parametrize("grid", [(2,), (40,), (4, 5), (14, 14), (1, 7)], ids=str)
@pytest.mark.parametrize("width", [8, 9, 48])
def test_positions_tell_every_place_apart(grid: tuple[int, ...], width: int) -> None:
    places = _transformer.positions(grid, width)
    assert places.shape == (math.prod(grid), width)
    assert torch.cdist(places, places).fill_diagonal_(1.0).min() > 0.05
    if width % (2 * len(grid)) == 0:
        torch.testing.assert_close(places.square().sum(1), torch.full((math.prod(grid),), width / 2))


def test_heads_that_do_not_divide_the_width_are_fewer() -> None:
    assert [_transformer.dividing(width, 4) for width in (64, 30, 7, 9)] == [4, 3, 1, 3]
    assert model((6,), width=15, heads=4, decoder_width=9).score(rows((6,))).shape == (5,)


def test_it_tells_hidden_parts_of_digits_better_than_their_mean() -> None:
    """Real digits: the squared error of hidden patches against that of each pixel's mean, which sees nothing."""
    pixels = torch.tensor(load_digits().data, dtype=torch.uint8).reshape(-1, 1, 8, 8)
    train, validate = pixels[:1400], pixels[1400:]
    spec = RowSpec(("pixels",), "list", (1, 8, 8), "uint8")
    splits = Splits(spec, fit_scaling("unit", (1, 8, 8), torch.uint8, [train]), Rows(train), Rows(validate), None, None)
    hyper = dataclasses.replace(masked.published((1, 8, 8)), patch=4, mask_ratio=0.5, width=48, depth=1)
    run = Run("masked", dataclasses.asdict(hyper), splits, Training(epochs=8, batch_size=16, patience=None, device="cpu"))
    told = list(run.epochs())[-1].validation_loss
    x = splits.encoding(validate)
    mean = float((x - splits.encoding(train).mean(0)).square().mean())
    assert told < 0.75 * mean


def test_the_first_batch_gives_the_units_once() -> None:
    made, batch = model((2, 37)), Batch(7 * rows((2, 37)) + 5, generator=torch.Generator().manual_seed(0))
    list(made.turns(batch, 0.0))
    torch.testing.assert_close(made.mean, batch.x.mean((0, 2))[:, None])
    torch.testing.assert_close(made.deviation, batch.x.std((0, 2), correction=0)[:, None])
    before = made.deviation.clone()
    list(made.turns(Batch(rows((2, 37)), generator=batch.generator), 0.1))
    assert torch.equal(made.deviation, before)
    list(made.turns(Batch(torch.zeros(4, 2, 37), generator=batch.generator), 0.0))
    assert (made.deviation == 1).all()


@pytest.mark.parametrize(
    ("shape", "values", "said"),
    [
        ((1, 8, 8), {"backbone": "conv"}, "backbone='conv'"),
        ((1, 8, 8), {"patch": 8}, "patch=8"),
        ((6,), {"normalise_patches": True}, "normalise_patches=True"),
        ((6,), {"mask_ratio": 1.0}, "mask_ratio=1.0"),
        ((6,), {"mask_ratio": 0.0}, "mask_ratio=0.0"),
        ((6,), {"decoder_width": 4}, "decoder_width=4"),
        ((6,), {"heads": 0}, "heads=0"),
        ((6,), {"width": 4}, "width=4"),
        ((6,), {"warm_up": 1.0}, "warm_up=1.0"),
        ((6,), {"score_masks": 0}, "score_masks=0"),
    ],
)
def test_nonsense_is_refused_with_its_value(shape: tuple[int, ...], values: dict[str, Any], said: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        masked.Model(shape, masked.Hyper(**values))
    assert said in str(refusal.value)


@pytest.mark.parametrize("shape", [(3, 1), (2, 1, 1)], ids=str)
def test_rows_that_no_patch_divides_are_told_by_a_constant_too(shape: tuple[int, ...]) -> None:
    made = model(shape)
    assert made.seen == 0
    assert made.score(rows(shape)).shape == (5,)
