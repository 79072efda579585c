"""The one exception a user is meant to read."""


class RaeflowError(Exception):
    """A mistake the user can mend, told in one sentence that names the offending value and its place.

    The command line prints the sentence alone; everything that is not a `RaeflowError` is a bug of
    raeflow and keeps its traceback in the log file.
    """


class EmptySplit(RaeflowError):  # noqa: N818 - it says what happened
    """A split in which no row came to lie."""
