"""What tied weights and greedy training claim of themselves."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.study import Training
from raeflow.training import Run, fit, scores
from raeflow.variants import autoencoder, greedy, tied
from raeflow.variants._contract import Batch
from raeflow.variants._tied import Transposed

NETWORKS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((12,), {"layers": (9, 5), "latent": 3}),
    ((12,), {"layers": (9, 5), "latent": 0}),
    ((2, 6, 5), {"backbone": "mlp", "layers": (9,), "latent": 4, "code_activation": True}),
    ((2, 37), {"layers": (3, 4), "kernels": (7, 4), "strides": (2, 3)}),
    ((1, 28, 28), {"layers": (4, 5, 6), "kernels": (3, 3, 0), "strides": (2, 2, 1), "latent": 3, "feature_activation": False}),
    ((3, 17, 13), {"layers": (4, 5), "pooling": "max", "latent": 0}),
    ((2, 37), {"layers": (4, 5), "pooling": "max_same", "latent": 3}),
]
each_network = pytest.mark.parametrize(("shape", "values"), NETWORKS, ids=str)
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def model(shape: tuple[int, ...], values: dict[str, Any], seed: int = 0) -> tied.Model:
    """With biases that are not zero."""
    torch.manual_seed(seed)
    made = tied.Model(shape, tied.Hyper(**{"activation": "tanh", **values}))
    for name, p in made.decoder.named_parameters():
        assert name.endswith("bias")
        assert not p.any()
        nn.init.normal_(p)
    return made


def untied(made: tied.Model, shape: tuple[int, ...]) -> autoencoder.Model:
    """A plain autoencoder of the same weights, each written down twice."""
    plain = autoencoder.Model(shape, autoencoder.Hyper(**dataclasses.asdict(made.hyper)))
    plain.encoder.load_state_dict(made.encoder.state_dict())
    maps, mirrors = ([m for m in half.modules() if isinstance(m, LINEAR)] for half in (plain.encoder, plain.decoder))
    own = [m for m in made.decoder.modules() if isinstance(m, Transposed)]
    with torch.no_grad():
        for source, mirror, one in zip(reversed(maps), mirrors, own, strict=True):
            mirror.weight.copy_(source.weight.t() if isinstance(source, nn.Linear) else source.weight)
            mirror.bias.copy_(one.bias)
    return plain


def turn(made: Any, x: Tensor, progress: float = 0.0) -> Tensor:
    ((_, loss),) = made.turns(Batch(x), progress)
    return loss


@each_network
def test_tying_halves_the_weights_and_keeps_the_biases(shape: tuple[int, ...], values: dict[str, Any]) -> None:
    made = tied.Model(shape, tied.Hyper(**values))
    plain = autoencoder.Model(shape, autoencoder.Hyper(**values))
    whole = sum(p.numel() for p in plain.parameters())
    biases = sum(p.numel() for name, p in plain.named_parameters() if name.endswith("bias"))
    assert sum(p.numel() for p in made.parameters()) == (whole - biases) // 2 + biases
    assert sum(p.numel() for p in made.state_dict().values()) == (whole - biases) // 2 + biases


@pytest.mark.parametrize(("shape", "values"), [n for n in NETWORKS if "pooling" not in n[1]], ids=str)
def test_the_linear_decoder_is_the_transposed_encoder(shape: tuple[int, ...], values: dict[str, Any]) -> None:
    """A linear encoder is a matrix J, its Jacobian, and a row; tied, the decoder of zero biases is J transposed."""
    made = tied.Model(shape, tied.Hyper(**{**values, "activation": "identity", "feature_activation": True}))
    jacobian = torch.autograd.functional.jacobian(lambda x: made.encode(x[None])[0], torch.zeros(shape)).flatten(1)
    z = torch.randn(4, len(jacobian))
    torch.testing.assert_close(made.decode(z).flatten(1), z @ jacobian, rtol=1e-4, atol=1e-5)


@each_network
def test_values_and_gradients_are_those_of_weights_written_twice(shape: tuple[int, ...], values: dict[str, Any]) -> None:
    made = model(shape, values)
    plain, x = untied(made, shape), torch.rand(5, *shape)
    torch.testing.assert_close(made.reconstruct(x), plain.reconstruct(x))
    loss, other = turn(made, x), turn(plain, x)
    torch.testing.assert_close(loss, other)
    loss.backward()
    other.backward()
    maps, mirrors = ([m for m in half.modules() if isinstance(m, LINEAR)] for half in (plain.encoder, plain.decoder))
    sources = [m for m in made.encoder.modules() if isinstance(m, LINEAR)]
    for one, source, mirror in zip(sources, maps, reversed(mirrors), strict=True):
        back = mirror.weight.grad.t() if isinstance(mirror, nn.Linear) else mirror.weight.grad
        torch.testing.assert_close(one.weight.grad, source.weight.grad + back, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.bias.grad, source.bias.grad)


@each_network
def test_copies_stay_tied_to_themselves(shape: tuple[int, ...], values: dict[str, Any]) -> None:
    made, x = model(shape, values).eval(), torch.rand(5, *shape)
    again = tied.Model(shape, made.hyper)
    again.load_state_dict(made.state_dict())
    before = made.reconstruct(x)
    for twin in (again, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin.reconstruct(x), before)
        z = twin.encode(x)
        with torch.no_grad():
            for p in twin.encoder.parameters():
                p.mul_(1.5)
        assert torch.equal(made.reconstruct(x), before)
        assert not torch.allclose(twin.decode(z), made.decode(z), atol=1e-3)


@pytest.mark.parametrize("variant", [tied, greedy])
def test_what_has_no_layers_to_mirror_is_refused(variant: Any) -> None:
    with pytest.raises(RaeflowError, match=r"backbone='recurrent'.*choose mlp or conv"):
        variant.Hyper(backbone="recurrent")


def test_a_decoder_of_other_layers_cannot_be_tied() -> None:
    with pytest.raises(RaeflowError, match="upsampling='nearest'"):
        tied.Hyper(upsampling="nearest")


@pytest.mark.parametrize("variant", [tied, greedy])
def test_published_values_are_the_stack_of_the_source(variant: Any) -> None:
    made = variant.Model((1, 28, 28), variant.published((1, 28, 28)))
    told = [type(m).__name__ for half in (made.encoder, made.code_activation, made.decoder) for m in half.modules()]
    sizes = [(m.in_features, m.out_features) for m in made.encoder.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(784, 100), (100, 30)]
    assert told.count("SELU") == 3
    assert made.hyper.loss == "bce"
    biases = 100 + 30 + 100 + 784
    assert sum(p.numel() for p in made.parameters()) == (784 * 100 + 100 * 30) * (1 if variant is tied else 2) + biases


# Greedy

STACKS: list[tuple[tuple[int, ...], dict[str, Any], int]] = [
    *((shape, values, (len(values["layers"]) + (values.get("latent", 8) > 0))) for shape, values in NETWORKS),
    ((3, 17, 13), {"layers": (4, 5), "pooling": "max_same", "upsampling": "nearest", "latent": 0}, 2),
    ((2, 37), {"layers": (4, 5), "upsampling": "nearest", "activation": "gelu", "pooling": "max"}, 3),
    ((12,), {"depth": 0}, 1),
]
each_stack = pytest.mark.parametrize(("shape", "values", "count"), STACKS, ids=str)


def owner(made: greedy.Model) -> dict[str, int]:
    """The pair that each parameter belongs to."""
    pairs = {id(p): i for i, pair in enumerate(made.pairs) for half in pair for m in half for p in m.parameters()}
    return {name: pairs[id(p)] for name, p in made.named_parameters()}


@each_stack
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_each_phase_moves_its_own_layer_alone(shape: tuple[int, ...], values: dict[str, Any], count: int, optimizer: str) -> None:
    torch.manual_seed(0)
    hyper = greedy.Hyper(**{"activation": "tanh", **values}, fine_tuning=0.4, weight_decay=0.1, optimizer=optimizer)
    made = greedy.Model(shape, hyper)
    assert len(made.pairs) == count
    (optimiser,) = made.optimizers().values()
    pair, x = owner(made), torch.rand(6, *shape)
    for phase in [*range(count), None]:
        before = {name: p.detach().clone() for name, p in made.named_parameters()}
        for step in range(2):
            progress = 0.9 if phase is None else 0.6 * (phase + (step + 0.5) / 2) / count
            optimiser.zero_grad()
            turn(made, x, progress).backward()
            optimiser.step()
        moved = {pair[name] for name, p in made.named_parameters() if not torch.equal(p, before[name])}
        assert moved == ({phase} if phase is not None else set(range(count)))


def test_layers_share_what_fine_tuning_leaves() -> None:
    made = greedy.Model((12,), greedy.Hyper(layers=(9, 5), latent=3, fine_tuning=0.25))
    phases = [made.phase(i / 1000) for i in range(1000)]
    assert [phases.count(p) for p in (0, 1, 2, None)] == [250, 250, 250, 250]
    assert phases == sorted(phases, key=lambda p: 3 if p is None else p)
    assert greedy.Model((12,), greedy.Hyper(fine_tuning=0)).phase(0.9999) == 2


def test_the_second_layer_rebuilds_the_codes_of_the_first() -> None:
    torch.manual_seed(0)
    made = greedy.Model((1, 4, 3), greedy.Hyper(backbone="mlp", layers=(7,), latent=2, activation="selu", code_activation=True, loss="bce"))
    x = torch.rand(5, 1, 4, 3)
    first, second = (m for m in made.encoder if isinstance(m, nn.Linear))
    last, outer = (m for m in made.decoder if isinstance(m, nn.Linear))
    hidden = nn.functional.selu(first(x.flatten(1)))
    rebuilt = nn.functional.selu(last(nn.functional.selu(second(hidden))))
    torch.testing.assert_close(turn(made, x, 0.3), (rebuilt - hidden).square().mean())
    shallow = nn.functional.binary_cross_entropy_with_logits(outer(hidden), x.flatten(1))
    torch.testing.assert_close(turn(made, x, 0.1), shallow)
    torch.testing.assert_close(turn(made, x, 0.8), nn.functional.binary_cross_entropy(made.reconstruct(x), x))


def digits(shape: tuple[int, ...]) -> Splits:
    rows = torch.tensor(load_digits().data, dtype=torch.uint8).reshape(-1, *shape)
    spec = RowSpec(("pixels",), "list", shape, "uint8")
    return Splits(spec, fit_scaling("unit", shape, rows.dtype, [rows]), Rows(rows[:512]), Rows(rows[1500:]), None, None)


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8)], ids=str)
def test_the_stack_rebuilds_before_fine_tuning_and_better_after_it(shape: tuple[int, ...]) -> None:
    """Held-out digits: error of the mean row, of the stack as trained layer by layer, and after as many epochs again."""
    splits = digits(shape)
    stack = {"layers": (32, 16) if len(shape) == 1 else (8, 16), "latent": 8, "activation": "tanh", "lr": 5e-3}
    plan = Training(epochs=16, batch_size=32, patience=None, device="cpu")
    alone = Run("greedy", {**stack, "fine_tuning": 0.0}, splits, plan)
    untrained = scores(alone.model, alone.encoding, splits.validate).mean()
    for _ in alone.epochs():
        pass
    layered = scores(alone.model, alone.encoding, splits.validate).mean()
    longer = fit("greedy", {**stack, "fine_tuning": 0.5}, splits, dataclasses.replace(plan, epochs=32)).history[-1]["validation_loss"]
    x, held = (splits.encoding(part.x) for part in (splits.train, splits.validate))
    nothing = (held - x.mean(0)).square().mean()
    assert layered < 0.8 * nothing < nothing < untrained
    assert longer < 0.9 * layered


def test_nobody_judges_a_stack_that_is_not_complete() -> None:
    plan = Training(epochs=10, batch_size=64, patience=1, device="cpu")
    run = Run("greedy", {"layers": (16,), "latent": 4, "fine_tuning": 0.5, "lr": 0.05}, digits((64,)), plan)
    settled = [epoch.settled for epoch in run.epochs()]
    assert settled[:5] == [False] * 4 + [True]
    assert run.best_epoch >= 5
