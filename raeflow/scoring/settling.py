"""What becomes of a run in which something could not be scored: every other fragment is finished, then it is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raeflow.data.faults import MOST_BAD
from raeflow.detector import Detector
from raeflow.errors import RaeflowError
from raeflow.scoring.fragment import LISTED, BadRowsError, Fragment, score_fragment

__all__ = ["MOST_BAD", "attempt", "check_rules", "failed", "settle"]
BAD_ROWS = ("flag", "refuse")


def check_rules(bad_rows: str, most_bad: float) -> None:
    """Refuse what `bad_rows` and `most_bad` cannot be."""
    if bad_rows not in BAD_ROWS:
        raise RaeflowError(f"bad_rows={bad_rows!r}: bad_rows must be one of {', '.join(map(repr, BAD_ROWS))}")
    if not 0 <= most_bad <= 1:
        raise RaeflowError(f"most_bad={most_bad!r}: a share of rows lies between 0 and 1")


def attempt(detector: Detector, fragment: Fragment, stopped: Callable[[], bool] | None = None) -> dict[str, Any]:
    """`score_fragment`, whose refusal becomes part of the result so that other fragments go on: `error` is its sentence, else empty."""
    started = time.time()
    try:
        return {**score_fragment(detector, fragment, stopped), "error": "", "listed": "[]"}
    except RaeflowError as error:
        return failed(fragment, error, started)


def failed(fragment: Fragment, error: RaeflowError, started: float) -> dict[str, Any]:
    """The result of a fragment that was not committed; `listed` are its first bad rows as JSON where they are why."""
    bad, listed = (error.count, error.listed) if isinstance(error, BadRowsError) else (0, [])
    return {
        "rows": 0, "alerts": 0, "bad": bad, "unscored": 0, "first_bad": "", "started": started, "ended": time.time(),
        "input": fragment.piece.uri, "output": fragment.out.uri, "error": str(error), "listed": json.dumps(listed),
    }  # fmt: skip


def settle(results: Sequence[dict[str, Any]], out: str | Path, most_bad: float) -> None:
    """Refuse a finished run in which fragments are missing, or more than a share `most_bad` of the rows is bad.

    Args:
        results: of all fragments, those of earlier runs included.
        out: where the outputs are, which stay.
        most_bad: share of all rows.

    Raises RaeflowError in one sentence.
    """
    lost = sorted((r for r in results if r.get("error")), key=lambda r: str(r["output"]))
    if lost:
        raise RaeflowError("; ".join([*_errors(lost), *_refused(lost), _rest(len(results) - len(lost), out)]))
    rows, bad = sum(r["rows"] for r in results), sum(r["bad"] for r in results)
    if bad > most_bad * rows:
        first = min((r for r in results if r["bad"]), key=lambda r: str(r["output"]))
        raise RaeflowError(
            f"{bad:,} of {rows:,} rows are bad ({bad / rows:.2%}), more than most_bad={most_bad:g} (--most-bad) lets pass, the first of "
            f"them {first['input']}, {first['first_bad']}; all rows are in {out} nonetheless, the bad ones with their problem"
        )


def _errors(lost: Sequence[dict[str, Any]]) -> list[str]:
    """Fragments that could not be read or written."""
    return _first([r["error"] for r in lost if not r["bad"]], "fragments that cannot be scored")


def _refused(lost: Sequence[dict[str, Any]]) -> list[str]:
    """Rows that were to be refused."""
    count = sum(r["bad"] for r in lost)
    rows = [row for r in lost for row in json.loads(r["listed"])]
    return _first(rows, "bad rows, which --bad-rows flag would keep", count)


def _first(told: Sequence[str], what: str, count: int | None = None) -> list[str]:
    """The first few of `count` things, and how many more there are."""
    count = len(told) if count is None else count
    more = count - min(len(told), LISTED)
    listed = list(told[:LISTED])
    if count > 1:
        listed[0] = f"{count:,} {what}: {listed[0]}"
    return [*listed, *([f"and {more:,} more"] if more else [])]


def _rest(kept: int, out: str | Path) -> str:
    """What there is nonetheless."""
    if not kept:
        return f"nothing was committed to {out}"
    other = "the other fragment is" if kept == 1 else f"the other {kept:,} fragments are"
    return f"{other} in {out}, and a run again does only what is missing"
