"""The report: metrics, the terminal's table, figures and the page, on real digits and on rows of every shape."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from raeflow import report, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.report import examples, judge, page, plots, terminal
from raeflow.selection import Trial
from raeflow.stored import load_fitted, save_fitted
from raeflow.study import Calibration, Data, Study, Training
from raeflow.training import fit

VOID = {"meta", "path", "use", "image", "stop", "rect", "circle", "line", "br", "link"}


@dataclasses.dataclass(frozen=True)
class Made:
    """A small study that is over."""

    study: Study
    splits: Splits
    trials: list[Trial]
    detector: Detector


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """scikit-learn's digits through Parquet, two variants trained for a moment, the 5 an anomaly."""
    from raeflow.data import load, resolve

    home = tmp_path_factory.mktemp("report")
    x, y = load_digits(return_X_y=True)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array((x / 16).astype(np.float32).ravel()), 64)
    pq.write_table(pa.table({"image": pixels, "label": y}), home / "rows.parquet")
    data = resolve(Data(home / "rows.parquet", columns="image", label="label", normal=[("label", "!=", 5)], shape=(1, 8, 8)))
    splits = load(data)
    study = Study(name="held_out_five", data=data, variants=("autoencoder", "vae"), home=str(home))
    trials, members = [], []
    for number, name in enumerate(("autoencoder", "vae", "autoencoder")):
        hyper = dataclasses.asdict(variants.hyper(name, {"latent": 6 + 2 * number}, variants.get(name).published(splits.spec.shape)))
        fitted = fit(name, hyper, splits, Training(epochs=3, batch_size=64, device="cpu"))
        members.append(fitted)
        folder = str(save_fitted(fitted, home / "trials" / str(number)))
        loss = fitted.history[-1]["validation_loss"]
        status = "pruned" if number == 2 else "complete"
        trials.append(Trial(number, name, hyper, 0.6 + number / 10, loss, 3, 1.5, status, folder, "", fitted.history))
    trials.append(Trial(3, "vae", trials[1].hyper, None, None, 1, 0.2, "failed", None, "vae diverged in epoch 1"))
    detector = Detector.assemble(members[:1], splits, Calibration(method="quantile", quantile=0.95))
    return Made(study, splits, trials, detector)


def other(shape: tuple[int, ...], kind: str = "list", columns: tuple[str, ...] = ("row",)) -> Made:
    """A study of made-up rows of any shape, anomalies five times as large."""
    x = torch.randn((400, *shape), generator=torch.Generator().manual_seed(1))
    x[380:] *= 5
    spec = RowSpec(columns, kind, shape, "float32")
    scaling = fit_scaling("auto", shape, x.dtype, [x[:200]])
    truth = torch.arange(300, 400) >= 380
    splits = Splits(spec, scaling, Rows(x[:200]), Rows(x[200:250]), Rows(x[250:300]), Rows(x[300:], anomaly=truth), fingerprint="f00d")
    fitted = fit("autoencoder", {}, splits, Training(epochs=1, batch_size=50, device="cpu"))
    detector = Detector.assemble([fitted], splits, Calibration())
    return Made(Study(name="other", data=Data("rows.parquet")), splits, [], detector)


def blind(made: Made) -> Splits:
    """The same splits with nothing known about the test rows."""
    assert made.splits.test is not None
    return replace(made.splits, test=replace(made.splits.test, anomaly=None))


def test_metrics_are_scikit_learns(digits):
    truth, scores = digits.splits.test.anomaly.numpy(), digits.detector.score(digits.splits.test.x)
    flags = scores > digits.detector.threshold.value
    m = report.judge_test(digits.detector, digits.splits)
    assert m["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert m["average_precision"] == pytest.approx(average_precision_score(truth, scores))
    assert m["f1"] == pytest.approx(f1_score(truth, flags))
    assert m["accuracy"] == pytest.approx((flags == truth).mean())
    assert m["recall"] == pytest.approx(flags[truth].mean())
    assert m["alert_rate"] == pytest.approx(flags.mean())
    assert m["false_alarm_rate"] == pytest.approx(flags[~truth].mean())
    assert (m["rows"], m["anomalies"]) == (len(truth), truth.sum())
    assert m["auroc"] > 0.6


def test_nothing_is_judged_where_no_truth_is_known(digits):
    for splits in (blind(digits), replace(digits.splits, test=None), digits.splits.for_search()):
        assert report.judge_test(digits.detector, splits) == {}
        assert report.isolation_forest(splits) == report.peers(splits) == report.baselines(splits, {}) == {}
        assert judge.judge_trial(digits.trials[0], splits) == {}
    one_kind = replace(digits.splits, test=replace(digits.splits.test, anomaly=torch.zeros(len(digits.splits.test), dtype=torch.bool)))
    assert report.judge_test(digits.detector, one_kind) == {}


def test_the_baseline_is_isolation_forest_on_the_same_rows(digits):
    s = digits.splits
    flat = {name: s.encoding(getattr(s, name).x).flatten(1).numpy() for name in ("train", "test")}
    scores = -IsolationForest(random_state=3).fit(flat["train"]).score_samples(flat["test"])
    found = report.isolation_forest(s, seed=3)
    assert found["auroc"] == pytest.approx(roc_auc_score(s.test.anomaly.numpy(), scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(s.test.anomaly.numpy(), scores))


def test_the_other_baseline_is_the_distance_to_the_nearest_train_rows(digits, monkeypatch):
    s = digits.splits
    train, test = (s.encoding(rows).flatten(1).double() for rows in (s.some_train(20_000, 3).x, s.test.x))
    expected = torch.cdist(test, train).topk(5, largest=False).values.mean(1)
    assert report.peers(s, seed=3)["kNN (k = 5)"] == pytest.approx(expected.numpy(), rel=1e-4)
    monkeypatch.setattr(judge, "KNN_ROWS", (100, 20_000))
    monkeypatch.setattr(judge, "KNN_WORK", 1)
    fewer = torch.cdist(test, s.encoding(s.some_train(100, 3).x).flatten(1).double()).topk(5, largest=False).values.mean(1)
    assert report.peers(s, seed=3)["kNN (k = 5)"] == pytest.approx(fewer.numpy(), rel=1e-4)


def test_a_trial_is_judged_by_its_own_weights(digits):
    own = judge.judge_trial(digits.trials[1], digits.splits)
    alone = Detector.assemble([load_fitted(digits.trials[1].folder)], digits.splits, Calibration())
    assert own["auroc"] == pytest.approx(report.judge_test(alone, digits.splits)["auroc"])
    assert judge.judge_trial(digits.trials[3], digits.splits) == {}


def test_the_table_shows_the_best_of_each_variant_and_the_choice(digits):
    m, b = report.judge_test(digits.detector, digits.splits), report.baselines(digits.splits, report.peers(digits.splits))
    text = report.table(digits.trials, digits.detector, digits.splits, m, b)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[2:6]] == ["vae", "autoencoder", "chosen", "baseline"]
    assert "IsolationForest" in lines[5] and "baseline  " in lines[6] and "kNN (k = 5)" in lines[6]
    assert "latent 8" in lines[2]
    assert "latent 6" in lines[3]  # the pruned trial scored higher, after fewer epochs
    assert f"{m['auroc']:.4f}" in lines[4]
    for line, found in zip(lines[5:7], b.values(), strict=True):
        assert f"{found['auroc']:.4f}" in line and f"{found['average_precision']:.4f}" in line
    assert "vae diverged in epoch 1" in lines[7]
    ends = {line.index("test AUROC") + len("test AUROC") for line in lines[:1]}
    assert {line.find(f"{value:.4f}") + 6 for line, value in ((lines[4], m["auroc"]), (lines[5], b["IsolationForest"]["auroc"]))} == ends


def test_a_search_alone_shows_nothing_of_the_test_split(digits):
    text = report.table(digits.trials, None, digits.splits)
    assert "test" not in text
    assert "chosen" not in text
    assert "selection" in text


def test_long_hyperparameters_wrap_within_the_width(digits):
    hyper = {f"a_rather_long_name_{i}": i for i in range(5)}
    trials = [Trial(n, "autoencoder", {**hyper, "latent": n}, 0.5, 0.1, 3, 1.0, "complete") for n in range(2)]
    trials += [Trial(2, "autoencoder", dict.fromkeys((*hyper, "latent"), -1), 0.4, 0.1, 3, 1.0, "complete")]
    for width in (80, 100):
        lines = report.table(trials, None, digits.splits, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum("a_rather_long_name" in line for line in lines) > 1


def test_no_trial_and_no_detector_make_an_empty_table(digits):
    assert report.table([], None, digits.splits).startswith("variant")


def test_values_are_written_as_people_write_them():
    assert terminal.value_text((64, 32)) == "64x32"
    assert terminal.value_text(0.00123456) == "0.00123"
    assert terminal.value_text(True) == "yes"
    assert terminal.value_text(None) == "none"
    assert terminal.number(None) == "-"


class Checked(HTMLParser):
    """Refuses tags that do not nest, doubled ids and anything fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.figures: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert tag not in ("script", "iframe", "object", "embed", "link")
        if tag not in VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(values["id"])
        if tag == "figure":
            self.figures.append(values["aria-label"])
        for name in ("src", "href", "xlink:href"):
            assert (values.get(name) or "#").startswith(("#", "data:")), values[name]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path: Path) -> tuple[Checked, str]:
    text = path.read_text()
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    assert len(checked.ids) == len(set(checked.ids))
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    return checked, " ".join(" ".join(checked.text).split())


def test_the_page_tells_the_whole_study(digits, tmp_path):
    path = report.write(digits.study, digits.trials, digits.detector, digits.splits, tmp_path / "report.html")
    page, text = read(path)
    m, b = report.judge_test(digits.detector, digits.splits), report.baselines(digits.splits, report.peers(digits.splits))
    assert list(b) == ["IsolationForest", "kNN (k = 5)"]
    for value in (m["auroc"], m["average_precision"], m["f1"], *(found["auroc"] for found in b.values())):
        assert f"{value:.4f}" in text
    t = digits.detector.threshold
    assert f"{t.alert_rate:.2%} expected, {t.alert_low:.2%} to {t.alert_high:.2%}" in text
    for told in (
        digits.splits.fingerprint,
        digits.detector.id,
        "label != 5",
        "Most anomalous rows",
        "raeflow score",
        "vae diverged",
        "All 4 trials",
    ):
        assert told in text
    assert len(page.figures) >= 6
    assert all(page.figures)
    raw = path.read_text()
    assert "prefers-color-scheme: dark" in raw
    assert "@media print" in raw
    assert plots.INK not in raw
    assert path.stat().st_size < 3_000_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_gets_a_page_named_report(digits, tmp_path):
    assert report.write(digits.study, [], digits.detector, blind(digits), tmp_path / "deep") == tmp_path / "deep" / "report.html"


def test_a_page_without_truth_shows_scores_and_judges_nothing(digits, tmp_path):
    _, text = read(report.write(digits.study, digits.trials, digits.detector, blind(digits), tmp_path / "r.html"))
    assert "No truth is known" in text
    assert "AUROC" not in text
    assert "Most anomalous rows" in text


def test_a_page_without_a_test_split(digits, tmp_path):
    _, text = read(report.write(digits.study, digits.trials, digits.detector, replace(digits.splits, test=None), tmp_path / "r.html"))
    assert "There is no test split" in text


@pytest.mark.parametrize("shape", [(5,), (2, 40), (3, 12, 12)], ids=["table", "signal", "colour image"])
def test_rows_of_every_shape_are_shown(shape, tmp_path):
    made = other(shape)
    _, text = read(report.write(made.study, [], made.detector, made.splits, tmp_path / "r.html"))
    assert "Most anomalous rows" in text
    if len(shape) == 1:
        assert re.search(r"row\[\d\] = \S+, expected \S+ \(\d+%\)", text)


def test_hostile_names_stay_text(tmp_path):
    names = ("<script>alert(1)</script>", "a&b", '"c"', "d", "e")
    made = other((5,), "columns", names)
    path = report.write(made.study, [], made.detector, made.splits, tmp_path / "r.html")
    _, text = read(path)
    assert "<script>alert(1)</script>" in text
    assert "<script" not in path.read_text()


def test_the_page_shows_no_password_and_quotes_what_a_shell_would_split(digits, tmp_path):
    data = replace(digits.study.data, source="s3://key:secret@bucket/rows.parquet")
    told = digits.study.but(home="my runs", tracking="postgresql://me:secret@db/mlflow", data=data)
    path = report.write(told, [], digits.detector, blind(digits), tmp_path / "r.html")
    _, text = read(path)
    assert "secret" not in path.read_text()
    assert "s3://key:***@bucket" in text
    assert "raeflow score 'my runs/held_out_five/detector' NEW.parquet" in text


def test_groups_are_the_rows_they_say():
    scores = np.array([5.0, 1.0, 3.0, 2.0, np.inf, 0.5])
    truth = np.array([True, True, False, False, True, False])
    top, missed, alarms = examples.groups(scores, scores > 2.5, truth, most=3)
    assert top.index.tolist() == [4, 0, 2]
    assert missed.index.tolist() == [1]
    assert alarms.index.tolist() == [2]
    assert [g.title for g in examples.groups(scores, scores > 2.5, None)] == ["Most anomalous rows"]


def figures(digits: Made) -> dict[str, object]:
    truth, scores = digits.splits.test.anomaly.numpy(), digits.detector.score(digits.splits.test.x)
    x = digits.splits.test.x[:4]
    strip = plots.strip(x.numpy(), digits.detector.reconstruct(x), digits.detector.explain(x), ["a", "b", "c", "d"])
    return {
        "score_histogram": plots.score_histogram(scores, 0.5, truth),
        "score_histogram_infinite": plots.score_histogram(np.append(scores, np.inf).astype(np.float32), 0.5),
        "score_histogram_constant": plots.score_histogram(np.ones(9, np.float32), 1.0),
        "loss_histogram": plots.loss_histogram(scores, {"rows": 0.05, "batches": 0.03}),
        "roc": plots.roc_and_precision(truth, {"detector": scores, "noise": np.random.default_rng(0).random(len(scores))}, 0.05),
        "history": plots.history({"autoencoder": digits.trials[0].history, "vae": digits.trials[1].history}),
        "health": plots.health({"gan": measured(2.0), "wgan_gp": measured(90.0)[:1], "vae": digits.trials[1].history}),
        "trials": plots.trials_by_number(digits.trials),
        "hyper": plots.trials_by_hyper(digits.trials, "autoencoder", ["latent", "activation", "layers"]),
        "strip": strip,
        "signals": plots.signals(np.ones((3, 2, 9)), np.zeros((3, 2, 9)), ["a", "b", "c"]),
        "features": plots.features(np.eye(4, dtype=np.float32), ["a", "b", "c", "d"]),
        "latent_1": plots.latent_scatter(np.ones((5, 1))),
        "latent_2": plots.latent_scatter(np.random.default_rng(0).random((30, 2)), np.arange(30) % 11),
        "latent_9": plots.latent_scatter(np.random.default_rng(0).random((30, 9)), np.arange(30) % 2),
    }


def measured(distance: float, collapsed: float = 0.0) -> list[dict[str, float]]:
    """A game of five epochs, measured after the second and the fourth."""
    health = {"frechet_distance": distance, "coverage": 0.5, "density": 1.1, "precision": 0.9, "recall": 0.4, "critic_slope": 1.2}
    histories = [{"epoch": n, "validation_loss": 1.0 / n, "loss_critic": -0.1, "loss_generator": 0.4} for n in range(1, 6)]
    return [{**h, **({**health, "collapsed": collapsed} if h["epoch"] in (2, 4) else {})} for h in histories]


def test_the_page_shows_the_health_of_games_and_no_other(digits):
    assert page._health({"vae": digits.trials[1].history}) == ""
    healthy = page._health({"vae": digits.trials[1].history, "gan": measured(3.0)})
    assert "<svg" in healthy
    assert "next to nothing but likes" not in healthy
    assert "likes at the end of gan." in page._health({"gan": measured(3.0, 1.0), "wgan_gp": measured(2.0)})
    drawn = plots.health({"gan": measured(3.0), "vae": digits.trials[1].history})
    assert [axes.get_title(loc="left") for axes in drawn.axes] == [
        "Frechet distance", "coverage", "density", "precision", "recall", "slope of the critic"
    ]  # fmt: skip
    (line,) = drawn.axes[0].get_lines()
    assert line.get_xydata().tolist() == [[2.0, 3.0], [4.0, 3.0]]


def test_every_figure_is_a_picture_and_markup(digits, tmp_path):
    from PIL import Image

    for name, figure in figures(digits).items():
        path = plots.save(figure, tmp_path / "plots" / f"{name}.png")
        image = np.asarray(Image.open(path).convert("L"))
        assert image.std() > 1, f"{name} is blank"
        text = plots.svg(figure)
        assert text.startswith("<svg ")
        assert plots.INK not in text
        assert "aria-hidden" in text


def test_figures_of_nothing_are_refused():
    with pytest.raises(RaeflowError, match=r"strip: images of shape"):
        plots.strip(np.zeros((0, 1, 8, 8)), np.zeros((0, 1, 8, 8)), np.zeros((0, 1, 8, 8)), [])
    with pytest.raises(RaeflowError, match=r"signals of shape"):
        plots.signals(np.zeros((2, 9)), np.zeros((2, 9)), [])
    with pytest.raises(RaeflowError, match=r"codes of shape"):
        plots.latent_scatter(np.zeros(4))
    with pytest.raises(RaeflowError, match=r"no run to draw"):
        plots.history({})
    with pytest.raises(RaeflowError, match=r"no run has been measured"):
        plots.health({"vae": [{"epoch": 1, "validation_loss": 0.5}]})


def test_figures_leave_matplotlib_as_it_was(digits):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.save(plots.trials_by_number(digits.trials), digits.study.folder / "x.png")
    assert dict(matplotlib.rcParams) == before


def test_the_report_survives_trials_read_back_from_json(digits, tmp_path):
    again = [Trial(**json.loads(json.dumps(dataclasses.asdict(t)))) for t in digits.trials]
    read(report.write(digits.study, again, digits.detector, digits.splits, tmp_path / "r.html"))
    assert report.table(again, None, digits.splits) == report.table(digits.trials, None, digits.splits)
