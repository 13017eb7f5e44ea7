"""The tables and figures of both papers: what is run for each, and what is made of it.

* `benchmarks.papers.entries`: the files of ``conf/papers``, one for each table or figure.
* `benchmarks.papers.cells`: the commands that an entry needs, each with the key of its folder.
* `benchmarks.papers.runner`: runs them in order of cost, and never twice.
* `benchmarks.papers.results`: what a finished command has measured, and with what.
* `benchmarks.papers.claims`: what a paper says is better than what, and if that holds.
* `benchmarks.papers.tables`: the table, the figure and the metrics of a target.
* `benchmarks.papers.pages`: the pages of the documentation.
* `benchmarks.papers.reproduce`: the command ``scripts/reproduce.py``.
"""
