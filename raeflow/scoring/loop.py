"""The plain loop over fragments, its progress and its summary."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raeflow.detector import Detector
from raeflow.scoring.committed import prepare
from raeflow.scoring.events import check_joined, write_events
from raeflow.scoring.fragment import Fragment
from raeflow.scoring.planning import plan
from raeflow.scoring.settling import MOST_BAD, attempt, check_rules, settle

MOST_THREADS = 16  # each has a chunk in memory
Say = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """What `score` did."""

    rows: int
    """Rows of all fragments, those of earlier runs included."""
    alerts: int
    fragments: int
    skipped: int
    """Fragments that an earlier run had committed."""
    seconds: float
    out: str
    rate: float = 0.0
    """Rows a second of this run, from the start of its first fragment to the end of its last; 0 where all were skipped."""
    bad: int = 0
    """Rows that could not be scored and are flagged with their problem."""
    unscored: int = 0
    """Sound readings that no window gives a score to, as the first ones of a series."""
    events: int | None = None
    """Of readings in order of time: the events that their alerts make; None of other rows."""
    events_at: str | None = None
    """Where they were written."""


def score(
    detector: Detector, sources: Sequence[str] | str, out: str | Path, columns: Sequence[str] | None = None,
    progress: Say | None = None, threads: int | None = None, bad_rows: str = "flag", most_bad: float = MOST_BAD,
    at: str = "last", joined: Any = 0,
) -> Summary:  # fmt: skip
    """Score Parquet files into Parquet files below `out`, in this process.

    Args:
        detector: what scores; rows are scored on its device.
        sources: paths, folders, globs or URIs of Parquet.
        out: folder or URI; outputs are named after their inputs and row groups.
        columns: input columns to keep beside the five that are added; None keeps all.
        progress: called with a line every few seconds.
        threads: fragments at a time, each with its share of torch's threads; None: as many as torch has threads.
        bad_rows: `flag` gives rows that cannot be scored a problem instead of a score; `refuse` commits no fragment with such a row.
        most_bad: share of bad rows above which a run that flags them fails after all.
        at: of readings in order of time: `last`, no reading after the scored one is seen, or `all`, looking back.
        joined: of these too: alerts no further apart than so many seconds, or a timedelta, are one event.

    Raises RaeflowError, in one sentence, for what is wrong with the input before anything is written, and
    at the end, when all other fragments are committed, for what could not be scored.
    """
    start = time.perf_counter()
    check_rules(bad_rows, most_bad)
    check_joined(detector, joined)
    fragments = plan(detector, sources, out, columns, bad_rows, at)
    done, todo = prepare(fragments)
    report = Progress(fragments, done, progress)
    fresh = []
    for statistics in _run(detector, todo, threads or min(torch.get_num_threads(), MOST_THREADS)):
        fresh.append(statistics)
        report(statistics)
    settle([*done, *fresh], out, most_bad)
    return with_events(summarise(done, fresh, time.perf_counter() - start, out), detector, fragments, joined)


def _run(detector: Detector, todo: Sequence[Fragment], threads: int) -> Iterator[dict[str, Any]]:
    """Results of fragments, scored side by side: reading, arithmetic and writing all release the interpreter's lock."""
    workers = min(threads, len(todo))
    if workers <= 1:
        yield from (attempt(detector, fragment) for fragment in todo)
        return
    before, stop = torch.get_num_threads(), threading.Event()
    # n fragments with a thread each beat one fragment with n: nobody waits for the slowest at every layer.
    pool = ThreadPoolExecutor(workers, "score", torch.set_num_threads, (max(1, before // workers),))
    try:
        futures = [pool.submit(attempt, detector, fragment, stop.is_set) for fragment in todo]
        for future in as_completed(futures):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


class Progress:
    """A line at the start, at the end, and every two seconds in between."""

    def __init__(self, fragments: Sequence[Fragment], done: Sequence[dict[str, Any]], say: Say | None) -> None:
        self.say, self.fragments, self.total = say, len(fragments), sum(f.rows for f in fragments)
        self.count, self.rows, self.fresh = len(done), sum(s["rows"] for s in done), 0
        self.start, self.last = math.inf, time.monotonic()
        if say is not None:
            kept = f", {len(done)} of them committed before" if done else ""
            say(f"scoring {self.total:,} rows in {self.fragments} fragments{kept}")

    def __call__(self, statistics: dict[str, Any]) -> None:
        """Count one fragment."""
        self.count, self.rows, self.fresh = self.count + 1, self.rows + statistics["rows"], self.fresh + statistics["rows"]
        self.start, now = min(self.start, statistics["started"]), time.monotonic()
        if self.say is not None and statistics["error"]:
            self.say(f"not committed: {statistics['error']}")
        if self.say is None or (now - self.last < 2 and self.count < self.fragments):
            return
        self.last = now
        rate = self.fresh / max(time.time() - self.start, 1e-9)
        left = f", {(self.total - self.rows) / rate:.0f} s left" if self.count < self.fragments else ""
        self.say(f"scored {self.rows:,} of {self.total:,} rows, {self.count} of {self.fragments} fragments, {rate:,.0f} rows/s{left}")


def summarise(done: Sequence[dict[str, Any]], fresh: Sequence[dict[str, Any]], seconds: float, out: str | Path) -> Summary:
    """Totals over the fragments of earlier runs and of this one."""
    rate = 0.0
    if fresh:
        spent = max(s["ended"] for s in fresh) - min(s["started"] for s in fresh)
        rate = _total(fresh, "rows") / max(spent, 1e-9)
    every = [*done, *fresh]
    return Summary(
        _total(every, "rows"),
        _total(every, "alerts"),
        len(every),
        len(done),
        seconds,
        str(out),
        rate,
        _total(every, "bad"),
        _total(every, "unscored"),
    )


def with_events(summary: Summary, detector: Detector, fragments: Sequence[Fragment], joined: Any) -> Summary:
    """The summary with the events of readings in order of time, which are written here, once all fragments are committed."""
    if detector.spec.windows is None:
        return summary
    count, place = write_events(detector, fragments, joined)
    return replace(summary, events=count, events_at=place)


def _total(results: Iterable[dict[str, Any]], name: str) -> int:
    return sum(s.get(name, 0) for s in results)
