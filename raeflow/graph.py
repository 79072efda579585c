"""Encoding, members and their committee as one module: what a detector computes, and what it exports.

B rows, C columns of a table; a row as it is stored is (*stored,), as the model sees it (*shape,).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raeflow import checkpoint, heads
from raeflow.calibration import Moments, combine
from raeflow.data.encoding import Encoded, TableEncoding
from raeflow.data.encoding.series import SeriesEncoding
from raeflow.data.rows import Resident, RowSpec
from raeflow.data.scaling import Scaling
from raeflow.devices import device_of, score_batch
from raeflow.heads import Head
from raeflow.variants._contract import Variant

TYPICAL, EXTREME = 0.5, 0.99
"""Quantiles of held-out normal rows between which lies what a thing never seen adds to a row."""

Encoding = Scaling | TableEncoding | SeriesEncoding


@dataclass(frozen=True)
class Novelty:
    """What each thing that train never had adds to a row: a level, a gap in a column without any, a constant that changed.

    No network can learn what never varied, so this comes after it, by one rule for all models: as much as lies between
    the median and the 0.99 quantile of validation rows, so that one such thing makes an ordinary row as strange as one
    normal row in a hundred, and two make it stranger still.
    """

    score: float
    """Added to the score."""
    error: float
    """Added to the squared error of the column in an explanation."""


class Graph(nn.Module):
    """Stored rows (B, *stored) to scores (B,), higher is stranger."""

    def __init__(
        self, encoding: Encoding, models: Sequence[Variant], moments: Sequence[Moments | None], novelty: Novelty | None = None,
        scorers: Sequence[Head] = (),
    ) -> None:  # fmt: skip
        """`scorers` are the members' heads, in their order; none: every model's own score."""
        super().__init__()
        self.encoding = encoding
        self.members = nn.ModuleList(models)
        self.heads = nn.ModuleList(scorers or [heads.build(heads.ERROR, {}) for _ in models])
        self.moments = [m for m in moments if m is not None]
        self.novelty = novelty

    def forward(self, x: Tensor) -> Tensor:
        """(B, *stored) -> (B,); of windows (B, C, L) the scores of their last readings, see `by_reading`."""
        if isinstance(self.encoding, SeriesEncoding):
            return self.by_reading(x, last=True).squeeze(1)
        score = self._score(self.encoding(x))
        if self.novelty is not None and isinstance(self.encoding, TableEncoding):
            score = score + self.novelty.score * self.encoding.novelties(x)
        return _never_missed(score)

    def whole(self, x: Tensor) -> Tensor:
        """(B, *stored) of rows without a gap -> (B,): the same scores; a table of numbers is not searched for gaps, which takes time."""
        if isinstance(self.encoding, TableEncoding) and self.encoding.plain:
            return _never_missed(self._score(self.encoding.standardised(x)))
        return self(x)  # type: ignore[no-any-return]

    def by_reading(self, x: Tensor, last: bool = False) -> Tensor:
        """Windows (B, C, L) -> (B, L): what each reading adds, in its own column of the error map; with `last` (B, 1), the last ones'.

        A member's is the mean of its map over channels; a committee's the mean of its members' standardised ones, as scores of rows
        are combined. A member whose head cannot tell one reading from another gives its score of the window to all of them.
        """
        encoded = self.encoding(x)
        found = [_columns(model, head, encoded, last) for model, head in self.pairs]
        return _never_missed(combine(found, self.moments) if self.moments else found[0])

    @property
    def pairs(self) -> list[tuple[Variant, Head]]:
        """Each member's model with its head."""
        return list(zip(self.members, self.heads, strict=True))  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        """Values that scoring one row takes besides the row's own; batches are sized by it."""
        return max(max(model.width, head.width) for model, head in self.pairs)

    def _score(self, encoded: Tensor) -> Tensor:
        scores = [head(heads.outputs(model, encoded, head.needs)).float() for model, head in self.pairs]
        return combine(scores, self.moments) if self.moments else scores[0]

    def errors(self, x: Tensor) -> Tensor:
        """(B, *stored) -> what each value adds to the score, the mean over the members: (B, *shape), of a table (B, C) by column.

        A head that cannot tell, `error` among them, is taken for the squared errors of the encoded row.
        """
        encoded = self.encoding(x)
        squares = mean([_attributed(model, head, encoded) for model, head in self.pairs])
        if not isinstance(self.encoding, TableEncoding):
            return squares
        errors = self.encoding.by_column(squares)
        return errors if self.novelty is None else errors + self.novelty.error * self.encoding.strange(x)

    def expected(self, x: Tensor) -> Tensor:
        """(B, *stored) -> what the members make of the rows, as rows are stored: (B, *stored)."""
        encoded = self.encoding(x)
        rebuilt = mean([model.reconstruct(encoded).float() for model in self.members])  # type: ignore[operator]
        return self.encoding.inverse(rebuilt, x)

    def drops(self, x: Tensor) -> Tensor:
        """(B, K) stored rows of a table -> (B, C): how far the score falls when each column is given its expected value."""
        encoding = self.encoding
        assert isinstance(encoding, TableEncoding)  # noqa: S101 - callers ask of tables alone
        x = x.to(torch.float32)
        best, score = self.expected(x), self(x)
        falls = []
        for column in encoding.columns:
            put = x.clone()
            own = slice(column.at, column.at + column.slots)
            put[:, own] = best[:, own]
            falls.append(score - self(put))
        return torch.nan_to_num(torch.stack(falls, 1))


def _attributed(model: Variant, head: Head, encoded: Tensor) -> Tensor:
    seen = heads.outputs(model, encoded, head.needs - {"score"} | {"rebuilt"})
    found = head.attribute(seen)
    return seen.residual.square() if found is None else found


def _columns(model: Variant, head: Head, encoded: Tensor, last: bool) -> Tensor:
    """(B, C, L) -> (B, L), or (B, 1) of the last readings alone."""
    length, own = encoded.shape[2], slice(-1, None) if last else slice(None)
    if head.name == heads.ERROR and model.localises:
        residual = heads.outputs(model, encoded, frozenset({"rebuilt"})).residual
        squares: Tensor = residual[:, :, own].square().mean(1)
        return squares
    seen = heads.outputs(model, encoded, head.needs)
    found = head.attribute(seen)
    if found is None:
        score: Tensor = head(seen).float()
        return score.unsqueeze(1).expand(-1, 1 if last else length)
    return found[:, :, own].float().mean(1)


def _never_missed(score: Tensor) -> Tensor:
    """A finite row so far out that the arithmetic overflows is as strange as can be, never a silent miss."""
    return torch.nan_to_num(score, nan=math.inf, posinf=math.inf, neginf=-math.inf)


def mean(parts: list[Tensor]) -> Tensor:
    """The mean over members."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)


# --- on disk -----------------------------------------------------------------------------------------------------------------

FORMAT = 4
"""Format of detectors. 1: rows that are no table, and all that version 0.1.0 wrote; 2: tables, column by column; 3: either of
them, with a member whose head is not `error`; 4: windows of readings."""
HEADED = 3


def encoded_content(spec: RowSpec, graph: Graph) -> dict[str, Any]:
    """What `detector.json` says of rows and their encoding, as plain values."""
    headed = any(head.name != heads.ERROR for _, head in graph.pairs)
    said: dict[str, Any] = {"format": HEADED if headed else 1, "spec": checkpoint.plain(spec.to_json())}
    encoding = graph.encoding
    if isinstance(encoding, Scaling):
        return {**said, "scaling": encoding.mode}
    if isinstance(encoding, SeriesEncoding):
        return {**said, "format": FORMAT, "encoding": checkpoint.plain(encoding.to_json())}
    columns = [checkpoint.plain(c.to_json()) for c in encoding.columns]
    kept = {"encoding": {"mode": encoding.mode, "columns": columns}, "novelty": graph.novelty and asdict(graph.novelty)}
    return {**said, "format": HEADED if headed else 2, **kept}


def encoded_graph(
    record: Mapping[str, Any], spec: RowSpec, models: Sequence[Variant], moments: Sequence[Moments | None], scorers: Sequence[Head]
) -> Graph:
    """The graph that a record of any format describes, without its weights."""
    if "scaling" in record:
        return Graph(Scaling(record["scaling"], spec.shape), models, moments, scorers=scorers)
    said = record["encoding"]
    if spec.windows is not None:
        return Graph(SeriesEncoding.from_json(said, spec.windows.reading.stored), models, moments, scorers=scorers)
    encoding = TableEncoding([Encoded.from_json(c) for c in said["columns"]], spec.stored[0], said["mode"])
    return Graph(encoding, models, moments, record["novelty"] and Novelty(**record["novelty"]), scorers)


def stored_name(name: str, graph: Graph) -> str:
    """Name on disk of a tensor of the graph: format 1 calls the encoding `scaling`."""
    return re.sub(r"^encoding\.", "scaling.", name) if isinstance(graph.encoding, Scaling) else name


def graph_name(name: str) -> str:
    """What `stored_name` was given."""
    return re.sub(r"^scaling\.", "encoding.", name)


# --- rows in memory ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def scores(graph: Graph, rows: Resident) -> Iterator[Tensor]:
    """Scores (n,) of stored rows (N, *stored), batch by batch, on the graph's device."""
    device = device_of(graph)
    for raw in rows.batches(batch(graph, rows.shape, device)):
        yield graph(raw.x.to(device))


def batch(graph: Graph, stored: tuple[int, ...], device: torch.device) -> int:
    """Rows to score at a time: fewer, the more values a row has or a head makes of it."""
    return score_batch(stored, device, graph.width)


@torch.inference_mode()
def novelty(graph: Graph, rows: Resident) -> Novelty | None:
    """What a thing never seen adds, from normal rows (N, K) that the models were not trained on; None where rows are no table."""
    if not isinstance(graph.encoding, TableEncoding):
        return None
    found = torch.cat(list(scores(graph, rows)))
    device = device_of(graph)
    parts = rows.batches(batch(graph, rows.shape, device))
    errors = torch.cat([graph.errors(raw.x.to(device)).sum(1) for raw in parts])
    return Novelty(_spread(found), _spread(errors))


def _spread(values: Tensor) -> float:
    """From the typical to the extreme; a millionth of the typical where all are alike."""
    values = values[values.isfinite()].double().sort().values
    if not len(values):
        return 1.0
    low, high = (float(values[min(len(values) - 1, math.ceil(share * len(values)) - 1)]) for share in (TYPICAL, EXTREME))
    return max(high - low, 1e-6 * abs(low), 1e-12)
