"""Every head: its contract, its numbers against another's arithmetic, its way through detectors and searches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raeflow import committees, heads, neighbours, selection, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling, scaled_rows
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.heads._contract import Outputs
from raeflow.heads.standardised import scale
from raeflow.selection import Trial
from raeflow.stored import load_fitted, save_fitted
from raeflow.study import Calibration, Data, Study, Training
from raeflow.training import Fitted, Run

SHAPES = {"table": (6,), "signal": (2, 32), "image": (1, 12, 12)}


def rows(shape: tuple[int, ...], count: int, seed: int = 0) -> torch.Tensor:
    """Rows near a sheet of three dimensions, so that a small model has something to learn."""
    generator = torch.Generator().manual_seed(seed)
    size = int(np.prod(shape))
    sheet = torch.randn(3, size, generator=torch.Generator().manual_seed(99))
    made = torch.randn(count, 3, generator=generator) @ sheet + 0.1 * torch.randn(count, size, generator=generator)
    return (torch.sigmoid(made) if len(shape) == 3 else made).view(count, *shape)


def made_splits(shape: tuple[int, ...]) -> Splits:
    parts = [Rows(rows(shape, count, seed)) for seed, count in enumerate((300, 120, 120, 60))]
    spec = RowSpec(
        tuple(f"c{i}" for i in range(shape[0])) if len(shape) == 1 else ("x",), "columns" if len(shape) == 1 else "list", shape, "float32"
    )
    mode = "unit" if len(shape) == 3 else "standard" if len(shape) == 1 else "global"
    return Splits(spec, fit_scaling(mode, shape, torch.float32, [parts[0].x]), *parts, fingerprint="f00d")


def trained(splits: Splits, variant: str = "autoencoder", epochs: int = 4) -> Fitted:
    hyper = dataclasses.asdict(variants.get(variant).published(splits.spec.shape))
    return Run(variant, hyper, splits, Training(epochs=epochs, batch_size=32, device="cpu"), 0).finish()


@pytest.fixture(scope="module", params=list(SHAPES), ids=str)
def fitted(request: pytest.FixtureRequest) -> tuple[Splits, Fitted, list[heads.Head]]:
    """A trained model with every head that it can take, fitted."""
    splits = made_splits(SHAPES[request.param])
    found = trained(splits)
    able = heads.candidates(found.model(), splits.spec.shape)
    seen = heads.collect(found.model(), selection.train_rows(splits), able)
    for head in able:
        head.fit(seen)
    return splits, found, able


def under(found: Fitted, head: heads.Head) -> Fitted:
    """The model with a head."""
    if head.name == heads.ERROR:
        return found
    return dataclasses.replace(found, head=heads.described(head), head_weights=dict(head.state_dict()))


def test_a_model_takes_every_head_whose_needs_it_meets(fitted: Any) -> None:
    splits, found, able = fitted
    shape = splits.spec.shape
    known = {h.name for h in able}
    assert able[0].name == heads.ERROR
    assert known >= {"standardised", "mahalanobis", "memory"}
    for name in heads.names():
        for hyper in heads.get(name).candidates(shape):
            head = heads.build(name, dataclasses.asdict(hyper))
            assert (head.needs <= heads.able(found.model())) == (heads.described(head) in [heads.described(h) for h in able])


def test_scores_are_finite_of_each_row_alone_and_higher_for_strange_rows(fitted: Any) -> None:
    splits, found, able = fitted
    normal = scaled_rows(splits.encoding, splits.test.x)
    strange = normal + 3 * torch.randn(normal.shape, generator=torch.Generator().manual_seed(5)) * normal.std()
    both, model = torch.cat([normal, strange]), found.model()
    for head in able:
        scores = heads.scored(model, head, both)
        assert scores.shape == (len(both),), head.name
        assert scores.isfinite().all(), head.name
        alone = torch.cat([heads.scored(model, head, row[None]) for row in both[:5]])
        torch.testing.assert_close(alone, scores[:5], rtol=1e-4, atol=1e-5)
        assert selection.auroc(scores[: len(normal)], scores[len(normal) :]) > 0.9, heads.title(heads.described(head))
        torch.testing.assert_close(heads.apply(head, heads.collect(model, both, [head])), scores, rtol=1e-4, atol=1e-5)


def test_fitting_twice_gives_the_same_head(fitted: Any) -> None:
    splits, found, able = fitted
    seen = heads.collect(found.model(), selection.train_rows(splits), able)
    for head in able:
        again = heads.build(**heads.described(head))
        again.fit(seen)
        for name, tensor in head.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_attributions_have_the_shape_of_the_row(fitted: Any) -> None:
    splits, found, able = fitted
    x = scaled_rows(splits.encoding, splits.test.x[:7])
    for head in able:
        seen = heads.outputs(found.model(), x, head.needs | {"rebuilt"})
        told = head.attribute(seen)
        assert told is None or (told.shape == x.shape and bool(told.isfinite().all())), head.name


def test_a_head_travels_with_its_model(fitted: Any, tmp_path: Path) -> None:
    splits, found, able = fitted
    for number, head in enumerate(able):
        whole = load_fitted(save_fitted(under(found, head), tmp_path / str(number)))
        assert whole.head == (None if head.name == heads.ERROR else heads.described(head))
        detector = Detector.assemble([whole], splits, Calibration())
        loaded = Detector.load(detector.save(tmp_path / f"detector{number}"), device="cpu")
        assert loaded.id == detector.id
        expected = heads.scored(found.model(), head, scaled_rows(splits.encoding, splits.test.x)).numpy()
        np.testing.assert_allclose(loaded.score(splits.test.x), expected, rtol=1e-4, atol=1e-5)
        record = json.loads((tmp_path / f"detector{number}" / "detector.json").read_text())
        assert record["format"] == (1 if head.name == heads.ERROR else 3)
        assert loaded.explain(splits.test.x[:3]).shape == (3, *splits.spec.shape)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../x"}, "head '../x': there is none"),
        ({"hyper": {"of": "row", "depth": 3}}, "no setting 'depth'"),
        ({"hyper": {"k": 1.5}}, "changed after it was saved"),
        ({"more": 1}, "changed after it was saved"),
        ({"name": "peak", "hyper": {}}, "not a whole detector"),
    ],
)
def test_a_detector_with_a_foreign_head_is_refused_in_one_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    splits = made_splits((6,))
    found = trained(splits, "autoencoder")
    head = heads.build("memory", {})
    head.fit(heads.collect(found.model(), selection.train_rows(splits), [head]))
    place = Detector.assemble([under(found, head)], splits, Calibration()).save(tmp_path / "detector")
    record = json.loads((place / "detector.json").read_text())
    record["members"][0]["head"].update(change)
    (place / "detector.json").write_text(json.dumps(record))
    with pytest.raises(RaeflowError, match=said) as refusal:
        Detector.load(place)
    assert "unexpected" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_head_exports(fitted: Any, tmp_path: Path) -> None:
    splits, found, able = fitted
    for number, head in enumerate({head.name: head for head in able}.values()):
        detector = Detector.assemble([under(found, head)], splits, Calibration())
        program = torch.export.load(detector.export(tmp_path / f"{number}.pt2")).module()
        for count in (1, 5):
            np.testing.assert_allclose(program(splits.test.x[:count]).numpy(), detector.score(splits.test.x[:count]), rtol=1e-3, atol=1e-5)


def test_a_committee_of_one_model_under_two_heads(fitted: Any, tmp_path: Path) -> None:
    splits, found, able = fitted
    memory = next(h for h in able if h.name == "memory")
    detector = Detector.assemble([found, under(found, memory)], splits, Calibration())
    loaded = Detector.load(detector.save(tmp_path / "two"), device="cpu")
    np.testing.assert_array_equal(loaded.score(splits.test.x), detector.score(splits.test.x))
    assert [m.head and m.head["name"] for m in loaded.members] == [None, "memory"]


# --- numbers ------------------------------------------------------------------------------------------------------------------


def test_nearest_finds_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (3, 17, 80, 1000):
        bank, x = torch.randn(size, 5, generator=generator), torch.randn(40, 5, generator=generator)
        k = min(5, size)
        whole = neighbours.padded(bank)
        found = neighbours.nearest(x, torch.where(whole.isinf(), 0.0, whole), neighbours.norms(whole), k)
        expected = torch.cdist(x, bank).topk(k, largest=False).indices
        assert torch.equal(found.sort(1).values, expected.sort(1).values)


def test_memory_is_scikit_learns_mean_distance() -> None:
    from sklearn.neighbors import NearestNeighbors

    train, x = rows((6,), 500), rows((6,), 50, 7)
    head = heads.build("memory", {"of": "row", "k": 4, "bank": 500})
    head.fit(Outputs(train))
    mean, std = scale(train)
    known = NearestNeighbors(n_neighbors=4).fit((train - mean) / std)
    expected = known.kneighbors((x - mean) / std)[0].mean(1)
    np.testing.assert_allclose(head(Outputs(x)).numpy(), expected, rtol=1e-4)


def test_memory_of_fewer_rows_than_neighbours() -> None:
    head = heads.build("memory", {"of": "row", "k": 5, "bank": 64})
    head.fit(Outputs(torch.eye(3)))
    assert head(Outputs(torch.ones(2, 3))).isfinite().all()


@pytest.mark.parametrize(("count", "asked"), [(90, {1, 5}), (300, {3, 5}), (600, {6}), (2500, {25}), (10**6, {40})])
def test_memory_asks_more_neighbours_where_anomalies_may_be_left(count: int, asked: set[int]) -> None:
    model = trained(made_splits((6,)), epochs=1).model()
    clean = heads.candidates(model, (6,))
    found = heads.candidates(model, (6,), unclean=count)
    others = [[heads.title(heads.described(h)) for h in listed if h.name != "memory"] for listed in (clean, found)]
    assert others[0] == others[1]
    assert {h.hyper.k for h in clean if h.name == "memory"} == {1, 5}
    own = [heads.described(h)["hyper"] for h in found if h.name == "memory"]
    assert {(h["of"], h["k"]) for h in own} == {(of, k) for of in ("code+residual", "row+residual") for k in asked}
    assert len(own) == 2 * len(asked)


def test_a_few_anomalies_that_are_alike_do_not_vouch_for_one_another() -> None:
    crowd = torch.full((6,), 5.0) + 1e-3 * torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    train = torch.cat([crowd, rows((6,), 2000)])
    module, worst = heads.get("memory"), []
    for settings in (module.candidates((6,)), module.unclean((6,), len(train))):
        ranks = []
        for k in {hyper.k for hyper in settings}:
            head = heads.build("memory", {"of": "row", "k": k})
            head.fit(Outputs(train))
            usual, odd = head(Outputs(rows((6,), 200, 7))), head(Outputs(crowd + 1e-3))
            ranks.append(float((usual < odd.min()).float().mean()))
        worst.append(min(ranks))
    assert worst[0] < 0.1
    assert worst[1] > 0.9


def test_k_centre_covers_better_than_chance() -> None:
    x = torch.cat([torch.randn(500, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([[9.0, 9.0], [-9.0, 9.0]])])
    chosen = neighbours.spread_out(x, 20)
    assert len(set(chosen.tolist())) == 20
    assert {500, 501} <= set(chosen.tolist())  # the lonely ones
    assert torch.cdist(x, x[chosen]).amin(1).max() < torch.cdist(x, x[:20]).amin(1).max() / 2


def test_mahalanobis_covariance_is_scikit_learns() -> None:
    from sklearn.covariance import LedoitWolf

    from raeflow.heads.mahalanobis import ledoit_wolf

    values = (rows((12,), 40) * torch.linspace(0.1, 3, 12)).double()
    np.testing.assert_allclose(ledoit_wolf(values).numpy(), LedoitWolf().fit(values.numpy()).covariance_, rtol=1e-6, atol=1e-9)


def test_mahalanobis_attributions_add_up_to_the_distance() -> None:
    train, x = rows((6,), 300), rows((6,), 9, 3)
    head = heads.build("mahalanobis", {"of": "residual"})
    seen, asked = Outputs(train, torch.zeros_like(train)), Outputs(x, torch.zeros_like(x))
    head.fit(seen)
    torch.testing.assert_close(head.attribute(asked).sum(1) / 6, head(asked), rtol=1e-3, atol=1e-4)  # type: ignore[union-attr]


def test_standardised_weighs_quiet_values_more_and_trusts_few_rows_less() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 10.0])
    many, few = (torch.randn(n, 3, generator=generator) * spread for n in (2000, 6))
    learnt = []
    for train in (many, few):
        head = heads.build("standardised", {})
        head.fit(Outputs(train, torch.zeros_like(train)))
        learnt.append(head.weight)
    ratios = [float(w[0] / w[2]) for w in learnt]
    assert ratios[0] == pytest.approx(1e4, rel=0.9)
    assert head(Outputs(torch.zeros(1, 3), torch.zeros(1, 3))).isfinite().all()


# --- choosing -----------------------------------------------------------------------------------------------------------------


def test_the_judge_chooses_the_head_with_the_highest_value() -> None:
    splits = made_splits((6,))
    judge = selection.judge("synthetic", splits.for_search(), 0)
    run = Run("autoencoder", dataclasses.asdict(variants.get("autoencoder").published((6,))), splits, Training(epochs=3, batch_size=32), 0)
    for _ in run.epochs():
        pass
    found = selection.judged(run, judge)
    title = heads.title(found.fitted.head)
    assert found.value == max(found.heads.values()) == found.heads[title]
    assert found.heads["error"] == pytest.approx(judge(run.model, splits.encoding))
    alone = selection.judged(run, judge, ("error",))
    assert alone.fitted.head is None
    assert alone.value == pytest.approx(found.heads["error"])
    assert set(selection.judged(run, judge, ("memory", "error")).heads) == {t for t in found.heads if t.split()[0] in ("memory", "error")}


@pytest.mark.parametrize("kind", ["validation_loss", "generation"])
def test_a_judge_of_losses_or_drawings_knows_the_models_own_score_alone(kind: str) -> None:
    splits = made_splits((6,))
    judge = selection.judge(kind, splits.for_search(), 0)
    found = trained(splits, "vae")
    told = selection.headed(found, found.model(), splits, judge)
    assert told.fitted.head is None
    assert told.heads == {}


def test_members_vote_unless_the_judge_finds_them_clearly_worse_or_too_dear() -> None:
    splits = made_splits((6,))
    judge = selection.Synthetic(splits.for_search(), 0)
    truth = torch.cat([torch.zeros(len(judge.rows)), torch.ones(len(judge.x) - len(judge.rows))])
    generator = torch.Generator().manual_seed(0)
    votes = {i: (truth + 1.0 * torch.randn(len(truth), generator=generator)).exp() for i in range(4)}
    told = committees.elect(votes, dict.fromkeys(votes, 1e3), judge)
    assert told.places == (0, 1, 2, 3)
    assert told.value > told.alone
    assert told.cost == 4
    votes[1] = torch.rand(len(truth), generator=generator)  # knows nothing
    votes[2] = (-3 * truth).exp() * votes[0]  # is wrong
    assert committees.elect(votes, dict.fromkeys(votes, 1e3), judge).places == (0, 3)
    dear = committees.elect(dict.fromkeys(range(12), votes[0]), dict.fromkeys(range(12), 1e9), judge)
    assert dear.cost == committees.COST


def test_who_is_sure_to_vote_does_so_and_keeps_nobody_out() -> None:
    splits = made_splits((6,))
    judge = selection.Synthetic(splits.for_search(), 0)
    truth = torch.cat([torch.zeros(len(judge.rows)), torch.ones(len(judge.x) - len(judge.rows))])
    generator = torch.Generator().manual_seed(0)
    votes = {i: (truth + 1.0 * torch.randn(len(truth), generator=generator)).exp() for i in range(4)}
    votes[1] = (-3 * truth).exp() * votes[0]  # is wrong
    costs = dict.fromkeys(votes, 1e3) | {1: 1e9}
    told = committees.elect(votes, costs, judge, [1])
    assert told.places == (0, 2, 3, 1)
    assert told.cost == 1e6 + 3
    assert told.value < committees.elect(votes, costs, judge).value
    assert committees.elect(votes, costs, judge, [0]).places == (0, 2, 3)


def test_a_network_is_sure_to_vote_beside_neighbours_of_whole_images() -> None:
    names = ["hog_knn", "knn", "vae", "autoencoder"]
    assert committees.sure(names, (1, 28, 28)) == committees.sure(names, (1, 140)) == [2], "the best of the networks"
    assert committees.sure(names, (12,)) == []
    assert committees.sure(names[2:], (1, 28, 28)) == [], "a network is the best"
    assert committees.sure(names[:2], (1, 28, 28)) == [], "there is none"
    assert committees.sure([*names, "isolation_forest"], (1, 28, 28), ("isolation_forest",)) == [4, 2]


def test_an_isolation_forest_is_sure_to_vote_where_anomalies_may_be_left() -> None:
    splits = made_splits((6,))
    judge = selection.Synthetic(splits.for_search(), 0)
    members = [trained(splits, name, 1) for name in ("knn", "isolation_forest")]
    assert Study(name="a", data=Data("x", contamination="auto")).firm == ("isolation_forest",)
    assert Study(name="a", data=Data("x")).firm == ()
    judge.value = lambda scores: 0.9 if scores.equal(alone) else 0.1  # type: ignore[method-assign]
    alone = heads.scored(members[0].model(), members[0].scorer(), judge.x)
    assert committees.elected(members, judge).places == (0,)
    assert committees.elected(members, judge, ("isolation_forest",)).places == (0, 1)


@pytest.mark.parametrize(("burst", "members"), [(0, (0,)), (1, (0, 2))])
def test_a_model_whose_scores_overflow_votes_alone_or_not_at_all(burst: int, members: tuple[int, ...]) -> None:
    splits = made_splits((6,))
    judge = selection.Synthetic(splits.for_search(), 0)
    score = judge.x.square().mean(1)
    votes = {i: score.clone() for i in range(3)}
    votes[burst][0] = torch.inf
    told = committees.elect(votes, dict.fromkeys(votes, 1e3), judge)
    assert told.places == members
    assert told.alone == judge.value(votes[0])


def test_the_best_of_each_variant_is_asked_first() -> None:
    def trial(number: int, variant: str, value: float | None, status: str = "complete") -> Trial:
        return Trial(number, variant, {}, value, 0.1, 1, 1.0, status)  # type: ignore[arg-type]

    trials = [trial(i, "vae", 0.9 - i / 100) for i in range(8)]
    trials += [trial(8, "knn", 0.5), trial(9, "gan", 0.99, "pruned"), trial(10, "autoencoder", 0.7), trial(11, "gan", None, "failed")]
    assert [t.number for t in committees.candidates(trials)] == [0, 10, 8, 1, 2, 3]
    assert committees.candidates(trials[9:10]) == []


def test_the_spread_of_a_judges_value_is_what_other_rows_would_give() -> None:
    splits = made_splits((6,))
    judge = selection.Synthetic(splits.for_search(), 0)
    generator = torch.Generator().manual_seed(0)
    sizes = [len(judge.rows), *(len(x) for x in judge.anomalies.values())]
    drawn = [torch.cat([torch.randn(n, generator=generator) + (i > 0) * i / 3 for i, n in enumerate(sizes)]) for _ in range(300)]
    told = sum(judge.spread(scores) for scores in drawn) / len(drawn)
    assert told == pytest.approx(float(torch.tensor([judge.value(scores) for scores in drawn]).std()), rel=0.15)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: heads.get("guess"), "guess"),
        (lambda: heads.build("memory", {"banks": 3}), "banks"),
        (lambda: heads.build("memory", {"of": "row+colour"}), "colour"),
        (lambda: heads.build("memory", {"of": "row+row"}), "twice"),
        (lambda: heads.build("memory", {"k": 9, "bank": 3}), "k=9"),
        (lambda: heads.build("memory", {"choice": "best"}), "best"),
        (lambda: Study(name="a", data=Data("digits"), heads="guess"), "guess"),
        (lambda: Study(name="a", data=Data("digits"), heads=("memory", "memory")), "once"),
        (lambda: Study(name="a", data=Data("digits"), committee="all"), "'all'"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_refused_in_a_sentence(act: Any, said: str) -> None:
    with pytest.raises(RaeflowError, match=said):
        act()


def test_a_model_without_a_code_is_told_what_it_gives() -> None:
    class Dumb(torch.nn.Module):
        rebuilds = False

    with pytest.raises(RaeflowError, match="score"):
        heads.candidates(Dumb(), (6,), ["memory"])  # type: ignore[arg-type]
