"""What people look at: metrics on the test split, a table for terminals, one HTML page; the only reader of test labels."""

from raeflow.report.judge import baselines, isolation_forest, judge_test, peers
from raeflow.report.page import write
from raeflow.report.terminal import table

__all__ = ["baselines", "isolation_forest", "judge_test", "peers", "table", "write"]
