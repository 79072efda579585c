"""The detector: what it scores, what it keeps on disk, and what it refuses to load."""

import dataclasses
import json
import math
import shutil
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from raeflow import variants
from raeflow.calibration import Threshold
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.stored import load_fitted, save_fitted
from raeflow.study import Calibration
from raeflow.training import Fitted, scores
from raeflow.variants._contract import OneShot

SHAPES = {"table": (6,), "signal": (2, 16), "image": (1, 8, 8)}


def draw(shape, count, dtype="float32", seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype == "uint8":
        return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return torch.randn(count, *shape, generator=generator) * 3 + 1


def make_splits(shape=(6,), dtype="float32"):
    train, validate, calibrate, test = (Rows(draw(shape, 200, dtype, seed)) for seed in range(4))
    table = len(shape) == 1
    spec = RowSpec(tuple(f"c{i}" for i in range(shape[0])) if table else ("x",), "columns" if table else "list", shape, dtype)
    return Splits(spec, fit_scaling("auto", shape, getattr(torch, dtype), [train.x]), train, validate, calibrate, test, fingerprint="f00d")


def untrained(variant, shape, seed=0):
    """A model that no training is needed for: what a detector does with it does not depend on how good it is."""
    torch.manual_seed(seed)
    hyper = dataclasses.asdict(variants.get(variant).published(shape))
    model = variants.build(variant, shape, hyper)
    if isinstance(model, OneShot):
        model.fit_rows(draw(shape, 60, seed=9), seed)
    return Fitted(variant, hyper, shape, model.state_dict(), [{"epoch": 1, "validation_loss": 0.5}], 1)


def make(names=("autoencoder",), shape=(6,), dtype="float32", calibration=None):
    splits = make_splits(shape, dtype)
    return Detector.assemble([untrained(n, shape, i) for i, n in enumerate(names)], splits, calibration or Calibration()), splits


def test_one_member_scores_and_is_calibrated_in_the_units_of_its_loss():
    detector, splits = make()
    own = scores(detector.models[0], splits.encoding, splits.calibrate).numpy()
    assert detector.score(splits.calibrate.x) == pytest.approx(own, rel=1e-6)
    assert detector.threshold.value == pytest.approx(own.mean() + own.std(), rel=1e-5)
    assert detector.threshold.count == 200


def test_a_committee_averages_log_scores_standardised_on_the_validate_split():
    detector, splits = make(("autoencoder", "vae", "autoencoder"))
    logs = []
    for model in detector.models:
        normal = np.log(scores(model, splits.encoding, splits.validate).numpy().astype(np.float64))
        logs.append((np.log(scores(model, splits.encoding, splits.test).numpy()) - normal.mean()) / normal.std())
    assert detector.score(splits.test.x) == pytest.approx(np.mean(logs, 0), abs=1e-4)
    assert abs(detector.score(splits.validate.x).mean()) < 1e-3


def test_the_threshold_sees_the_calibrate_split_alone():
    splits = make_splits()
    models = [untrained("autoencoder", (6,)), untrained("vae", (6,))]
    detector = Detector.assemble(models, splits, Calibration(method="quantile", quantile=0.9))
    assert detector.predict(splits.calibrate.x).mean() == pytest.approx(0.095, abs=0.011)
    moved = dataclasses.replace(splits, test=Rows(splits.test.x * 100), train=Rows(splits.train.x * 100))
    assert Detector.assemble(models, moved, Calibration(method="quantile", quantile=0.9)).id == detector.id
    moved = dataclasses.replace(splits, calibrate=Rows(splits.calibrate.x * 2))
    assert Detector.assemble(models, moved, Calibration(method="quantile", quantile=0.9)).id != detector.id


@pytest.mark.parametrize("variant", variants.names())
@pytest.mark.parametrize("kind", SHAPES)
def test_saved_and_loaded_it_is_the_same(variant, kind, tmp_path):
    shape, dtype = SHAPES[kind], "uint8" if kind == "image" else "float32"
    detector, splits = make((variant,), shape, dtype)
    back = Detector.load(detector.save(tmp_path / "detector"), device="cpu")
    assert back.id == detector.id and back.lineage == detector.lineage
    assert back.spec == detector.spec and back.threshold == detector.threshold
    for act in ("score", "predict", "explain", "reconstruct"):
        assert np.array_equal(getattr(back, act)(splits.test.x), getattr(detector, act)(splits.test.x)), act


@pytest.mark.parametrize("names", [("autoencoder",), ("vae", "wgan_gp")])
@pytest.mark.parametrize("kind", SHAPES)
def test_the_batch_size_changes_no_score(names, kind):
    detector, splits = make(names, SHAPES[kind])
    whole = detector.score(splits.test.x)
    for size in (1, 7, 64, 10_000):
        assert detector.score(splits.test.x, batch_size=size) == pytest.approx(whole, rel=1e-4, abs=1e-5)


def test_arrays_tensors_and_arrow_give_the_same_scores():
    detector, splits = make()
    x = splits.test.x.numpy()
    expected = detector.score(splits.test.x)
    table = pa.table({"other": ["a"] * len(x), **{f"c{i}": x[:, i] for i in range(6)}})
    shuffled = table.select(["c3", "other", "c1", "c0", "c5", "c4", "c2"])
    read_only = x.copy()
    read_only.flags.writeable = False
    forms = {
        "float64": x.astype(np.float64),
        "big-endian": x.astype(">f4"),
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(x, 2, 0)[::2],
        "read-only": read_only,
        "list": x.tolist(),
        "table": table,
        "by name": shuffled,
        "batch": table.to_batches()[0],
        "chunks": pa.concat_tables([table.slice(0, 50), table.slice(50)]),
        "double": torch.from_numpy(x).double(),
    }
    for name, rows in forms.items():
        assert np.allclose(detector.score(rows), expected, rtol=1e-5), name
    assert detector.score(splits.test.x).dtype == np.float32 and detector.predict(x).dtype == np.bool_


def test_a_frame_is_read_by_column_names():
    pandas = pytest.importorskip("pandas")
    detector, splits = make()
    frame = pandas.DataFrame(splits.test.x.numpy(), columns=[f"c{i}" for i in range(6)])
    assert np.array_equal(detector.score(frame), detector.score(splits.test.x))


def test_bytes_and_their_floats_score_alike():
    detector, splits = make(shape=(1, 8, 8), dtype="uint8")
    assert np.allclose(detector.score(splits.test.x.float()), detector.score(splits.test.x))


@pytest.mark.parametrize("names", [("autoencoder",), ("autoencoder", "vae")])
def test_explain_gives_the_squared_error_of_each_value_in_scaled_units(names):
    detector, splits = make(names)
    x, scaling = splits.test.x, splits.encoding
    with torch.no_grad():
        parts = [(scaling(x) - m.reconstruct(scaling(x))).square() for m in detector.models]
    assert detector.explain(x) == pytest.approx(torch.stack(parts).mean(0).numpy(), rel=1e-4, abs=1e-6)
    if len(names) == 1:
        assert detector.explain(x).mean(1) == pytest.approx(detector.score(x), rel=1e-5)


def test_reconstruct_answers_in_the_units_of_the_data():
    detector, splits = make()
    scaled = (detector.reconstruct(splits.test.x) - splits.encoding.shift.numpy()) / splits.encoding.scale.numpy()
    with torch.no_grad():
        assert scaled == pytest.approx(detector.models[0].reconstruct(splits.encoding(splits.test.x)).numpy(), abs=1e-4)


def test_no_row_gives_no_score():
    detector, splits = make()
    assert detector.score(splits.test.x[:0]).shape == (0,)
    assert detector.explain(np.empty((0, 6))).shape == (0, 6)
    assert detector.predict(pa.table({f"c{i}": pa.array([], pa.float32()) for i in range(6)})).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", [torch.tensor, np.array])
def test_a_row_that_is_not_finite_is_refused_by_number(value, form):
    detector, splits = make()
    rows = splits.test.x.clone()
    rows[137, 4] = value
    with pytest.raises(RaeflowError, match=rf"row 137 holds {value} at \(4,\)"):
        detector.score(form(rows.tolist()), batch_size=50)


def test_a_finite_row_that_overflows_is_an_anomaly_and_no_miss():
    for names in (("autoencoder",), ("autoencoder", "vae", "wgan_gp")):
        detector, splits = make(names)
        rows = splits.test.x.clone()
        rows[3] = torch.finfo(torch.float32).max * torch.tensor([1, -1, 1, -1, 1, -1])
        assert detector.score(rows)[3] == math.inf and bool(detector.predict(rows)[3])
        assert np.isfinite(np.delete(detector.score(rows), 3)).all()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((4, 5)), r"shape \(4, 5\), this detector takes \(N, 6\)"),
        (np.zeros(6), r"shape \(6,\), this detector takes \(N, 6\); give one row as rows\[None\]"),
        (np.zeros((4, 6), dtype=complex), "type complex128"),
        (np.array([["a"] * 6]), "type <U1"),
        (np.array([[None] * 6]), "type object"),
        (torch.zeros(4, 6, dtype=torch.complex64), "type torch.complex64"),
        (3.0, r"shape \(\)"),
        ([[1.0, 2.0], [3.0]], "rows of type list are no array of numbers \\(setting an array element"),
    ],
)
def test_rows_of_another_shape_or_type_are_refused(rows, says):
    detector, _ = make()
    with pytest.raises(RaeflowError, match=says):
        detector.score(rows)


def test_a_table_without_a_column_of_the_row_is_refused():
    detector, splits = make()
    with pytest.raises(RaeflowError, match="c5"):
        detector.score(pa.table({f"c{i}": splits.test.x[:, i].numpy() for i in range(5)}))


def test_a_detector_needs_models_and_a_calibrate_split():
    splits = make_splits()
    with pytest.raises(RaeflowError, match="at least one"):
        Detector.assemble([], splits, Calibration())
    with pytest.raises(RaeflowError, match="calibrate split is empty"):
        Detector.assemble([untrained("autoencoder", (6,))], splits.for_search(), Calibration())


def test_the_id_names_the_content_and_not_the_day(monkeypatch):
    detector, splits = make()

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2101, 1, 1, tzinfo=tz)

    monkeypatch.setattr("raeflow.detector.datetime", Later)
    later, _ = make()
    assert later.lineage["created"] != detector.lineage["created"] and later.id == detector.id
    assert len(detector.id) == 12 and set(detector.id) <= set("0123456789abcdef")
    others = [
        make(("vae",))[0],
        Detector.assemble([untrained("autoencoder", (6,), 1)], splits, Calibration()),
        Detector.assemble([untrained("autoencoder", (6,))], splits, Calibration(k=2)),
        Detector.assemble([untrained("autoencoder", (6,))] * 2, splits, Calibration()),
    ]
    assert len({detector.id, *(o.id for o in others)}) == 5


def test_nothing_on_disk_is_pickled(tmp_path):
    detector, _ = make(("autoencoder", "vae"))
    folder = detector.save(tmp_path / "d")
    assert sorted(f.name for f in folder.iterdir()) == ["detector.json", "weights.safetensors"]
    record = json.loads((folder / "detector.json").read_text())
    assert record["lineage"]["data"] == "f00d" and record["members"][1]["variant"] == "vae"
    assert Threshold.from_json(record["threshold"]) == detector.threshold


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    first, _ = make()
    second, _ = make(("vae",))
    first.save(tmp_path / "d")
    second.save(tmp_path / "d")
    assert Detector.load(tmp_path / "d").id == second.id
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_detector_is_read_from_a_uri(tmp_path):
    detector, _ = make()
    detector.save(tmp_path / "d")
    assert Detector.load((tmp_path / "d").as_uri()).id == detector.id
    with pytest.raises(RaeflowError, match="no detector there"):
        Detector.load((tmp_path / "e").as_uri())


def edit(folder, change):
    path = folder / "detector.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def cut(name):
    def act(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-40])

    return act


def nudge(folder):
    path = folder / "weights.safetensors"
    weights = safetensors.torch.load_file(path)
    key = next(k for k in weights if k.startswith("members"))
    weights[key] = weights[key] + 1e-3
    safetensors.torch.save_file(weights, path)


def drop(folder):
    path = folder / "weights.safetensors"
    weights = safetensors.torch.load_file(path)
    weights.popitem()
    safetensors.torch.save_file(weights, path)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (shutil.rmtree, "no detector there: detector.json cannot be read"),
        (lambda f: (f / "weights.safetensors").unlink(), "no detector there: weights.safetensors cannot be read"),
        (cut("weights.safetensors"), "not a whole detector"),
        (cut("detector.json"), "not a whole detector"),
        (nudge, "changed after it was saved"),
        (drop, "not a whole detector"),
        (lambda f: edit(f, lambda r: r["threshold"].update(value=1e9)), "changed after it was saved"),
        (lambda f: edit(f, lambda r: r.pop("threshold")), "not a whole detector"),
        (lambda f: edit(f, lambda r: r.pop("id")), "changed after it was saved"),
        (lambda f: edit(f, lambda r: r.update(format=99, raeflow="9.0")), "format 99, written by raeflow 9.0"),
        (lambda f: edit(f, lambda r: r["members"][0].update(variant="nothing")), "'nothing' is not one of"),
        (lambda f: edit(f, lambda r: r["members"][0]["hyper"].update(latent=2)), "not a whole detector"),
        (lambda f: (f / "detector.json").write_text("[1, 2]"), "not a whole detector"),
        (lambda f: (f / "detector.json").write_bytes(b"\xff\x00"), "not a whole detector"),
    ],
)
def test_a_truncated_changed_or_foreign_folder_is_refused_in_one_sentence(harm, says, tmp_path):
    folder = make()[0].save(tmp_path / "d")
    harm(folder)
    with pytest.raises(RaeflowError, match=says) as caught:
        Detector.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [(n,) for n in variants.names()] + [("autoencoder", "vae", "wgan_gp")])
@pytest.mark.parametrize("kind", ["table", "image"])
def test_an_exported_program_runs_without_raeflow_for_any_batch(names, kind, tmp_path):
    shape, dtype = SHAPES[kind], "uint8" if kind == "image" else "float32"
    detector, splits = make(names, shape, dtype)
    path = detector.export(tmp_path / "program.pt2")
    extra = {"detector.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    for count in (1, 5, 200):
        assert program(splits.test.x[:count]).numpy() == pytest.approx(detector.score(splits.test.x[:count]), rel=1e-4, abs=1e-5)
    assert json.loads(extra["detector.json"])["id"] == detector.id
    assert [p.name for p in tmp_path.iterdir()] == ["program.pt2"]


def test_an_exported_program_needs_its_suffix(tmp_path):
    with pytest.raises(RaeflowError, match=r"program\.pt: .*\.pt2"):
        make()[0].export(tmp_path / "program.pt")


def test_assembling_leaves_the_splits_scaling_alone():
    splits = make_splits()
    before = {k: v.clone() for k, v in splits.encoding.state_dict().items()}
    detector = Detector.assemble([untrained("autoencoder", (6,))], splits, Calibration())
    assert detector.graph.encoding is not splits.encoding
    assert all(torch.equal(v, before[k]) for k, v in splits.encoding.state_dict().items())


def test_scoring_changes_no_weight():
    detector, splits = make(("autoencoder", "vae", "wgan_gp"))
    before = detector.to_bytes()[1]
    detector.score(splits.test.x)
    detector.explain(splits.test.x)
    assert detector.to_bytes()[1] == before


def test_an_unknown_device_is_refused(tmp_path):
    folder = make()[0].save(tmp_path / "d")
    with pytest.raises(RaeflowError, match="nosuch"):
        Detector.load(folder, device="nosuch")


def test_a_trained_model_comes_back_as_it_was(tmp_path):
    fitted = untrained("wgan_gp", (6,))
    back = load_fitted(save_fitted(fitted, tmp_path / "a" / "model"))
    assert (back.variant, back.shape, back.history, back.best_epoch) == (fitted.variant, fitted.shape, fitted.history, fitted.best_epoch)
    assert back.weights.keys() == fitted.weights.keys() and all(torch.equal(back.weights[k], fitted.weights[k]) for k in fitted.weights)
    x = draw((6,), 50)
    assert torch.equal(back.model().score(x), fitted.model().score(x))


def test_a_broken_trained_model_is_refused(tmp_path):
    with pytest.raises(RaeflowError, match="cannot be read"):
        load_fitted(tmp_path / "none")
    folder = save_fitted(untrained("autoencoder", (6,)), tmp_path / "model")
    cut("weights.safetensors")(folder)
    with pytest.raises(RaeflowError, match="not a whole trained model"):
        load_fitted(folder)
