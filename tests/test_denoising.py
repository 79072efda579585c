"""What the denoising autoencoder claims: its corruptions, its pairs, and that it removes noise."""

from __future__ import annotations

import dataclasses

import optuna
import pytest
import torch
from torch import Tensor

from raeflow import space
from raeflow.data import corruptions
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.report import signalplots
from raeflow.study import Data, Study, Training
from raeflow.training import Run, fit, validation
from raeflow.variants import autoencoder, denoising
from raeflow.variants._contract import Batch


def batch(x: Tensor, target: Tensor | None = None, seed: int = 7) -> Batch:
    return Batch(x, target, generator=torch.Generator().manual_seed(seed))


def made(shape: tuple[int, ...] = (40,), **values: object) -> denoising.Model:
    return denoising.Model(shape, denoising.Hyper(**values))  # type: ignore[arg-type]


def test_dropout_masks_a_share_and_keeps_the_mean() -> None:
    x = torch.rand(500, 40, generator=torch.Generator().manual_seed(1)) + 1
    out = made(corruption="dropout", amount=0.3).corrupt(batch(x))
    lost = out == 0
    assert lost.float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(out[~lost], x[~lost] / 0.7)
    assert out.mean().item() == pytest.approx(x.mean().item(), rel=0.01)


def test_masking_takes_a_share_and_leaves_the_others() -> None:
    """Vincent et al. 2008: so rows of 0-1 stay in 0-1, where those of dropout do not."""
    x = torch.rand(500, 40, generator=torch.Generator().manual_seed(1))
    out = made(corruption="masking", amount=0.25).corrupt(batch(x))
    lost = out == 0
    assert lost.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(out[~lost], x[~lost])
    assert out.max() <= 1 < made(corruption="dropout", amount=0.25).corrupt(batch(x)).max()


def test_a_record_from_before_masking_goes_on_with_the_choices_it_has() -> None:
    """Optuna refuses a choice that earlier trials did not have; a new record has it."""
    study = Study(name="older", data=Data("digits"), variants=("denoising",))
    record = optuna.create_study()
    old = record.ask()
    old.suggest_categorical("denoising.corruption", ["dropout", "gaussian"])
    record.tell(old, 1.0)
    with pytest.raises(ValueError, match="dynamic value space"):
        denoising.space(space.Scoped(record.ask(), "denoising.", {}), (6,))
    drawn = {space.ask(study, record.ask(), (6,))[1]["corruption"] for _ in range(30)}
    assert drawn == {"dropout", "gaussian"}
    new = optuna.create_study()
    assert {space.ask(study, new.ask(), (6,))[1]["corruption"] for _ in range(30)} == {"dropout", "masking", "gaussian"}


def test_salt_and_pepper_come_in_equal_parts() -> None:
    x = torch.rand(500, 40) * 0.8 + 0.1
    out = made(corruption="salt_and_pepper", amount=0.2).corrupt(batch(x))
    assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (out == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)
    kept = (out > 0) & (out < 1)
    assert torch.equal(out[kept], x[kept])


def test_gaussian_noise_has_its_deviation_and_knows_nothing_of_the_row() -> None:
    x = torch.rand(500, 40)
    noise = made(corruption="gaussian", amount=0.4).corrupt(batch(x)) - x
    assert noise.std().item() == pytest.approx(0.4, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), x.flatten()]))[0, 1].item()) < 0.03


def test_corruptions_leave_their_rows_as_they_are() -> None:
    x = torch.rand(9, 6)
    before = x.clone()
    corruptions.gaussian(x, torch.randn(9, 6), 0.5)
    corruptions.salt_and_pepper(x, torch.rand(9, 6), 0.5)
    corruptions.dropout(x, torch.rand(9, 6), 0.5)
    corruptions.masking(x, torch.rand(9, 6), 0.5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("corruption", ["dropout", "masking", "gaussian", "salt_and_pepper"])
def test_two_workers_corrupt_as_one_does(corruption: str) -> None:
    model, x = made((2, 20), corruption=corruption, amount=0.4), torch.rand(8, 2, 20)
    whole = model.corrupt(batch(x))
    halves = [model.corrupt(Batch(x[4 * r : 4 * r + 4], generator=torch.Generator().manual_seed(7), rank=r, world=2)) for r in (0, 1)]
    assert torch.equal(torch.cat(halves), whole)


def test_the_loss_is_the_clean_rows_error_from_the_corrupted_one() -> None:
    model, x = made(corruption="gaussian", amount=0.4), torch.rand(7, 40)
    (turn,) = model.turns(batch(x), 0.0)
    torch.testing.assert_close(turn[1], (model.reconstruct(model.corrupt(batch(x))) - x).square().mean())
    torch.testing.assert_close(model.score(x), (model.reconstruct(x) - x).square().mean(1))
    torch.testing.assert_close(model.validation(batch(x)), model.score(x))


@pytest.mark.parametrize("corruption", denoising.CORRUPTIONS)
def test_a_clean_partner_is_always_what_must_be_returned(corruption: str) -> None:
    model, noisy, clean = made(corruption=corruption, amount=0.3), torch.rand(7, 40), torch.rand(7, 40)
    (turn,) = model.turns(batch(noisy, clean), 0.0)
    torch.testing.assert_close(turn[1], (model.reconstruct(model.corrupt(batch(noisy))) - clean).square().mean())
    torch.testing.assert_close(model.validation(batch(noisy, clean)), (model.reconstruct(noisy) - clean).square().mean(1))
    torch.testing.assert_close(model.score(noisy), (model.reconstruct(noisy) - noisy).square().mean(1))


def test_pairs_are_taken_as_they_are() -> None:
    x = torch.rand(7, 40)
    assert torch.equal(made(corruption="target").corrupt(batch(x, torch.rand(7, 40))), x)


def test_missing_pairs_and_rows_beyond_0_1_are_refused_at_once() -> None:
    with pytest.raises(RaeflowError, match=r"corruption='target' needs clean rows.*Data\(target=...\)"):
        next(made(corruption="target").turns(batch(torch.rand(3, 40)), 0.0))
    with pytest.raises(RaeflowError, match=r"salt_and_pepper.*spans -1 to 2"):
        next(made(corruption="salt_and_pepper").turns(batch(torch.linspace(-1, 2, 120).view(3, 40)), 0.0))
    with pytest.raises(RaeflowError, match=r"sigmoid output.*spans"):
        next(made(corruption="target", output="sigmoid").turns(batch(torch.rand(3, 40), torch.rand(3, 40) + 1), 0.0))
    noisy = torch.randn(3, 40)  # may lie anywhere: only what is returned passes through the sigmoid
    next(made(corruption="target", output="sigmoid").turns(batch(noisy, torch.rand(3, 40)), 0.0))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"corruption": "poisson"}, "corruption='poisson'"),
        ({"corruption": "dropout", "amount": 1.0}, "amount=1.0"),
        ({"corruption": "masking", "amount": 1.0}, "amount=1.0"),
        ({"corruption": "salt_and_pepper", "amount": 1.5}, "amount=1.5"),
        ({"corruption": "gaussian", "amount": 0.0}, "amount=0.0"),
    ],
)
def test_nonsense_is_refused_with_its_value(values: dict[str, object], said: str) -> None:
    with pytest.raises(RaeflowError) as refusal:
        denoising.Hyper(**values)  # type: ignore[arg-type]
    assert said in str(refusal.value)


def splits(x: Tensor, target: Tensor | None) -> Splits:
    shape = tuple(x.shape[1:])
    spec, cut = RowSpec(("row",), "list", shape, "float32"), len(x) * 3 // 4
    parts = [Rows(x[s], None if target is None else target[s]) for s in (slice(0, cut), slice(cut, None))]
    return Splits(spec, fit_scaling("none", shape, x.dtype, [x]), *parts, None, None)


def low_rank(rows: int) -> Tensor:
    """Rows on a plane of two dimensions in 20, variance 1 a value."""
    dice = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(20, 2, generator=dice))[0].t() * 10**0.5
    return torch.randn(rows, 2, generator=dice) @ plane


def test_a_linear_denoiser_learns_the_wiener_filter() -> None:
    """The least squared error of a linear map from noisy to clean is known: 2 (1/v + 1/s2)^-1 / 20 on a plane of
    variance v = 10 each way under noise of variance s2; an overcomplete code does not let it copy the noise."""
    x, deviation = low_rank(4096), 0.7
    hyper = denoising.Hyper(depth=0, latent=20, activation="identity", corruption="gaussian", amount=deviation, lr=1e-2)
    fitted = fit("denoising", dataclasses.asdict(hyper), splits(x, None), Training(epochs=15, batch_size=256, patience=None, device="cpu"))
    noisy = x + deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        error = (fitted.model().reconstruct(noisy) - x).square().mean().item()
    best = 2 / (1 / 10 + 1 / deviation**2) / 20
    assert best < error < 1.15 * best
    assert error < 0.15 * deviation**2  # that of the noisy rows themselves


def test_pairs_train_and_stop_by_the_clean_row() -> None:
    clean = low_rank(1024)
    noisy = clean + 0.7 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    paired = splits(noisy, clean)
    hyper = denoising.Hyper(depth=0, latent=4, activation="identity", corruption="target", lr=1e-2)
    run = Run("denoising", dataclasses.asdict(hyper), paired, Training(epochs=20, batch_size=64, patience=None, device="cpu"))
    last = list(run.epochs())[-1]
    held = paired.validate
    assert held.target is not None
    with torch.no_grad():
        error = (run.model.reconstruct(held.x) - held.target).square().mean().item()
    assert last.validation_loss == pytest.approx(error, rel=1e-4)
    assert error < 0.2 * 0.7**2
    torch.testing.assert_close(validation(run.model, run.encoding, held).mean().item(), error, rtol=1e-4, atol=0)


def test_codes_and_networks_are_those_of_the_autoencoder() -> None:
    torch.manual_seed(0)
    one = made((1, 28, 28), **dataclasses.asdict(autoencoder.published((1, 28, 28))))
    torch.manual_seed(0)
    other = autoencoder.Model((1, 28, 28), autoencoder.published((1, 28, 28)))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(one.encode(x), other.encode(x))
    assert torch.equal(one.reconstruct(x), other.reconstruct(x))


def test_traces_draw_each_set_over_its_own_panel() -> None:
    noisy, true = torch.randn(3, 1, 50).numpy(), torch.randn(3, 50).numpy()
    figure = signalplots.traces({"noisy": noisy, "true": true}, ["a", "b", "c"], ("time", "field"), rate=10.0)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c"]
    for number, axes in enumerate(figure.axes):
        first, second = axes.lines
        assert first.get_label() == "noisy"
        assert first.get_ydata() == pytest.approx(noisy[number, 0])
        assert second.get_ydata() == pytest.approx(true[number])
        assert second.get_xdata()[-1] == pytest.approx(4.9)
    for wrong, said in [({}, "none"), ({"a": true, "b": true[:, :9]}, r"b \(3, 9\)"), ({"a": noisy.repeat(2, 1)}, r"a \(3, 2, 50\)")]:
        with pytest.raises(RaeflowError, match=said):
            signalplots.traces(wrong, ["a", "b", "c"])
