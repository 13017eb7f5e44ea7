"""The table, the figure and the metrics of a target."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.papers.cases import cases_page
from benchmarks.papers.claims import Verdict, verdict_cells
from benchmarks.papers.entries import Entry, Metric
from benchmarks.papers.results import Result
from plumbing.storage.files import write_json
from qa.tables.side_by_side import Evaluated, plot
from qa.tables.tables import markdown_table, with_interval

TABLE, SHEET, FIGURE, METRICS = "table.md", "table.csv", "figure.png", "metrics.json"


@dataclass(frozen=True)
class Target:
    """A table or figure with all that was measured for it.

    Attributes:
        entry: The entry.
        size: The name of the size.
        about: What the size is, in a sentence.
        results: All places of the table.
        verdicts: What became of the paper's claims.
    """

    entry: Entry
    size: str
    about: str
    results: Sequence[Result]
    verdicts: Sequence[Verdict]


def write_target(target: Target, folder: Path) -> dict[str, Any]:
    """Write ``table.md``, ``table.csv``, ``figure.png`` and ``metrics.json``, the last one last.

    A figure of which nothing was measured is not drawn.

    Args:
        target: The target.
        folder: The folder of the files.

    Returns:
        The content of ``metrics.json``: the numbers as flat keys ``<labels>/<metric>`` and
        ``paper/<labels>/<metric>``; ``claims``, with a verdict each; and ``cells``, with what each
        was measured with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = target_metrics(target)
    (folder / TABLE).write_text(page(target), encoding="utf-8")
    (folder / SHEET).write_text(_sheet(target), encoding="utf-8")
    draw(target, folder / FIGURE)
    write_json(folder / METRICS, metrics)
    return metrics


def target_metrics(target: Target) -> dict[str, Any]:
    """What `write_target` returns."""
    entry, found, cells = target.entry, dict[str, Any](), []
    for result in target.results:
        labels = result.place.labels
        key = "/".join(labels.values())
        values: dict[str, float] = {}
        for metric in entry.metrics:
            own = result.values(metric)
            values |= {_with_end(metric.name, end): value for end, value in own.items()}
            paper, of = entry.papers(labels, metric)
            if paper is not None and not of:
                found[f"paper/{key}/{metric.name}"] = paper
        found |= {f"{key}/{name}": value for name, value in values.items()}
        cells.append({"labels": labels, **values, **result.provenance})
    head = {"target": entry.target, "title": entry.title, "size": target.size}
    claims = [dict(vars(verdict)) for verdict in target.verdicts]
    return head | found | {"claims": claims, "cells": cells}


def _with_end(name: str, end: str) -> str:
    return name if end == "value" else f"{name}_{end}"


def page(target: Target) -> str:
    """The page of a target: its table, the paper's claims, and how it was made."""
    entry = target.entry
    done = sum(result.folder is not None for result in target.results)
    made = "all" if done == len(target.results) else f"{done} of {len(target.results)}"
    parts = [
        f"# {entry.title}\n",
        f"`size={target.size}`: {target.about} {made} cells were run; the others are empty.\n"
        if made != "all"
        else f"`size={target.size}`: {target.about}\n",
        results_table(target),
    ]
    if asked := _asked(target):
        parts.append(asked)
    if entry.note:
        parts.append(f"{entry.note.strip()}\n")
    if entry.cases:
        parts.append(cases_page(entry, target.results))
    for heading, says, ours in (
        ("What the paper says", "the paper says", False),
        ("What is ours", "no claim of the paper: the same of our own method, or a control", True),
    ):
        if some := [verdict for verdict in target.verdicts if verdict.ours == ours]:
            headings = [says, "compared", "better by", "in the paper", "n", "verdict"]
            rows = [[verdict.says, *verdict_cells(verdict)] for verdict in some]
            parts += [f"## {heading}\n", markdown_table(rows, headings, labels=2)]
    parts += ["## How it was made\n", _made(target)]
    return "\n".join(parts)


def results_table(target: Target) -> str:
    """The table: what was measured, with its interval, and the paper's number beside it."""
    entry = target.entry
    by_labels = {tuple(result.place.labels.values()): result for result in target.results}
    rows, columns = _labels(entry, entry.rows), list(_labels(entry, entry.columns))
    shown = [axis for axis in entry.rows if len(entry.axes[axis]) > 1] or list(entry.rows)
    metrics = _shown(target)
    lines = []
    for row in rows:
        line = [row[axis] for axis in shown]
        for column, metric in product(columns, metrics):
            labels = {axis: {**row, **column}[axis] for axis in entry.axes}
            line.append(_cell(by_labels[tuple(labels.values())], metric))
            if entry.paper:
                number, _ = entry.papers(labels, metric)
                line.append("" if number is None else f"{number:.{max(1, metric.decimals)}f}")
        lines.append(line)
    headings = [*shown]
    for column, metric in product(columns, metrics):
        about = [label for axis, label in column.items() if len(entry.axes[axis]) > 1]
        headings.append(", ".join([metric.heading, *about]))
        if entry.paper:
            headings.append("paper")
    table = markdown_table(lines, headings, labels=len(shown))
    return f"{table}\n{said}" if (said := _reference(entry)) else table


def _shown(target: Target) -> list[Metric]:
    """The metrics of the table: those that a cell or the paper has; all if none was run."""
    entry, results = target.entry, target.results
    return [
        metric
        for metric in entry.metrics
        if any(result.values(metric) for result in results)
        or any(entry.papers(result.place.labels, metric)[0] is not None for result in results)
    ] or list(entry.metrics)


def _reference(entry: Entry) -> str:
    if not entry.paper or not entry.reference:
        return ""
    named = ", ".join(entry.reference.values())
    return f"Where the paper has no such row or column, its number is that of {named}.\n"


def _asked(target: Target) -> str:
    """How many questions cells were asked, if not all were asked as many; else nothing."""
    fewer: dict[int, list[str]] = {}
    axes = [axis for axis, options in target.entry.axes.items() if len(options) > 1]
    for result in target.results:
        if result.n is not None:
            labels = " ".join(result.place.labels[axis] for axis in axes)
            fewer.setdefault(int(result.n), []).append(labels)
    if len(fewer) < 2:
        return ""
    most = max(fewer)
    others = "; ".join(f"{n}: {', '.join(fewer[n])}" for n in sorted(fewer) if n < most)
    return (
        f"Not all cells were asked the same questions, so rows cannot be compared by eye: {most} "
        f"questions, but {others}. What is compared below is compared on the questions of both.\n"
    )


def _labels(entry: Entry, axes: Sequence[str]) -> Iterator[dict[str, str]]:
    for chosen in product(*(entry.axes[axis] for axis in axes)):
        yield {axis: option.label for axis, option in zip(axes, chosen, strict=True)}


def _cell(result: Result, metric: Metric) -> str:
    """What was measured, with its interval; empty if the cell was not run."""
    if result.folder is None:
        return ""
    values = {_with_end(metric.name, end): value for end, value in result.values(metric).items()}
    return with_interval(values, metric.name, metric.decimals)


def _made(target: Target) -> str:
    """The command of each cell, with what it was made with; each cell once."""
    rows, commands = {}, {}
    for result in target.results:
        if result.place.cell is None or result.folder is None:
            continue
        made = result.provenance
        hashes = ", ".join(f"{name} `{value[:12]}`" for name, value in made["hashes"].items())
        n = "" if made["n"] is None else f"{made['n']:.0f}"
        seeds = ", ".join(str(seed) for seed in made["seeds"].values())
        seconds = f"{made['seconds']:.0f}"
        name = result.place.cell.folder_name
        rows[name] = [f"`{name}`", n, seeds, seconds, f"`{made['commit']}`", hashes]
        commands[name] = made["command"]
    if not rows:
        return "No cell was run.\n"
    table = markdown_table(rows.values(), ["cell", "n", "seed", "seconds", "commit", "hashes"])
    lines = "\n".join(f"# {name}\n{command}" for name, command in commands.items())
    several = len({row[4] for row in rows.values()}) > 1
    note = "The cells were run with several commits of the code.\n\n" if several else ""
    return f"{table}\n{note}```text\n{lines}\n```\n"


def _sheet(target: Target) -> str:
    """The table as CSV: a line for each number."""
    entry, text = target.entry, io.StringIO()
    made = ["n", "seeds", "seconds", "commit", "command", "hashes"]
    numbers = ["value", "low", "high", "paper", "paper of"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*entry.axes, "metric", *numbers, *made])
    for result, metric in product(target.results, entry.metrics):
        labels, values = result.place.labels, result.values(metric)
        paper, of = entry.papers(labels, metric)
        own = [values.get(end, "") for end in ("value", "low", "high")]
        provenance = result.provenance
        row = [*labels.values(), metric.heading, *own, "" if paper is None else paper, of]
        writer.writerow([*row, *(_plain(provenance.get(name)) for name in made)])
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(value)
    return "" if value is None else value


def draw(target: Target, picture: Path) -> None:
    """Draw the figure, over the last axis of the rows; or take the picture that the cell has drawn.

    A single cell has none.

    Args:
        target: The target.
        picture: The PNG file. An earlier one goes, whether or not there is something to draw.
    """
    picture.unlink(missing_ok=True)
    entry = target.entry
    measured = [result for result in target.results if result.folder is not None]
    if entry.picture:
        drawn = [result.folder / entry.picture for result in measured if result.folder]
        if drawn and drawn[0].is_file():
            shutil.copyfile(drawn[0], picture)
        return
    over = entry.rows[-1]
    axes = [over, *(axis for axis in entry.axes if axis != over and len(entry.axes[axis]) > 1)]
    rows = []
    for result in target.results:  # what was not measured keeps its place, and is empty there
        labels = {axis: result.place.labels[axis] for axis in axes}
        values = {
            _with_end(metric.name, end): value
            for metric in entry.metrics
            for end, value in result.values(metric).items()
        }
        rows.append(Evaluated(labels, values))
    if len(rows) > 1 and any(row.metrics for row in rows):
        plot(rows, picture, {metric.name: metric.heading for metric in entry.metrics})
