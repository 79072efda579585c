"""Every Arrow type that a table's column may have: to stored values and back, against Python's own values."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raeflow.data import load, to_tensor
from raeflow.data.columns import arrow_type, fits, role_of, to_table
from raeflow.data.faults import sift
from raeflow.data.rows import Field, RowSpec
from raeflow.errors import RaeflowError
from raeflow.study import Data

WORDS = ["ash", None, "birch", "", "ash", "Ähre"]
LEVELS = ("birch", "ash", "Ähre")


def spec_of(kind, role=None, levels=None):
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    field = Field("c", role or role_of(kind), str(plain), levels)
    return RowSpec(("c",), "mixed", (field.slots,), "float32", fields=(field,), held=(field.slots,))


def stored(array, role=None, levels=None, as_kind=None):
    """Stored values of one column, and the table that they give back."""
    spec = spec_of(as_kind or array.type, role, levels)
    x = to_tensor(pa.table({"c": array}), spec, "here")
    assert x.dtype.is_floating_point
    return x.numpy(), to_table(x, spec)["c"]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(),
     pa.float64(), pa.decimal128(9, 3), pa.decimal256(40, 2)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dictionary", [False, True])
def test_numbers_of_every_type_are_numbers(kind, dictionary):
    values = [3, 0, None, 100, 7, 3]
    if pa.types.is_decimal(kind):
        values = [None if v is None else Decimal(v) / 4 for v in values]
    array = pa.array(values, pa.float32()).cast(kind) if kind == pa.float16() else pa.array(values, kind)
    assert role_of(kind) == "number"
    x, back = stored(array.dictionary_encode() if dictionary and kind != pa.float16() else array)
    np.testing.assert_array_equal(x[:, 0], np.array([np.nan if v is None else float(v) for v in values], np.float32))
    assert back.to_pylist() == [None if v is None else float(v) for v in values]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_nan_and_null_are_one_kind_of_gap(kind):
    array = pa.array(np.array([1.5, np.nan, 2.5], {2: np.float16, 4: np.float32, 8: np.float64}[kind.bit_width // 8]), from_pandas=False)
    x, back = stored(pa.chunked_array([array, pa.nulls(2, kind)]))
    assert np.isnan(x[:, 0]).tolist() == [False, True, False, True, True]
    assert back.to_pylist() == [1.5, None, 2.5, None, None]


def test_flags_are_zero_and_one():
    x, back = stored(pa.array([True, None, False]))
    np.testing.assert_array_equal(x[:, 0], [1, np.nan, 0])
    assert back.to_pylist() == [True, None, False]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_are_seconds(unit):
    values = [timedelta(seconds=90), None, timedelta(days=-2), timedelta(seconds=1) / 4 * 4]
    x, back = stored(pa.array(values, pa.duration(unit)))
    np.testing.assert_array_equal(x[:, 0], [90, np.nan, -2 * 86400, 1])
    assert back.to_pylist() == [90.0, None, -172800.0, 1.0]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string())],
    ids=str,
)
def test_words_of_every_layout_are_places_among_the_levels(kind):
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    array = pa.array(WORDS, pa.string()).cast(plain)
    array = array.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else array
    x, back = stored(array, levels=LEVELS)
    np.testing.assert_array_equal(x[:, 0], [1, np.nan, 0, -1, 1, 2])
    assert back.to_pylist() == ["ash", None, "birch", None, "ash", "Ähre"], "a word that is no level is not stored"


def test_words_in_several_dictionaries_with_nulls_and_unused_words_are_the_same_words():
    first = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["ash", "birch", "never"]))
    second = pa.DictionaryArray.from_arrays(pa.array([1, 0, 2], pa.int8()), pa.array(["birch", "ash", None]))
    x, _ = stored(pa.chunked_array([first, second]), levels=LEVELS)
    np.testing.assert_array_equal(x[:, 0], [1, 0, np.nan, 1, 0, np.nan])


def test_the_gap_of_a_full_dictionary_is_a_gap():
    words = [f"w{i}" for i in range(128)]  # as many as int8 can number
    array = pa.DictionaryArray.from_arrays(pa.array([*range(128), None], pa.int8()), pa.array(words))
    x, _ = stored(array, levels=tuple(words))
    np.testing.assert_array_equal(x[:, 0], [*range(128), np.nan])


@pytest.mark.parametrize(("values", "kind"), [([5, None, 80], pa.int16()), ([True, None, False], pa.bool_())])
def test_whole_numbers_and_flags_may_be_categories(values, kind):
    words = tuple(dict.fromkeys(str(v).lower() for v in values if v is not None))
    x, back = stored(pa.array(values, kind), role="category", levels=words[::-1])
    np.testing.assert_array_equal(x[:, 0], [1, np.nan, 0])
    assert back.to_pylist() == [words[0], None, words[1]]


DATES = [date(1970, 1, 1), None, date(1969, 12, 31), date(2024, 2, 29), date(1582, 10, 15), date(9999, 12, 31)]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_dates_are_days_since_1970(kind):
    x, back = stored(pa.array(DATES, kind))
    assert x.shape == (len(DATES), 1)
    expected = [np.nan if d is None else d.toordinal() - date(1970, 1, 1).toordinal() for d in DATES]
    np.testing.assert_array_equal(x[:, 0], expected)
    assert back.to_pylist() == DATES


@pytest.mark.parametrize(("maker", "unit"), [(pa.time32, "s"), (pa.time32, "ms"), (pa.time64, "us"), (pa.time64, "ns")])
def test_times_are_seconds_of_the_day(maker, unit):
    values = [time(0, 0), None, time(23, 59, 59), time(12, 30, 15), time(6, 0)]
    x, back = stored(pa.array(values, maker(unit)))
    np.testing.assert_array_equal(x[:, 0], [0, np.nan, 86399, 45015, 21600])
    assert back.type == maker(unit)
    assert back.to_pylist() == values


MOMENTS = [
    datetime(2024, 2, 29, 13, 45, 30),
    None,
    datetime(1969, 12, 31, 23, 59, 59),
    datetime(2038, 1, 19),
    datetime(1900, 1, 1, 0, 0, 1),
]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "America/St_Johns", "+05:30"])
def test_timestamps_are_days_and_seconds_of_their_own_clock(unit, zone):
    kind = pa.timestamp(unit, zone)
    values = MOMENTS if zone is None else [None if m is None else m.replace(tzinfo=UTC) for m in MOMENTS]
    x, back = stored(pa.array(values, kind))
    local = MOMENTS
    if zone == "+05:30":
        local = [None if m is None else m + timedelta(hours=5, minutes=30) for m in MOMENTS]
    elif zone:
        local = [None if v is None else v.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for v in values]
    for row, moment in zip(x, local, strict=True):
        if moment is None:
            assert np.isnan(row).all()
            continue
        assert row[0] == moment.toordinal() - date(1970, 1, 1).toordinal()
        assert row[1] == moment.hour * 3600 + moment.minute * 60 + moment.second
    assert back.type == kind
    assert [v if v is None else v.replace(tzinfo=None) if zone is None else v.astimezone(UTC) for v in back.to_pylist()] == values


@pytest.mark.parametrize(("zone", "hour"), [("Europe/Berlin", 14), ("UTC", 12), ("America/New_York", 8)])
def test_one_moment_is_one_clock_whatever_zone_a_file_is_written_in(zone, hour):
    moment = pa.array([datetime(2024, 7, 1, 12, tzinfo=UTC), None], pa.timestamp("us", "America/New_York"))
    kind = pa.timestamp("us", zone)
    x, back = stored(moment, as_kind=kind)
    np.testing.assert_array_equal(x, [[19905, hour * 3600], [np.nan, np.nan]])
    assert back.to_pylist()[0] == datetime(2024, 7, 1, 12, tzinfo=UTC), "what is told is the moment that was given"
    told, _ = stored(pa.array(["2024-07-01T12:00:00Z", None]), role="clock", as_kind=kind)
    np.testing.assert_array_equal(told, x)


def test_a_clock_may_come_as_text_as_json_has_it():
    kind = pa.timestamp("us")
    x, _ = stored(pa.array(["2024-02-29T13:45:30", None, "1970-01-02 00:00:00"]), role="clock", as_kind=kind)
    np.testing.assert_array_equal(x, [[19782, 49530], [np.nan, np.nan], [1, 0]])
    for time_kind in (pa.time32("s"), pa.time64("us")):
        x, _ = stored(pa.array(["13:45:30", None, "00:00:01.500"]), role="clock", as_kind=time_kind)
        np.testing.assert_array_equal(x, [[49530], [np.nan], [1.5]])
    with pytest.raises(RaeflowError, match=r"here, column 'c', row 0: 'noon' is no time32\[s\]"):
        stored(pa.array(["noon"]), role="clock", as_kind=pa.time32("s"))
    with pytest.raises(RaeflowError, match=r"here, column 'c', row 0: 'tomorrow' is no timestamp\[us\]"):
        stored(pa.array(["tomorrow"]), role="clock", as_kind=kind)


@pytest.mark.parametrize("kind", [pa.float64(), pa.bool_(), pa.string(), pa.date32(), pa.timestamp("us", "UTC"), pa.time64("us")], ids=str)
def test_a_column_without_a_value_is_all_gaps_in_any_type(kind):
    levels = LEVELS if kind == pa.string() else None
    for other in (pa.null(), pa.float64(), pa.dictionary(pa.int8(), pa.float64()), pa.string(), kind):
        x, _ = stored(pa.nulls(3, other), as_kind=kind, role=role_of(kind), levels=levels)
        assert np.isnan(x).all()


@pytest.mark.parametrize("kind", [pa.float64(), pa.bool_(), pa.string(), pa.date32(), pa.timestamp("us", "UTC"), pa.time64("us")], ids=str)
def test_a_column_without_type_is_all_gaps(kind):
    x, back = stored(pa.nulls(3), as_kind=kind, role=role_of(kind), levels=LEVELS if kind == pa.string() else None)
    assert np.isnan(x).all()
    assert back.to_pylist() == [None] * 3
    assert fits(pa.null(), Field("c", role_of(kind), str(kind)))


@pytest.mark.parametrize(
    ("kind", "other", "accepted"),
    [
        (pa.float64(), pa.bool_(), True), (pa.float64(), pa.string(), False), (pa.float64(), pa.timestamp("s"), False),
        (pa.bool_(), pa.int8(), True), (pa.bool_(), pa.string(), False), (pa.string(), pa.int64(), True),
        (pa.string(), pa.float64(), False), (pa.string(), pa.large_string(), True), (pa.date32(), pa.string(), True),
        (pa.date32(), pa.float64(), False),
        (pa.timestamp("s"), pa.date32(), True), (pa.string(), pa.date32(), False),
        (pa.date32(), pa.timestamp("s"), True), (pa.time32("s"), pa.timestamp("s"), True), (pa.date32(), pa.time32("s"), False),
        (pa.timestamp("s"), pa.time32("s"), False), (pa.time32("s"), pa.date32(), False), (pa.float64(), pa.duration("ms"), False),
        (pa.duration("ms"), pa.float64(), True), (pa.duration("ms"), pa.duration("s"), True), (pa.time32("s"), pa.string(), True),
    ],
)  # fmt: skip
def test_which_types_a_column_may_come_in(kind, other, accepted):
    field = Field("c", role_of(kind), str(kind), LEVELS if kind == pa.string() else None)
    assert fits(other, field) == accepted
    narrow = other in (pa.date32(), pa.time32("s"))
    array = pa.nulls(2, other) if accepted else pa.array([1, 0]).cast(pa.int64()).cast(pa.int32() if narrow else other)
    array = array.cast(other) if array.type != other else array
    if accepted:
        stored(array, role=field.role, levels=field.levels, as_kind=kind)
    else:
        with pytest.raises(RaeflowError, match=f"here, column 'c' holds {other}".replace("[", r"\[")):
            stored(array, role=field.role, levels=field.levels, as_kind=kind)


@pytest.mark.parametrize(
    ("first", "second"), [(pa.date32(), pa.time32("s")), (pa.duration("ms"), pa.int32()), (pa.timestamp("s"), pa.time32("s"))], ids=str
)
def test_files_that_mean_different_things_by_a_column_are_refused(tmp_path, first, second):
    values = pa.array(range(100), pa.int32())
    for name, kind in (("a", first), ("b", second)):
        wide = values.cast(pa.int64()) if kind in (pa.duration("ms"), pa.timestamp("s")) else values
        pq.write_table(pa.table({"c": wide.cast(kind), "word": ["ash", "birch"] * 50}), tmp_path / f"{name}.parquet")
    with pytest.raises(RaeflowError, match=r"b\.parquet: column 'c' holds \w+.*a\.parquet; files of one set share a schema"):
        load(Data(tmp_path))


@pytest.mark.parametrize("gap", [None, 3])
def test_a_table_of_plain_numbers_takes_no_durations_whether_it_has_gaps_or_not(gap):
    spec = RowSpec(("a", "b"), "columns", (2,), "float32", held=(2,))
    table = pa.table({"a": [1.0, 2.0], "b": pa.array([1000, gap], pa.duration("ms"))})
    with pytest.raises(RaeflowError, match=r"here, column 'b' holds duration\[ms\], not numbers"):
        to_tensor(table, spec, "here")


@pytest.mark.parametrize("kind", [pa.float64(), pa.string(), pa.timestamp("us"), pa.time32("s"), pa.duration("s")], ids=str)
def test_a_dictionary_of_anything_is_what_it_holds(kind):
    text = kind == pa.string()
    levels = ("ash", "birch") if text else None
    values = pa.array(["birch", None, "ash"] if text else [5, None, 7], kind if text else pa.int32())
    values = values if text or pa.types.is_floating(kind) or pa.types.is_time(kind) else values.cast(pa.int64())
    plain, _ = stored(values.cast(kind), role=role_of(kind), levels=levels)
    x, _ = stored(values.cast(kind).dictionary_encode(), role=role_of(kind), levels=levels, as_kind=kind)
    np.testing.assert_array_equal(x, plain)
    nothing = pa.DictionaryArray.from_arrays(pa.nulls(2, pa.int8()), pa.nulls(0))
    x, _ = stored(nothing, role=role_of(kind), levels=levels, as_kind=kind)
    assert np.isnan(x).all()


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.binary(), pa.map_(pa.string(), pa.int8()), pa.null()]
)
def test_what_is_no_column_of_a_table(kind):
    assert role_of(kind) is None


@pytest.mark.parametrize(
    "kind", ["timestamp[ns, tz=Europe/Berlin]", "timestamp[s]", "date32[day]", "date64[ms]", "time32[ms]", "time64[ns]"]
)
def test_types_are_found_again_by_their_name(kind):
    assert str(arrow_type(kind)) == kind


@pytest.mark.parametrize("word", [False, True])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("memory", [1 << 30, 9_000])
def test_infinity_is_refused_with_its_place(tmp_path, value, word, memory):
    a, b = (np.random.default_rng(i).standard_normal(2000) for i in range(2))
    b[1250], b[7] = value, np.nan
    columns = {"a": a, "b": b, "when": pa.array(range(2000), pa.timestamp("s")), "k": np.array(["x", "y"] * 1000)}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns if word else {"a": a, "b": b}), path, row_group_size=500)
    with pytest.raises(RaeflowError) as caught:
        load(Data(path, memory=memory))
    for part in (path, "row group 2", "column 'b'", "row 250", repr(value), "float32" if np.isfinite(value) else "not finite"):
        assert str(part) in str(caught.value)


def test_a_file_of_gaps_alone_and_bytes_with_gaps_lose_nothing(tmp_path):
    """Arrow gives a column without values a type of its own, and footers need not count nulls."""
    drawn = np.random.default_rng(0)
    some = {"n": pa.array(drawn.integers(0, 255, 400), pa.uint8()), "m": pa.array(drawn.integers(0, 255, 400), pa.uint8())}
    for name, columns in (("a", {**some, "n": pa.nulls(400)}), ("b", some)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    splits = load(Data([tmp_path / "a.parquet", tmp_path / "b.parquet"]))
    held = [splits.train, splits.validate, splits.calibrate, splits.test]
    assert splits.told() == [("n", "number, gaps marked"), ("m", "number")]
    assert sum(int(rows.x[:, 0].isnan().sum()) for rows in held) == 400
    holed = pa.array([None if i % 10 == 0 else i % 200 for i in range(400)], pa.uint8())
    pq.write_table(pa.table({**some, "n": holed}), tmp_path / "c.parquet", write_statistics=False)
    splits = load(Data(tmp_path / "c.parquet"))
    held = [splits.train, splits.validate, splits.calibrate, splits.test]
    assert sum(int(rows.x[:, 0].isnan().sum()) for rows in held) == 40


def test_rows_whose_text_shows_no_time_are_named_and_others_are_read():
    spec = RowSpec(("c",), "mixed", (2,), "float32", fields=(Field("c", "clock", "timestamp[us]"),), held=(2,))
    sifted = sift(pa.table({"c": ["2024-02-29T13:45:30", "nope", None, "1970-01-02 00:00:00", "later"]}), spec)
    assert sifted.problems == {1: "column 'c': 'nope' is no timestamp[us]", 4: "column 'c': 'later' is no timestamp[us]"}
    np.testing.assert_array_equal(sifted.rows.numpy(), [[19782, 49530], [np.nan, np.nan], [1, 0]])


def test_whole_numbers_that_a_data_frame_made_floats_are_levels_still():
    spec = RowSpec(("c",), "mixed", (1,), "float32", fields=(Field("c", "category", "int64", ("80", "443")),), held=(1,))
    sifted = sift(pa.table({"c": pa.array([443.0, np.nan, 80.0, 8080.0, None, 1.5])}), spec)
    np.testing.assert_array_equal(sifted.rows.numpy()[:, 0], [1, np.nan, 0, -1, np.nan])
    assert sifted.problems == {5: "column 'c': value 1.5 is no whole number"}
