"""What a table's columns become: numbers, numbers with long tails, flags, categories, clocks, gaps, constants.

`fit_table` learns it from train rows in one pass, `TableEncoding` applies it inside the model's graph, so that a
variant sees one vector of numbers and knows of no column. `Lexicon` learns the levels of categories as rows are read.
"""

from raeflow.data.encoding.fit import Rules, fit_table
from raeflow.data.encoding.lexicon import Lexicon
from raeflow.data.encoding.module import TableEncoding
from raeflow.data.encoding.record import Encoded
from raeflow.data.encoding.sketch import Sketch

__all__ = ["Encoded", "Lexicon", "Rules", "Sketch", "TableEncoding", "fit_table"]
