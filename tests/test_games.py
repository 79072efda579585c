"""What each game of generator and critic claims of itself, checked against its source."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raeflow import variants
from raeflow.errors import RaeflowError
from raeflow.variants import gan, wgan_div, wgan_gp
from raeflow.variants._adversarial import Adversarial, Wasserstein
from raeflow.variants._contract import Batch


def batch(x: Tensor, seed: int = 0) -> Batch:
    return Batch(x, generator=torch.Generator().manual_seed(seed))


def told_between_points(model: Wasserstein[Any], steps: int) -> float:
    """What the critic, trained for so many rounds, tells between real rows at one point and generated ones 2 away from it."""
    for weight in model.generator.parameters():
        nn.init.zeros_(weight)
    x, optimizer, dice = torch.tensor([[1.2, -1.6]]).expand(64, 2), model.optimizers()["critic"], torch.Generator().manual_seed(0)
    for _ in range(steps):
        for player, loss in model.turns(Batch(x, generator=dice), 0.0):
            if player == "critic":
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        return float((model.judge(x) - model.judge(torch.zeros(64, 2))).mean())


def test_the_critic_learns_the_distance_between_two_points() -> None:
    """Real rows at one point, generated ones at another: the Wasserstein distance is that between the points."""
    torch.manual_seed(0)
    model = wgan_gp.Model((2,), wgan_gp.Hyper(latent=1, lr=1e-2, width=32))
    assert told_between_points(model, 60) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize(("k", "p"), [(2.0, 6.0), (0.5, 2.0), (3.0, 3.5)])
def test_a_linear_critic_has_one_slope_and_so_a_known_divergence(k: float, p: float) -> None:
    model = wgan_div.Model((6,), wgan_div.Hyper(activation="identity", latent=2, k=k, p=p))
    x, fake, point = torch.randn(4, 6), torch.randn(4, 6), torch.zeros(1, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(model.judge(point).sum(), point)
    torch.testing.assert_close(model.penalty(batch(x), fake), k * slope.norm() ** p)
    loss = next(model.turns(batch(x), 0.0))[1]
    drawn = model.drawn(batch(x))
    expected = model.penalty(batch(x), drawn) - model.judge(x).mean() + model.judge(drawn).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("k", "p"), [(2.0, 6.0), (1.0, 2.0)])
def test_the_critic_of_the_divergence_settles_where_calculus_says(k: float, p: float) -> None:
    """Two points at distance r: a critic of slope s between them gains r s - k s^p, most at s = (r / (k p))^(1 / (p - 1))."""
    torch.manual_seed(0)
    model = wgan_div.Model((2,), wgan_div.Hyper(latent=1, lr=1e-2, beta1=0.5, width=32, k=k, p=p))
    gained = told_between_points(model, 120)
    best = (2.0 / (k * p)) ** (1 / (p - 1))
    assert gained == pytest.approx(2.0 * best, rel=0.1)


def test_the_two_players_of_the_first_game_say_what_goodfellow_says() -> None:
    """The discriminator: -log D(x) - log(1 - D(G(z))); the generator, not saturating: -log D(G(z))."""
    model, x = gan.Model((6,), gan.Hyper(latent=2)), torch.randn(5, 6)
    dice = batch(x)
    first, second = (model.drawn(dice) for _ in range(2))
    chance = [torch.sigmoid(model.judge(rows)) for rows in (x, first, second)]
    (one, judged), (two, made) = model.turns(batch(x), 0.0)
    assert (one, two) == ("discriminator", "generator")
    torch.testing.assert_close(judged, -chance[0].log().mean() - (1 - chance[1]).log().mean())
    torch.testing.assert_close(made, -chance[2].log().mean())


def test_smoothing_moves_the_aim_of_real_rows_alone() -> None:
    model, x = gan.Model((6,), gan.Hyper(latent=2, smooth=0.1)), torch.randn(5, 6)
    fake, logits = model.drawn(batch(x)), model.judge(x)
    loss = next(model.turns(batch(x), 0.0))[1]
    aimed = functional.binary_cross_entropy_with_logits(logits, torch.full((5,), 0.9))
    torch.testing.assert_close(loss, aimed + functional.softplus(model.judge(fake)).mean())


def test_replayed_rows_are_earlier_ones_and_leave_in_order() -> None:
    model = gan.Model((3,), gan.Hyper(latent=2, replay=8))
    rounds = [torch.full((4, 3), float(n)) for n in range(1, 5)]
    dice = batch(torch.zeros(4, 3))
    seen = [model.mixed(dice, rows) for rows in rounds]
    assert torch.equal(seen[0], rounds[0]), "nothing has been kept before the first"
    for number, mixed in enumerate(seen, start=1):
        values = set(mixed[:, 0].tolist())
        assert values <= {float(n) for n in range(max(1, number - 2), number + 1)}
    assert sorted(model.get_buffer("replay")[:, 0].tolist()) == [3.0] * 4 + [4.0] * 4
    earlier = torch.cat([model.mixed(dice, rows := torch.full((4, 3), 9.0 + n)) != rows for n in range(100)])[:, 0]
    assert 0.4 < earlier.float().mean() < 0.6


def test_a_batch_of_likes_is_told_by_its_closeness() -> None:
    """Salimans et al. 2016, section 3.2: o(x_i) = sum over the others of exp(-L1 distance of their projections)."""
    torch.manual_seed(0)
    close = gan.Closeness(5, kernels=3, values=2)
    rows = torch.randn(4, 5)
    m = close.project(rows).reshape(4, 3, 2)
    seen = torch.stack([sum(torch.exp(-(m[i] - m[j]).abs().sum(1)) for j in range(4) if j != i) for i in range(4)])
    torch.testing.assert_close(close(rows), close.last(torch.cat([rows, seen], 1)))
    same = rows[:1].expand(4, 5)
    with torch.no_grad():
        close.last.weight.zero_()
        close.last.weight[0, 5:] = 1.0
        close.last.bias.zero_()
    torch.testing.assert_close(close(same), torch.full((4, 1), 9.0))  # three others, three kernels
    assert (close(rows) < close(same)).all()


def test_scores_see_no_neighbour_even_where_the_discriminator_does() -> None:
    model, x = gan.Model((6,), gan.Hyper(latent=2, batch_kernels=4, replay=16)).eval(), torch.randn(7, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([model.score(row[None]) for row in x]), model.score(x))


@pytest.mark.parametrize(
    ("module", "values", "said"),
    [
        (gan, {"replay": -1}, "replay=-1"),
        (gan, {"smooth": 1.0}, "smooth=1.0"),
        (wgan_div, {"p": 1.0}, "p=1.0"),
        (wgan_div, {"k": 0.0}, "k=0.0"),
    ],
    ids=str,
)
def test_nonsense_is_refused_with_its_value(module: object, values: dict[str, float], said: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        module.Hyper(**values)  # type: ignore[attr-defined]
    assert said in str(refusal.value)


GAMES = [name for name in variants.names() if issubclass(variants.get(name).Model, Adversarial)]


@pytest.mark.parametrize("name", GAMES)
def test_fresh_rows_give_each_step_of_the_critic_rows_of_its_own(name: str) -> None:
    """The second step's loss changes with its own half of the batch alone; else all steps look at the whole batch."""
    shape = (1, 8, 8)
    torch.manual_seed(0)
    x = torch.rand(12, *shape)
    first, second = x.clone(), x.clone()
    first[0::2], second[1::2] = torch.rand(2, 6, *shape)

    def second_loss(rows: Tensor, fresh: bool) -> float:
        torch.manual_seed(0)
        hyper = variants.hyper(name, {"layers": (8, 8), "kernels": (), "latent": 4, "critic_steps": 2, "fresh_rows": fresh})
        turns = variants.get(name).Model(shape, hyper).train().turns(batch(rows), 0.0)
        next(turns)
        return float(next(turns)[1].detach())

    assert second_loss(first, True) == second_loss(x, True) != second_loss(second, True)
    assert second_loss(first, False) != second_loss(x, False)


def test_the_shares_of_two_workers_are_those_of_one() -> None:
    model = wgan_gp.Model((2,), wgan_gp.Hyper(critic_steps=3, fresh_rows=True))
    x, label = torch.randn(12, 2), torch.arange(12)
    one = model.rounds(Batch(x, label=label))
    two = [model.rounds(Batch(x[half], label=label[half], rank=rank, world=2)) for rank, half in enumerate((slice(6), slice(6, 12)))]
    for share, *shares in zip(one, *two, strict=True):
        assert torch.equal(share.x, torch.cat([each.x for each in shares]))
        assert torch.equal(share.label, torch.cat([each.label for each in shares]))
    assert sorted(torch.cat([share.label for share in one]).tolist()) == list(range(12))
    assert [len(share.x) for share in model.rounds(Batch(x[:2]))] == [2, 2, 2]  # too few to share
    with pytest.raises(RaeflowError, match=r"brings 8 rows to each of 2 workers.*a multiple of 6 as Training\(batch_size"):
        model.rounds(Batch(x[:8], world=2))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"critic_steps": 2.5}, "critic_steps=2.5: .* whole number"),
        ({"fresh_rows": "no"}, "fresh_rows='no'"),
        ({"latent": True}, "latent=True"),
    ],
)
def test_fields_of_the_wrong_kind_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RaeflowError, match=said):
        variants.hyper("wgan_gp", values)


@pytest.mark.parametrize("name", GAMES)
def test_no_rows_cannot_be_drawn(name: str) -> None:
    model = variants.get(name).Model((4,), variants.get(name).published((4,))).eval()
    with pytest.raises(RaeflowError, match=r"sample\(0\)"):
        model.sample(0)
