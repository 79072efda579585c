"""Rows beyond the memory budget are streamed: the same rows, splits, scaling and losses as in memory."""

import gc
import pickle
import shutil
import threading
import types
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from raeflow import selection
from raeflow.data import load
from raeflow.data.rows import Rows
from raeflow.data.stream import SAMPLED, StreamedRows
from raeflow.errors import RaeflowError
from raeflow.study import Data, Training
from raeflow.training import Run
from raeflow.variants._contract import Variant

N, D = 20_000, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20,000 rows of 8 numbers in 3 files, row groups of 500; the first value numbers the row."""
    folder = tmp_path_factory.mktemp("rows")
    drawn = np.random.default_rng(0)
    codes = drawn.standard_normal((N, 2))
    values = (codes @ drawn.standard_normal((2, D)) + 0.1 * drawn.standard_normal((N, D))).astype(np.float32)
    values[:, 0] = np.arange(N) / 1000
    kind = np.array(["fine", "odd"])[(drawn.uniform(size=N) < 0.1).astype(int)]
    for i, part in enumerate(np.array_split(np.arange(N), 3)):
        x, y = (pa.FixedSizeListArray.from_arrays(pa.array(v[part].reshape(-1)), D) for v in (values, -values))
        pq.write_table(pa.table({"x": x, "clean": y, "kind": kind[part]}), folder / f"{i}.parquet", row_group_size=500)
    return folder


def data(folder, memory=4 << 30, **fields):
    return Data(folder, columns="x", label="kind", normal=[("kind", "==", "fine")], memory=memory, **fields)


@pytest.fixture
def small_units(monkeypatch):
    """Row groups are read one by one."""
    monkeypatch.setattr("raeflow.data.plan._UNIT", 1)


def sort(values):
    return values[np.lexsort(values.T[::-1])]


@pytest.fixture
def both(folder, small_units):
    resident, streamed = load(data(folder)), load(data(folder, memory=N * D * 4 - 1))
    assert isinstance(resident.train, Rows)
    assert isinstance(streamed.train, StreamedRows)
    return resident, streamed


def test_a_stream_keeps_a_sample_of_train_that_no_order_of_files_decides(both, folder, monkeypatch, tmp_path):
    resident, streamed = both
    known = {tuple(row) for row in resident.train.x.tolist()}
    sample = streamed.sampled.x
    assert len(sample) == min(SAMPLED, (N * D * 4 - 1) // 8 // (D * 4))
    assert len({tuple(row) for row in sample.tolist()} & known) == len(sample)
    assert abs(float(sample[:, 0].mean()) - N / 2000) < 0.5, "from all over the files"
    for number, part in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copy(part, tmp_path / f"{number}.parquet")
    turned = load(data(tmp_path, memory=N * D * 4 - 1)).sampled.x
    assert np.array_equal(sort(turned.numpy()), sort(sample.numpy()))
    assert len(streamed.some_train(100)) == 100
    with pytest.raises(RaeflowError, match="no sample of it was kept"):
        replace(streamed, sampled=None).some_train(100)


def test_heads_of_a_stream_are_fitted_on_its_sample(both):
    _, streamed = both
    run = Run("autoencoder", {"latent": 2, "layers": (8,)}, streamed, Training(epochs=2, batch_size=256, device="cpu"), 0)
    for _ in run.epochs():
        pass
    found = selection.judged(run, selection.judge("synthetic", streamed.for_search(), 0), ("memory",))
    assert found.fitted.head["name"] == "memory"
    assert torch.isfinite(found.fitted.head_weights["bank"]).all()


def test_a_stream_divides_and_scales_as_memory_does(both):
    resident, streamed = both
    assert len(streamed.train) == len(resident.train)
    assert streamed.train.shape == (D,)
    assert streamed.fingerprint == resident.fingerprint
    torch.testing.assert_close(streamed.encoding.shift, resident.encoding.shift)
    torch.testing.assert_close(streamed.encoding.scale, resident.encoding.scale)
    for name in ("validate", "calibrate", "test", "labelled"):  # small enough here to be whole
        mine, theirs = getattr(streamed, name), getattr(resident, name)
        torch.testing.assert_close(mine.x, theirs.x)
        assert torch.equal(mine.label, theirs.label)
    assert torch.equal(streamed.test.anomaly, resident.test.anomaly)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("size", [64, 1000, 15_000])
def test_each_row_comes_once_an_epoch(both, seed, size):
    resident, streamed = both
    batches = [b.x.numpy() for b in streamed.train.batches(size, seed=seed, epoch=2)]
    assert [len(b) for b in batches] == [len(b.x) for b in resident.train.batches(size, seed=seed)]
    np.testing.assert_array_equal(sort(np.concatenate(batches)), sort(resident.train.x.numpy()))
    if seed is None:
        np.testing.assert_array_equal(np.concatenate(batches), resident.train.x.numpy())


def test_seed_and_epoch_alone_decide_the_order(both, monkeypatch):
    train = both[1].train

    def order(**how):
        return torch.cat([b.x[:, 0] for b in train.batches(100, **how)])

    first = order(seed=1, epoch=0)
    monkeypatch.setattr(pa, "cpu_count", lambda: 7)  # more readers
    assert torch.equal(first, order(seed=1, epoch=0))
    assert not torch.equal(first, order(seed=1, epoch=1))
    assert not torch.equal(first, order(seed=2, epoch=0))


def test_rows_of_many_row_groups_meet_in_a_batch(both):
    train = both[1].train
    assert train.window < len(train) / 4  # else this says nothing
    batches = [b.x[:, 0].numpy() * 1000 // 500 for b in train.batches(100, seed=0)]
    groups = [len(np.unique(b)) for b in batches]
    assert np.median(groups) >= 3
    # Nothing of the order of the files is left: neighbours in the stream are far from one another.
    flow = np.concatenate(batches)
    assert abs(np.corrcoef(flow[:-1], flow[1:])[0, 1]) < 0.35


def test_workers_share_each_batch(both):
    train = both[1].train
    whole = [b.x for b in train.batches(120, seed=5, epoch=1, drop_last=True)]
    parts = [[b.x for b in train.batches(120, seed=5, epoch=1, rank=r, world=3)] for r in range(3)]
    assert [len(p) for p in parts] == [len(whole)] * 3 == [len(train) // 120] * 3
    for step, batch in enumerate(whole):
        assert torch.equal(batch, torch.cat([p[step] for p in parts]))


def test_labels_and_targets_stream_with_their_rows(folder, small_units):
    splits = load(Data(folder, columns="x", target="clean", label="kind", anomaly=[("kind", "==", "odd")], memory=N * D * 4))
    resident = load(Data(folder, columns="x", target="clean", label="kind", anomaly=[("kind", "==", "odd")]))
    known = dict(zip(resident.train.x[:, 0].tolist(), resident.train.label.tolist(), strict=True))
    seen = 0
    for batch in splits.train.batches(700, seed=0):
        assert torch.equal(batch.target, -batch.x)
        assert [known[v] for v in batch.x[:, 0].tolist()] == batch.label.tolist()
        seen += int(batch.label.sum())
    assert seen == int(resident.train.label.sum()) > 0


def test_what_does_not_fit_is_thinned_by_hash_in_whatever_order_files_come(folder, small_units, tmp_path, caplog):
    memory = 120_000
    with caplog.at_level("WARNING", "raeflow"):
        splits = load(data(folder, memory=memory))
    whole = load(data(folder))
    cap = memory // 4 // (D * 4)
    assert "1 in 8 rows is kept" in caplog.text
    for name in ("labelled", "calibrate", "test"):
        kept, all_ = getattr(splits, name), getattr(whole, name)
        assert cap / 4 < len(kept) <= cap
        assert set(kept.x[:, 0].tolist()) < set(all_.x[:, 0].tolist())
        assert len(np.unique(kept.x[:, 0])) == len(kept)
    assert 0 < int(splits.test.anomaly.sum()) < len(splits.test)
    truth = dict(zip(whole.test.x[:, 0].tolist(), whole.test.anomaly.tolist(), strict=True))
    assert [truth[v] for v in splits.test.x[:, 0].tolist()] == splits.test.anomaly.tolist()
    assert not splits.validate.anomaly.any()

    table = pa.concat_tables([pq.read_table(f) for f in sorted(folder.glob("*.parquet"))])
    mixed = table.take(np.random.default_rng(1).permutation(N))
    pq.write_table(mixed, tmp_path / "mixed.parquet", row_group_size=777)
    again = load(data(tmp_path / "mixed.parquet", memory=memory))
    for name in ("labelled", "calibrate", "test"):
        np.testing.assert_array_equal(sort(getattr(again, name).x.numpy()), sort(getattr(splits, name).x.numpy()))


def test_a_stream_travels_as_paths(both):
    train = both[1].train
    sent = pickle.dumps(train)
    assert len(sent) < 20_000
    back = pickle.loads(sent)
    for mine, theirs in zip(back.batches(500, seed=4), train.batches(500, seed=4), strict=True):
        assert torch.equal(mine.x, theirs.x)
        assert torch.equal(mine.label, theirs.label)


def test_a_consumer_that_stops_leaves_no_reader_behind(both):
    before = threading.active_count()
    flow = both[1].train.batches(64, seed=0)
    next(flow)
    flow.close()
    gc.collect()
    assert threading.active_count() == before


def test_a_row_group_beyond_memory_is_refused(tmp_path):
    x = np.random.default_rng(0).standard_normal(5000)
    pq.write_table(pa.table({"a": x, "b": x}), tmp_path / "rows.parquet")
    with pytest.raises(RaeflowError, match=r"rows\.parquet, row group 0: its 5000 rows take 40000 bytes, more than Data\(memory=30000\)"):
        load(Data(tmp_path / "rows.parquet", memory=30_000))


def test_faults_are_told_with_their_place_in_a_stream_too(tmp_path):
    x = np.random.default_rng(0).standard_normal((3000, 2))
    x[1234, 1] = np.inf
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), tmp_path / "rows.parquet", row_group_size=1000)
    with pytest.raises(RaeflowError, match=r"rows\.parquet, row group 1, column 'b', row 234: value inf is not finite"):
        load(Data(tmp_path / "rows.parquet", memory=20_000))
    x[:, 1] = 2
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), tmp_path / "rows.parquet", row_group_size=1000)
    splits = load(Data(tmp_path / "rows.parquet", memory=20_000))
    assert splits.told() == [("a", "number"), ("b", "constant, watched")]
    parts = pa.table({"b": x[:, 1], "part": np.array([*["train"] * 7, "val", "cal", "test"] * 300)})
    pq.write_table(parts, tmp_path / "parts.parquet", row_group_size=1000)
    with pytest.raises(RaeflowError, match=r"column 'b' \(2\) is constant in the train split"):
        load(Data(tmp_path / "parts.parquet", memory=6_000, columns="b", split="part"))


# --- training ----------------------------------------------------------------------------------------------------------------


class Line(Variant):
    """A linear autoencoder of two codes: the smallest variant there is."""

    def __init__(self, shape, hyper):
        super().__init__()
        self.down, self.up = nn.Linear(shape[0], 2), nn.Linear(2, shape[0])

    def optimizers(self):
        return {"all": torch.optim.Adam(self.parameters(), lr=0.01)}

    def turns(self, batch, progress):
        yield "all", self.score(batch.x).mean()

    def reconstruct(self, x):
        return self.up(self.down(x))

    def score(self, x):
        return ((self.reconstruct(x) - x) ** 2).mean(1)


def test_training_on_a_stream_reaches_the_loss_of_training_in_memory(both, monkeypatch):
    from raeflow import training

    monkeypatch.setattr(training, "variants", types.SimpleNamespace(build=lambda name, shape, hyper: Line(shape, hyper)))
    how = Training(epochs=4, batch_size=128, device="cpu")
    losses = [training.fit("line", {}, splits, how, seed=1).history[-1] for splits in both]
    first = training.fit("line", {}, both[0], Training(epochs=1, batch_size=128, device="cpu"), seed=1).history[0]
    for name in ("validation_loss", "loss_all"):
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.05)
        assert losses[1][name] < 0.8 * first[name]
