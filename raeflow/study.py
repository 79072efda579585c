"""Frozen records that say what to do: `Study`, `Data`, `Training`, `Search`, `Calibration`, `Cluster`.

Every default of raeflow lives in this file. A record is checked when it is built, so a mistake is
refused in one sentence before any data is read or any cluster starts. Nothing here imports torch,
ray, mlflow or pyarrow.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

from raeflow.errors import RaeflowError

SPLITS = ("train", "validate", "calibrate", "test")


def _refuse(what: str) -> None:
    raise RaeflowError(what)


def _positive(owner: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            _refuse(f"{owner}({name}={value!r}): {name} must be greater than 0")


def _one_of(owner: str, name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        listed = ", ".join(repr(a) for a in allowed)
        _refuse(f"{owner}({name}={value!r}): {name} must be one of {listed}")


def _tuple(value: Any) -> Any:
    """Lists become tuples so that a record stays hashable and cannot be changed behind its back."""
    if isinstance(value, (list, tuple)):
        return tuple(_tuple(v) for v in value)
    return value


class ArrowStream(Protocol):
    """A frame or table that hands out its columns as Arrow does (pandas, polars, pyarrow and others)."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the stream of batches."""
        ...


class ArrayLike(Protocol):
    """An array or tensor: (N, F), (N, C, L) or (N, C, H, W) numbers."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """As numpy's."""
        ...


class InMemory:
    """Rows that a caller holds, as a field of a frozen record: equal to itself alone, and no text ever shows its values."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InMemory) and other.rows is self.rows

    def __hash__(self) -> int:
        return id(self.rows)

    def __repr__(self) -> str:
        shape = getattr(self.rows, "shape", None)
        return f"<{type(self.rows).__name__}{f' of shape {tuple(shape)}' if isinstance(shape, tuple) else ''}>"


Source: TypeAlias = "str | Path | Sequence[str | Path] | ArrowStream | ArrayLike | InMemory"


def _source(owner: str, name: str, value: Any, optional: bool = True) -> tuple[str, ...] | InMemory | None:
    if isinstance(value, InMemory):
        return value
    if any(hasattr(value, mark) for mark in ("__arrow_c_stream__", "__arrow_c_array__", "__array__")):
        return InMemory(value)
    return _paths(owner, name, value, optional)


def _paths(owner: str, name: str, value: Any, optional: bool = True) -> tuple[str, ...] | None:
    if value is None and optional:
        return None
    listed = (value,) if isinstance(value, (str, Path)) or not isinstance(value, Iterable) else tuple(value)
    if not listed or not all(isinstance(p, (str, Path)) and str(p) for p in listed):
        _refuse(
            f"{owner}({name}={value!r}): {name} must be a path, glob, URI or named set, several of them, or a frame, Arrow table or array"
        )
    return tuple(str(p) for p in listed)


ROLES = ("number", "long_tail", "flag", "category", "clock", "out")


def _roles(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Roles by column as sorted pairs, so that the record stays hashable."""
    if value is None:
        return None
    try:
        pairs = dict(value)
    except (TypeError, ValueError):
        _refuse(f"Data(roles={value!r}): roles say for columns what they are, as in {{'port': 'category'}}")
    for name, role in pairs.items():
        if not isinstance(name, str) or role not in ROLES:
            _refuse(f"Data(roles={{{name!r}: {role!r}}}): a column's role is one of {', '.join(ROLES)}")
    return tuple(sorted(pairs.items()))


@dataclass(frozen=True)
class Data:
    """Which Parquet holds the rows, and which columns are the row.

    A row is several numeric columns (shape `(F,)`), or one list, fixed-size-list or fixed-shape-tensor
    column, or one column of encoded images (bytes, or a struct of bytes and path).
    """

    source: Source
    """Path, folder, glob or URI of Parquet files, several of them, or a named set such as `mnist`, `digits`; or rows in
    memory: a pandas or polars frame, an Arrow table, an array or tensor (N, F), (N, C, L) or (N, C, H, W). A study writes
    those to Parquet in its own folder and goes on from there."""
    columns: str | Sequence[str] | None = None
    """The column, or the numeric columns, that are the row; None takes the only candidate there is."""
    label: str | None = None
    """Column of the class or of 0/1 anomaly flags. Never used to train a detector or to search, unless asked."""
    target: str | None = None
    """Column with the clean row that a denoiser must return; same type as the row's."""
    normal: Any = None
    """Rows to train, validate and calibrate on: a pyarrow filter expression, or tuples as in
    `[("label", "!=", 3)]` (a list is a conjunction, a list of lists a disjunction of conjunctions)."""
    anomaly: Any = None
    """Which rows count as anomalies when judging. None: those that `normal` excludes, else the
    rows of label 1 where labels are 0 and 1, else nothing is known."""
    shape: Sequence[int] | None = None
    """Shape of a row: (F,) table, (C, L) signal, (C, H, W) image. None reads it from type or metadata."""
    layout: Literal["CHW", "HWC"] | None = None
    """How the values of an image lie in the column. None reads schema metadata, else CHW."""
    split: str | None = None
    """Column that says train, validate, calibrate or test; `hash` hashes the row; None: what a named set
    declares, else hash. Rows of `train` are hashed further where validate or calibrate is not there."""
    validate: Source | None = None
    """Separate files or rows for a split, named like `source`."""
    calibrate: Source | None = None
    test: Source | None = None
    fractions: Sequence[float] = (0.6, 0.1, 0.1, 0.2)
    """Shares of train, validate, calibrate, test where the hash decides; they add up to 1."""
    scaling: Literal["auto", "standard", "asinh", "unit", "signal", "global", "none"] = "auto"
    """standard: each feature to mean 0, std 1. asinh: the same after a transform that tames long tails, for numbers of
    tables. unit: to 0-1. signal: each signal by its own mean and std. global: one mean and std for all. auto: standard
    for tables, with asinh for the columns that have long tails, global for signals, unit for images."""
    roles: Any = None
    """What columns of a table are, where it is not what raeflow takes them for: `{"port": "category", "note": "out"}` with
    number, long_tail, flag, category, clock, or out."""
    min_frequency: float = 0.01
    """Share of the train rows below which levels of a category are taken together."""
    memory: int = 4 << 30
    """Bytes of row tensors to hold resident; larger data are streamed while training."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows that cannot be used (infinity, a null list, lists of another length, an image that cannot be decoded): refuse
    the data for the first of them, or skip them in every split, as long as they are at most a tenth of all rows."""

    contamination: float | Literal["auto"] | None = None
    """Believed share of anomalies among rows that nobody has cleaned, above 0 and below 0.5, or auto where it is not known:
    suspicious rows are set aside before anything is trained (see `raeflow.data.cleaning`). None: all rows count as normal."""
    time: str | None = None
    """Column of the clock of readings in order of time (`raeflow.data.series`): times, dates, or numbers that rise. The model then
    sees windows (C, L) of L readings of C channels, and splits are blocks of time. None: rows know no order."""
    series: str | None = None
    """Column that says whose reading it is, where there are many machines or sensors; None: all are of one series."""
    window: int = 64
    """Readings of a window."""
    stride: int = 1
    """Readings between the windows of train and validate; those of calibrate and test begin at every reading."""
    max_gap: float = 5.0
    """No window spans a step above so many times the median step of its series."""
    scale_by: Literal["series"] | None = None
    """series: each series is scaled by its own train readings. None: all by the same."""
    split_by: Literal["time", "series"] = "time"
    """time: the splits of each series are blocks of its time in the order train, validate, calibrate, test, a window apart.
    series: whole series, chosen by the hash of their names."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "source", _source("Data", "source", self.source, optional=False))
        for name in ("validate", "calibrate", "test"):
            put(self, name, _source("Data", name, getattr(self, name)))
        columns = (self.columns,) if isinstance(self.columns, str) else _tuple(self.columns)
        if columns is not None and (not columns or not all(isinstance(c, str) and c for c in columns)):
            _refuse(f"Data(columns={self.columns!r}): columns must be a column name or several of them")
        if columns is not None and len(set(columns)) < len(columns):
            _refuse(f"Data(columns={self.columns!r}): a column is named twice")
        put(self, "columns", columns)
        for name in ("normal", "anomaly"):
            put(self, name, _tuple(getattr(self, name)))
        if self.shape is not None:
            shape = _tuple(self.shape)
            if not (isinstance(shape, tuple) and 1 <= len(shape) <= 3 and all(isinstance(n, int) and n > 0 for n in shape)):
                _refuse(f"Data(shape={self.shape!r}): a row's shape is (F,), (C, L) or (C, H, W) with sizes above 0")
            put(self, "shape", shape)
        fractions = tuple(float(f) for f in self.fractions)
        if len(fractions) != 4 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            _refuse(f"Data(fractions={self.fractions!r}): four shares of train, validate, calibrate and test that add up to 1")
        put(self, "fractions", fractions)
        _one_of("Data", "layout", self.layout, (None, "CHW", "HWC"))
        _one_of("Data", "scaling", self.scaling, ("auto", "standard", "asinh", "unit", "signal", "global", "none"))
        _one_of("Data", "bad_rows", self.bad_rows, ("refuse", "skip"))
        put(self, "roles", _roles(self.roles))
        if not 0 <= self.min_frequency < 0.5:
            _refuse(f"Data(min_frequency={self.min_frequency!r}): min_frequency is a share of the train rows, from 0 to below 0.5")
        _positive("Data", memory=self.memory)
        self._check_contamination()
        self._check_windows()
        if self.time is not None:
            self._check_time()

    def _check_windows(self) -> None:
        """Of readings in order of time: what is said of their windows, and that it is said of nothing else."""
        said = {name: getattr(self, name) for name in ("series", "window", "stride", "max_gap", "scale_by", "split_by")}
        stray = next((name for name, value in said.items() if value != getattr(Data, name)), None)
        if self.time is None and stray is not None:
            _refuse(f"Data({stray}={said[stray]!r}): this is for readings in order of time; name their clock in Data(time=...)")
        for name, least in (("window", 2), ("stride", 1)):
            if not isinstance(said[name], int) or said[name] < least:
                _refuse(f"Data({name}={said[name]!r}): {name} is a number of readings, at least {least}")
        if not self.max_gap >= 1:
            _refuse(f"Data(max_gap={self.max_gap!r}): max_gap is a multiple of the median step, at least 1")
        _one_of("Data", "scale_by", self.scale_by, (None, "series"))
        _one_of("Data", "split_by", self.split_by, ("time", "series"))
        by = next((name for name in ("scale_by", "split_by") if said[name] == "series"), None)
        if by is not None and self.series is None:
            _refuse(f"Data({by}='series'): name the column that tells series apart in Data(series=...)")
        if self.scale_by and self.split_by == "series":
            _refuse("Data(scale_by='series', split_by='series'): a series outside train has no train readings to be scaled by")

    def _check_time(self) -> None:
        """What does not go together with readings in order of time."""
        if self.time in (self.series, self.label):
            _refuse(f"Data(time={self.time!r}): the same column cannot be the series or the label too")
        odd = {
            "target": (self.target is not None, "windows have no clean rows beside them"),
            "shape": (self.shape is not None, "a window has the shape (channels, window)"),
            "contamination": (self.contamination is not None, "rows are cleaned one by one, and windows share their readings"),
            "bad_rows": (self.bad_rows == "skip", "a reading that is left out leaves a gap that its clock does not show"),
            "split": (self.split == "hash", "windows share readings, so a hash would put the same ones into every split"),
            "scaling": (self.scaling == "signal", "readings are scaled before they become windows"),
        }
        for name, (there, why) in odd.items():
            if there:
                _refuse(f"Data(time={self.time!r}, {name}={getattr(self, name)!r}): {why}")

    def _check_contamination(self) -> None:
        share: object = self.contamination
        if share is None:
            return
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if share != "auto" and not (number and 0 < float(cast(float, share)) < 0.5):
            _refuse(f"Data(contamination={share!r}): contamination is 'auto' or the share of anomalies, above 0 and below 0.5")
        if self.normal is not None:
            _refuse(
                f"Data(contamination={share!r}, normal={self.normal!r}): give one of the two, for where normal says which rows are "
                "normal there is nothing to clean"
            )

    @property
    def roles_of(self) -> dict[str, str]:
        """`roles` by column."""
        return dict(self.roles or ())

    @property
    def sources(self) -> tuple[str, ...]:
        """Every path, glob, URI or name that the record has, whichever split it is for; rows in memory have none before they are
        written (see `raeflow.data.resolve`)."""
        named = (self.source, self.validate, self.calibrate, self.test)
        return tuple(str(path) for part in named if isinstance(part, tuple) for path in part)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one model is trained."""

    epochs: int = 50
    """Passes over the train split; variants with phases divide them by progress."""
    batch_size: int = 256
    """Rows a step, over all workers together."""
    patience: int | None = 10
    """Epochs without a lower validation loss before training stops and the best weights are restored;
    None trains every epoch and keeps the last weights."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 runs the forward pass under autocast; weights and gradient penalties stay float32."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1."""
    threads: int = 1
    """torch threads of each process that trains on a CPU. Layers of a few hundred neurons run faster on one than
    on several, and much faster where cores are shared; raise it for wide layers. Trials take `Search.cpus`."""

    health: int = 8
    """Times that a game of generator and critic is measured while it lasts: distance of drawn rows to real ones, kinds
    that they cover, slope of the critic (see `raeflow.health`). 0: never. Other variants are not measured."""

    def __post_init__(self) -> None:
        if self.health < 0:
            _refuse(f"Training(health={self.health!r}): health must not be negative")
        _positive("Training", epochs=self.epochs, batch_size=self.batch_size, patience=self.patience, threads=self.threads)
        _one_of("Training", "precision", self.precision, ("float32", "bf16"))


@dataclass(frozen=True, kw_only=True)
class Search:
    """How variants and hyperparameters are searched."""

    trials: int = 24
    """How many models are tried; the first of each variant has the values of its source."""
    minutes: float | None = None
    """No new trial starts so many minutes after the search began; those that run then go on to their end, and the first
    trial always runs. The same command again goes on for as long again, until there are `trials`. None: no limit."""
    epochs: int | None = None
    """Epochs a trial; None takes `Training.epochs`."""
    selection: Literal["synthetic", "validation_loss", "labels", "generation"] = "synthetic"
    """What compares trials: AUROC against synthetic anomalies made from validation rows (needs no label),
    mean validation loss (one variant only), AUROC on labelled validation rows, or, for models that shall draw rows
    rather than detect anomalies, minus the Frechet distance of drawn rows to real ones."""
    slots: int | None = None
    """Trials at a time; None: as many as `cpus` and `gpus` a trial fit on the machine or cluster."""
    cpus: float = 1
    """Cores, and torch threads, of one trial."""
    gpus: float = 0
    workers: int = 1
    """Above 1 every trial is itself a Ray Train run of so many workers."""
    stop_early: bool = True
    """ASHA ends weak trials early."""
    stop_collapsed: bool = True
    """A game whose generator draws next to nothing but likes is ended early, and its trial has failed (see `raeflow.health`)."""
    storage: str | None = None
    """SQLAlchemy URL of Optuna's database; None: a sqlite file in the study's folder."""

    def __post_init__(self) -> None:
        _positive(
            "Search", trials=self.trials, minutes=self.minutes, epochs=self.epochs, slots=self.slots, cpus=self.cpus, workers=self.workers
        )
        _one_of("Search", "selection", self.selection, ("synthetic", "validation_loss", "labels", "generation"))
        if self.gpus < 0:
            _refuse(f"Search(gpus={self.gpus!r}): gpus must not be negative")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How held-out scores become the alarm threshold."""

    method: Literal["mean_std", "quantile", "median_mad"] = "mean_std"
    k: float = 1.0
    """Threshold = mean + k std (k = 1 as in the source), or median + k MAD."""
    quantile: float = 0.99
    """Share of normal rows below the threshold, for `quantile`."""
    per: Literal["row", "batch"] = "row"
    """Losses of rows, or means over batches of `batch_size` rows as the source took them."""
    batch_size: int = 64

    def __post_init__(self) -> None:
        _one_of("Calibration", "method", self.method, ("mean_std", "quantile", "median_mad"))
        _one_of("Calibration", "per", self.per, ("row", "batch"))
        _positive("Calibration", batch_size=self.batch_size)
        if not 0 < self.quantile < 1:
            _refuse(f"Calibration(quantile={self.quantile!r}): quantile must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the final training and batch scoring run on."""

    workers: int = 0
    """Ray Train workers of the final training; 0 trains in the calling process (Ray Train's local mode)."""
    gpu: bool = False
    """One GPU for each worker."""
    scorers: int = 0
    """Actors that score fragments; 0 scores in a plain loop in the calling process."""
    max_failures: int = 2
    """Restarts of a training run whose worker or node died."""
    storage: str | None = None
    """Path or URI for checkpoints that all nodes can reach; None: the study's folder."""

    def __post_init__(self) -> None:
        for name in ("workers", "scorers", "max_failures"):
            if getattr(self, name) < 0:
                _refuse(f"Cluster({name}={getattr(self, name)!r}): {name} must not be negative")


AUTO = ("auto",)
VARIANTS = {
    1: ("autoencoder", "denoising", "vae", "knn", "rank_knn"),
    2: ("autoencoder", "denoising", "vae", "knn", "hog_knn"),
    3: ("autoencoder", "denoising", "vae", "knn", "hog_knn"),
}
"""What is searched by default, by the dimensions of a row: table, signal, image. Games take most of a search's time and were
chosen on none of the tables that were tried; name them where rows shall be drawn."""
UNCLEAN = ("autoencoder", "denoising", "vae", "isolation_forest")
"""The same where anomalies may be left among the train rows (`Data(contamination=...)`): they hurt nearest neighbours most."""
FIRM = ("isolation_forest",)
"""Of those, what votes whatever the judge says: its trees see few rows each, so that anomalies that are alike do not look usual to
it, and the judge, who changes one row at a time, makes no such anomalies."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question: which model fits these rows, and which of them are anomalous?"""

    name: str
    data: Data
    variants: str | Sequence[str] = "auto"
    """Names of variants (`raeflow variants` lists them); auto: those of `VARIANTS` for the kind of row."""
    training: Training = field(default_factory=Training)
    search: Search = field(default_factory=Search)
    calibration: Calibration = field(default_factory=Calibration)
    cluster: Cluster = field(default_factory=Cluster)
    hyper: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Hyperparameters held fixed, by variant: `{"autoencoder": {"latent": 20}}`; the search leaves them alone."""
    heads: str | Sequence[str] = "auto"
    """What becomes of a model's code and residual as a score: names of heads among which the judge chooses for each trial
    (`raeflow/heads`). auto: all that a model can take; "error": the variants' own scores, as in their sources."""
    committee: int | Literal["auto"] = "auto"
    """Detector of so many best trials, averaging their standardised log-scores. auto: as many as the judge says, and one
    where it says that more are not better (see `raeflow.committees`)."""
    refit: bool | None = None
    """Train the chosen configurations again with the whole `training`, and keep the better of both by the judge; None: only
    where one model is chosen that the search trained for fewer epochs."""
    seed: int = 0
    home: str = "runs"
    """Folder in which the study keeps its own folder, named like the study."""
    tracking: str | None = None
    """MLflow tracking URI; None: a sqlite file in `home`."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name or ""):
            _refuse(f"Study(name={self.name!r}): a name is made of letters, digits, '_' and '-'")
        data: object = self.data
        if not isinstance(data, Data):
            _refuse(f"Study(data={data!r}): data must be a raeflow.Data record")
        variants = (self.variants,) if isinstance(self.variants, str) else tuple(self.variants)
        put(self, "variants", variants)
        known = variant_names()
        for name in (*(variants if variants != AUTO else ()), *self.hyper):
            _one_of("Study", "variants", name, known)
        if not variants or len(set(variants)) < len(variants):
            _refuse(f"Study(variants={variants!r}): at least one variant, each once")
        self._check_members()
        if self.search.selection == "validation_loss" and (len(variants) > 1 or variants == AUTO):
            _refuse(
                f"Search(selection='validation_loss'): losses of {', '.join(variants)} are not comparable; "
                "choose 'synthetic', or one variant"
            )
        if self.search.selection == "labels" and self.data.label is None:
            _refuse("Search(selection='labels'): Data(label=...) must name the column of labels")

    def _check_members(self) -> None:
        heads = (self.heads,) if isinstance(self.heads, str) else tuple(self.heads)
        for name in heads if heads != ("auto",) else ():
            _one_of("Study", "heads", name, head_names())
        if not heads or len(set(heads)) < len(heads):
            _refuse(f"Study(heads={self.heads!r}): at least one head, each once, or 'auto'")
        object.__setattr__(self, "heads", heads[0] if len(heads) == 1 else heads)
        if self.committee != "auto" and (not isinstance(self.committee, int) or self.committee < 1):
            _refuse(f"Study(committee={self.committee!r}): committee is a number of trials above 0, or 'auto'")
        if self.committee != "auto" and self.committee > self.search.trials:
            _refuse(f"Study(committee={self.committee}): a committee cannot outnumber Search(trials={self.search.trials})")

    @property
    def head_names(self) -> tuple[str, ...] | None:
        """Heads that may be chosen; None: all that a model can take."""
        named = (self.heads,) if isinstance(self.heads, str) else tuple(self.heads)
        return None if named == ("auto",) else named

    def of_shape(self, shape: tuple[int, ...]) -> Study:
        """The same study with its variants named, where they are to be those for rows of this shape."""
        found = UNCLEAN if self.data.contamination is not None else VARIANTS[len(shape)]
        return self.but(variants=found) if self.variants == AUTO else self

    @property
    def firm(self) -> tuple[str, ...]:
        """Variants that vote in a committee whatever the judge says of them."""
        return FIRM if self.data.contamination is not None else ()

    @property
    def folder(self) -> Path:
        """Where the study keeps what it makes."""
        return Path(self.home) / self.name

    def but(self, **changes: Any) -> Study:
        """The same study with some fields changed."""
        return dataclasses.replace(self, **changes)


def variant_names() -> tuple[str, ...]:
    """Names of the variants there are: the file names of `raeflow/variants`, found without importing them."""
    return _files("variants")


def head_names() -> tuple[str, ...]:
    """Names of the heads there are, found likewise in `raeflow/heads`."""
    return _files("heads")


def _files(folder: str) -> tuple[str, ...]:
    return tuple(sorted(f.stem for f in (Path(__file__).parent / folder).glob("*.py") if not f.name.startswith("_")))


def to_json(record: Any) -> Any:
    """A record as plain JSON values; a pyarrow expression becomes its text."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(k): to_json(v) for k, v in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(v) for v in record]
    if record is None or isinstance(record, (str, int, float, bool)):
        return record
    return str(record)


def without_passwords(text: str) -> str:
    """Text whose URIs show no password: for messages, records and pages that others read."""
    return re.sub(r"(://[^/:@\s]*):[^/@\s]+@", r"\1:***@", text)
