"""Scoring spread over a cluster: Ray Data hands fragments to a pool of actors, each of which scores, writes and commits.

Ray moves no rows: actors read and write the files themselves, so a fragment costs what it costs in the
plain loop. Inputs and outputs must therefore be reachable from all nodes, by a shared path or a URI.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raeflow.cluster.session import alone, check_fits, connect, quiet
from raeflow.data.files import named
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring import (
    MOST_BAD,
    Fragment,
    Progress,
    Say,
    Summary,
    attempt,
    check_joined,
    check_rules,
    failed,
    plan,
    prepare,
    settle,
    summarise,
    sweep,
    with_events,
)  # fmt: skip

TRIES = 3
"""Actors or nodes that may die over one fragment before it is given up."""


def score(
    detector_folder: str | Path, sources: Sequence[str] | str, out: str | Path, scorers: int = 1, gpus: float = 0,
    columns: Sequence[str] | None = None, progress: Say | None = None, bad_rows: str = "flag", most_bad: float = MOST_BAD,
    at: str = "last", joined: Any = 0,
) -> Summary:  # fmt: skip
    """`raeflow.scoring.score` on `scorers` Ray actors; the same outputs, and the same taking up of what is there.

    Args:
        detector_folder: path or URI of a saved detector; only this process reads it.
        sources: paths, folders, globs or URIs of Parquet that all nodes can read.
        out: folder or URI that all nodes can write to.
        scorers: actors, each with one core and one torch thread, or a share of a core where the only machine has fewer.
        gpus: of each actor; 0 scores on CPUs.
        columns: input columns to keep; None keeps all.
        progress: called with a line every few seconds.
        bad_rows: `flag` or `refuse`.
        most_bad: share of flagged rows above which the run fails after all.
        at: as in the plain loop, and so is `joined`.

    Raises RaeflowError as the plain loop does: before a cluster starts for what footers tell of, at the end
    for what could not be scored; all other fragments are committed by then.
    """
    start = time.perf_counter()
    if scorers < 1:
        raise RaeflowError(f"scorers={scorers}: at least one actor must score")
    check_rules(bad_rows, most_bad)
    detector = Detector.load(detector_folder, device="cpu")
    check_joined(detector, joined)
    fragments = plan(detector, sources, out, columns, bad_rows, at)
    done, todo = prepare(fragments)
    fresh: list[dict[str, Any]] = []
    if todo:
        connect(gpus > 0)
        report = Progress(fragments, done, progress)
        try:
            for statistics in _spread(detector, todo, min(scorers, len(todo)), gpus):
                fresh.append(statistics)
                report(statistics)
        finally:
            sweep(fragments)
    settle([*done, *fresh], out, most_bad)
    return with_events(summarise(done, fresh, time.perf_counter() - start, out), detector, fragments, joined)


def _spread(detector: Detector, todo: Sequence[Fragment], scorers: int, gpus: float) -> Iterator[dict[str, Any]]:
    """Results of fragments as they come, of those too that could not be scored."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    quiet()  # importing Ray Data sets its loggers up anew
    # Bytes and plan wait in the object store: a node needs nothing of this machine's disk.
    shared = ray.put((detector.to_bytes(), list(todo)))
    cpus = 1.0
    if alone():
        check_fits(f"scoring on {scorers} actors with {gpus:g} GPUs each", 0, gpus, scorers)
        cores = ray.cluster_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
        cpus = min(1.0, cores / scorers)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Items are in memory already, so the pool may take every core: no other operator waits for one.
    blocks = min(len(todo), max(200, 16 * scorers))
    pool = ActorPoolStrategy(size=scorers)
    ledger = ray.remote(Ledger).options(num_cpus=0).remote()
    results = from_items([{"number": i} for i in range(len(todo))], override_num_blocks=blocks).map_batches(
        Scorer, fn_constructor_args=(shared, ledger, gpus > 0), batch_size=1, compute=pool, num_cpus=cpus, num_gpus=gpus
    )
    yield from results.iter_rows()


class Ledger:
    """Counts how often each fragment was begun: Ray itself would begin one that kills its actors for ever."""

    def __init__(self) -> None:
        self.begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """How often the fragment has been begun, this time included."""
        self.begun[number] = self.begun.get(number, 0) + 1
        return self.begun[number]


class Scorer:
    """An actor of the pool: loads the detector once, then scores the fragments whose numbers it is given."""

    def __init__(self, shared: Any, ledger: Any, gpu: bool) -> None:
        import pyarrow as pa
        import ray
        import torch

        torch.set_num_threads(1)
        pa.set_cpu_count(1)
        self.ray, self.ledger = ray, ledger
        (content, weights), self.fragments = ray.get(shared)
        self.detector = Detector.from_bytes(content, weights, "the detector", "cuda" if gpu else "cpu")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """One row of statistics for each number; a mistake of the user's travels as a sentence, anything else as Ray's error."""
        rows = [self._one(int(number)) for number in batch["number"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _one(self, number: int) -> dict[str, Any]:
        fragment = self.fragments[number]
        if self.ray.get(self.ledger.begin.remote(number)) > TRIES:
            place = f"{fragment.piece.uri}, {named(fragment.groups)}"
            why = RaeflowError(f"{place}: given up after {TRIES} actors died over it; had they enough memory?")
            return failed(fragment, why, time.time())
        return attempt(self.detector, fragment)
