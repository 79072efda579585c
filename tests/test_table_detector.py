"""Detectors of mixed tables: what they take, what they say of each column, and what a thing never seen adds."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from raeflow.data.schema import to_tensor
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.graph import EXTREME, TYPICAL, Graph
from tests.tables import mixed, trained, untrained

ROWS = 300
NAMES = tuple(mixed(10))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("table"), mixed())


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "committee"])
def detector(loaded, request):
    return untrained(loaded, members=request.param)


def rows(count=ROWS):
    return pa.table({name: array.slice(0, count) for name, array in mixed().items()})


def but(table, **changed):
    """The table with a value in every row of some columns."""
    for name, value in changed.items():
        table = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table), table[name].type))
    return table


def test_arrow_frames_and_stored_rows_score_alike(detector, loaded):
    scores = detector.score(rows())
    assert scores.shape == (ROWS,)
    assert len(np.unique(scores)) > 0.9 * ROWS
    np.testing.assert_array_equal(detector.score(loaded.train.x[:ROWS]), scores)
    np.testing.assert_array_equal(detector.score(rows().to_pandas()), scores)
    np.testing.assert_array_equal(detector.score(rows().to_batches()[0]), scores)
    shuffled = rows().select(NAMES[::-1]).append_column("more", pa.array(range(ROWS)))
    np.testing.assert_array_equal(detector.score(shuffled), scores)
    np.testing.assert_allclose(detector.score(rows(), batch_size=7), scores, rtol=1e-5)
    assert detector.predict(rows()).tolist() == (scores > detector.threshold.value).tolist()
    words = but(rows(5), word="tcp")
    other = words.set_column(5, "word", words["word"].cast(pa.large_string()).dictionary_encode())
    np.testing.assert_array_equal(detector.score(other), detector.score(words))


def test_arrays_are_refused_and_so_are_columns_of_another_kind(detector):
    with pytest.raises(RaeflowError, match="give a data frame or an Arrow table, not an array"):
        detector.score(np.zeros((3, 14), np.float32))
    for name, values in (("number", ["high"] * 3), ("word", [1.5] * 3), ("moment", [0.5] * 3), ("flag", ["yes"] * 3)):
        table = rows(3).set_column(NAMES.index(name), name, pa.array(values))
        with pytest.raises(RaeflowError, match=f"column {name!r} holds (string|double), not") as caught:
            detector.score(table)
        assert "\n" not in str(caught.value)
    with pytest.raises(RaeflowError, match="no column named 'flag'"):
        detector.score(rows(3).drop(["flag"]))
    with pytest.raises(RaeflowError, match="column 'tail', row 0: value inf is not finite"):
        detector.score(but(rows(3), tail=np.inf))


def test_columns_without_type_are_gaps(detector):
    table = rows(4)
    gone = table.set_column(NAMES.index("g_word"), "g_word", pa.nulls(4)).set_column(1, "g_number", pa.nulls(4))
    typed = but(table, g_word=None, g_number=None)
    np.testing.assert_array_equal(detector.score(gone), detector.score(typed))


def test_numbers_alone_take_arrays_with_gaps(tmp_path):
    drawn = np.random.default_rng(0)
    values = drawn.normal(size=(900, 3))
    values[drawn.random(900) < 0.1, 1] = np.nan
    columns = {name: values[:, i] for i, name in enumerate("abc")}
    detector = untrained(trained(tmp_path, columns))
    np.testing.assert_array_equal(detector.score(values), detector.score(pa.table(columns)))
    assert detector.reconstruct(values).shape == (900, 3)
    assert detector.explain(values).shape == (900, 3)
    values[4, 2] = np.inf
    with pytest.raises(RaeflowError, match="row 4 holds inf"):
        detector.score(values)


def test_explanations_have_a_number_for_each_column(detector, loaded):
    explained = detector.explain(rows())
    assert explained.shape == (ROWS, 12)
    assert (explained >= 0).all()
    assert (explained[:, NAMES.index("still")] == 0).all(), "what never varies and did not"
    encoded = loaded.encoding(loaded.train.x[:ROWS])
    mean = sum((encoded - m.reconstruct(encoded)).square() for m in detector.models) / len(detector.models)
    owner = loaded.encoding.owner
    for i in range(12):
        np.testing.assert_allclose(explained[:, i], mean[:, owner == i].sum(1).detach(), rtol=1e-4, atol=1e-6)


def test_reconstructions_are_in_the_users_types_and_words(detector, loaded):
    back = detector.reconstruct(rows())
    assert back.column_names == list(NAMES)
    assert back.num_rows == ROWS
    for name in NAMES:
        assert back[name].type == (pa.time32("ms") if name == "time" else rows()[name].type), "as Parquet has it"
    assert set(back["word"].to_pylist()) <= {"tcp", "udp", "icmp", "a", "b", "c"}
    assert set(back["g_word"].to_pylist()) <= {"x", "y", "z", None}
    assert set(back["still"].to_pylist()) == {7.0}
    stored = detector.expected(rows())
    assert stored.shape == (ROWS, *loaded.spec.stored)
    again = to_tensor(back, loaded.spec)
    codes = [place for f, place in loaded.spec.placed if f.role != "clock"]
    np.testing.assert_allclose(again[:, codes], stored[:, codes], rtol=1e-6)


def test_drops_are_what_the_expected_value_would_save(detector, loaded):
    drops = detector.drops(rows())
    assert drops.shape == (ROWS, 12)
    best = torch.from_numpy(detector.expected(rows()))
    for i, (field, place) in enumerate(loaded.spec.placed):
        put = loaded.train.x[:ROWS].clone()
        put[:, place : place + field.slots] = best[:, place : place + field.slots]
        np.testing.assert_allclose(drops[:, i], detector.score(rows()) - detector.score(put), rtol=1e-3, atol=1e-5)


NEW = {"number": None, "tail": None, "flag": None, "word": "never", "g_word": "never", "day": None, "time": None, "still": 8.0}


@pytest.mark.parametrize("name", NEW)
def test_a_thing_never_seen_adds_what_the_rule_says(detector, loaded, name):
    table = but(rows(20), **{name: NEW[name]})
    x = to_tensor(table, loaded.spec)
    assert loaded.encoding.strange(x).sum(1).tolist() == [1] * 20
    moments = [m.moments for m in detector.members]
    bare = Graph(detector.graph.encoding, detector.models, moments).eval()
    with torch.inference_mode():
        expected = bare(x).numpy() + np.float32(detector.graph.novelty.score)
        errors = bare.errors(x).numpy()
    np.testing.assert_allclose(detector.score(table), expected, rtol=1e-6)
    more = detector.explain(table) - errors
    np.testing.assert_allclose(more[:, NAMES.index(name)], detector.graph.novelty.error, rtol=1e-3)
    assert np.abs(np.delete(more, NAMES.index(name), 1)).max() == 0
    drops = detector.drops(table)
    assert (drops.argmax(1) == NAMES.index(name)).mean() > 0.9, "the column to put right"


def test_each_thing_never_seen_adds_as_much_again(detector, loaded):
    table = but(rows(20), still=8.0, word="never", day=None)
    x = to_tensor(table, loaded.spec)
    bare = Graph(detector.graph.encoding, detector.models, [m.moments for m in detector.members]).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(detector.score(table) - bare(x).numpy(), 3 * detector.graph.novelty.score, rtol=1e-4)


def test_the_rule_is_from_the_typical_to_the_extreme_of_validation_rows(detector, loaded):
    bare = Graph(detector.graph.encoding, detector.models, [m.moments for m in detector.members]).eval()
    with torch.inference_mode():
        scores, errors = bare(loaded.validate.x).numpy(), bare.errors(loaded.validate.x).sum(1).numpy()
    for values, added in ((scores, detector.graph.novelty.score), (errors, detector.graph.novelty.error)):
        low, high = (np.quantile(values, share, method="inverted_cdf") for share in (TYPICAL, EXTREME))
        assert added == pytest.approx(float(high) - float(low), rel=1e-5)


def test_saved_and_loaded_it_is_the_same(detector, tmp_path):
    again = Detector.load(detector.save(tmp_path / "detector"), "cpu")
    assert again.id == detector.id
    assert again.spec == detector.spec
    assert again.graph.novelty == detector.graph.novelty
    odd = but(rows(), still=8.0, word="never")
    for table in (rows(), odd):
        np.testing.assert_array_equal(again.score(table), detector.score(table))
        np.testing.assert_array_equal(again.explain(table), detector.explain(table))
    assert again.reconstruct(rows()).equals(detector.reconstruct(rows()))
    record = json.loads((tmp_path / "detector" / "detector.json").read_text())
    assert record["format"] == 2


@pytest.mark.parametrize("place", ["novelty", "levels", "encoding"])
def test_a_changed_detector_is_refused(detector, tmp_path, place):
    folder = detector.save(tmp_path / "detector")
    record = json.loads((folder / "detector.json").read_text())
    if place == "novelty":
        record["novelty"]["score"] *= 2
    elif place == "levels":
        field = next(f for f in record["spec"]["fields"] if f["name"] == "word")
        field["levels"] = field["levels"][::-1]
    else:
        record["encoding"]["columns"][0]["role"] = "flag"
    (folder / "detector.json").write_text(json.dumps(record))
    with pytest.raises(RaeflowError, match="detector was changed after it was saved"):
        Detector.load(folder, "cpu")


def test_the_exported_program_scores_alike(detector, loaded, tmp_path):
    program = torch.export.load(detector.export(tmp_path / "detector.pt2")).module()
    odd = to_tensor(but(rows(50), still=8.0, word="never", number=None), loaded.spec)
    for x in (loaded.train.x[:ROWS], loaded.train.x[:1], odd):
        np.testing.assert_allclose(program(x).numpy(), detector.score(x), rtol=1e-5)
