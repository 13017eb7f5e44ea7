"""What an ablation found: its table, its figure, and their data."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa.metrics import paired_difference
from qa.report import with_interval
from retrieval.files import write_json
from retrieval.jsonl import read_jsonl

# metric → heading, decimals; the column stands where a cell has the metric
_COLUMNS = {
    **{"em": ("EM", 1), "f1": ("F1", 1), "acc": ("Acc", 1), "nll": ("nll", 2)},
    **{"f1_difference": ("F1 − first", 1), "nll_difference": ("nll − first", 2)},
    **{"trigger_rate": ("triggered (%)", 1), "routed_gold": ("gold routed (%)", 1)},
    **{"expert_norm": ("‖ΔW‖", 3), "seconds_per_question": ("s/question", 3)},
}
_COMPARED = {"f1": 100.0, "nll": 1.0}  # scores of a question, and their unit in a table
_PANELS = ("em", "f1", "nll", "seconds_per_question")
_WIDE = 100  # largest over smallest value from which on an axis is logarithmic


@dataclass(frozen=True)
class Row:
    """A cell that has been evaluated.

    Attributes:
        labels: What it has of each axis.
        metrics: Its metrics, by name.
        predictions: The file of its predictions.
    """

    labels: dict[str, str]
    metrics: dict[str, float]
    predictions: Path


def write_report(rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """Write ``results.csv``, ``table.md``, ``figure.png`` and ``metrics.json``.

    Args:
        rows: All cells. Beside the metrics of each, ``f1_difference`` (points) and
            ``nll_difference`` (nats) are what it has more than the first, question by question,
            with their 95 % intervals.
        folder: Where they go.

    Returns:
        All metrics, ``<label>/…/<metric>``.
    """
    rows = [Row(r.labels, r.metrics | differences(r, rows[0]), r.predictions) for r in rows]
    (folder / "results.csv").write_text(_csv(rows), encoding="utf-8")
    (folder / "table.md").write_text(table(rows), encoding="utf-8")
    plot(rows, folder / "figure.png")
    metrics = {
        "/".join([*row.labels.values(), name]): value
        for row in rows
        for name, value in row.metrics.items()
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def differences(row: Row, first: Row) -> dict[str, float]:
    """A cell's scores less those of the first, paired by question, with 95 % intervals."""
    found: dict[str, float] = {}
    if row is not first:
        for name, scale in _COMPARED.items():
            ours, theirs = (
                [scale * line[name] for _, line in read_jsonl(each.predictions)]
                for each in (row, first)
            )
            ends = ("", "_low", "_high")
            for end, value in zip(ends, paired_difference(ours, theirs), strict=True):
                found[f"{name}_difference{end}"] = value
    return found


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, a row a cell, with 95 % intervals in brackets."""
    columns = [name for name in _COLUMNS if any(name in row.metrics for row in rows)]
    axes = list(rows[0].labels)
    lines = [
        [*axes, *(_COLUMNS[name][0] for name in columns)],
        ["---"] * len(axes) + ["---:"] * len(columns),
    ]
    for row in rows:
        cells = [with_interval(row.metrics, name, _COLUMNS[name][1]) for name in columns]
        lines.append([*row.labels.values(), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(rows: Sequence[Row], picture: Path) -> None:
    """Draw the scores over the first axis: lines where it is numbers, else bars.

    Args:
        rows: All cells; each choice of the other axes is a colour.
        picture: The PNG file.
    """
    from matplotlib.figure import Figure

    series: dict[str, list[Row]] = {}
    axis, *others = rows[0].labels
    for row in rows:
        name = ", ".join(f"{other} {row.labels[other]}" for other in others)
        series.setdefault(name, []).append(row)
    figure = Figure(figsize=(4 * len(_PANELS), 3.2), layout="constrained")
    draw = _lines if all(map(_is_number, (row.labels[axis] for row in rows))) else _bars
    for panel, metric in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        draw(panel, series, axis, metric)
        panel.set(xlabel=axis, ylabel=_COLUMNS[metric][0])
        panel.grid(alpha=0.3)
    if others:
        figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(picture, dpi=120)


def _lines(panel: Any, series: Mapping[str, Sequence[Row]], axis: str, metric: str) -> None:
    for label, rows in series.items():
        some = sorted(rows, key=lambda row: float(row.labels[axis]))
        xs = [float(row.labels[axis]) for row in some]
        values, errors = _values(some, metric)
        panel.errorbar(xs, values, errors, label=label, marker="o", markersize=4, capsize=2)
        if xs[0] > 0 and xs[-1] >= _WIDE * xs[0]:
            panel.set_xscale("log")


def _bars(panel: Any, series: Mapping[str, Sequence[Row]], axis: str, metric: str) -> None:
    places = list(dict.fromkeys(row.labels[axis] for rows in series.values() for row in rows))
    width = 0.8 / len(series)
    for number, (label, rows) in enumerate(series.items()):
        xs = [places.index(row.labels[axis]) + (number + 0.5) * width - 0.4 for row in rows]
        values, errors = _values(rows, metric)
        panel.bar(xs, values, width, label=label, yerr=errors, capsize=2)
    panel.set_xticks(range(len(places)), places)


def _values(rows: Sequence[Row], metric: str) -> tuple[list[float], list[list[float]] | None]:
    """Values, and how far their intervals reach below and above; None where there are none."""
    values, low, high = (
        [row.metrics.get(f"{metric}{end}", 0.0) for row in rows] for end in ("", "_low", "_high")
    )
    if f"{metric}_low" not in rows[0].metrics:
        return values, None
    pairs = ((low, values), (values, high))
    return values, [[b - a for a, b in zip(*pair, strict=True)] for pair in pairs]


def _csv(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0].labels, *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row.labels, **row.metrics} for row in rows)
    return text.getvalue()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
