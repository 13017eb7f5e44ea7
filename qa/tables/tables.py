"""Tables of results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# The heading and the number of decimals of each score.
SCORES = {"em": ("EM", 1), "f1": ("F1", 1), "acc": ("Acc", 1), "nll": ("nll", 2)}
_METHODS = ("base", "rag")  # The baselines come first, and the other methods follow by name.
_PASSAGES = ("", "gold", "retrieved", "oracle_negative", "shuffled")


class Setting(NamedTuple):
    """One row of a table: a method and what it may use.

    Attributes:
        method: The name of the method on the command line.
        rag: True if the passages stand in the prompt.
        passages: The kind of passages; empty if there are none.
    """

    method: str
    rag: bool
    passages: str

    @property
    def key(self) -> str:
        """The prefix of the metrics, such as ``genpoe/norag/gold``, ``rag/gold`` or ``base``."""
        if self.method == "base":
            return self.method
        if self.method == "rag":
            return f"{self.method}/{self.passages}"
        return f"{self.method}/{'rag' if self.rag else 'norag'}/{self.passages}"

    @classmethod
    def parse(cls, key: str) -> Setting:
        """The setting that has this `key`.

        Raises:
            ValueError: If there is no such setting.
        """
        parts = key.split("/")
        settings = {
            1: lambda: cls(parts[0], False, ""),
            2: lambda: cls(parts[0], True, parts[1]),
            3: lambda: cls(parts[0], parts[1] == "rag", parts[2]),
        }
        setting = settings[len(parts)]() if len(parts) in settings else None
        if setting is None or setting.key != key or setting.passages not in _PASSAGES:
            raise ValueError(
                "expected <method>/<rag|norag>/<passages>, rag/<passages> or base before the "
                f"metric's name, got {key!r}"
            )
        return setting


def markdown_table(
    rows: Iterable[Sequence[str]],
    columns: Sequence[str],
    labels: int | None = None,
    compact: bool = False,
) -> str:
    """A table in Markdown.

    Args:
        rows: The cells of each row, one for each column.
        columns: The headings.
        labels: The number of leading columns that hold words, which are aligned to the left. The
            others hold numbers and are aligned to the right. None: all are aligned to the left.
        compact: If True, the rule under the headings has no spaces.

    Returns:
        The lines of the table, each with its line break.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """
    words = len(columns) if labels is None else labels
    rules = ["---"] * words + ["---:"] * (len(columns) - words)
    rule = "|".join(rules) if compact else f" {' | '.join(rules)} "
    heading = "".join(f"| {column} " if column else "| " for column in columns)
    lines = [f"{heading}|", f"|{rule}|"]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"expected {len(columns)} cells in a row, got {len(row)}: {list(row)}")
        lines.append(f"| {' | '.join(row)} |")
    return "".join(f"{line}\n" for line in lines)


def results_table(metrics: Mapping[str, float]) -> str:
    """The results of several methods, with a row for each `Setting`.

    Args:
        metrics: The values by flat keys, made of `Setting.key` and the name of a metric, such as
            ``genpoe/norag/gold/em``. The ends of its interval, if there is one, have the keys
            ``…/em_low`` and ``…/em_high``. Metrics without a column and keys without a setting are
            left out.

    Returns:
        A Markdown table with EM, F1 and accuracy in percent and nll in nats per answer token.

    Raises:
        ValueError: If a metric's setting is malformed, or there is no metric to show.
    """
    rows = {
        Setting.parse(key.rpartition("/")[0]): key.rpartition("/")[0]
        for key in metrics
        if "/" in key and key.rpartition("/")[2] in SCORES
    }
    if not rows:
        raise ValueError("there are no results to show: no key ends in /em, /f1, /acc or /nll")
    columns = [name for name in SCORES if any(f"{key}/{name}" in metrics for key in rows.values())]
    lines = []
    for setting in sorted(rows, key=_order):
        cells = [_cell(metrics, rows[setting], name) for name in columns]
        rag = "yes" if setting.rag else "no"
        lines.append([setting.method, rag, setting.passages or "–", *cells])
    headings = ["Method", "RAG", "Passages", *(SCORES[name][0] for name in columns)]
    return markdown_table(lines, headings, labels=3)


def summary(metrics: Mapping[str, float]) -> str:
    """The metrics of one evaluation on one line."""
    scores = [f"{SCORES[name][0]} {_cell(metrics, '', name)}" for name in SCORES if name in metrics]
    return f"{', '.join(scores)} over {metrics['n']:.0f} questions"


def flat(result: Mapping[Any, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in a nested result, each under its keys joined by "/".

    A list of numbers, such as the seconds of several rounds, is represented by its median. The
    entries of any other list get their index as a key. Values that are not numbers are left out.
    """
    found: dict[str, float] = {}
    for key, value in result.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(map(_is_number, value)):
            value = statistics.median(value)
        elif isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}/")
        elif _is_number(value):
            found[name] = value
    return found


def with_interval(metrics: Mapping[str, float], name: str, digits: int) -> str:
    """A metric as a table shows it, with its interval if it has one; "–" if it is missing."""
    if name not in metrics:
        return "–"
    value = f"{metrics[name]:.{digits}f}"
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if low is None or high is None:
        return value
    between = "–" if low >= 0 else " … "
    return f"{value} ({low:.{digits}f}{between}{high:.{digits}f})"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(setting: Setting) -> tuple[int, str, bool, int]:
    known = setting.method in _METHODS
    first = _METHODS.index(setting.method) if known else len(_METHODS)
    return first, setting.method, setting.rag, _PASSAGES.index(setting.passages)


def _cell(metrics: Mapping[str, float], key: str, name: str) -> str:
    return with_interval(metrics, f"{key}/{name}" if key else name, SCORES[name][1])
