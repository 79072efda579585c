"""Unclean training rows: planted anomalies are set aside, told and kept to be looked at, and the alert rate counts what went with them."""

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import raeflow
from raeflow import Calibration, Data, Detector, RaeflowError, Study, Training, selection, training
from raeflow.calibration import Removed, Threshold, calibrate
from raeflow.data import aside, load
from raeflow.data.cleaning import BELIEVED, MOST, TRIM
from raeflow.data.voters import Voters
from raeflow.pipeline import Session
from raeflow.report.judge import judge_test
from raeflow.study import SPLITS
from tests.tables import mixed, write


def planted(rows=1500, share=0.06, seed=0):
    """Normal rows on a plane in eight dimensions, and a cluster of anomalies off it; which is which is column `truth`."""
    drawn = np.random.default_rng(seed)
    flat = drawn.normal(size=(rows, 3)) @ drawn.normal(size=(3, 8)) + 0.1 * drawn.normal(size=(rows, 8))
    strange = drawn.random(rows) < share
    flat[strange] = 6 + 0.3 * drawn.normal(size=(int(strange.sum()), 8))
    return {**{f"c{i}": pa.array(flat[:, i]) for i in range(8)}, "truth": pa.array(strange.astype(np.int64))}


def table(tmp_path, rows, **said):
    return Data(str(write(tmp_path / "rows.parquet", rows)), **said)


@pytest.mark.parametrize("share", ["auto", 0.06])
def test_planted_anomalies_are_set_aside_of_train_validate_and_calibrate(tmp_path, share):
    found = load(table(tmp_path, planted(), label="truth", contamination=share))
    record = aside.rows(found.set_aside)
    for name in ("train", "validate", "calibrate"):
        strange, kept = int(getattr(found, name).anomaly.sum()) if getattr(found, name).anomaly is not None else None, getattr(found, name)
        taken = record.filter(pa.compute.equal(record["set_aside_from"], name))
        assert len(kept) + len(taken) == found.set_aside.of[SPLITS.index(name)]
        assert found.set_aside.counts()[name] == len(taken)
        assert strange in (None, 0)
    assert sum(record["truth"].to_pylist()) > 0.95 * 0.8 * 1500 * 0.05
    first = record["truth"].to_numpy()[: len(record) // 10]
    assert first.mean() > 0.9  # the strangest come first
    train, calibrate = found.set_aside.of[0], found.set_aside.of[2]
    assert len(found.train) == pytest.approx((1 - TRIM) * train, abs=2)
    assert 0 < found.set_aside.counts()["calibrate"] < 3 * (BELIEVED + 0.06) * calibrate
    assert len(found.set_aside.doubted) == len(found.calibrate)
    assert found.for_search().set_aside is None


def test_a_cluster_of_anomalies_does_not_vouch_for_itself():
    drawn = np.random.default_rng(0)
    rows = torch.from_numpy(np.concatenate([drawn.normal(size=(600, 5)), 5 + 1e-3 * drawn.normal(size=(30, 5))])).float()
    voters = Voters(rows)
    own = torch.zeros(len(rows), dtype=torch.bool)
    own[voters.own] = True
    found = voters.ask(rows, own)
    voters.rank(found)
    judged = voters.judge(found)
    assert judged.neighbours[600:].min() > np.quantile(judged.neighbours[:600], 0.95)
    assert judged.strangeness[600:].min() > np.quantile(judged.strangeness[:600], 0.9)
    alone = np.array([torch.cdist(rows[i : i + 1], rows).sort().values[0, 1:64].mean() for i in range(0, 600, 50)])
    assert judged.neighbours[:600:50] == pytest.approx(alone, rel=1e-3)  # no row is its own neighbour


def test_the_verdict_does_not_depend_on_the_order_of_rows(tmp_path):
    columns = mixed(700) | {"id": pa.array(np.arange(700).astype(float))}
    said = {"columns": [name for name in columns if name not in ("id", "still")], "contamination": "auto"}
    one = aside.rows(load(table(tmp_path / "a", columns, **said)).set_aside)
    order = np.random.default_rng(1).permutation(700)
    other = aside.rows(load(table(tmp_path / "b", {name: values.take(order) for name, values in columns.items()}, **said)).set_aside)
    assert set(one["id"].to_pylist()) == set(other["id"].to_pylist())


def test_a_mixed_table_comes_back_in_its_own_words(tmp_path):
    columns = mixed(900) | {"note": pa.array([f"row {i}" for i in range(900)])}
    columns["word"] = pa.array(["odd" if i % 50 == 0 else word for i, word in enumerate(columns["word"].to_pylist())]).dictionary_encode()
    columns["tail"] = pa.array([1e7 if i % 50 == 0 else v for i, v in enumerate(columns["tail"].to_pylist())])
    names = [name for name in columns if name != "note"]
    found = load(table(tmp_path, columns, columns=names, contamination=0.02))
    place = aside.write(found.set_aside, tmp_path / "out" / aside.NAME)
    read = pq.read_table(place)
    assert read.num_rows == len(found.set_aside) > 0
    assert read.column_names == [*columns, *aside.OWN]
    source = pa.table({**columns, "word": columns["word"].cast(pa.string())})
    at = read["row"].to_numpy()
    for name in columns:
        assert read[name].to_pylist() == source[name].take(at).to_pylist(), name
    assert set(read["file"].to_pylist()) == {str(tmp_path / "rows.parquet")}
    assert "odd" in read["word"].to_pylist()
    assert read["strangeness"].to_pylist() == sorted(read["strangeness"].to_pylist(), reverse=True)
    assert read["g_word"].null_count > 0


def test_images_and_bad_rows_keep_their_places(tmp_path):
    drawn = np.random.default_rng(0)
    images = (np.outer(np.hanning(12), np.hanning(12)) * 200 + drawn.integers(0, 30, (400, 1, 12, 12))).astype(np.uint8)
    images[::20] = drawn.integers(0, 255, (20, 1, 12, 12))
    found = load(raeflow.data.resolve(Data(images, contamination=0.05), tmp_path))
    read = pq.read_table(aside.write(found.set_aside, tmp_path / "aside.parquet"))
    shown = np.stack([np.asarray(v).reshape(1, 12, 12) for v in read["x"].combine_chunks().storage.to_pylist()])
    assert (shown == images[read["row"].to_numpy()]).all()
    assert {int(r) % 20 for r in read["row"].to_pylist()[:5]} == {0}
    values = [None if i == 7 else drawn.normal(size=300).astype(np.float32).tolist() for i in range(300)]  # wide: voters see axes
    signals = pa.table({"x": pa.array(values, pa.list_(pa.float32())), "n": pa.array(np.arange(300))})
    pq.write_table(signals, tmp_path / "signals.parquet", row_group_size=64)
    found = load(Data(str(tmp_path / "signals.parquet"), columns="x", shape=(1, 300), bad_rows="skip", contamination="auto"))
    read = aside.rows(found.set_aside)
    assert read["row"].to_pylist() == read["n"].to_pylist()
    assert 7 not in read["n"].to_pylist()


def test_the_file_gives_way_to_columns_of_its_names(tmp_path):
    columns = planted(300) | {"row": pa.array(np.arange(300)), "file": pa.array(["mine"] * 300)}
    read = aside.rows(load(table(tmp_path, columns, columns=[f"c{i}" for i in range(8)], contamination="auto")).set_aside)
    assert read["row"].to_pylist() == read["row_"].to_pylist()
    assert set(read["file"].to_pylist()) == {"mine"}


def test_files_whose_columns_differ_are_put_together(tmp_path):
    columns = planted(300)
    write(tmp_path / "a.parquet", columns | {"tag": pa.array(np.arange(300))})
    write(tmp_path / "b.parquet", columns | {"tag": pa.array(["x"] * 300)})
    found = load(Data(str(tmp_path), columns=[f"c{i}" for i in range(8)], contamination="auto"))
    tags = aside.rows(found.set_aside)["tag"].to_pylist()
    assert "x" in tags
    assert any(tag.isdigit() for tag in tags)


def test_a_level_that_only_set_aside_rows_had_is_new_to_the_encoding(tmp_path):
    columns = mixed(900)
    columns["word"] = pa.array(["odd" if i % 60 == 0 else word for i, word in enumerate(columns["word"].to_pylist())])
    columns["number"] = pa.array([1e5 + i if i % 60 == 0 else v for i, v in enumerate(columns["number"].to_pylist())])
    said = {"columns": ["number", "word", "flag"]}
    plain = load(table(tmp_path, columns, **said))
    cleaned = load(table(tmp_path, columns, **said, contamination=0.02))
    levels = [{f.name: f.levels for f in s.spec.fields}["word"] for s in (plain, cleaned)]
    assert "odd" in levels[0]
    assert "odd" not in levels[1]
    assert cleaned.train.x[:, 0].max() < 1e3
    assert float(cleaned.encoding(cleaned.train.x)[:, 0].std()) == pytest.approx(1, abs=0.01)  # fitted anew


@pytest.mark.parametrize("share", [0, 0.5, -0.1, "some", True, float("nan")])
def test_a_contamination_that_is_none_is_refused(share):
    with pytest.raises(RaeflowError, match=r"Data\(contamination=.*'auto' or the share of anomalies"):
        Data("x.parquet", contamination=share)


def test_contamination_beside_normal_is_refused():
    with pytest.raises(RaeflowError, match=r"contamination='auto', normal=.*give one of the two"):
        Data("x.parquet", normal=[("label", "==", 0)], contamination="auto")


def test_streams_and_too_few_rows_are_refused(tmp_path):
    with pytest.raises(RaeflowError, match=r"Data\(contamination='auto'\): 1,500 rows take .* bytes, more than Data\(memory=1,000\)"):
        load(table(tmp_path, planted(), label="truth", contamination="auto", memory=1000))
    columns = planted(60) | {"part": pa.array(["train"] * 56 + ["validate"] * 2 + ["calibrate"] * 2)}
    said = {"columns": [f"c{i}" for i in range(8)], "split": "part"}
    columns["c0"] = pa.array([99.0 if i > 55 else v for i, v in enumerate(columns["c0"].to_pylist())])
    with pytest.raises(RaeflowError, match=r"Data\(contamination=0.1\): cleaning leaves \d of 2 validate rows"):
        load(table(tmp_path, columns, contamination=0.1, **said))


def test_the_fingerprint_knows_of_cleaning_and_only_of_cleaning(tmp_path):
    said = [load(table(tmp_path, planted(), label="truth", contamination=c)).fingerprint for c in (None, "auto", 0.1, 0.2)]
    assert len(set(said)) == 4
    assert load(table(tmp_path, planted(), label="truth")).fingerprint == said[0]


def test_a_named_set_is_cleaned_as_if_nobody_had_labelled_it(real_data):
    found = load(raeflow.data.resolve(Data("adbench/wbc", contamination="auto")))
    record = aside.rows(found.set_aside)
    assert 0 < sum(record["label"].to_pylist()) < len(record)
    assert found.test.anomaly.any()


def voted(random, rows, share, quality):
    """Scores and votes of calibrate rows, normal ones of one law and anomalies of another; the two are alike but not the same."""
    strange = random.random(rows) < share
    base = random.gamma(2.0, size=rows) + strange * random.gamma(6.0, size=rows)
    scores = base * random.lognormal(0, 0.3, rows)
    votes = base * random.lognormal(0, 1 / quality, rows)
    return scores, votes, strange


WAYS = [Calibration(), Calibration(method="quantile", quantile=0.95), Calibration(method="median_mad", k=4.0)]


@pytest.mark.parametrize(("share", "said"), [(0.0, None), (0.05, None), (0.1, None), (0.1, 0.1), (0.3, 0.3), (0.01, 0.05)])
@pytest.mark.parametrize("quality", [1, 4])
def test_the_interval_covers_the_alert_rate_of_normal_rows_whatever_was_removed(share, said, quality):
    random = np.random.default_rng(3)
    believed = said or BELIEVED
    scores, votes, strange = voted(random, 200_000, share, quality)
    generous, frugal = (np.quantile(votes, 1 - s) for s in (min(MOST, max(TRIM, 2 * believed)), believed))  # as train rows would have it
    truth = np.sort(scores[~strange])
    draws, covered, naive, low = 60, np.zeros(3), np.zeros(3), np.zeros(3)
    for _ in range(draws):
        held, own, _ = voted(random, 400, share, quality)
        keep = own <= frugal
        removed = Removed(
            torch.from_numpy(held[~keep]).float(), np.arange(1000, 1000 + int((~keep).sum()), dtype=np.uint64), own[keep] > generous, said
        )
        for place, way in enumerate(WAYS):
            found = calibrate([torch.from_numpy(held[keep]).float()], way, np.arange(int(keep.sum()), dtype=np.uint64), removed)
            blind = calibrate([torch.from_numpy(held[keep]).float()], way)
            true = 1 - np.searchsorted(truth, found.value, "right") / len(truth)
            covered[place] += found.alert_low <= true <= found.alert_high
            naive[place] += blind.alert_low <= true <= blind.alert_high
            low[place] += found.alert_rate - true
            assert blind.value == found.value  # what was removed counts for the rate alone
            assert found.alert_low <= found.alert_rate <= found.alert_high
    assert (covered / draws >= 0.93).all(), covered / draws
    if not share and quality > 1:
        assert naive[1] / draws < 0.75  # the quantile of what is left promises too few alerts
    if said is None:
        assert (low / draws > -0.005).all()  # nothing is believed, so the rate is never told too low


def test_rows_that_repeat_count_once_for_what_was_removed_too():
    scores = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=200)).float()
    keys = np.repeat(np.arange(20, dtype=np.uint64), 10)
    kept, gone = slice(0, 150), slice(150, 200)
    found = calibrate([scores[kept]], Calibration(), keys[kept], Removed(scores[gone], keys[gone], np.zeros(150, bool), None))
    own = np.arange(200, dtype=np.uint64)
    single = calibrate([scores[kept]], Calibration(), own[kept], Removed(scores[gone], own[gone], np.zeros(150, bool), None))
    assert found.alert_high - found.alert_low > 1.5 * (single.alert_high - single.alert_low)
    assert found.set_aside == 50
    assert Threshold.from_json(found.to_json()) == found
    assert "set_aside" not in calibrate([scores], Calibration()).to_json()


def test_fit_cleans_rows_in_memory():
    columns = planted(600, 0.08)
    strange = np.asarray(columns.pop("truth")) == 1
    lines = []
    detector = raeflow.fit(pa.table(columns), contamination=0.08, training=Training(epochs=20), say=lines.append)
    assert lines[0].startswith("contamination 0.08: set aside ")
    assert detector.threshold.set_aside is not None
    flags = detector.predict(pa.table(columns))
    assert flags[strange].mean() > 0.9
    assert raeflow.fit(pa.table(columns), training=Training(epochs=1)).threshold.set_aside is None
    few = {name: values[:60] for name, values in columns.items()}
    assert raeflow.fit(pa.table(few), contamination="auto", training=Training(epochs=1)).threshold.count > 1


def test_heads_reckon_with_anomalies_that_cleaning_left(tmp_path):
    rows = planted(1200)
    cleaned, plain = (load(table(tmp_path, rows, label="truth", contamination=said)).for_search() for said in ("auto", None))
    model = training.fit("autoencoder", {}, cleaned, Training(epochs=1), seed=0).model()
    asked = [{h.hyper.k for h in selection.candidates(model, splits) if h.name == "memory"} for splits in (cleaned, plain)]
    assert asked == [{5}, {1, 5}]
    judge = selection.judge("synthetic", cleaned, 0)
    fitted = training.fit("autoencoder", {}, cleaned, Training(epochs=1), seed=0)
    told = selection.headed(fitted, fitted.model(), cleaned, judge, ("memory",))
    assert not any("k 1" in title for title in told.heads)


def test_the_estimator_of_scikit_learn_cleans_under_another_name():
    from raeflow.sklearn import AnomalyDetector

    columns = planted(400, 0.1)
    strange = np.asarray(columns.pop("truth")) == 1
    rows = np.column_stack([np.asarray(c) for c in columns.values()])
    found = AnomalyDetector(cleaning=0.1, epochs=20, random_state=0).fit(rows)
    assert found.detector_.threshold.set_aside is not None
    assert (found.predict(rows)[strange] == -1).mean() > 0.9


def test_a_study_says_tracks_keeps_and_shows_what_it_set_aside(real_data, tmp_path):
    import mlflow

    file = real_data / "adbench" / "06_cardio.parquet"
    study = Study(
        name="unclean", data=Data(str(file), columns="features", label="label", contamination="auto"), variants="autoencoder",
        training=Training(epochs=30, batch_size=64), calibration=Calibration(method="quantile", quantile=0.95), home=str(tmp_path),
    )  # fmt: skip
    said = []
    session = Session(study, said.append)
    detector = session.calibrate(session.train())
    metrics, _, page, _ = session.report(detector)
    session.tracker.finish("FINISHED")
    place = tmp_path / "unclean" / "set_aside.parquet"
    told = session.splits.set_aside.told()
    assert said[0] == f"{told}; look at them in {place}"
    assert told in page.read_text()
    rows = pq.read_table(place)
    assert rows.num_rows == len(session.splits.set_aside)
    assert np.mean(rows["label"].to_pylist()) > 1.5 * 0.096  # more anomalies than among all rows
    source = pq.read_table(file)
    assert rows["features"].to_pylist()[:5] == source["features"].take(rows["row"].to_numpy()[:5]).to_pylist()
    t = detector.threshold
    assert t.alert_low <= metrics["false_alarm_rate"] <= t.alert_high
    assert session.splits.test.anomaly.any()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("unclean").experiment_id])
    step = next(r for r in runs if r.data.params.get("contamination") == "auto")
    assert step.data.metrics["train_rows"] == session.splits.set_aside.counts()["train"]
    other = dataclasses.replace(study, data=dataclasses.replace(study.data, contamination=0.1))
    with pytest.raises(RaeflowError, match="holds another study of this name"):
        Session(other, said.append)
    plain = load(dataclasses.replace(study.data, contamination=None))
    fitted = training.fit("autoencoder", detector.members[0].hyper, plain, study.training, seed=0)
    unclean = Detector.assemble([fitted], plain, study.calibration)
    assert metrics["auroc"] > judge_test(unclean, plain)["auroc"] + 0.03


def test_the_record_travels_to_other_processes_and_narrows_to_a_class(tmp_path):
    found = load(table(tmp_path, planted(), label="truth", contamination=0.06))
    other = pickle.loads(pickle.dumps(found))
    assert other.set_aside.told() == found.set_aside.told()
    assert aside.rows(other.set_aside).equals(aside.rows(found.set_aside))
    assert len(other.validate) + found.set_aside.counts()["validate"] == len(other.labelled)
    assert other.unclean
    one = found.of_class(0)
    assert len(one.set_aside.doubted) == len(one.calibrate)
    assert (one.set_aside.calibrate.label == 0).all()
    assert len(one.set_aside.calibrate) < len(found.set_aside.calibrate)
