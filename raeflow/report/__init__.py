"""What people look at: metrics on the test split, a table for terminals, one HTML page; the only reader of test labels."""

from raeflow.report.judge import isolation_forest, judge_test
from raeflow.report.page import write
from raeflow.report.terminal import table

__all__ = ["isolation_forest", "judge_test", "table", "write"]
