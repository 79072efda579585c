"""The one loop: resuming, patience, precision, divergence, and several workers that agree with one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torch.optim import SGD, Optimizer

from raeflow import training, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import Diverged, Run, fit, scores
from raeflow.variants._contract import Batch, Variant

NAMES = variants.names()
SHAPES = [(64,), (1, 64), (1, 8, 8)]
NETWORKS = [name for name in NAMES if not hasattr(variants.get(name).Model, "fit_rows")]
each_variant = pytest.mark.parametrize("name", NAMES)
each_network = pytest.mark.parametrize("name", NETWORKS)


def digits(shape: tuple[int, ...], count: int = 96) -> Splits:
    """Real digits; the scaling is fitted on train."""
    pixels = torch.tensor(load_digits().data, dtype=torch.uint8)[: count + 32].reshape(-1, *shape)
    train, validate = pixels[:count], pixels[count:]
    spec = RowSpec(("pixels",), "list", shape, "uint8")
    mode = "unit" if len(shape) == 3 else "auto"
    return Splits(spec, fit_scaling(mode, shape, torch.uint8, [train]), Rows(train), Rows(validate), None, None)


def small(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    sizes = {"layers": (), "kernels": (), "strides": (), "width": 16, "channels": 4, "depth": 1, "latent": 4}
    published = variants.get(name).published(shape)
    if not hasattr(published, "latent"):  # no network
        return {**dataclasses.asdict(published), **({"bank": 48} if name == "knn" else {})}
    return dataclasses.asdict(dataclasses.replace(published, **sizes))


def plan(**changes: Any) -> Training:
    return Training(**{"epochs": 4, "batch_size": 32, "patience": None, "device": "cpu", **changes})


def finish(run: Run) -> Run:
    for _ in run.epochs():
        pass
    return run


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[k], two[k]) for k in one)


@each_variant
@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_resumes_bit_for_bit_at_every_epoch(name: str, patience: int | None, tmp_path: Path) -> None:
    splits, hyper = digits((64,)), small(name, (64,))
    whole = Run(name, hyper, splits, plan(patience=patience), seed=5)
    for epoch in whole.epochs():
        whole.save(tmp_path / str(epoch.number))
    for folder in sorted(tmp_path.iterdir()):
        torch.manual_seed(12345)  # another process has other dice
        again = Run(name, hyper, splits, plan(patience=patience), seed=5)
        again.resume(folder)
        finish(again)
        assert again.history == whole.history
        assert equal(again.model.state_dict(), whole.model.state_dict())
        assert equal(again.fitted().weights, whole.fitted().weights)
        assert again.fitted().best_epoch == whole.fitted().best_epoch


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    splits = digits((64,))
    finish(Run("autoencoder", small("autoencoder", (64,)), splits, plan(epochs=1), seed=1)).save(tmp_path / "one")
    with pytest.raises(RaeflowError, match="seed 1"):
        Run("autoencoder", small("autoencoder", (64,)), splits, plan(epochs=1), seed=2).resume(tmp_path / "one")
    with pytest.raises(RaeflowError, match="variant 'autoencoder'"):
        Run("vae", small("vae", (64,)), splits, plan(epochs=1), seed=1).resume(tmp_path / "one")
    with pytest.raises(RaeflowError, match="nowhere"):
        Run("autoencoder", small("autoencoder", (64,)), splits, plan(epochs=1), seed=1).resume(tmp_path / "nowhere")


@each_variant
def test_the_same_seed_trains_the_same_model(name: str) -> None:
    splits, hyper = digits((1, 8, 8)), small(name, (1, 8, 8))
    one, two, other = (fit(name, hyper, splits, plan(epochs=2), seed) for seed in (1, 1, 2))
    assert equal(one.weights, two.weights)
    assert one.history == two.history
    assert not equal(one.weights, other.weights)


class Scripted(Variant):
    """Trains by the book of a test: validation losses as told, weights that count the steps."""

    def __init__(self, losses: list[float], settled_from: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.told = losses
        self.settled_from = settled_from
        self.progress: list[float] = []

    def optimizers(self) -> dict[str, Optimizer]:
        return {"only": SGD(self.parameters(), lr=1.0)}

    def turns(self, batch: Batch, progress: float) -> Iterator[tuple[str, Tensor]]:
        self.progress.append(progress)
        yield "only", -self.weight.sum()

    def reconstruct(self, x: Tensor) -> Tensor:
        return x

    def score(self, x: Tensor) -> Tensor:
        epoch = round(float(self.weight)) // 3  # three steps an epoch
        return torch.full((len(x),), self.told[epoch - 1])


def scripted(monkeypatch: pytest.MonkeyPatch, model: Scripted, **changes: Any) -> Run:
    monkeypatch.setattr(variants, "build", lambda *_: model)
    return Run("scripted", {}, digits((64,)), plan(**changes))


def test_patience_stops_and_restores_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scripted(monkeypatch, Scripted([5.0, 3.0, 4.0, 3.5, 1.0]), epochs=5, patience=2)
    epochs = list(run.epochs())
    assert [e.number for e in epochs] == [1, 2, 3, 4]
    assert [e.last for e in epochs] == [False, False, False, True]
    assert [e.validation_loss for e in epochs] == [5.0, 3.0, 4.0, 3.5]
    fitted = run.fitted()
    assert fitted.best_epoch == 2
    assert fitted.weights["weight"].item() == 6
    assert list(run.epochs()) == []


def test_without_patience_every_epoch_runs_and_the_last_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    run = finish(scripted(monkeypatch, Scripted([5.0, 3.0, 4.0, 4.0]), epochs=4, patience=None))
    assert run.fitted().best_epoch == 4
    assert run.fitted().weights["weight"].item() == 12


def test_nothing_is_compared_before_it_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    run = scripted(monkeypatch, Scripted([1.0, 9.0, 9.0, 5.0, 4.0, 6.0], settled_from=0.6), epochs=6, patience=1)
    assert [e.settled for e in run.epochs()] == [False, False, False, True, True, True]
    assert run.fitted().best_epoch == 5


def test_progress_goes_from_nought_to_just_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted([1.0] * 4)
    finish(scripted(monkeypatch, model, epochs=4))
    torch.testing.assert_close(torch.tensor(model.progress), torch.arange(12) / 12)


def test_divergence_is_an_error_that_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Diverged, match="epoch 2"):
        finish(scripted(monkeypatch, Scripted([1.0, math.nan, 1.0, 1.0]), epochs=4))


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_a_wild_learning_rate_diverges(name: str) -> None:
    splits = digits((64,))
    with pytest.raises(Diverged, match=name):
        fit(name, {**small(name, (64,)), "lr": 1e12, "activation": "relu"}, splits, plan(epochs=20))


def test_a_parameter_without_or_with_two_owners_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    class Orphan(Scripted):
        def __init__(self) -> None:
            super().__init__([1.0])
            self.orphan = nn.Parameter(torch.zeros(1))

        def optimizers(self) -> dict[str, Optimizer]:
            return {"only": SGD([self.weight], lr=1.0)}

    class Shared(Scripted):
        def optimizers(self) -> dict[str, Optimizer]:
            return {"one": SGD([self.weight], lr=1.0), "two": SGD([self.weight], lr=1.0)}

    for bad in (Orphan(), Shared([1.0])):
        with pytest.raises(TypeError, match="exactly once"):
            scripted(monkeypatch, bad)


def test_a_batch_larger_than_the_train_split_is_refused() -> None:
    with pytest.raises(RaeflowError, match=r"batch_size=128\).*96 rows"):
        fit("autoencoder", {}, digits((64,)), plan(batch_size=128))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(RaeflowError, match="device='abacus'"):
        fit("autoencoder", {}, digits((64,)), plan(device="abacus"))


@each_network
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bf16_stays_close_to_float32(name: str, shape: tuple[int, ...]) -> None:
    splits, hyper = digits(shape), small(name, shape)
    full = fit(name, hyper, splits, plan(epochs=6))
    half = fit(name, hyper, splits, plan(epochs=6, precision="bf16"))
    assert all(w.dtype == torch.float32 for w in half.weights.values())
    assert not equal(full.weights, half.weights)
    at_full, at_half = (scores(f.model(), splits.encoding, splits.validate) for f in (full, half))
    torch.testing.assert_close(at_half.mean(), at_full.mean(), rtol=0.05, atol=0.0)


@each_variant
def test_channels_last_in_memory_are_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GPUs get their images so; here a CPU does, which rounds otherwise and nothing else."""
    splits, hyper = digits((1, 8, 8)), small(name, (1, 8, 8))
    hyper = {**hyper, "channels": 4, "layers": (), "kernels": (), "strides": ()} if "channels" in hyper else hyper
    plain = finish(Run(name, hyper, splits, plan(epochs=2), seed=1))
    monkeypatch.setattr(training, "memory_format", lambda *_: torch.channels_last)
    last = Run(name, hyper, splits, plan(epochs=2), seed=1)
    finish(last)
    expected = plain.model.state_dict()
    assert set(last.fitted().weights) == set(expected)
    for key, value in last.fitted().weights.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4, msg=lambda m, at=(name, key): f"{at}: {m}")
    last.save(tmp_path / "run")
    again = Run(name, hyper, splits, plan(epochs=2), seed=1)
    again.resume(tmp_path / "run")
    assert equal(again.model.state_dict(), last.model.state_dict())


def test_the_splits_are_left_as_they_were() -> None:
    splits = digits((64,))
    before = splits.train.x.clone(), splits.encoding.shift.clone()
    fit("autoencoder", small("autoencoder", (64,)), splits, plan(epochs=1))
    assert torch.equal(before[0], splits.train.x)
    assert torch.equal(before[1], splits.encoding.shift)


def test_average_leaves_alone_what_a_loss_did_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))
    one.grad = torch.full((2, 2), 6.0)
    monkeypatch.setattr(dist, "all_reduce", lambda flat: flat.mul_(2))  # two workers with equal gradients
    training.average([one, two], 2)
    assert torch.equal(one.grad, torch.full((2, 2), 6.0))
    assert two.grad is None, "an optimiser would move it by its momentum"
    training.average([two], 2)


TOGETHER = [(name, shape) for name in NAMES for shape in ((64,), (1, 8, 8))]


def _together(name: str, shape: tuple[int, ...]) -> Run:
    """Two epochs of game and one of the encoder where there is a game."""
    hyper = small(name, shape)
    return finish(Run(name, {**hyper, "critic_steps": 2} if "critic_steps" in hyper else hyper, digits(shape), plan(epochs=3), seed=3))


def _losses(run: Run) -> Tensor:
    return torch.tensor([value for record in run.history for value in record.values()], dtype=torch.float64)


def _work(rank: int, world: int, folder: str) -> None:
    """One of several workers: trains every variant and writes what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    for name, shape in TOGETHER:
        run = _together(name, shape)
        save_file({**run.fitted().weights, "losses": _losses(run)}, f"{folder}/{name}-{len(shape)}-{rank}.safetensors")
    dist.destroy_process_group()


def test_two_workers_train_the_model_that_one_trains(tmp_path: Path) -> None:
    """Same global batch, noise and gradient penalty included; the workers themselves agree bit for bit."""
    spawn(_work, (2, str(tmp_path)), nprocs=2)
    for name, shape in TOGETHER:
        one = _together(name, shape)
        first, second = (load_file(tmp_path / f"{name}-{len(shape)}-{rank}.safetensors") for rank in (0, 1))
        assert equal(first, second)
        expected = {**one.fitted().weights, "losses": _losses(one)}
        assert set(first) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, at=(name, shape, key): f"{at}: {m}")


def test_rows_that_workers_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RaeflowError, match="3 workers cannot share 32 rows"):
        training.check_batch(digits((64,)).train, 32, 3)
