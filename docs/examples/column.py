"""An example of a column: the entry that shows a metric in every table that has it."""

from qa.tables.tables import SCORES

SCORES["answer_words"] = ("Words", 1)  # key in metrics.json: heading, decimals
