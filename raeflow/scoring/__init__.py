"""Parquet in, Parquet out, fragment by fragment: plan, score one, commit; without Ray.

A fragment is a file or a range of its row groups. It is the unit of work, of retry and of commit: its
rows are read and scored in chunks, written under a temporary name that readers pass over, and renamed
when whole. A bad row keeps its place and says what is wrong with it; a fragment that cannot be scored
stops no other. The footer of each output says which detector made it from which input, so a run that comes
again keeps what is right, replaces what is stale, and neither repeats nor loses a row.
"""

from raeflow.scoring.committed import prepare, sweep
from raeflow.scoring.events import check_joined
from raeflow.scoring.fragment import ADDED, STAMP, Fragment, score_fragment
from raeflow.scoring.loop import Progress, Say, Summary, score, summarise, with_events
from raeflow.scoring.planning import plan
from raeflow.scoring.settling import MOST_BAD, attempt, check_rules, failed, settle

__all__ = [
    "ADDED", "MOST_BAD", "STAMP", "Fragment", "Progress", "Say", "Summary", "attempt", "check_joined", "check_rules", "failed", "plan",
    "prepare", "score", "score_fragment", "settle", "summarise", "sweep", "with_events",
]  # fmt: skip
