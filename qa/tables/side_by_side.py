"""Several evaluations side by side, as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa.tables.tables import SCORES, markdown_table, with_interval

# The heading and the number of decimals of each metric, as in `qa.tables.tables.SCORES`.
TRIGGER_RATE = {"trigger_rate": ("triggered (%)", 1)}
SECONDS = {"seconds_per_question": ("s/question", 3)}

_PANELS = {name: SCORES[name] for name in ("em", "f1", "nll")} | SECONDS
_WIDE = 100  # An axis is logarithmic from this ratio of its largest value to its smallest one.
_LONG = 20  # The names below an axis are slanted if together they have more characters than this.


@dataclass(frozen=True)
class Evaluated:
    """One evaluation among several.

    Attributes:
        labels: Its label on each axis along which the evaluations differ.
        metrics: Its metrics by name.
    """

    labels: dict[str, str]
    metrics: dict[str, float]


def table(rows: Sequence[Evaluated], columns: Mapping[str, tuple[str, int]]) -> str:
    """A Markdown table with a row for each evaluation and 95 % intervals in brackets.

    Args:
        rows: The evaluations. All of them have the same axes.
        columns: The heading and the number of decimals of each metric, by its name. Metrics that no
            evaluation has are left out.
    """
    shown = [name for name in columns if any(name in row.metrics for row in rows)]
    axes = list(rows[0].labels)
    lines = [
        [
            *row.labels.values(),
            *(with_interval(row.metrics, name, columns[name][1]) for name in shown),
        ]
        for row in rows
    ]
    headings = [*axes, *(columns[name][0] for name in shown)]
    return markdown_table(lines, headings, labels=len(axes))


def plot(rows: Sequence[Evaluated], picture: Path, panels: Mapping[str, str] | None = None) -> None:
    """Draw the scores over the first axis, as lines if its labels are numbers and else as bars.

    Args:
        rows: The evaluations. Those that agree on all other axes share a colour.
        picture: The PNG file that is written.
        panels: The heading of each metric that gets a panel, by its name. None: EM, F1, nll and the
            seconds of a question. What an evaluation has not measured stays empty, and what none
            has measured gets no panel.
    """
    from matplotlib.figure import Figure

    series: dict[str, list[Evaluated]] = {}
    axis, *others = rows[0].labels
    for row in rows:
        name = ", ".join(f"{other} {row.labels[other]}" for other in others)
        series.setdefault(name, []).append(row)
    headings = dict(panels or {name: heading for name, (heading, _) in _PANELS.items()})
    if measured := {name for name in headings if any(name in row.metrics for row in rows)}:
        headings = {name: heading for name, heading in headings.items() if name in measured}
    columns = 2 if len(headings) == 4 else min(3, len(headings))
    lines = math.ceil(len(headings) / columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines), layout="constrained")
    draw = _lines if all(map(_is_number, (row.labels[axis] for row in rows))) else _bars
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel, metric in zip(axes, headings, strict=False):
        draw(panel, series, axis, metric)
        panel.set(xlabel=axis, ylabel=headings[metric])
        panel.grid(alpha=0.3)
    for empty in axes[len(headings) :]:
        empty.set_axis_off()
    if others:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(picture, dpi=120)


def _lines(panel: Any, series: Mapping[str, Sequence[Evaluated]], axis: str, metric: str) -> None:
    for label, rows in series.items():
        some = sorted(rows, key=lambda row: float(row.labels[axis]))
        xs = [float(row.labels[axis]) for row in some]
        values, errors = _values(some, metric)
        panel.errorbar(xs, values, errors, label=label, marker="o", markersize=4, capsize=2)
        if xs[0] > 0 and xs[-1] >= _WIDE * xs[0]:
            panel.set_xscale("log")


def _bars(panel: Any, series: Mapping[str, Sequence[Evaluated]], axis: str, metric: str) -> None:
    places = list(dict.fromkeys(row.labels[axis] for rows in series.values() for row in rows))
    width = 0.8 / len(series)
    for number, (label, rows) in enumerate(series.items()):
        xs = [places.index(row.labels[axis]) + (number + 0.5) * width - 0.4 for row in rows]
        values, errors = _values(rows, metric)
        panel.bar(xs, values, width, label=label, yerr=errors, capsize=2)
    slanted = {"rotation": 30, "ha": "right"} if len("".join(places)) > _LONG else {}
    panel.set_xticks(range(len(places)), places, **slanted)


def _values(rows: Sequence[Evaluated], metric: str) -> tuple[list[float], list[list[float]] | None]:
    """The values, and how far their intervals reach below and above; None without intervals."""
    values = [row.metrics.get(metric, math.nan) for row in rows]
    low, high = (
        [row.metrics.get(f"{metric}{end}", row.metrics.get(metric, math.nan)) for row in rows]
        for end in ("_low", "_high")
    )
    if not any(f"{metric}_low" in row.metrics for row in rows):
        return values, None
    pairs = ((low, values), (values, high))
    return values, [[max(0.0, b - a) for a, b in zip(*pair, strict=True)] for pair in pairs]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
