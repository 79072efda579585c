"""The one exception a user is meant to read."""

from __future__ import annotations


class RaeflowError(Exception):
    """A mistake the user can mend, told in one sentence that names the offending value and its place.

    The command line prints the sentence alone; everything that is not a `RaeflowError` is a bug of
    raeflow and keeps its traceback in the log file.
    """


class RowError(RaeflowError):
    """Rows whose values cannot be used, in a file whose other rows can."""

    def __init__(self, message: str, faults: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.faults = faults or {}
        """What is wrong with each row, by its number, without its place: "column 'x': value 17 is nan"."""


class EmptySplit(RaeflowError):  # noqa: N818 - it says what happened
    """A split in which no row came to lie."""
