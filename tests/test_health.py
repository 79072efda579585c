"""Whether drawn rows are like real ones, how many kinds they show, and when a game is given up."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.multiprocessing import spawn

from raeflow import variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.health import Gauge, collapse, gauge_of
from raeflow.metrics import frechet_distance, manifold
from raeflow.selection import judge
from raeflow.study import Data, Search, Study, Training
from raeflow.training import Diverged, Run, evaluations
from raeflow.variants._contract import Batch

PLAN = Training(epochs=6, batch_size=32, patience=None, device="cpu")


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits(labels: bool = True, count: int = 600) -> Splits:
    bunch = load_digits()
    x = torch.tensor(bunch.images[:count], dtype=torch.float32)[:, None] / 16
    label = torch.tensor(bunch.target[:count]) if labels else None
    spec = RowSpec(("image",), "list", (1, 8, 8), "float32")
    held = Rows(x[500:], label=None if label is None else label[500:])
    return Splits(spec, fit_scaling("unit", (1, 8, 8), torch.float32, [x]), Rows(x[:500], label=None if label is None else label[:500]),
                  held, None, None)  # fmt: skip


class Draws(nn.Module):
    """Draws real rows again with a little noise."""

    def __init__(self, x: Tensor, noise: float = 0.02) -> None:
        super().__init__()
        self.x, self.noise, self.weight = x, noise, nn.Parameter(torch.zeros(1))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        rows = self.x[torch.randint(len(self.x), (count,), generator=generator)]
        return rows + self.noise * torch.randn(rows.shape, generator=generator)


# Measures


def test_the_distance_of_two_gaussians_is_frechets() -> None:
    """Dowson & Landau 1982: |m - n|^2 + sum (s - t)^2 where covariances are diagonal."""
    s, t, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([2.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 3.0])
    one, other = (torch.randn(40_000, 3, generator=dice(seed)) for seed in (0, 1))
    expected = float(shift.square().sum() + (s - t).square().sum())
    assert frechet_distance(one * s, other * t + shift) == pytest.approx(expected, rel=0.03)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-6)


def test_rows_of_one_law_have_the_density_and_coverage_that_naeem_says() -> None:
    real, drawn, k = torch.randn(1000, 8, generator=dice(0)), torch.randn(800, 8, generator=dice(1)), 5
    found = manifold(real, drawn, k)
    coverage = 1 - math.prod((len(real) - i) / (len(drawn) + len(real) - i) for i in range(1, k + 1))
    assert found["coverage"] == pytest.approx(coverage, abs=0.02)
    assert found["density"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_features_far_from_the_origin_are_measured_as_those_around_it(offset: float) -> None:
    real, drawn = (0.1 * torch.randn(500, 8, generator=dice(seed)) for seed in (0, 1))
    here, there = manifold(real, drawn), manifold(real + offset, drawn + offset)
    assert all(there[name] == pytest.approx(here[name], abs=0.02) for name in here)


def test_precision_and_recall_by_hand() -> None:
    real, drawn = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([[0.5], [0.6], [0.7], [50.0]])
    found = manifold(real, drawn, k=1)
    # Real balls reach 1 far; drawn ones 0.1, 0.1, 0.1 and 49.3.
    assert found["precision"] == 0.75
    assert found["recall"] == 0.75  # all but 0 lie in the ball of 50
    assert found["density"] == (2 + 2 + 2 + 0) / 4
    assert found["coverage"] == 0.5


@pytest.mark.parametrize(("rows", "said"), [(torch.zeros(3, 2), "3, 2"), (torch.full((9, 2), math.nan), "9 of 9 drawn rows")])
def test_measures_refuse_what_they_cannot_compare(rows: Tensor, said: str) -> None:
    with pytest.raises(RaeflowError, match=said):
        manifold(torch.randn(20, 2), rows)


# The gauge


@pytest.mark.parametrize("labels", [True, False])
def test_a_dropped_kind_costs_recall_and_not_precision(labels: bool) -> None:
    splits = digits(labels)
    gauge, known = Gauge(splits), digits().train
    assert isinstance(known, Rows)
    assert known.label is not None
    whole, half = (gauge(Draws(known.x[known.label < kinds])) for kinds in (10, 3))  # type: ignore[arg-type]
    assert whole["frechet_distance"] < half["frechet_distance"]
    assert whole["coverage"] > half["coverage"] + 0.3
    assert whole["recall"] > half["recall"] + 0.3
    assert half["precision"] > 0.85
    assert whole["collapsed"] == 0.0
    if labels:
        assert whole["modes"] == 10.0
        assert 3.0 <= half["modes"] <= 5.0
        assert (gauge.named(gauge.x) == gauge.known.label).float().mean() > 0.9
    else:
        assert "modes" not in whole
    again = Gauge(splits)(Draws(known.x))  # type: ignore[arg-type]
    assert again == whole, "the same rows, features and dice"


def test_few_classes_are_no_collapse_where_the_network_finds_few_in_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge, known = Gauge(digits()), digits().train
    assert isinstance(known, Rows)
    assert known.label is not None
    ones = Draws(known.x[known.label == 1])
    assert gauge.known_modes == 10
    found = gauge(ones)  # type: ignore[arg-type]
    assert found["spread"] > 0.05
    assert found["modes"] <= 2
    assert found["collapsed"] == 1.0
    monkeypatch.setattr(gauge, "known_modes", 4)
    assert gauge(ones)["collapsed"] == 0.0  # type: ignore[arg-type]


def eight_modes(values: int) -> tuple[Splits, Tensor]:
    """Rows of eight Gaussians without labels, and the mode of each train row."""
    centres = 4 * torch.randn(8, values, generator=dice(0))
    mode = torch.randint(8, (800,), generator=dice(1))
    x = centres[mode] + torch.randn(800, values, generator=dice(2))
    spec = RowSpec(("row",), "list", (values,), "float32")
    return Splits(spec, fit_scaling("standard", (values,), x.dtype, [x]), Rows(x[:600]), Rows(x[600:]), None, None), mode[:600]


@pytest.mark.parametrize("values", [6, 24], ids=["its own features", "learned features"])
def test_two_of_eight_modes_without_labels_are_narrow_and_six_are_not(values: int) -> None:
    splits, mode = eight_modes(values)
    gauge = Gauge(splits)
    assert "modes" not in gauge(Draws(gauge.x)), "rows without labels"  # type: ignore[arg-type]
    x = splits.encoding(splits.train.x)  # type: ignore[attr-defined]
    found = {modes: gauge(Draws(x[mode < modes])) for modes in (1, 2, 4, 6, 8)}  # type: ignore[arg-type]
    assert {modes: one["narrow"] for modes, one in found.items()} == {1: 1.0, 2: 1.0, 4: 0.0, 6: 0.0, 8: 0.0}
    assert found[2]["spread"] > 0.2, "their variance tells nothing"
    assert found[2]["collapsed"] == 0.0
    assert found[2]["coverage"] == pytest.approx(0.25, abs=0.05)
    point = gauge(Draws(x[:1], noise=0.0))  # type: ignore[arg-type]
    assert point["collapsed"] == 1.0
    noise = gauge(Draws(3 * torch.randn(600, values, generator=dice(3))))  # type: ignore[arg-type]
    assert noise["narrow"] == noise["collapsed"] == 0.0, "bad rows are no narrow ones"
    evaluations = [{"epoch": epoch, **found[2]} for epoch in range(1, 9)]
    said = [collapse(evaluations[:done], 8) for done in range(1, 9)]
    assert said[:5] == [None] * 5, "three eighths aside, three in a row"
    assert said[5] is not None
    assert "by epoch 6" in said[5]
    assert "coverage 0.2" in said[5]
    assert collapse([{"epoch": epoch, **found[6]} for epoch in range(1, 9)], 8) is None


@pytest.mark.parametrize(
    ("coverage", "alarm"), [((0.12, 0.19, 0.28), None), ((0.25, 0.25, 0.25), 8), ((0.25, 0.20, 0.27), 8), ((0.25, 0.25, 0.28), None)]
)
def test_narrow_rows_whose_coverage_grows_are_no_alarm(coverage: tuple[float, ...], alarm: int | None) -> None:
    late = [{**record(6 + place, 0.0), "narrow": 1.0, "coverage": covered, "recall": 0.1} for place, covered in enumerate(coverage)]
    history = [record(epoch, 0.0) for epoch in range(1, 6)] + late
    said = collapse(history, 8)
    assert (said is None) == (alarm is None)
    if said:
        assert f"by epoch {alarm}" in said
        assert "as they were at epoch 6" in said
    assert collapse([*history[:6], {**late[1], "narrow": 0.0}, late[2]], 8) is None, "three in a row"


@pytest.mark.parametrize(("variant", "over"), [("wgan_div", {"critic_steps": 2}), ("dcgan", {})])
def test_a_healthy_game_raises_no_alarm_at_any_time(variant: str, over: dict[str, Any]) -> None:
    """Published games on rows of three directions and noise: they pass through a narrow stage, and leave it."""
    x = torch.randn(800, 3, generator=dice(0)) @ torch.randn(3, 6, generator=dice(1)) + 0.5 * torch.randn(800, 6, generator=dice(2))
    spec = RowSpec(("row",), "list", (6,), "float32")
    splits = Splits(spec, fit_scaling("standard", (6,), x.dtype, [x]), Rows(x[:600]), Rows(x[600:]), None, None)
    plan = dataclasses.replace(PLAN, epochs=36, batch_size=64, health=8)
    run = Run(variant, {**vars(variants.get(variant).published((6,))), **over}, splits, plan, 0, gauge_of(splits, plan, 0))
    due = evaluations(plan, run.model.game_share)
    for epoch in run.epochs():
        assert collapse(run.history, len(due)) is None
        if epoch.number == due[-1]:
            break
    told = [record for record in run.history if "narrow" in record]
    assert told[0]["narrow"] == 1.0
    assert told[-1]["narrow"] == told[-1]["collapsed"] == 0.0
    assert told[-1]["coverage"] > 0.5


def test_a_game_that_learned_two_of_eight_modes_raises_the_alarm() -> None:
    splits, mode = eight_modes(6)
    two = dataclasses.replace(splits, train=splits.train.take(mode < 2))  # type: ignore[attr-defined]
    hyper = {**vars(variants.get("dcgan").published((6,))), "game": 1.0}
    run = Run("dcgan", hyper, two, dataclasses.replace(PLAN, epochs=80, health=8), 0, Gauge(splits))
    said = [collapse(run.history, 8) for _ in run.epochs()]
    raised = [sentence for sentence in said if sentence]
    assert raised and "drawn rows look real" in raised[0]
    assert run.history[-1]["spread"] > 0.1


def test_one_row_for_all_is_a_collapse() -> None:
    gauge = Gauge(digits(labels=False))
    found = gauge(Draws(gauge.x[:1], noise=0.01))  # type: ignore[arg-type]
    assert found["spread"] < 0.05
    assert found["collapsed"] == 1.0
    assert found["coverage"] < 0.2


def test_measuring_a_game_changes_nothing_of_it() -> None:
    splits = digits()
    hyper = {**vars(variants.get("gan").published((1, 8, 8))), "layers": (8,), "kernels": ()}
    model = variants.build("gan", (1, 8, 8), hyper).train()
    before, thrown = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    found = Gauge(splits)(model)
    assert torch.equal(thrown, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    x = splits.encoding(splits.train.x).requires_grad_()  # type: ignore[attr-defined]
    assert found["critic_slope"] > 0
    assert all(math.isfinite(value) for value in found.values())
    slope = torch.autograd.grad(model.judge(x).sum(), x)[0].flatten(1).norm(dim=1)
    assert float(slope.min()) <= found["critic_slope"] <= float(slope.max())


def test_rows_that_are_not_finite_end_a_run() -> None:
    with pytest.raises(Diverged, match="not finite"):
        Gauge(digits(labels=False))(Draws(torch.full((1, 1, 8, 8), math.nan)))  # type: ignore[arg-type]


def test_what_draws_nothing_has_no_health() -> None:
    with pytest.raises(RaeflowError, match="autoencoder draws no rows"):
        Gauge(digits())(variants.build("autoencoder", (1, 8, 8), {}))


# In training


@pytest.mark.parametrize(("planned", "game", "expected"), [(8, 2 / 3, [1, 2, 3, 4]), (2, 2 / 3, [2, 4]), (0, 2 / 3, []), (3, 0.0, [])])
def test_evaluations_are_spread_over_the_game(planned: int, game: float, expected: list[int]) -> None:
    assert evaluations(dataclasses.replace(PLAN, health=planned), game) == expected


def game(splits: Splits, health: int, seed: int = 0) -> Run:
    hyper = {**vars(variants.get("wgan_gp").published((1, 8, 8))), "layers": (8,), "kernels": (), "critic_steps": 1}
    plan = dataclasses.replace(PLAN, health=health)
    return Run("wgan_gp", hyper, splits, plan, seed, gauge_of(splits, plan, seed))


def test_health_is_in_the_history_and_changes_no_weight() -> None:
    splits = digits()
    measured, plain = game(splits, 2), game(splits, 0)
    told = [epoch.health for epoch in measured.epochs()]
    assert [bool(health) for health in told] == [False, True, False, True, False, False]
    assert measured.history[3].items() >= told[3].items() > {"modes": told[3]["modes"]}.items()
    assert {"frechet_distance", "precision", "recall", "density", "coverage", "critic_slope", "modes"} <= set(told[3])
    for _ in plain.epochs():
        pass
    assert all(torch.equal(a, b) for a, b in zip(measured.model.state_dict().values(), plain.model.state_dict().values(), strict=True))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_cannot_measure_leaves_none_waiting(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = game(digits(), 2)
    heard: list[Any] = []

    def broadcast(told: list[Any], source: int) -> None:
        heard.append(told[source])
        told[0] = "features are not finite"

    def measure(model: Any) -> dict[str, float]:
        raise RaeflowError("features are not finite")

    monkeypatch.setattr("torch.distributed.broadcast_object_list", broadcast)
    run.gauge, run.rank, run.world, run.done = measure, rank, 2, 2
    with pytest.raises(Diverged, match="features are not finite"):
        run._health()
    assert heard == [None if rank else "features are not finite"]


def _work(rank: int, world: int, folder: str) -> None:
    """One of two workers: a game on rows without classes, measured by a network that one of them trains; then a bad row of one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    splits = digits(labels=False)
    plan = dataclasses.replace(PLAN, epochs=1, health=1)
    hyper = {**vars(variants.get("gan").published((1, 8, 8))), "layers": (8,), "kernels": (), "game": 1.0, "output": "sigmoid"}
    run = Run("gan", hyper, splits, plan, 0, gauge_of(splits, plan, 0))
    told = [dict(epoch.health) for epoch in run.epochs()]
    bad = Batch(torch.full((4, 1, 8, 8), 1.0 + rank), world=world)
    try:
        next(run.model.turns(bad, 0.0))
    except RaeflowError as error:
        told.append({"said": str(error)})
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_two_workers_measure_rows_without_classes_and_refuse_as_one(tmp_path: Path) -> None:
    spawn(_work, (2, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first[0]["frechet_distance"] > 0
    assert "spans 1 to 2" in first[1]["said"]


def test_rows_of_unknown_class_are_left_out_of_the_classes() -> None:
    splits = digits()
    known = splits.train
    assert isinstance(known, Rows) and known.label is not None
    some = dataclasses.replace(splits, train=Rows(known.x, label=torch.where(torch.arange(500) < 100, -1, known.label)))
    gauge = Gauge(some)
    assert gauge.classes == 10
    assert gauge.modes(gauge.x) == 10
    none = Rows(known.x, label=torch.full((500,), -1))
    assert Gauge(dataclasses.replace(splits, train=none)).classes == 0
    assert Gauge(dataclasses.replace(splits, train=Rows(known.x, label=known.label - 2))).classes == 0


@pytest.mark.parametrize("variant", ["progressive", "stylegan"])
def test_growing_games_are_compared_by_what_they_draw_once_they_have_grown(variant: str) -> None:
    for growth in (1.0, 0.5):
        hyper = {"layers": (4, 8), "latent": 4, "game": 0.8, "growth": growth}
        assert variants.build(variant, (1, 8, 8), hyper).drawn_from == 0.8 * growth
        assert variants.build(variant, (6,), {**hyper, "layers": (8,)}).drawn_from == 0.0
    assert variants.build("gan", (1, 8, 8), {}).drawn_from == 0.0


def record(epoch: int, collapsed: float) -> dict[str, Any]:
    return {"epoch": epoch, "collapsed": collapsed, "spread": 0.01, "modes": 2.0, "coverage": 0.02, "precision": 1.0}


@pytest.mark.parametrize(
    ("flags", "alarm"),
    [([1, 1, 1, 1], None), ([1, 1, 1, 1, 1], 5), ([0, 0, 0, 0, 1, 0, 1], None), ([0, 0, 0, 0, 1, 1], 6), ([1, 1, 1, 1, 1, 0], None)],
)
def test_the_alarm_wants_two_in_a_row_and_no_child(flags: list[int], alarm: int | None) -> None:
    history = [record(epoch, float(flag)) for epoch, flag in enumerate(flags, 1)]
    said = collapse(history, 8)
    assert (said is None) == (alarm is None)
    if said:
        assert f"by epoch {alarm}" in said
        assert "1.0% of the variance" in said
        assert "2 of their classes" in said


def test_a_judge_of_drawing_ranks_by_distance() -> None:
    splits = digits()
    judged = judge("generation", splits, 0)
    known = splits.train
    assert isinstance(known, Rows)
    assert known.label is not None
    whole, half = (judged(Draws(known.x[known.label < kinds]), splits.encoding) for kinds in (10, 3))  # type: ignore[arg-type]
    assert half < whole <= 0
    with pytest.raises(RaeflowError, match="draws no rows"):
        judged(variants.build("autoencoder", (1, 8, 8), {}), splits.encoding)
    assert Search(selection="generation").selection == "generation"
    with pytest.raises(RaeflowError, match="health=-1"):
        Training(health=-1)


COLLAPSING = {"backbone": "mlp", "layers": (64,), "kernels": (), "strides": (), "activation": "relu", "lr": 0.05}
"""A generator whose units die at this rate: it draws one blot from the first epoch on."""


def end_of(variant: str, over: dict[str, Any], tmp_path: Path, **search: Any) -> dict[str, Any]:
    """The last report of a trial, as its search hears it."""
    from raeflow.cluster.trial import gauge, plan, reports

    splits = digits()
    training = dataclasses.replace(PLAN, epochs=12)
    study = Study(name="ends", data=Data("digits"), variants=(variant,), training=training, search=Search(**search), home=str(tmp_path))
    ours, judged = plan(study, ""), judge("generation", splits, 0)
    hyper = {**vars(variants.get(variant).published((1, 8, 8))), **over}
    *_, last = reports(ours, splits, judged, gauge(ours, splits, judged), 0, variant, hyper)
    return last


def test_a_trial_whose_game_collapses_is_ended_and_says_so(tmp_path: Path) -> None:
    last = end_of("gan", COLLAPSING, tmp_path)
    assert last["last"]
    assert 5 <= last["epoch"] < 12, "the second evaluation after the first three eighths, or a later one"
    assert "value" not in last
    assert f"the game collapsed by epoch {last['epoch']}: drawn rows show" in last["message"]


def test_a_collapse_ends_nothing_where_it_shall_not_nor_does_a_young_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raeflow.cluster.trial.deliver", lambda *_: None)
    suffered = end_of("gan", COLLAPSING, tmp_path, stop_collapsed=False)
    young = end_of("wgan_gp", {"layers": (16,), "kernels": (), "critic_steps": 1, "lr": 2e-3}, tmp_path)
    for last in (suffered, young):
        assert last["epoch"] == 12
        assert "message" not in last
    assert young["value"] > suffered["value"]
