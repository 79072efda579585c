"""`Detector`: row spec, encoding, one or several members and the threshold; save, load, score, explain, export.

On disk it is `detector.json` and `weights.safetensors`: nothing is pickled, so loading one runs no
code, and its id is a hash of all that decides a score, so equal ids mean equal scores.

Shapes: N rows, B rows of a batch; a row is (F,), (C, L) or (C, H, W).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import raeflow
from raeflow import checkpoint, heads, variants
from raeflow.calibration import Moments, Removed, Threshold, calibrate, log_moments
from raeflow.data import frames
from raeflow.data.columns import to_table
from raeflow.data.files import reason
from raeflow.data.frames import is_arrow
from raeflow.data.rows import Resident, RowSpec, Splits
from raeflow.data.windows import Windows
from raeflow.devices import resolve_device
from raeflow.errors import RaeflowError
from raeflow.events import find_events
from raeflow.graph import FORMAT, Graph, batch, encoded_content, encoded_graph, graph_name, novelty, scores, stored_name
from raeflow.readings import Scored, Stream, Tables, calibrate_all, check_at, columns_of
from raeflow.stored import WEIGHTS, brief, read
from raeflow.study import Calibration
from raeflow.training import Fitted
from raeflow.variants._contract import Variant

if TYPE_CHECKING:
    import pyarrow as pa

Input: TypeAlias = "npt.NDArray[Any] | Tensor | Resident | pa.Table | pa.RecordBatch"
"""Rows as the data have them: those of a split, an array or tensor (N, *shape) of numbers, of a table (N, C) with NaN for gaps,
or Arrow data (pandas and polars frames too) with the row's columns."""

CONTENT = "detector.json"

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Member:
    """One trained model of a detector."""

    variant: str
    hyper: dict[str, Any]
    moments: Moments | None
    """Of its log-scores on normal rows; None in a detector of one member, whose score is the head's own."""
    head: dict[str, Any] | None = None
    """Name and settings of its head; None is `error`, the variant's own score."""

    def to_json(self) -> dict[str, Any]:
        """As plain values; a head is named where it is not `error`."""
        said = {"variant": self.variant, "hyper": self.hyper, "moments": None if self.moments is None else list(self.moments)}
        return {**said, "head": self.head} if self.head else said

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Member:
        """What `to_json` gave."""
        moments = None if values["moments"] is None else Moments(*values["moments"])
        return cls(values["variant"], values["hyper"], moments, values.get("head"))

    def scorer(self) -> heads.Head:
        """Its head, not fitted yet."""
        return heads.restored(self.head)


def _removed(graph: Graph, splits: Splits) -> Removed | None:
    """The calibrate rows that cleaning set aside, scored; None where there was no cleaning."""
    aside = splits.set_aside
    if aside is None or aside.calibrate is None or aside.doubted is None:
        return None
    found = torch.cat([torch.empty(0), *(part.float().cpu() for part in scores(graph, aside.calibrate))])
    found = torch.nan_to_num(found, nan=torch.finfo(torch.float32).max)  # where arithmetic overflows a row is as strange as can be
    share = None if isinstance(aside.contamination, str) else aside.contamination
    return Removed(found, aside.calibrate.draws(splits.spec), aside.doubted.numpy(), share)


class Detector:
    """Scores rows and flags those above its threshold; built by `assemble`, `load`."""

    def __init__(
        self, spec: RowSpec, graph: Graph, members: Sequence[Member], threshold: Threshold, lineage: dict[str, Any],
        device: torch.device | str = "cpu", looking_back: Threshold | None = None, usual: Sequence[float] = (),
    ) -> None:  # fmt: skip
        """Of readings in order of time `threshold` is that of scores at="last" and `looking_back` that of scores at="all"; `usual` are
        the errors of each column in normal readings."""
        self.spec, self.threshold, self.lineage = spec, threshold, lineage
        self.looking_back, self.usual = looking_back, tuple(usual)
        self.members = tuple(members)
        self.device = torch.device(device)
        self.graph = graph.to(self.device).eval().requires_grad_(False)

    @classmethod
    def assemble(cls, fitted: Sequence[Fitted], splits: Splits, calibration: Calibration, study: str = "") -> Detector:
        """A calibrated detector of trained models, which share the scaling of `splits`.

        Several members vote by the mean of their standardised log-scores; what standardises them is
        taken from the validate split, so that the threshold alone sees the calibrate split.

        Raises RaeflowError without a model or a calibrate split.
        """
        if not fitted:
            raise RaeflowError("a detector needs at least one trained model")
        if splits.calibrate is None or not len(splits.calibrate):
            raise RaeflowError("the calibrate split is empty: a threshold needs held-out normal rows")
        models, scorers = [f.model() for f in fitted], [f.scorer() for f in fitted]
        encoding, validate = copy.deepcopy(splits.encoding), splits.validate
        alone = [Graph(encoding, [model], [None], scorers=[head]).eval() for model, head in zip(models, scorers, strict=True)]
        moments = [log_moments(torch.cat(list(scores(one, validate)))) if len(models) > 1 else None for one in alone]
        members = [Member(f.variant, checkpoint.plain(f.hyper), m, f.head) for f, m in zip(fitted, moments, strict=True)]
        graph = Graph(encoding, models, moments, scorers=scorers).eval()
        graph.novelty = novelty(graph, validate)
        lineage = {
            "study": study, "data": splits.fingerprint, "epochs": [f.best_epoch for f in fitted],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        keys = splits.calibrate.draws(splits.spec)
        threshold = calibrate(scores(graph, splits.calibrate), calibration, keys, _removed(graph, splits))
        if not isinstance(splits.calibrate, Windows):
            return cls(splits.spec, graph, members, threshold, lineage)
        looking_back, usual = calibrate_all(graph, splits.calibrate, calibration)
        return cls(splits.spec, graph, members, threshold, lineage, looking_back=looking_back, usual=usual)

    @functools.cached_property
    def id(self) -> str:
        """12 hexadecimal digits of SHA-256 over all that decides a score or an alarm; where and when it was made do not."""
        digest = hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode())
        for name, tensor in sorted(self._weights().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:12]

    def _content(self) -> dict[str, Any]:
        said: dict[str, Any] = {"members": [m.to_json() for m in self.members], "threshold": self.threshold.to_json()}
        if self.looking_back is not None:
            said |= {"looking_back": self.looking_back.to_json(), "usual": list(self.usual)}
        return {**encoded_content(self.spec, self.graph), **said}

    def _weights(self) -> dict[str, Tensor]:
        named = self.graph.state_dict().items()
        return {stored_name(name, self.graph): t.detach().cpu().contiguous().clone() for name, t in named}

    def to(self, device: str) -> Detector:
        """The same detector, moved to a device (`auto` takes cuda where there is one)."""
        self.device = resolve_device(device)
        self.graph.to(self.device)
        return self

    def score(self, rows: Input, batch_size: int | None = None, at: str = "last") -> Floats:
        """Scores (N,) float32 of unscaled rows, higher is stranger; see `Input` for what `rows` may be.

        `batch_size` bounds memory only: no row's score depends on its neighbours. Rows that are not
        finite are refused with their number; a finite row whose error overflows scores infinity.

        A detector of readings in order of time takes a frame or Arrow table of them, in any order: the score of each is its own
        column of the error maps, at="last" of the window that ends with it, so that no later reading is seen, at="all" the mean over
        all windows that hold it. NaN where no window does, as for the first ones of a series. A window (N, C, L) of encoded readings
        has the score of its last reading.
        """
        if self.spec.windows is not None and is_arrow(rows):
            return self._readings(batch_size).of(rows, at).scores
        self._check_last(at)
        return self._map(self.graph, rows, batch_size, (), self.graph.whole)

    def predict(self, rows: Input, batch_size: int | None = None, at: str = "last") -> Flags:
        """(N,) bool: which rows lie above the threshold; a reading without a score does not."""
        return self.flags(self.score(rows, batch_size, at), at)

    def flags(self, scores: Floats, at: str = "last") -> Flags:
        """(N,) bool of scores (N,): compared in float64, as a reader of the two columns would."""
        return scores > np.float64(self.threshold_at(at).value)

    def threshold_at(self, at: str) -> Threshold:
        """The threshold of readings' scores at="last", which is `threshold`, or at="all"."""
        check_at(at)
        if at == "last":
            return self.threshold
        if self.looking_back is None:
            self._check_last(at)
            raise RaeflowError("this detector was calibrated for at='last' alone; calibrate it again")
        return self.looking_back

    def events(self, rows: Input, joined: Any = 0, at: str = "last", batch_size: int | None = None) -> pa.Table:
        """Alerts among readings as events, with the columns that caused them: see `raeflow.events.find_events`.

        Args:
            rows: a frame or Arrow table of readings.
            joined: seconds, or a timedelta: alerts no further apart than this are one event.
            at: as in `score`.
            batch_size: windows at a time.

        Raises RaeflowError where rows are no readings in order of time.
        """
        found = self._readings(batch_size).of(rows, at)
        flags = self.flags(found.scores, at)
        return self.find_events(found, flags, self._readings(batch_size).causes(found, flags), joined)

    def find_events(self, found: Scored, flags: Flags, errors: Floats, joined: Any) -> pa.Table:
        """Flagged ones of readings that were scored, as events; `errors` (n, N) are those of the columns of the flagged ones."""
        own = np.flatnonzero(flags)
        return find_events(
            found.time(own), found.scores[own], np.ones(len(own)), found.series(own), joined, position=found.positions[own],
            channels=errors, names=columns_of(self.spec), usual=self.usual or None,
        )  # fmt: skip

    def stream(self) -> Stream:
        """For readings as they come in: `push` takes one and gives its score at="last", or None as long as no window is full.

        Raises RaeflowError where rows are no readings in order of time.
        """
        return Stream(self.graph, self._readings(None).how)

    def _readings(self, batch_size: int | None) -> Tables:
        if self.spec.windows is None:
            raise RaeflowError(f"rows of shape {self.spec.shape} have no order in time: this is for detectors of Data(time=...)")
        return Tables(self.graph, self.spec.windows, batch_size)

    def _check_last(self, at: str) -> None:
        check_at(at)
        if at != "last":
            raise RaeflowError(f"at={at!r} is for tables of readings in order of time, not for rows or windows by themselves")

    def explain(self, rows: Input, batch_size: int | None = None) -> Floats:
        """(N, *shape) what each value adds to the score, in squared scaled units: its squared error under the head `error`, else
        what the head says (`raeflow.heads`); of a table (N, C), the sum for each of the row's columns.

        A committee's is the mean over its members. A column in which a row has what train never had gets more by what
        `raeflow.graph.Novelty` says. Of a table of readings (N, C) the errors of each column at="last", NaN where there is no score.
        """
        if self.spec.windows is not None and is_arrow(rows):
            found = self._readings(batch_size).of(rows, "last")
            known = ~np.isnan(found.scores)
            errors = np.full((len(known), len(columns_of(self.spec))), np.nan, np.float32)
            errors[known] = self._readings(batch_size).causes(found, known)
            return errors
        tail = (len(self.spec.columns),) if self.spec.held else self.spec.shape
        return self._map(self.graph.errors, rows, batch_size, tail)

    def reconstruct(self, rows: Input, batch_size: int | None = None) -> Any:
        """What the model makes of each row, in the data's own units; a committee's is the mean over its members.

        Of a table with words, flags or clocks an Arrow table of the row's columns, with the likeliest level and the
        nearest clock; else an array (N, *shape), of a table of numbers (N, C).
        """
        rebuilt = self.expected(rows, batch_size)
        return to_table(torch.from_numpy(rebuilt), self.spec) if self.spec.fields else rebuilt

    def expected(self, rows: Input, batch_size: int | None = None) -> Floats:
        """(N, *stored) what the model makes of each row, as rows are stored (see `raeflow.data.rows.Field`)."""
        return self._map(self.graph.expected, rows, batch_size, self.spec.stored)

    def drops(self, rows: Input, batch_size: int | None = None) -> Floats:
        """(N, C) how far a row's score falls when each column is given its expected value; they need not add up to the score.

        Raises RaeflowError where rows are no table.
        """
        if not self.spec.held:
            raise RaeflowError(f"drops: rows of shape {self.spec.shape} have no columns to put right; a table has")
        return self._map(self.graph.drops, rows, batch_size, (len(self.spec.columns),))

    @property
    def models(self) -> list[Variant]:
        """The members' models, in evaluation mode, on the detector's device."""
        return list(self.graph.members)  # type: ignore[arg-type]

    def _map(
        self, function: Callable[[Tensor], Tensor], rows: Input, batch_size: int | None, tail: tuple[int, ...],
        whole: Callable[[Tensor], Tensor] | None = None,
    ) -> Floats:  # fmt: skip
        """`function` of all rows (N, *tail), batch by batch; `whole` in its place where a batch has no gap."""
        values = self._take(rows)
        out = torch.empty((len(values), *tail), device=self.device)
        size = batch_size or batch(self.graph, max(self.spec.shape, self.spec.stored, key=math.prod), self.device)
        with torch.inference_mode():
            for start in range(0, len(values), size):
                rows_here = slice(start, start + size)
                x, finite = self._batch(values.values(rows_here) if isinstance(values, Resident) else values[rows_here], start)
                out[start : start + size] = (whole or function)(x) if finite else function(x)
        return out.cpu().numpy()

    def _take(self, rows: Input) -> npt.NDArray[Any] | Tensor | Resident:
        """Rows (N, *shape) as they came, or out of Arrow; refused unless numeric and of the right shape."""
        if isinstance(rows, Resident):
            if rows.shape != self.spec.stored:
                raise RaeflowError(f"rows of a split have shape {rows.shape}, this detector takes {self.spec.stored}")
            return rows
        if is_arrow(rows):
            from raeflow.data.schema import to_tensor

            if self.spec.windows is not None:
                raise RaeflowError(f"a table of readings is scored and explained; this asks for windows {self.spec.shape} of encoded ones")
            return to_tensor(frames.to_table(rows), self.spec)
        try:
            values = rows if isinstance(rows, Tensor) else np.asarray(rows)
        except (TypeError, ValueError) as error:  # ragged lists
            raise RaeflowError(f"rows of type {type(rows).__name__} are no array of numbers ({reason(error)})") from error
        real = not values.is_complex() if isinstance(values, Tensor) else values.dtype.kind in "fiub"
        if self.spec.fields and not isinstance(values, Tensor):  # tensors are rows as `load` holds them
            raise RaeflowError("this detector takes words, flags or clocks: give a data frame or an Arrow table, not an array")
        if not real:
            raise RaeflowError(f"rows have type {values.dtype}, this detector takes real numbers")
        if not values.ndim or tuple(values.shape[1:]) != self.spec.stored:
            wanted = f"(N, {', '.join(map(str, self.spec.stored))})"
            hint = "; give one row as rows[None]" if tuple(values.shape) == self.spec.stored else ""
            raise RaeflowError(f"rows have shape {tuple(values.shape)}, this detector takes {wanted}{hint}")
        return values

    def _batch(self, part: npt.NDArray[Any] | Tensor, start: int) -> tuple[Tensor, bool]:
        """Some rows on the device, float32 or bytes, and whether their sum is finite; refused where one is not, but for gaps."""
        if isinstance(part, Tensor):
            x = part.to(self.device)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
                x = torch.from_numpy(part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))).to(self.device)
        if x.dtype == torch.uint8:
            return x, True
        x = x.to(torch.float32)
        # A sum is one cheap pass and is finite only if all its terms are; only then look for the culprit.
        finite = bool(torch.isfinite(x.sum()))
        if not finite:
            bad = x.isinf() if self.spec.held else ~torch.isfinite(x)  # a NaN in a table is a gap
            if bool(bad.any()):
                place = [int(i) for i in bad.nonzero()[0]]
                raise RaeflowError(f"row {start + place[0]} holds {float(x[tuple(place)])} at {tuple(place[1:])}: rows must be finite")
        return x, finite

    def to_bytes(self) -> tuple[bytes, bytes]:
        """The two files of a saved detector, `detector.json` and `weights.safetensors`."""
        record = {**self._content(), "id": self.id, "raeflow": raeflow.__version__, "lineage": self.lineage}
        return json.dumps(record, indent=1).encode(), safetensors.torch.save(self._weights())

    @classmethod
    def from_bytes(cls, content: bytes, weights: bytes, where: str, device: str = "auto") -> Detector:
        """What `to_bytes` gave; `where` is named in refusals.

        Raises RaeflowError on anything that is not a whole detector with the content that its id names.
        """
        try:
            record = json.loads(content)
            version = record["format"]
            if version > FORMAT:
                raise RaeflowError(
                    f"detector of format {version}, written by raeflow {record.get('raeflow')}; this raeflow {raeflow.__version__} "
                    f"reads format {FORMAT}: upgrade it"
                )
            spec = RowSpec.from_json(record["spec"])
            members = [Member.from_json(m) for m in record["members"]]
            models = [variants.build(m.variant, spec.shape, m.hyper).eval() for m in members]
            graph = encoded_graph(record, spec, models, [m.moments for m in members], [m.scorer() for m in members])
            found = cls(spec, graph, members, Threshold.from_json(record["threshold"]), record["lineage"])
            if "looking_back" in record:
                found.looking_back, found.usual = Threshold.from_json(record["looking_back"]), tuple(record["usual"])
            graph.load_state_dict({graph_name(name): t for name, t in safetensors.torch.load(weights).items()})
        except RaeflowError as error:
            raise RaeflowError(f"{where}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise RaeflowError(f"{where}: not a whole detector of raeflow ({brief(error)})") from error
        if found.id != record.get("id"):
            raise RaeflowError(f"{where}: the detector was changed after it was saved (id {record.get('id')}, its content {found.id})")
        return found.to(device)

    def save(self, folder: str | Path) -> Path:
        """Write the detector's folder, whole or not at all, in place of what is there."""
        place = Path(folder)
        content, weights = self.to_bytes()

        def write(temporary: Path) -> None:
            (temporary / CONTENT).write_bytes(content)
            (temporary / WEIGHTS).write_bytes(weights)

        checkpoint.write_folder(place, write)
        return place

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Detector:
        """Read what `save` wrote, from a path or a URI.

        Raises RaeflowError where the folder is missing, truncated, changed, or of a newer format.
        """
        content, weights = (read(str(folder), name) for name in (CONTENT, WEIGHTS))
        return cls.from_bytes(content, weights, str(folder), device)

    def draw(self, count: int, seed: int = 0) -> Any:
        """Rows that the first member which can draw rows draws, in the data's own units: `reconstruct` says in which form.

        Raises RaeflowError where no member draws rows.
        """
        from raeflow.health import drawn
        from raeflow.variants._contract import Generative

        able = next((model for model in self.models if isinstance(model, Generative)), None)
        if able is None:
            raise RaeflowError(f"{', '.join(m.variant for m in self.members)}: no member of this detector draws rows")
        rows = self.graph.encoding.inverse(drawn(able, count, seed).to(self.device)).cpu()
        return to_table(rows, self.spec) if self.spec.fields else rows.numpy()

    def export(self, path: str | Path) -> Path:
        """Write encoding, members and committee as one torch.export program (`.pt2`): (B, *stored) of the data's dtype to (B,).

        It runs without raeflow (`torch.export.load(path).module()(rows)`); `detector.json` rides along as
        an extra file. Raises RaeflowError where a member cannot be traced for batches of any size.
        """
        from raeflow.export import program

        example = torch.ones((2, *self.spec.stored), dtype=getattr(torch, self.spec.dtype))
        names = ", ".join(m.variant for m in self.members)
        return program(self.graph, example, {CONTENT: self.to_bytes()[0].decode()}, names, Path(path))
