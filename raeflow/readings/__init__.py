"""Readings in order of time to a score for each: put in order, cut into windows, scored in tiles, one reading at a time or all at once.

R readings, S series, C channels, N columns of a reading, windows of L readings.
"""

from raeflow.readings.stream import Stream
from raeflow.readings.tables import Scored, Tables, series_of
from raeflow.readings.tiles import by_column, calibrate_all, causes, check_at, columns_of, leading, scores

__all__ = [
    "Scored", "Stream", "Tables", "by_column", "calibrate_all", "causes", "check_at", "columns_of", "leading", "scores",
    "series_of",
]  # fmt: skip
