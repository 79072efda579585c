"""2,000 random tables, each of which ends in scores or in one sentence that names what is wrong.

`python -m tests.test_fuzz_tables 1234` repeats the table of one seed and prints what it held and how it ended.
"""

import dataclasses
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raeflow import variants
from raeflow.data.columns import role_of, to_table
from raeflow.data.load import load
from raeflow.data.tensors import to_tensor
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring import ADDED, score
from raeflow.study import Calibration, Data, Training
from raeflow.training import Fitted, fit
from tests import fuzz

TABLES, BLOCK = 2_000, 100
TRAINED, FILED = 10, 7
"""One table in so many is trained on; the second table of one in so many is scored from Parquet to Parquet."""
_ROLES = {
    "number": ["number", "long_tail", "flag"],
    "flag": ["flag", "number", "category"],
    "category": ["category", "out"],
    "clock": ["clock", "out"],
}
_ANY_ROLE = ["number", "long_tail", "flag", "category", "clock", "out"]
_SLIPS = re.compile(r"unexpected|a bug of raeflow|Traceback|Error\(|Error:|<class|object at 0x|NoneType")


def options(drawn, schema):
    """What a user may say of the data, seldom right, mostly nothing."""
    names = schema.names
    said = {}
    if "label" in names and drawn.random() < 0.8:
        said["label"] = "label"
    if drawn.random() < 0.15:
        said["columns"] = [n for n in dict.fromkeys(names) if drawn.random() < 0.7] or names[:1]
    if drawn.random() < 0.3:
        at = int(drawn.integers(len(names)))
        fitting = _ROLES.get(role_of(schema.field(at).type), ["out"])
        said["roles"] = {names[at]: fuzz.one(drawn, fitting if drawn.random() < 0.85 else _ANY_ROLE)}
    if drawn.random() < 0.3:
        said["scaling"] = fuzz.one(drawn, ["standard", "asinh", "unit", "global", "none"] * 3 + ["signal"])
    if drawn.random() < 0.2:
        said["min_frequency"] = float(fuzz.one(drawn, [0.0, 0.001, 0.05, 0.3]))
    if drawn.random() < 0.1:
        said["memory"] = int(fuzz.one(drawn, [1 << 10, 1 << 13, 1 << 16]))
    if "split" in names and drawn.random() < 0.3:
        said["split"] = "split"
    return said


def write(drawn, table, folder):
    """One to three files of row groups of any size; what Parquet cannot hold is written as it can."""
    count = int(drawn.integers(1, 4))
    cuts = sorted(int(c) for c in drawn.integers(0, len(table) + 1, count - 1))
    for number, (low, high) in enumerate(zip([0, *cuts], [*cuts, len(table)], strict=True)):
        part = table.slice(low, high - low)
        if drawn.random() < 0.1:
            part = writable(fuzz.restored(drawn, part))
        compression = fuzz.one(drawn, ["none", "snappy", "zstd"])
        size, dictionary = int(fuzz.one(drawn, [7, 50, 1000])), bool(drawn.random() < 0.7)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=size, compression=compression, use_dictionary=dictionary)


def writable(table):
    """The table as far as Parquet can hold it."""
    columns = []
    for field, values in zip(table.schema, table.columns, strict=True):
        try:
            pq.write_table(pa.table({"x": values}), pa.BufferOutputStream())
        except (pa.ArrowException, OSError):
            values = values.cast(field.type.value_type) if pa.types.is_dictionary(field.type) else values.cast(pa.string())
        columns.append(values)
    return pa.Table.from_arrays(columns, names=table.column_names)


def trial(seed, folder):
    """One table's way to its end: `score`, or the sentence of a refusal."""
    drawn = np.random.default_rng(seed)
    schema = fuzz.schema(drawn)
    rows = int(fuzz.one(drawn, [0, 1, 5, 30, *range(80, 301, 20)]))
    first = writable(fuzz.table(drawn, schema, rows, strange=0.04))
    said = options(drawn, first.schema)
    second = fuzz.restored(drawn, fuzz.table(drawn, first.schema, int(fuzz.one(drawn, [0, 1, 3, 40])), strange=0.1))
    write(drawn, first, folder)
    try:
        splits = load(Data(folder, **said))
        detector = detect(splits, seed)
        if seed % FILED == 0:
            scored_in_files(detector, second, folder)
            return "score", first, said
        scores = detector.score(second)
        assert scores.shape == (len(second),), f"{scores.shape} of {len(second)}"
        assert not np.isnan(scores).any()
        if not len(second):
            return "score", first, said
        turned = second.select(list(range(second.num_columns))[::-1])
        assert np.array_equal(scores, detector.score(turned)), "the order of columns counts"
        x = to_tensor(second, detector.spec)
        encoded = splits.encoding(x)
        assert encoded.shape == (len(second), *detector.spec.shape)
        assert not encoded.isnan().any(), "the encoding makes NaN"
        if detector.spec.held:
            assert len(to_table(splits.encoding.inverse(encoded, x), detector.spec)) == len(second)
        return "score", first, said
    except RaeflowError as error:
        return str(error), first, said


def detect(splits, seed):
    """A detector, of one trained epoch now and then, else of weights as they were drawn."""
    hyper = dataclasses.asdict(variants.get("autoencoder").published(splits.spec.shape))
    if seed % TRAINED == 0:
        fitted = fit("autoencoder", hyper, splits, Training(epochs=1, batch_size=min(16, len(splits.train)), device="cpu"))
    else:
        torch.manual_seed(seed)
        weights = variants.build("autoencoder", splits.spec.shape, hyper).state_dict()
        fitted = Fitted("autoencoder", hyper, splits.spec.shape, weights)
    return Detector.assemble([fitted], splits, Calibration())


def scored_in_files(detector, second, folder):
    """Scores by way of Parquet: every row with its score."""
    (folder / "new").mkdir()
    second = writable(second)
    pq.write_table(second, folder / "new" / "rows.parquet", row_group_size=16)
    kept = [n for n in second.column_names if n not in ADDED.names]
    summary = score(detector, [str(folder / "new")], folder / "out", columns=kept)
    found = [pq.read_table(path, columns=["anomaly_score", "problem"]) for path in (folder / "out").rglob("*.parquet")]
    assert summary.rows == len(second) == sum(map(len, found))
    for part in found:  # a row has a score, or what is wrong with it
        assert part["anomaly_score"].is_null().equals(part["problem"].is_valid())
        assert not np.isnan(part["anomaly_score"].drop_null().to_numpy()).any()
    assert summary.bad == sum(len(part) - part["problem"].null_count for part in found)


def faults(message, table, said):
    """What is wrong with a refusal's wording; nothing where it is one good sentence."""
    found = []
    if "\n" in message or len(message) > 2000:
        found.append("more than a line")
    if slip := _SLIPS.search(message):
        found.append(f"says {slip.group()!r}")
    named = any(repr(name) in message or name in message for name in table.column_names)
    if not (named or re.search(r"\d|Data\(|Calibration\(|Training\(|there are no rows", re.sub(r"/\S*", "", message))):
        found.append("names neither column nor value")
    return found


def told(seed, table, said):
    """How to repeat a table."""
    held = ", ".join(f"{f.name}: {f.type}" for f in table.schema)
    return f"seed {seed} ({len(table)} rows of {held}; Data{said}); repeat it with: python -m tests.test_fuzz_tables {seed}"


def run(seed):
    """How a table ended, checked: (whether it was scored, the refusal)."""
    with tempfile.TemporaryDirectory() as place:
        try:
            end, table, said = trial(seed, Path(place))
        except Exception as error:
            drawn = np.random.default_rng(seed)
            held = ", ".join(f"{f.name}: {f.type}" for f in fuzz.schema(drawn))
            raise AssertionError(f"seed {seed} ({held}): repeat it with: python -m tests.test_fuzz_tables {seed}") from error
    wrong = [] if end == "score" else faults(end, table, said)
    assert not wrong, f"{'; '.join(wrong)}: {end!r}; {told(seed, table, said)}"
    return end


@pytest.mark.parametrize("start", range(0, TABLES, BLOCK))
def test_a_table_ends_in_scores_or_in_a_sentence(start):
    ends = Counter(run(seed) == "score" for seed in range(start, start + BLOCK))
    assert ends[True] >= BLOCK // 3, "tables that are mostly refused test little"


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        print(asked, run(int(asked)))
