"""Named sets: what `resolve` fills in, what it leaves alone, where it looks, and what it refuses."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raeflow.data import load
from raeflow.data.sets import airshower
from raeflow.data.sources import locate, located, lookup, named, places, resolve
from raeflow.errors import RaeflowError
from raeflow.study import Data

DATA = os.environ.get("RAEFLOW_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="RAEFLOW_DATA names no folder of public sets")


@pytest.fixture
def lake(tmp_path, monkeypatch):
    """Empty data and cache folders, and a working directory of its own."""
    monkeypatch.setenv("RAEFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RAEFLOW_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def put(root, name):
    for file in named()[name].files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tuple(str(root / file) for file in named()[name].files)


def test_a_set_fills_files_columns_label_split_and_shape(lake):
    files = put(lake / "data", "mnist")
    data = resolve(Data("mnist"))
    assert data.source == files
    assert (data.columns, data.label, data.target, data.split) == (("image",), "label", None, "split")
    assert (data.shape, data.layout, data.normal) == ((1, 28, 28), "HWC", None)
    assert resolve(data) == data


def test_sets_with_flags_train_on_normal_rows(lake):
    for name in ("ecg5000", "adbench/cardio"):
        put(lake / "data", name)
        assert resolve(Data(name)).normal == (("label", "==", 0),)
        assert resolve(Data(name, normal=[("ucr_class", "<", 3)])).normal == (("ucr_class", "<", 3),)
    assert resolve(Data("ecg5000")).shape == (1, 140)
    assert resolve(Data("adbench/cardio")).split is None


def test_a_denoising_set_has_a_target(lake):
    put(lake / "data", "noisy_office")
    data = resolve(Data("noisy_office"))
    assert (data.columns, data.target, data.shape, data.label) == (("image",), "image_clean", (1, 258, 540), None)
    clean = resolve(Data("noisy_office", columns="image_clean"))
    assert (clean.columns, clean.target, clean.shape, clean.split) == (("image_clean",), None, None, "split")


def test_what_the_user_says_wins(lake):
    put(lake / "cache", "galaxies_efigi")
    given = {"label": "efigi_T", "split": "hash", "shape": (12288,), "layout": "CHW", "target": "other", "normal": (("label", "==", 2),),
             "anomaly": (("label", "==", 5),), "fractions": (0.7, 0.1, 0.1, 0.1), "scaling": "standard", "memory": 5}  # fmt: skip
    data = resolve(Data("galaxies_efigi", **given))
    for name, value in given.items():
        assert getattr(data, name) == value
    assert data.columns == ("image",)


@pytest.mark.parametrize("source", ["rows.parquet", "folder/", "*.parquet", "s3://bucket/rows", "/no/such/place", "a/b"])
def test_everything_else_passes_untouched(lake, source):
    data = Data(source, columns="x")
    assert resolve(data) is data


def test_a_folder_of_that_name_is_the_folder(lake):
    Path("mnist").mkdir()
    data = Data("mnist")
    assert resolve(data) is data


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("adbench/06_cardio", "adbench/cardio"), ("adbench/6_cardio", "adbench/cardio"), ("adbench/satimage-2", "adbench/satimage_2"),
     ("adbench/31_satimage_2", "adbench/satimage_2"), ("Fashion-MNIST", "fashion_mnist"), ("airshower", "airshower/realistic"),
     ("adbench/magic.gamma", "adbench/magic_gamma"), ("airshower/cosine", "airshower/cosine")],
)  # fmt: skip
def test_spellings(spelling, name):
    assert lookup(spelling).name == name


@pytest.mark.parametrize(
    ("source", "words"),
    [("minst", "Data(source='minst'): no such file or folder, and no such named set; nearest are mnist"),
     ("zebras", "named sets are digits, airshower/realistic"), ("adbench/zebras", "sets of ADBench are aloi, annthyroid"),
     ("airshower/pink", "Data(source='airshower/pink')"), (["mnist", "rows.parquet"], "'mnist' cannot be mixed with other sources")],
)  # fmt: skip
def test_names_that_mean_nothing_are_refused(lake, source, words):
    with pytest.raises(RaeflowError) as refusal:
        resolve(Data(source))
    assert words in str(refusal.value)


def test_missing_files_say_how_to_get_them(lake, monkeypatch):
    put(lake / "data", "mnist")
    (lake / "data/mnist/mnist_test.parquet").unlink()
    with pytest.raises(RaeflowError) as refusal:
        resolve(Data("mnist"))
    for words in ("raeflow data fetch mnist", "set RAEFLOW_DATA", str(lake / "cache"), str(lake / "data")):
        assert words in str(refusal.value)
    monkeypatch.delenv("RAEFLOW_DATA")
    with pytest.raises(RaeflowError, match=r"adbench/01_aloi.parquet; run `raeflow data fetch adbench/aloi`"):
        resolve(Data("adbench/aloi"))


def test_a_set_whose_test_rows_have_a_file_of_their_own(lake):
    train, test = put(lake / "data", "nsl_kdd")
    data = resolve(Data("nsl_kdd"))
    assert (data.source, data.test, data.split) == ((train,), (test,), None)
    assert len(data.columns) == 41 and not {"attack", "difficulty", "anomaly"} & set(data.columns)
    assert (data.label, data.normal, data.shape) == ("anomaly", (("anomaly", "==", 0),), None)
    assert resolve(data) == data
    hashed = resolve(Data("nsl_kdd", split="hash"))
    assert (hashed.source, hashed.test) == ((train, test), None)
    assert resolve(Data("nsl_kdd", split="flag")).source == (train, test)
    own = resolve(Data("nsl_kdd", test="mine.parquet"))
    assert (own.source, own.test) == ((train,), ("mine.parquet",))
    assert resolve(Data("rows.parquet", test="nsl_kdd")).test == (train, test)
    (lake / "data/nsl_kdd/nsl_kdd_test.parquet").unlink()
    with pytest.raises(RaeflowError, match=r"run `raeflow data fetch nsl_kdd`"):
        resolve(Data("nsl_kdd"))


def test_the_sets_of_tables_fill_what_is_known_of_them(lake):
    put(lake / "data", "beijing_air")
    air = resolve(Data("beijing_air"))
    assert (air.columns, air.label, air.normal, air.split) == (None, None, None, None)
    assert resolve(Data("beijing_air", columns=["TEMP", "PRES"])).columns == ("TEMP", "PRES")
    (experiments,), (free,) = put(lake / "data", "skab"), put(lake / "data", "skab/anomaly_free")
    pump = resolve(Data("skab"))
    assert (pump.source, pump.label, pump.normal, len(pump.columns)) == ((experiments,), "anomaly", (("anomaly", "==", 0),), 8)
    judged = resolve(Data("skab/anomaly-free", test="skab"))
    assert (judged.source, judged.test, judged.columns) == ((free,), (experiments,), pump.columns)
    with pytest.raises(RaeflowError, match=r"Data\(source='skab/none'\): no such file or folder"):
        resolve(Data("skab/none"))


def whole(split):
    return 0 if split is None else len(split)


@needs_data
def test_nsl_kdd_is_tested_on_its_test_file():
    """By rates and counts alone; the rows of train that are attacks are left out, those of test are not."""
    numbers = [c for c in named()["nsl_kdd"].columns if c.endswith(("_rate", "count", "_bytes"))]
    splits = load(Data("nsl_kdd", columns=numbers))
    assert splits.spec.shape == (len(numbers),) == (21,) and whole(splits.test) == 22_544 and int(splits.test.anomaly.sum()) == 12_833
    normal = pc.sum(pc.equal(pq.read_table(locate(named()["nsl_kdd"])[0])["anomaly"], 0)).as_py()
    assert sum(whole(part) for part in (splits.train, splits.validate, splits.calibrate)) == normal == 13_449


@needs_data
def test_skab_loads_and_its_quiet_series_can_be_judged_on_the_experiments():
    splits = load(Data("skab"))
    assert splits.spec.shape == (8,) and int(splits.test.anomaly.sum()) > 0
    judged = load(Data("skab/anomaly_free", test="skab"))
    assert whole(judged.test) == 37_401 and whole(judged.train) + whole(judged.validate) + whole(judged.calibrate) == 9_405


def test_data_folder_before_cache(lake):
    cached = put(lake / "cache", "ecg5000")
    assert locate(named()["ecg5000"]) == cached
    shared = put(lake / "data", "ecg5000")
    assert locate(named()["ecg5000"]) == shared
    assert located("ecg5000") == lake / "data/ecg5000"
    assert located("digits") is None and located("no such set") is None and not (lake / "cache/digits").exists()


def test_the_environment_names_the_folders(monkeypatch):
    monkeypatch.delenv("RAEFLOW_DATA", raising=False)
    monkeypatch.delenv("RAEFLOW_CACHE", raising=False)
    assert places().data is None and places().cache == Path("~/.cache/raeflow").expanduser()
    monkeypatch.setenv("RAEFLOW_DATA", "~/lake")
    assert places().data == Path("~/lake").expanduser()


def test_a_named_set_can_be_the_test_split_of_another(lake):
    put(lake / "data", "mnist")
    strange = put(lake / "data", "fashion_mnist")
    data = resolve(Data("mnist", test="fashion_mnist", calibrate="rows.parquet"))
    assert data.test == strange and data.calibrate == ("rows.parquet",)
    with pytest.raises(RaeflowError, match=r"Data\(test='fashion_minst'\)"):
        resolve(Data("mnist", test="fashion_minst"))


def test_digits_are_real_scaled_and_written_once(lake):
    from sklearn.datasets import load_digits

    data = resolve(Data("digits"))
    (path,) = data.source
    assert Path(path) == lake / "cache/digits/digits.parquet" and (data.shape, data.label) == ((1, 8, 8), "label")
    table = pq.read_table(path)
    images = np.asarray(table["image"].combine_chunks().flatten()).reshape(-1, 8, 8)
    bunch = load_digits()
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1
    assert np.array_equal(images * 16, bunch.images) and np.array_equal(np.asarray(table["label"]), bunch.target)
    before = os.stat(path).st_mtime_ns
    resolve(Data("digits"))
    assert os.stat(path).st_mtime_ns == before


def test_digits_keep_their_scale_under_0_1_scaling(lake):
    import torch

    from raeflow.data.scaling import fit_scaling

    table = pq.read_table(resolve(Data("digits")).source[0])
    x = torch.from_numpy(np.array(table["image"].combine_chunks().flatten())).reshape(-1, 1, 8, 8)
    scaled = fit_scaling("auto", (1, 8, 8), x.dtype, [x])(x)
    assert torch.equal(scaled, x)


def test_writers_that_make_a_set_at_once_all_read_it_whole(lake):
    def write(_):
        return pq.read_table(resolve(Data("digits")).source[0]).num_rows

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(8))) == [1797] * 8
    assert [p.name for p in (lake / "cache/digits").iterdir()] == ["digits.parquet"]


def test_a_cache_that_cannot_be_written_is_one_sentence(lake, monkeypatch):
    (lake / "file").write_text("")
    monkeypatch.setenv("RAEFLOW_CACHE", str(lake / "file"))
    with pytest.raises(RaeflowError, match=r"digits.parquet cannot be written .*RAEFLOW_CACHE"):
        resolve(Data("digits"))


def test_airshower_is_made_with_noisy_rows_and_clean_targets(lake, monkeypatch):
    monkeypatch.setattr(airshower, "ROWS", 100)
    monkeypatch.setattr(airshower, "_TRAIN", 80)
    data = resolve(Data("airshower/cosine"))
    assert (data.columns, data.target, data.label, data.split, data.shape) == (("noisy",), "clean", "label", "split", (1, 500))
    assert pq.read_table(data.source[0]).num_rows == 100
    assert lookup("airshower").files == (f"airshower/airshower_realistic_v{airshower.VERSION}.parquet",)
    assert {f"airshower/{noise}" for noise in airshower.NOISES} < set(named())


@needs_data
@pytest.mark.parametrize("name", [n for n in named() if not n.startswith(("adbench/", "airshower/", "digits"))])
def test_the_catalogue_agrees_with_the_files(name):
    one = named()[name]
    schemas = [pq.read_schema(path) for path in locate(one)]
    assert sum(pq.read_metadata(path).num_rows for path in locate(one)) == one.rows
    for schema in schemas:
        needed = {*(one.columns or ()), one.label, one.target, one.split} - {None}
        assert needed <= set(schema.names)
        if one.shape is not None:
            assert sum(getattr(schema.field(column).type, "list_size", 1) for column in one.columns) == np.prod(one.shape)


@needs_data
def test_every_shared_table_of_adbench_has_a_name():
    found = {f"adbench/{path.name}" for path in Path(DATA, "adbench").glob("*.parquet")}
    catalogue = {one.files[0]: one for one in named().values() if one.name.startswith("adbench/")}
    assert found and found <= set(catalogue) and len(catalogue) == 47
    for file in found:
        table = pq.read_table(Path(DATA, file))
        assert (table.num_rows, (table.schema.field("features").type.list_size,)) == (catalogue[file].rows, catalogue[file].shape)
        assert set(table["label"].unique().to_pylist()) == {0, 1}


def test_every_set_tells_its_source_licence_and_citation():
    for name, one in named().items():
        assert name == one.name and one.licence and one.source and one.citation and one.title
        assert all(
            field.default is not dataclasses.MISSING or getattr(one, field.name)
            for field in dataclasses.fields(one)
            if field.name not in ("label", "columns")
        )


def _stored(name, column, split):
    """A column of the files as they are, rows of one split: (N, *shape) in the model's order."""
    one = named()[name]
    tables = pa.concat_tables([pq.read_table(path, columns=[column, one.split]) for path in locate(one)])
    kept = tables.filter(pc.equal(tables[one.split], split))[column].combine_chunks()
    values = np.asarray(kept.flatten()).reshape(len(kept), -1)
    if len(one.shape) < 3:
        return values.reshape(-1, *one.shape)
    channels, height, width = one.shape
    return values.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


@needs_data
@pytest.mark.parametrize(("name", "train", "test"), [("mnist", 60000, 10000), ("galaxies_efigi", 3570, 888), ("noisy_office", 36, 12)])
def test_image_sets_load_whole(name, train, test):
    from raeflow.data import inspect, load

    spec, splits = inspect(Data(name)), load(Data(name))
    assert spec.shape == named()[name].shape and spec.dtype == "uint8" and splits.encoding.mode == "unit"
    assert len(splits.train) + len(splits.validate) + len(splits.calibrate) == train
    assert np.array_equal(splits.test.x.numpy(), _stored(name, spec.columns[0], "test")) and len(splits.test) == test
    if named()[name].target:
        assert np.array_equal(splits.test.target.numpy(), _stored(name, named()[name].target, "test"))


@needs_data
def test_flagged_sets_train_on_normal_rows_alone():
    from raeflow.data import load

    beats = load(Data("ecg5000"))
    assert len(beats.train) + len(beats.validate) + len(beats.calibrate) == 292 and len(beats.test) == 4500
    assert int(beats.test.anomaly.sum()) == 1590 + 86 + 175 + 22
    assert np.array_equal(beats.test.x.numpy(), _stored("ecg5000", "signal", "test"))
    assert len(load(Data("ecg5000", split="hash")).train) > 1500
    heart = load(Data("adbench/06_cardio"))
    normal_held_out = len(heart.test) - int(heart.test.anomaly.sum())
    assert len(heart.train) + len(heart.validate) + len(heart.calibrate) + normal_held_out == 1831 - 176
    assert heart.spec.shape == (21,) and heart.encoding.mode == "standard"


def test_sets_made_here_load(lake, monkeypatch):
    from raeflow.data import load

    sevens = load(Data("digits", normal=[("label", "!=", 7)]))
    assert sevens.spec.shape == (1, 8, 8) and sevens.encoding.mode == "unit"
    held_out = sevens.test.label == 7
    assert held_out.any() and bool((sevens.test.anomaly == held_out).all()) and not (sevens.train.label == 7).any()
    monkeypatch.setattr(airshower, "ROWS", 600)
    monkeypatch.setattr(airshower, "_TRAIN", 500)
    noise = load(Data("airshower/uniform", normal=[("label", "==", 0)]))
    assert len(noise.test) == 100 and 30 < int(noise.test.anomaly.sum()) < 70
    assert not noise.train.target.any() and noise.test.target.any() and noise.train.x.shape[1:] == (1, 500)
