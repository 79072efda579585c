"""Scoring on Ray actors: the same files as the plain loop writes, one clear error, and nothing done twice."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from raeflow import scoring, variants
from raeflow.data.rows import Rows, RowSpec, Splits
from raeflow.data.scaling import fit_scaling
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring import planning
from raeflow.study import Calibration
from raeflow.training import Fitted

F = 6


@pytest.fixture(scope="module")
def cluster():
    """Two cores of this machine, without a dashboard; only what this module started is ended."""
    import ray

    if ray.is_initialized():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if "RAY_AUTH_TOKEN" not in os.environ:
            patch.setenv("RAY_AUTH_MODE", "disabled")  # no token file of the user's is written or needed
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield
        ray.shutdown()


@pytest.fixture
def detector():
    spec = RowSpec(("x",), "list", (F,), "float32")
    rows = Rows(torch.randn(256, F, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(0)
    hyper = dataclasses.asdict(variants.get("autoencoder").published((F,)))
    fitted = Fitted("autoencoder", hyper, (F,), variants.build("autoencoder", (F,), hyper).state_dict())
    splits = Splits(spec, fit_scaling("auto", (F,), torch.float32, [rows.x]), rows, rows, rows, None)
    return Detector.assemble([fitted], splits, Calibration())


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "FRAGMENT_ROWS", 500)
    x = np.random.default_rng(0).normal(size=3000 * F).astype(np.float32)
    rows = pa.table({"id": pa.array(range(3000)), "x": pa.FixedSizeListArray.from_arrays(pa.array(x), F)})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=250)
    return tmp_path / "rows.parquet"


def read(out):
    return ds.dataset(out, format="parquet").to_table().sort_by("id")


@pytest.mark.ray
def test_actors_write_what_the_plain_loop_writes_and_repeat_nothing(cluster, detector, source, tmp_path):
    from raeflow.cluster.score import score

    folder, lines = detector.save(tmp_path / "detector"), []
    plain = scoring.score(detector, [str(source)], tmp_path / "plain")
    first = scoring.plan(detector, [str(source)], tmp_path / "spread")[0]
    scoring.score_fragment(detector, first)
    spread = score(folder, [str(source)], tmp_path / "spread", scorers=2, progress=lines.append)
    assert (spread.rows, spread.alerts, spread.fragments, spread.skipped) == (plain.rows, plain.alerts, 6, 1)
    assert read(tmp_path / "spread").equals(read(tmp_path / "plain"))
    assert spread.rate > 0 and lines[-1].startswith("scored 3,000 of 3,000 rows, 6 of 6 fragments")
    assert sorted(p.name for p in (tmp_path / "spread").iterdir()) == sorted(p.name for p in (tmp_path / "plain").iterdir())
    assert score(folder, [str(source)], tmp_path / "spread", scorers=2).skipped == 6


@pytest.mark.ray
def test_bad_rows_are_flagged_or_refused_and_all_other_fragments_are_finished(cluster, detector, source, tmp_path):
    from raeflow.cluster.score import score

    folder = detector.save(tmp_path / "detector")
    x = np.random.default_rng(1).normal(size=(400, F)).astype(np.float32)
    x[321, 5] = np.inf
    bad = pa.table({"id": pa.array(range(3000, 3400)), "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), F)})
    worse, broken = tmp_path / "a_worse.parquet", tmp_path / "b_broken.parquet"
    pq.write_table(bad, worse)
    pq.write_table(bad, broken, use_dictionary=False)
    content = bytearray(broken.read_bytes())
    page = pq.read_metadata(broken).row_group(0).column(1).data_page_offset
    content[page : page + 40] = b"\xff" * 40
    broken.write_bytes(content)
    sources = [str(worse), str(broken), str(source)]  # those that fail come first
    with pytest.raises(RaeflowError, match=r"b_broken\.parquet, row group 0: cannot be scored.*; the other 7 fragments") as caught:
        score(folder, sources, tmp_path / "out", scorers=2)
    assert "\n" not in str(caught.value)
    out = read(tmp_path / "out")
    assert out["id"].to_pylist() == list(range(3400))
    assert {i: p for i, p in enumerate(out["problem"].to_pylist()) if p} == {3321: "column 'x': value 5 is inf"}
    with pytest.raises(RaeflowError, match=rf"^{worse}, row 321: column 'x': value 5 is inf; the other 6 fragments"):
        score(folder, [str(worse), str(source)], tmp_path / "out", scorers=2, bad_rows="refuse")
    assert read(tmp_path / "out")["id"].to_pylist() == list(range(3000))
    with pytest.raises(RaeflowError, match=r"1 of 400 rows are bad \(0\.25%\), more than most_bad=0 "):
        score(folder, [str(worse)], tmp_path / "out", scorers=1, most_bad=0)
    again = score(folder, [str(worse), str(source)], tmp_path / "out", scorers=2)
    assert (again.skipped, again.rows, again.bad) == (7, 3400, 1)


@pytest.mark.ray
def test_a_fragment_that_kills_its_actors_is_given_up(cluster, detector, source, tmp_path):
    from raeflow.cluster import score as room

    class Deadly:  # local, so that it travels to the actors by value
        """A filesystem that ends the process which reads from it, as a machine short of memory does."""

        def open_input_file(self, path):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    fragment = scoring.plan(detector, [str(source)], tmp_path / "out")[2]
    poisoned = dataclasses.replace(fragment, piece=dataclasses.replace(fragment.piece, filesystem=Deadly()))
    (result,) = room._spread(detector, [poisoned], 1, 0)
    assert f"row groups 4-5: given up after {room.TRIES} actors died over it" in result["error"]
    with pytest.raises(RaeflowError, match="given up after"):
        scoring.settle([result], tmp_path / "out", 0.1)


def test_mistakes_are_refused_before_a_cluster_starts(detector, source, tmp_path, monkeypatch):
    from raeflow.cluster import score as room

    monkeypatch.setattr(room, "connect", lambda gpus: pytest.fail("a cluster was started"))
    folder = detector.save(tmp_path / "detector")
    with pytest.raises(RaeflowError, match="scorers=0"):
        room.score(folder, [str(source)], tmp_path / "out", scorers=0)
    with pytest.raises(RaeflowError, match="bad_rows='drop'"):
        room.score(folder, [str(source)], tmp_path / "out", scorers=1, bad_rows="drop")
    with pytest.raises(RaeflowError, match="no column named 'y'"):
        room.score(folder, [str(source)], tmp_path / "out", scorers=1, columns=["y"])
    with pytest.raises(RaeflowError, match="no detector there"):
        room.score(tmp_path / "none", [str(source)], tmp_path / "out", scorers=1)


def test_where_all_is_committed_no_cluster_starts(detector, source, tmp_path, monkeypatch):
    from raeflow.cluster import score as room

    monkeypatch.setattr(room, "connect", lambda gpus: pytest.fail("a cluster was started"))
    scoring.score(detector, [str(source)], tmp_path / "out")
    assert room.score(detector.save(tmp_path / "detector"), [str(source)], tmp_path / "out", scorers=2).skipped == 6
