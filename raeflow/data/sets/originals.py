"""The file formats in which the public sets are published, turned into raeflow's tables.

Every function takes the folder of downloaded files and returns tables by their path below the data
folder. Archives are read member by member and never unpacked; a malformed file raises RaeflowError.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raeflow.data.sets.catalogue import NSL_KDD, SKAB, NamedSet
from raeflow.data.writing import describe, fixed_lists
from raeflow.errors import RaeflowError

Tables = dict[str, pa.Table]
Convert = Callable[[Path, NamedSet], Tables]

BROKEN = (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
"""What a malformed download raises while it is read; `raeflow.data.sets.fetch` turns it into one sentence."""

DIGITS = tuple(str(digit) for digit in range(10))
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
GALAXIES = (
    "elliptical", "lenticular", "spiral_unbarred", "spiral_barred", "spiral_intermediate_or_unknown_bar", "irregular", "dwarf_elliptical",
)  # fmt: skip
_PIXELS = "HWC row-major uint8"
_OFFICE = (258, 540)
_BEIJING = "PRSA_data_2010.1.1-2014.12.31.csv"
_BEIJING_MD5 = "83d51a811a081df89e691643af0edb29"


def _strings(value: str, count: int) -> pa.Array:
    return pa.array([value] * count, pa.string())


def idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes (LeCun's format): big-endian magic 0x0000080N, N sizes, values."""
    data = gzip.decompress(path.read_bytes())
    head = np.frombuffer(data, ">u4", 1 + ndim)
    values = np.frombuffer(data, np.uint8, offset=4 * (1 + ndim))
    if head[0] != 0x0800 + ndim or values.size != np.prod(head[1:], dtype=np.int64):
        raise RaeflowError(
            f"{path.name} is not an IDX file of {ndim} dimensions: it starts with {head.tolist()} and holds {values.size} values"
        )
    return values.reshape(head[1:].astype(np.int64))


def mnist(classes: tuple[str, ...]) -> Convert:
    """Images and labels of MNIST or a set laid out like it."""

    def convert(folder: Path, chosen: NamedSet) -> Tables:
        tables = {}
        for (part, prefix), name in zip((("train", "train"), ("test", "t10k")), chosen.files, strict=True):
            images = idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3)
            labels = idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)
            columns = {"image": fixed_lists(images), "label": pa.array(labels.astype(np.int32)), "split": _strings(part, len(labels))}
            tables[name] = _described(columns, chosen, (28, 28, 1), classes, _PIXELS)
        return tables

    return convert


def ecg5000(folder: Path, chosen: NamedSet) -> Tables:
    """The UCR archive's zip; label 0 for UCR class 1 (normal), 1 for classes 2-5."""
    tables = {}
    with zipfile.ZipFile(folder / "ECG5000.zip") as archive:
        for part, name in zip(("train", "test"), chosen.files, strict=True):
            kind, signal = _ucr(archive, f"ECG5000_{part.upper()}")
            columns = {
                "signal": fixed_lists(signal.astype(np.float32)),
                "label": pa.array((kind != 1).astype(np.int32)),
                "split": _strings(part, len(kind)),
                "ucr_class": pa.array(kind.astype(np.int32)),
            }
            tables[name] = _described(columns, chosen, (140,), ("normal (UCR class 1)", "anomaly (UCR classes 2-5)"))
    return tables


def _ucr(archive: zipfile.ZipFile, stem: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Class (N,) and series (N, L) of a UCR file: `.txt` has the class first, `.ts` and `.arff` have it last."""
    members = {Path(name).name: name for name in archive.namelist()}
    for suffix in (".txt", ".ts", ".arff"):
        if stem + suffix in members:
            lines = archive.read(members[stem + suffix]).decode().splitlines()
            break
    else:
        raise RaeflowError(f"{archive.filename}: no {stem}.txt, .ts or .arff among its members")
    start = next((n + 1 for n, line in enumerate(lines) if line.strip().lower() == "@data"), 0)
    rows = [re.split(r"[\s,:]+", line.strip()) for line in lines[start:] if line.strip() and line.strip()[0] not in "@%#"]
    values = np.array(rows, dtype=np.float64)
    return (values[:, 0], values[:, 1:]) if suffix == ".txt" else (values[:, -1], values[:, :-1])


def adbench(folder: Path, chosen: NamedSet) -> Tables:
    """ADBench's npz of `X` (N, F) and `y` (N,); nothing pickled is read."""
    (path,) = folder.glob("*.npz")
    with np.load(path, allow_pickle=False) as arrays:
        features, label = arrays["X"], arrays["y"].reshape(-1)
    if features.ndim != 2 or len(features) != len(label) or not np.isin(label, (0, 1)).all():
        raise RaeflowError(f"{path.name}: X has shape {features.shape} and y {label.shape}; expected a table and labels of 0 and 1")
    columns = {"features": fixed_lists(features.astype(np.float32)), "label": pa.array(label.astype(np.int32))}
    return {chosen.files[0]: _described(columns, chosen, features.shape[1:], ("normal", "anomaly"))}


def noisy_office(folder: Path, chosen: NamedSet) -> Tables:
    """Pairs of the 258 x 540 scans in a zip that holds `train/N.png` and `train_cleaned/N.png`.

    Scans of one page share their clean image; the last quarter of the pages, in order of the numbers,
    is the test split, so that no text of it is seen in training.
    """
    (path,) = folder.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        noisy, clean = (_pages(archive, part) for part in ("train", "train_cleaned"))
    numbers = [n for n in sorted(noisy) if n in clean and noisy[n].shape == clean[n].shape == _OFFICE]
    if not numbers:
        raise RaeflowError(f"{path.name}: no pairs train/N.png, train_cleaned/N.png of {_OFFICE[0]} x {_OFFICE[1]} pixels")
    pages: dict[bytes, int] = {}
    page = np.array([pages.setdefault(clean[n].tobytes(), len(pages)) for n in numbers], np.int32)
    held_out = page >= len(pages) - len(pages) // 4
    columns = {
        "image": fixed_lists(np.stack([noisy[n] for n in numbers])),
        "image_clean": fixed_lists(np.stack([clean[n] for n in numbers])),
        "kaggle_id": pa.array(numbers, pa.int32()),
        "clean_page": pa.array(page),
        "label": pa.array(np.ones(len(numbers), np.int32)),
        "split": pa.array(np.where(held_out, "test", "train").tolist()),
    }
    return {chosen.files[0]: _described(columns, chosen, (*_OFFICE, 1), ("clean", "noisy"), _PIXELS)}


def nsl_kdd(folder: Path, chosen: NamedSet) -> Tables:
    """The fifth of the train set and the whole test set: the features, then the attack and its difficulty, without a header."""
    flags = ("land", "logged_in", "is_host_login", "is_guest_login")
    kinds = dict.fromkeys((*NSL_KDD, "difficulty"), pa.int64())
    kinds |= {name: pa.float64() for name in NSL_KDD if name.endswith("_rate")} | dict.fromkeys(flags, pa.bool_())
    kinds |= dict.fromkeys(("protocol_type", "service", "flag", "attack"), pa.large_string())
    tables = {}
    for file, name in zip(("KDDTrain+_20Percent.txt", "KDDTest+.txt"), chosen.files, strict=True):
        table = _csv((folder / file).read_bytes(), kinds, names=[*NSL_KDD, "attack", "difficulty"])
        attacked = pc.not_equal(table["attack"], "normal").cast(pa.int8())
        tables[name] = _described(table.append_column("anomaly", attacked), chosen, (), ("normal", "anomaly"))
    return tables


def beijing_air(folder: Path, chosen: NamedSet) -> Tables:
    """UCI's zip of one CSV; its year, month, day and hour become `time`, its `NA` a null."""
    with zipfile.ZipFile(folder / "beijing_pm25.zip") as archive:
        data = archive.read(_BEIJING)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != _BEIJING_MD5:
        raise RaeflowError(f"{chosen.name}: the md5 of {_BEIJING} is {found}, not {_BEIJING_MD5}")
    clock = ("year", "month", "day", "hour")
    kinds = dict.fromkeys((*clock, "DEWP", "Is", "Ir"), pa.int64()) | dict.fromkeys(("pm2.5", "TEMP", "PRES", "Iws"), pa.float64())
    table = _csv(data, kinds | {"cbwd": pa.large_string()})
    year, month, day, hour = (table[name].to_numpy() for name in clock)
    months = (year - 1970).astype("M8[Y]").astype("M8[M]") + (month - 1)
    time = (months.astype("M8[D]") + (day - 1)).astype("M8[us]") + hour.astype("m8[h]")
    columns = {"time": pa.array(time), "pm25": table["pm2.5"]}
    columns |= {name: table[name] for name in ("DEWP", "TEMP", "PRES", "cbwd", "Iws", "Is", "Ir")}
    return {chosen.files[0]: _described(columns, chosen, ())}


def skab(folder: Path, chosen: NamedSet) -> Tables:
    """Experiments of SKAB, one CSV each, or its series without anomalies, which has no columns of labels: they are 0."""
    kinds = {"datetime": pa.timestamp("us")} | {name.replace("Volume_Flow_", "Volume Flow "): pa.float64() for name in SKAB}
    kinds |= dict.fromkeys(("anomaly", "changepoint"), pa.float64())
    wanted = r"anomaly-free/anomaly-free" if chosen.name == "skab/anomaly_free" else r"(?:other|valve1|valve2)/\d+"
    parts = []
    with zipfile.ZipFile(folder / "SKAB.zip") as archive:
        members = ((re.search(rf"/data/({wanted})\.csv$", name), name) for name in archive.namelist())
        for series, member in sorted((found[1], name) for found, name in members if found):
            table = _csv(archive.read(member), kinds, ";")
            columns = {"series": pa.array([series] * len(table), pa.large_string()), "datetime": table["datetime"]}
            columns |= {name: table[name.replace("Volume_Flow_", "Volume Flow ")] for name in SKAB}
            for name in ("anomaly", "changepoint"):
                labels = table[name].cast(pa.int8()) if name in table.column_names else pa.array(np.zeros(len(table), np.int8))
                columns[name] = labels
            parts.append(pa.table(columns))
    if not parts:
        raise RaeflowError(f"{chosen.name}: the archive holds no series below data/")
    return {chosen.files[0]: _described(pa.concat_tables(parts), chosen, (), ("normal", "anomaly"))}


def _csv(data: bytes, kinds: dict[str, pa.DataType], sign: str = ",", names: list[str] | None = None) -> pa.Table:
    """A CSV whose columns have these types; under its own header, or none but `names`."""
    from pyarrow import csv  # only three sets need it

    return csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(column_names=names),
        csv.ParseOptions(delimiter=sign),
        csv.ConvertOptions(column_types=kinds),
    ).combine_chunks()


def _pages(archive: zipfile.ZipFile, part: str) -> dict[int, NDArray[np.uint8]]:
    members = ((re.search(rf"(?:^|/){part}/(\d+)\.png$", name), name) for name in archive.namelist())
    return {int(match[1]): _image(archive.read(name), "L") for match, name in members if match}


def galaxies_efigi(folder: Path, chosen: NamedSet) -> Tables:
    """EFIGI's colour images, reduced to 64 x 64, with morphology from its table of attributes.

    Label by Hubble stage T: <= -4 elliptical, -3..-1 lenticular, 0..9 spiral, split by the length of the
    bar (0: unbarred, >= 0.5: barred, else intermediate or unknown), 10 irregular, 11 dwarf elliptical.
    Every fifth galaxy of a kind, in order of PGC number, is the test split.
    """
    attributes = _efigi_attributes(folder / "efigi_tables-1.6.2.tgz")
    images = _efigi_images(folder / "efigi_png_gri-1.6.tgz")
    names = sorted(set(attributes) & set(images))
    numbers = np.array([attributes[name] for name in names], np.float64).reshape(-1, 5)
    stage, bar = numbers[:, 0].astype(np.int32), numbers[:, 1]
    label = galaxy_kind(stage, bar)
    columns = {
        "image": fixed_lists(np.stack([images[name] for name in names])),
        "label": pa.array(label),
        "split": pa.array(np.where(_every_fifth(label), "test", "train").tolist()),
        "efigi_T": pa.array(stage),
        **{
            name: pa.array(numbers[:, n].astype(np.float32))
            for n, name in enumerate(("bar_length", "inclination", "contamination", "multiplicity"), 1)
        },
        "name": pa.array(names),
    }
    return {chosen.files[0]: _described(columns, chosen, (64, 64, 3), GALAXIES, _PIXELS)}


def galaxy_kind(stage: NDArray[np.int32], bar: NDArray[np.float64]) -> NDArray[np.int32]:
    """(N,) index into `GALAXIES` from Hubble stage T and EFIGI's bar length (-1 where undetermined)."""
    spiral = np.select([bar == 0, bar >= 0.5], [2, 3], 4)
    return np.select([stage <= -4, stage < 0, stage <= 9, stage == 10], [0, 1, spiral, 5], 6).astype(np.int32)


def _every_fifth(label: NDArray[np.int32]) -> NDArray[np.bool_]:
    held_out = np.zeros(len(label), np.bool_)
    for kind in np.unique(label):
        held_out[np.flatnonzero(label == kind)[4::5]] = True
    return held_out


def _efigi_attributes(path: Path) -> dict[str, list[str]]:
    """T, bar length, inclination, contamination, multiplicity by PGC name; the last comment names the columns."""
    text = next((data for name, data in _members(path) if name.endswith("EFIGI_attributes.txt")), None)
    if text is None:
        raise RaeflowError(f"{path.name}: no EFIGI_attributes.txt among its members")
    lines = text.decode().splitlines()
    heads = [line.lstrip("# ").split() for line in lines if line.startswith("#") and "T_inf T_sup" in line]
    wanted = [heads[0].index(name) for name in ("T", "Bar_Length", "Inclination", "Contamination", "Multiplicity")]
    rows = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return {row[0]: [row[n] for n in wanted] for row in rows}


def _efigi_images(path: Path) -> dict[str, NDArray[np.uint8]]:
    return {Path(name).stem: _image(data, "RGB", 64) for name, data in _members(path) if name.endswith(".png")}


def _members(path: Path) -> Iterable[tuple[str, bytes]]:
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read()


def _image(data: bytes, mode: str, side: int | None = None) -> NDArray[np.uint8]:
    from PIL import Image  # only these two sets need it

    image = Image.open(io.BytesIO(data)).convert(mode)
    if side is not None and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8)


def _described(
    columns: dict[str, pa.Array] | pa.Table,
    chosen: NamedSet,
    shape: Iterable[int],
    classes: tuple[str, ...] = (),
    layout: str | None = None,
) -> pa.Table:
    shape = tuple(int(n) for n in shape)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    return describe(table, shape=shape, layout=layout, classes=classes, source=chosen.source, licence=chosen.licence)
