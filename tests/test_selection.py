"""Judges rank models as labels would, read no label and no test row, and say the same thing twice."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from raeflow import metrics, selection, synthetic, training, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.errors import RaeflowError
from raeflow.selection import Trial, best, judge
from raeflow.study import Training
from raeflow.synthetic import _patches

SHAPES = [(6,), (1,), (1, 1), (2, 2), (3, 40), (1, 1, 1), (1, 8, 8), (3, 12, 9)]


def digits(shape: tuple[int, ...] = (64,), rows: int = 900) -> Splits:
    """Real digits; threes are the anomalies, held out of all but test and labelled validation."""
    data = load_digits()
    values = torch.from_numpy(data.data[:rows]).float().reshape(-1, *shape)
    strange = torch.from_numpy(data.target[:rows] == 3)
    normal = values[~strange]
    cut = [int(len(normal) * share) for share in (0.6, 0.7, 0.8)]
    train, validate, calibrate, held = normal.tensor_split(cut)
    scaling = fit_scaling("auto", shape, torch.float32, [train])

    def with_anomalies(part: torch.Tensor, part_strange: torch.Tensor) -> Rows:
        truth = torch.arange(len(part) + len(part_strange)) >= len(part)
        return Rows(torch.cat([part, part_strange]), anomaly=truth)

    odd = values[strange]
    return Splits(
        RowSpec(("x",), "list", shape, "float32"), scaling, Rows(train), Rows(validate), Rows(calibrate),
        with_anomalies(held, odd[::2]), with_anomalies(validate, odd[1::2]),
    )  # fmt: skip


def model(splits: Splits, epochs: int, latent: int = 8) -> training.Variant:
    hyper = {"latent": latent, "width": 32, "depth": 1}
    if not epochs:
        torch.manual_seed(0)
        return variants.build("autoencoder", splits.spec.shape, hyper).eval()
    plan = Training(epochs=epochs, batch_size=32, device="cpu")
    return training.fit("autoencoder", hyper, splits, plan).model()


@pytest.mark.parametrize("kind", ["synthetic", "validation_loss", "labels"])
@pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (1, 64)])
def test_a_trained_model_beats_an_untrained_one(kind: str, shape: tuple[int, ...]) -> None:
    splits = digits(shape)
    ask = judge(kind, splits.for_search(), seed=0)
    untrained, trained = (ask(model(splits, epochs), splits.encoding) for epochs in (0, 15))
    assert trained > untrained
    if kind != "validation_loss":
        assert 0.5 < trained <= 1


def test_synthetic_ranks_models_as_the_truth_does() -> None:
    splits = digits(rows=1797)
    assert splits.test is not None
    ask = judge("synthetic", splits.for_search(), seed=0)
    truth, said = [], []
    for epochs, latent in ((1, 1), (1, 8), (10, 2), (10, 4), (20, 16)):
        one = model(splits, epochs, latent)
        truth.append(metrics.auroc(splits.test.anomaly, training.scores(one, splits.encoding, splits.test)))
        said.append(ask(one, splits.encoding))
    assert spearmanr(truth, said).statistic > 0.8


def test_same_seed_same_value_another_seed_another() -> None:
    splits = digits()
    one = model(splits, 3)
    first, again, other = (judge("synthetic", splits.for_search(), seed)(one, splits.encoding) for seed in (0, 0, 1))
    assert first == again != other
    assert abs(first - other) < 0.03


def test_judging_reads_no_label_and_changes_nothing() -> None:
    splits = digits()
    one = model(splits, 3)
    before = {k: v.clone() for k, v in one.state_dict().items()}
    assert splits.labelled is not None
    turned = replace(splits.labelled, anomaly=~splits.labelled.anomaly)  # type: ignore[operator]
    label = torch.randint(0, 9, (len(splits.validate),))
    poisoned = replace(splits.for_search(), labelled=turned, validate=replace(splits.validate, label=label))
    for kind in ("synthetic", "validation_loss"):
        assert judge(kind, splits.for_search(), 0)(one, splits.encoding) == judge(kind, poisoned, 0)(one, splits.encoding)
    assert judge("labels", splits.for_search(), 0)(one, splits.encoding) == pytest.approx(
        1 - judge("labels", poisoned, 0)(one, splits.encoding)
    )
    assert all(torch.equal(before[k], v) for k, v in one.state_dict().items())


def test_judging_draws_no_global_random_number() -> None:
    splits = digits()
    one = model(splits, 1)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    judge("synthetic", splits.for_search(), 0)(one, splits.encoding)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_synthetic_anomalies_of_any_shape(shape: tuple[int, ...]) -> None:
    rows = torch.randn(40, *shape, generator=torch.Generator().manual_seed(3))
    rows.view(40, -1)[:, 1:2] = 1.0  # a constant feature stays one
    made = synthetic.make(rows, 100, seed=0)
    again = synthetic.make(rows, 100, seed=0)
    assert made
    for name, x in made.items():
        assert x.shape[1:] == rows.shape[1:]
        assert 0 < len(x) <= 100
        assert bool(torch.isfinite(x).all())
        assert torch.equal(x, again[name])
        if rows[0].numel() > 1:  # of a single value, what another row has is all that there is
            assert not (x[:, None] == rows[None]).flatten(2).all(2).any(), name
    if len(shape) == 1 and shape[0] > 1:
        assert all(bool((x[:, 1] == 1).all()) for x in made.values())


def test_images_keep_their_range_and_parts_leave_the_rest() -> None:
    rows = digits((1, 8, 8)).validate.x / 16
    made = synthetic.make(rows, 300, seed=1)
    assert list(made) == ["occluded", "pasted", "spliced", "reshaped"]
    for name, x in made.items():
        assert float(x.min()) >= 0, name
        assert float(x.max()) <= 1, name
        nearest = (x[:, None] - rows[None]).abs().gt(1e-5).flatten(2).float().mean(2).amin(1)
        assert 0 < float(nearest.mean()) < (0.5 if name != "reshaped" else 1), name


def test_parts_of_images_come_from_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(50, 2, 12, 10, generator=generator)
    places = rows.flatten(2).movedim(1, 2).flatten(0, 1)  # both channels of each place of each row
    for maker in (_patches.pasted, _patches.spliced):
        x = maker(rows, rows, generator)
        changed = (x != rows).any(1)
        assert torch.equal(changed.any(0), torch.ones(12, 10, dtype=torch.bool)), "parts lie everywhere"
        assert all(bool((value == places).all(1).any()) for value in x.movedim(1, -1)[changed][:200])
        assert 0 < float(changed.float().mean()) < 0.5
        for row in changed[changed.flatten(1).any(1)]:
            down, right = row.any(1).nonzero().squeeze(1), row.any(0).nonzero().squeeze(1)
            box = row[down.min() : down.max() + 1, right.min() : right.max() + 1]
            assert bool(box.all()), "a part is a rectangle"
    spliced = _patches.spliced(rows, rows, generator)
    assert bool((spliced[:, None] == rows[None]).all(2).any(1).all()), "each place is some row's own"


def test_an_image_out_of_shape_keeps_its_middle() -> None:
    generator = torch.Generator().manual_seed(0)
    down, right = torch.meshgrid(torch.arange(21.0), torch.arange(31.0), indexing="ij")
    rows = torch.stack([down, right]).expand(40, 2, 21, 31)
    x = _patches.reshaped(rows, rows, generator)
    assert torch.allclose(x[:, :, 10, 15], torch.tensor([10.0, 15.0]).expand(40, 2), atol=1e-4)
    zoom = x[:, 1, 10, 16] - x[:, 1, 10, 15]
    assert float(zoom.min()) >= 1 / _patches.ZOOM - 1e-4
    assert float(zoom.max()) <= _patches.ZOOM + 1e-4
    assert float(zoom.std()) > 0.1


def test_small_defects_of_signals_are_small_and_the_others_are_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    length = 200
    rows = torch.randn(300, 2, length, generator=generator).cumsum(2)
    for maker in (_patches.spotted, _patches.chipped):
        changed = (maker(rows, rows, generator) != rows).any(1).sum(1)
        assert 1 <= float(changed.float().mean()) <= 0.03 * length
        assert int(changed.max()) <= 0.03 * length
    moved = (_patches.spotted(rows, rows, generator) - rows).abs().amax((1, 2)) / rows.std(correction=0)
    assert 0.2 < float(moved.min()) < 1
    assert 2 < float(moved.max()) <= _patches.STEPS[1] + 1e-4
    louder = _patches.amplified(rows, rows, generator)
    part = (louder != rows).any(1)
    assert float(part.sum(1).max()) <= _patches.STRETCH[1] * length
    for before, after, inside in list(zip(rows, louder, part, strict=True))[:50]:
        if int(inside.sum()) > 20:
            ratio = after[0, inside].std() / before[0, inside].std()
            assert not 0.85 < float(ratio) < 1.2
    ramp = torch.arange(float(length)).expand(300, 1, length)
    late = _patches.delayed(ramp, ramp, generator) - ramp
    middle = late[:, 0, 60:140]
    assert float(middle.std(1).max()) < 1e-3, "all readings come as late"
    assert _patches.DELAYS[0] * length - 1e-3 <= float(middle.abs().min())
    assert float(middle.abs().max()) <= _patches.DELAYS[1] * length + 1e-3
    assert 0.3 < float((middle[:, 0] > 0).float().mean()) < 0.7
    bend = _patches.bent(ramp, ramp, generator) - ramp
    assert float(bend.diff(dim=2).diff(dim=2)[:, :, 70:130].abs().median()) < 1e-2, "a bend is smooth"
    assert float(bend.std(2).median()) > 1


@pytest.mark.parametrize("shape", [(2, 50), (3, 16, 16)])
def test_every_kind_changes_nearly_every_row(shape: tuple[int, ...]) -> None:
    rows = torch.rand(60, *shape, generator=torch.Generator().manual_seed(0))
    made = synthetic.make(rows, 200, seed=0)
    assert list(made) == list(synthetic.kinds(shape))
    assert all(len(x) > 180 for x in made.values())


def test_the_spread_of_a_judge_by_labels_is_what_other_rows_would_give() -> None:
    asked = judge("labels", digits(), 0)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(len(asked.x), generator=generator) + 0.7 * asked.anomaly for _ in range(300)]  # type: ignore[attr-defined]
    told = sum(asked.spread(scores) for scores in drawn) / len(drawn)  # type: ignore[attr-defined]
    assert told == pytest.approx(float(torch.tensor([asked.value(scores) for scores in drawn]).std()), rel=0.15)  # type: ignore[attr-defined]


def test_rows_beyond_and_between_lie_on_the_line_through_two_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 4, generator=generator)
    for maker, inside in ((synthetic.between, True), (synthetic.beyond, False)):
        moved = maker(rows, rows, generator)
        ways = (moved - rows)[:, None], rows[None] - rows[:, None]
        along = torch.nn.functional.cosine_similarity(*ways, dim=2)
        end = along.argmax(1) if inside else along.argmin(1)
        assert bool((along.gather(1, end[:, None]).abs() > 0.999).logical_or((moved == rows).all(1)[:, None]).all())
        share = (moved - rows).norm(dim=1) / (rows[end] - rows).norm(dim=1).clamp_min(1e-9)
        own = (moved != rows).any(1)
        low, high = synthetic.BETWEEN if inside else synthetic.BEYOND
        assert float(share[own].min()) >= low - 1e-3
        assert float(share[own].max()) <= high + 1e-3


def test_local_rows_move_along_their_neighbourhood() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.stack([torch.linspace(0, 1, 50), torch.zeros(50)], 1)
    assert bool((synthetic.local(line, line, generator)[:, 1] == 0).all()), "neighbours differ along the line alone"


def test_small_and_constant_validation_splits() -> None:
    splits = digits()
    one = model(splits, 2)
    few = replace(splits, validate=splits.validate.take(slice(0, 40)))
    assert 0 <= judge("synthetic", few, 0)(one, few.encoding) <= 1
    flat = replace(splits, validate=Rows(torch.ones(40, 64)))
    with pytest.raises(RaeflowError, match=r"40 validation rows .* constant"):
        judge("synthetic", flat, 0)
    with pytest.raises(RaeflowError, match="1 rows"):
        judge("synthetic", replace(splits, validate=splits.validate.take(slice(0, 1))), 0)


def test_many_rows_are_thinned_and_large_rows_are_few() -> None:
    splits = digits()
    many = replace(splits, validate=Rows(splits.validate.x.repeat(40, 1)))
    ask = judge("synthetic", many, 0)
    assert isinstance(ask, selection.Synthetic)
    assert len(ask.rows) == selection.NORMAL
    side = 200
    large = replace(
        splits,
        spec=replace(splits.spec, shape=(1, side, side)),
        encoding=fit_scaling("none", (1, side, side), torch.float32, []),
        validate=Rows(torch.rand(4, 1, side, side)),
    )
    asked = judge("synthetic", large, 0)
    assert isinstance(asked, selection.Synthetic)
    assert max(len(x) for x in asked.anomalies.values()) == selection.FEWEST  # a row spliced with itself is left out


def test_refusals_of_labels_and_kinds() -> None:
    splits = digits()
    assert splits.labelled is not None
    with pytest.raises(RaeflowError, match="no labels"):
        judge("labels", replace(splits, labelled=None), 0)
    with pytest.raises(RaeflowError, match="0 anomalies among"):
        judge("labels", replace(splits, labelled=splits.labelled.take(~splits.labelled.anomaly)), 0)  # type: ignore[operator]
    with pytest.raises(RaeflowError, match="'luck'"):
        judge("luck", splits, 0)


def test_a_model_that_gives_nan_is_refused() -> None:
    splits = digits()
    broken = model(splits, 0)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    for kind in ("synthetic", "validation_loss", "labels"):
        with pytest.raises(training.Diverged, match="NaN"):
            judge(kind, splits, 0)(broken, splits.encoding)


def trial(number: int, value: float | None, status: str = "complete", message: str = "") -> Trial:
    return Trial(number, "autoencoder", {}, value, None, 1, 0.0, status, message=message)  # type: ignore[arg-type]


def test_best_takes_complete_trials_first_and_breaks_ties_by_number() -> None:
    trials = [trial(0, 0.5), trial(1, 0.9), trial(2, 0.95, "pruned"), trial(3, None, "failed", "diverged")]
    trials += [trial(4, 0.9), trial(5, math.nan)]
    assert [t.number for t in best(trials, 3)] == [1, 4, 0]
    assert [t.number for t in best(trials, 4)] == [1, 4, 0, 2]
    with pytest.raises(RaeflowError, match="5 models were asked for, but only 4 of 6 trials gave one: diverged"):
        best(trials, 5)


def test_auroc_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(60, generator=generator).round(decimals=1)
    strange = torch.randn(30, generator=generator).round(decimals=1) + 0.5
    strange[0] = math.inf
    truth = [0] * 60 + [1] * 30
    assert selection.auroc(normal, strange) == pytest.approx(metrics.auroc(truth, torch.cat([normal, strange])))


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8)])
def test_spread_is_that_of_resampled_rows_and_anomalies(shape: tuple[int, ...]) -> None:
    splits = digits(shape)
    ask = judge("synthetic", splits.for_search(), seed=0)
    assert isinstance(ask, selection.Synthetic)
    scores = selection.scaled_scores(model(splits, 5), ask.x)
    sizes = [len(ask.rows), *(len(x) for x in ask.anomalies.values())]
    normal, *strange = torch.split(scores, sizes)
    generator = torch.Generator().manual_seed(0)

    def again(part: torch.Tensor) -> torch.Tensor:
        return part[torch.randint(len(part), (len(part),), generator=generator)]

    drawn = torch.tensor([ask.value(torch.cat([again(part) for part in (normal, *strange)])) for _ in range(600)])
    assert ask.spread(scores) == pytest.approx(float(drawn.std()), rel=0.12)
    assert float(drawn.mean()) == pytest.approx(ask.value(scores), abs=ask.spread(scores))
    assert ask.spread(torch.cat([torch.zeros_like(normal), *(torch.ones_like(part) for part in strange)])) == 0
    scores[0] = math.nan
    with pytest.raises(training.Diverged):
        ask.spread(scores)


def test_kinds_count_by_their_weights() -> None:
    splits = digits((1, 8, 8))
    ask = judge("synthetic", splits.for_search(), seed=0)
    assert isinstance(ask, selection.Synthetic)
    scores = torch.zeros(len(ask.x))
    sizes = [len(ask.rows), *(len(x) for x in ask.anomalies.values())]
    for kind, part in zip(ask.anomalies, torch.split(scores, sizes)[1:], strict=True):
        part.fill_(1.0)  # this kind is told apart, the others are not
        said = ask.by_kind(scores)
        assert said == {other: 1.0 if other == kind else 0.5 for other in ask.anomalies}
        total = sum(synthetic.WEIGHTS.get(other, 1.0) for other in ask.anomalies)
        assert ask.value(scores) == pytest.approx(0.5 + 0.5 * synthetic.WEIGHTS.get(kind, 1.0) / total)
        part.fill_(0.0)
