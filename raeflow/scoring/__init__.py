"""Parquet in, Parquet out, fragment by fragment: plan, score one, commit; without Ray.

A fragment is a file or a range of its row groups. It is the unit of work, of retry and of commit: its
rows are read and scored in chunks, written under a temporary name that readers pass over, and renamed
when whole. The footer of each output says which detector made it from which input, so a run that comes
again keeps what is right, replaces what is stale, and neither repeats nor loses a row.
"""

from raeflow.scoring.committed import prepare, sweep
from raeflow.scoring.fragment import ADDED, STAMP, Fragment, score_fragment
from raeflow.scoring.loop import Progress, Say, Summary, score, summarise
from raeflow.scoring.planning import plan

__all__ = [
    "ADDED", "STAMP", "Fragment", "Progress", "Say", "Summary", "plan", "prepare", "score", "score_fragment", "summarise", "sweep",
]  # fmt: skip
