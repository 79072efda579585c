"""Variants that are no networks: the scores of scikit-learn, one epoch, and the way of every other variant through the rest."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from raeflow import Data, Search, Study, Training, heads, neighbours, training, variants
from raeflow.cluster import estimate, trial
from raeflow.cluster.trial import plan, reports
from raeflow.committees import elected, flops
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling, scaled_rows
from raeflow.detector import Detector
from raeflow.devices import device_of
from raeflow.errors import RaeflowError
from raeflow.selection import judge
from raeflow.stored import load_fitted, save_fitted
from raeflow.study import Calibration
from raeflow.training import Run, fit, scores
from raeflow.variants import isolation_forest, knn

NAMES = ("isolation_forest", "knn")
each = pytest.mark.parametrize("name", NAMES)
PLAN = Training(epochs=7, batch_size=32, patience=1, device="cpu")


def cells() -> Tensor:
    """569 real rows of 30 values, standardised."""
    x = load_breast_cancer().data
    return torch.from_numpy(((x - x.mean(0)) / x.std(0)).astype(np.float32))


def splits(x: Tensor | None = None) -> Splits:
    x = torch.from_numpy(load_breast_cancer().data.astype(np.float32)) if x is None else x
    spec = RowSpec(tuple(f"c{i}" for i in range(x.shape[1])), "columns", tuple(x.shape[1:]), "float32")
    parts = [Rows(part.contiguous()) for part in (x[:300], x[300:400], x[400:500], x[500:])]
    return Splits(spec, fit_scaling("standard", tuple(x.shape[1:]), torch.float32, [x[:300]]), *parts, fingerprint="cells")


def fitted(name: str, x: Tensor, seed: int = 0, **hyper: object) -> torch.nn.Module:
    model = variants.build(name, tuple(x.shape[1:]), hyper)
    model.fit_rows(x, seed)
    return model.eval()


# Scores


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("count", [47, 400])
def test_a_bank_of_all_rows_is_scikit_learns_neighbours(k: int, count: int) -> None:
    x = cells()
    model = fitted("knn", x[:count], k=k)
    apart, places = NearestNeighbors(n_neighbors=k).fit(x[:count].double()).kneighbors(x[count:].double())
    torch.testing.assert_close(model.score(x[count:]).double(), torch.from_numpy(apart.mean(1)), rtol=1e-5, atol=1e-6)
    expected = x[:count][torch.from_numpy(places)].mean(1)
    torch.testing.assert_close(model.reconstruct(x[count:]), expected, rtol=1e-4, atol=1e-5)


def test_rows_far_from_zero_keep_their_neighbours() -> None:
    x = (100 * cells()).round() / 128  # so fine that a shift by 10,000 loses nothing
    near, far = fitted("knn", x[:400]), fitted("knn", x[:400] + 10_000)
    torch.testing.assert_close(far.score(x[400:] + 10_000), near.score(x[400:]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(far.reconstruct(x[400:] + 10_000) - 10_000, near.reconstruct(x[400:]), rtol=0, atol=5e-3)


def test_fewer_rows_than_neighbours_stand_in_for_each_other() -> None:
    x = cells()
    assert torch.isfinite(fitted("knn", x[:3], k=8).score(x)).all()
    one = fitted("knn", x[:1], k=2, transform="quantile")
    torch.testing.assert_close(one.score(x), (x - x[0]).norm(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.reconstruct(x[:4]), x[:1].expand(4, -1))


def test_quantiles_make_features_normal_and_leave_outliers_outside() -> None:
    x = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)).exp().square()
    x[:, 1] = (x[:, 1] > 4).float()  # two values alone
    model = fitted("knn", x, transform="quantile")
    found = knn.to_normal(x, model.quantiles, model.levels)
    inner = slice(50, -50)  # beyond the first and last quantile the values' own units count
    assert found[:, 0].sort().values[inner].numpy() == pytest.approx(norm.ppf((np.arange(5000) + 0.5) / 5000)[inner], abs=0.05)
    assert found[:, 0].mean() == pytest.approx(0, abs=0.01) and found[:, 0].std() == pytest.approx(1, abs=0.02)
    assert (found[:, 0].argsort() == x[:, 0].argsort()).float().mean() > 0.99
    share = float(x[:, 1].mean())
    for value, level in ((0.0, (1 - share) / 2), (1.0, 1 - share / 2)):
        assert float(found[x[:, 1] == value, 1].mean()) == pytest.approx(norm.ppf(level), abs=0.05), "ties have the middle of their ranks"
    edge = x.amax(0)
    beyond = knn.to_normal(torch.stack([edge, edge + 3, x.amin(0) - 2]), model.quantiles, model.levels)
    assert (beyond[1] - beyond[0]).tolist() == pytest.approx([3, 3], rel=1e-4)
    assert float(beyond[2, 0]) == pytest.approx(float(found[:, 0].min()) - 2, rel=1e-4)


@pytest.mark.parametrize("samples", [64, 256, 1024])
def test_a_forest_scores_as_scikit_learns(samples: int) -> None:
    x = cells()
    theirs = IsolationForest(max_samples=min(samples, 400), random_state=3).fit(x[:400].numpy())
    mine = fitted("isolation_forest", x[:400], seed=3, samples=samples).score(x)
    assert mine.numpy() == pytest.approx(-theirs.score_samples(x.numpy()), rel=1e-6)


def test_a_forest_of_wide_rows_and_of_ties() -> None:
    """Pixels: thresholds lie between whole numbers, and most of the first features never vary."""
    x = torch.from_numpy(load_digits().images.astype(np.float32))[:, None]
    wide = torch.nn.functional.interpolate(x, (28, 28))
    theirs = IsolationForest(random_state=1).fit(wide[:900].flatten(1).numpy()).score_samples(wide.flatten(1).numpy())
    assert fitted("isolation_forest", wide[:900], seed=1).score(wide).numpy() == pytest.approx(-theirs, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 50])
@pytest.mark.parametrize("alike", [True, False])
def test_a_forest_of_few_or_equal_rows(count: int, alike: bool) -> None:
    x = torch.ones(count, 4) if alike else cells()[:count, :4].contiguous()
    theirs = IsolationForest(random_state=0).fit(x.numpy()).score_samples(cells()[:, :4].numpy())
    assert fitted("isolation_forest", x).score(cells()[:, :4]).numpy() == pytest.approx(-theirs, rel=1e-6)


def test_a_bound_in_float32_parts_the_same_rows() -> None:
    bounds = np.random.default_rng(0).normal(size=2000)
    near = bounds.astype(np.float32)
    bounds[:500] = near[:500]  # exact ones
    found = isolation_forest.float32_bounds(bounds)
    for x in (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))):
        assert np.array_equal(x.astype(np.float64) <= bounds, x <= found)


def test_the_forest_expects_the_median() -> None:
    x = cells()
    model = fitted("isolation_forest", x[:301])
    assert torch.equal(model.reconstruct(x[:3]), x[:301].median(0).values.expand(3, -1))


# The loop


@each
def test_training_is_one_epoch_of_rows_the_seed_chooses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SHOT", 280)
    s = splits()
    run = Run(name, {}, s, PLAN, seed=4)
    epochs = list(run.epochs())
    assert [(e.number, e.last, e.losses) for e in epochs] == [(1, True, {})]
    assert run.history == [{"epoch": 1, "validation_loss": epochs[0].validation_loss}]
    assert list(run.epochs()) == []
    again = variants.build(name, (30,), {})
    again.fit_rows(scaled_rows(s.encoding, s.some_train(280, 4).x), 4)
    assert torch.equal(scores(run.model, run.encoding, s.test), scores(again, s.encoding, s.test))
    assert epochs[0].validation_loss == pytest.approx(float(scores(again, s.encoding, s.validate).mean()), rel=1e-6)


@each
def test_a_stream_is_seen_through_its_sample(name: str) -> None:
    s = splits()

    class Streamed:
        shape = (30,)

        def __len__(self) -> int:
            return 300

    streamed = dataclasses.replace(s, train=Streamed(), sampled=s.train)
    assert torch.equal(*(scores(fit(name, {}, one, PLAN).model(), s.encoding, s.test) for one in (s, streamed)))


@each
def test_files_and_detectors_keep_it(name: str, tmp_path: Path) -> None:
    s = splits()
    hyper = {"transform": "quantile"} if name == "knn" else {}
    made = fit(name, hyper, s, PLAN)
    back = load_fitted(save_fitted(made, tmp_path / "model"))
    assert torch.equal(scores(back.model(), s.encoding, s.test), scores(made.model(), s.encoding, s.test))
    detector = Detector.assemble([back], s, Calibration())
    again = Detector.load(detector.save(tmp_path / "detector"), device="cpu")
    assert again.id == detector.id
    x = s.test.x.numpy()
    assert np.array_equal(again.score(x), detector.score(x))
    rebuilt, strange = again.reconstruct(x), again.explain(x)
    assert rebuilt.shape == strange.shape == x.shape
    scaled = s.encoding(s.test.x) - s.encoding(torch.from_numpy(rebuilt))
    assert strange == pytest.approx(scaled.square().numpy(), rel=1e-2, abs=1e-3)
    program = torch.export.load(again.export(tmp_path / "program.pt2")).module()
    for count in (1, 3, len(x)):
        assert program(s.test.x[:count]).numpy() == pytest.approx(detector.score(x[:count]), rel=1e-5)


@each
def test_heads_that_read_residuals_do_not_apply(name: str) -> None:
    s = splits()
    model = fit(name, {}, s, PLAN).model()
    assert [head.name for head in heads.candidates(model, (30,))] == ["error"]
    assert [head.name for head in heads.candidates(model, (30,), ["memory"])] == ["error"]


@each
def test_unfitted_it_says_so(name: str) -> None:
    with pytest.raises(RaeflowError, match=f"{name}: the model was not fitted"):
        variants.build(name, (3,), {}).score(torch.zeros(2, 3))


def test_ranks_are_the_other_variants() -> None:
    with pytest.raises(RaeflowError, match="transform='none'"):
        variants.build("rank_knn", (9,), {"transform": "none"})


def test_the_device_of_a_model_without_parameters() -> None:
    model = fitted("knn", cells())
    assert not list(model.parameters()) and device_of(model) == torch.device("cpu")
    assert device_of(model.to("meta")) == torch.device("meta")
    assert device_of(torch.nn.Identity()) == torch.device("cpu")


# The search


@each
def test_a_trial_ends_after_its_one_epoch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = splits()
    study = Study(name="one", data=Data("rows"), variants=(name,), training=PLAN, home=str(tmp_path))
    hyper = dataclasses.asdict(variants.get(name).published((30,)))
    by = judge("synthetic", s, 0)
    monkeypatch.setattr(trial, "deliver", lambda fitted, folder, home: save_fitted(fitted, folder))
    (report,) = reports(plan(study, "here"), s, by, None, 0, name, hyper)
    assert report["last"] and report["epoch"] == 1 and "rung" not in report
    assert 0.5 < report["value"] <= 1 and report["judged"] == [None, {}]
    assert load_fitted(tmp_path / "one" / "trials" / "0").variant == name


def test_the_time_of_a_search_counts_one_fit() -> None:
    s = splits()
    study = Study(name="one", data=Data("rows"), variants=NAMES, training=PLAN, search=Search(trials=4, slots=1))
    costs = estimate.timed(study, s)
    assert len(costs) == 2
    for cost in costs:
        assert cost.once and cost.step == 0
        assert cost.trial(100, 50, 20) == pytest.approx(cost.once + 50 * cost.row + cost.judgement)
        assert cost.trial(100, 50, 20) == cost.trial(5, 50, 1)
    assert estimate.expectation(study, s, 4).startswith("expect up to about")


def test_they_may_vote_with_networks() -> None:
    s = splits()
    candidates = [fit(name, {}, s, PLAN) for name in ("knn", "isolation_forest", "autoencoder")]
    by = judge("synthetic", s, 0)
    costs = [flops(one, by.x) for one in candidates]
    assert all(cost > 1000 for cost in costs), "none of them is free"
    assert math.isfinite(elected(candidates, by).value)
    detector = Detector.assemble(candidates, s, Calibration())
    assert np.isfinite(detector.score(s.test.x.numpy())).all()


# Distances


@pytest.mark.parametrize(("count", "k"), [(16, 3), (200, 5), (1000, 5), (1000, 50)])
def test_distances_are_those_to_the_differences(count: int, k: int) -> None:
    noise = torch.Generator().manual_seed(count)
    x, rows = torch.randn(30, 7, generator=noise), torch.randn(count, 7, generator=noise)
    bank, lengths = neighbours.kept(rows, k)
    expected = torch.cdist(x.double(), rows.double()).topk(k, largest=False).values
    found = neighbours.distances(x, bank, lengths, k).double().sort(1).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    own = neighbours.distances(rows, bank, lengths, 1)
    assert float(own.abs().max()) < 1e-3, "a row of the bank is its own neighbour"
