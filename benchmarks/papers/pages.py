"""The pages of the documentation: one for each target, and one for what holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.papers.claims import FAILS, HOLDS, NOT_RUN, OPEN, Verdict, verdict_cells
from benchmarks.papers.entries import targets
from benchmarks.papers.tables import FIGURE, METRICS, Target, page
from plumbing.storage.files import write_json

WHAT_HOLDS = "what_holds.md"
_HEAD = """\
# What holds of the papers at this scale

`python scripts/reproduce.py target=all docs=docs/results` makes this page from the tables and
figures. It has a row for each thing that a paper says is better than another one. The difference is
positive where the paper is right. Answers are compared on the same questions; times and memory are
measured once a cell. What does not hold comes first. What is ours, such as the hypernetwork that
reads and controls, comes last: it is no claim of a paper. Each comparison has its own interval of
95 %, so among twenty true equalities one seems to be a difference.
"""
_ORDER = (FAILS, OPEN, HOLDS, NOT_RUN)
_HEADINGS = {
    FAILS: "Does not hold",
    OPEN: "Cannot be told",
    HOLDS: "Holds",
    NOT_RUN: "Not run",
}
_MEANINGS = {
    FAILS: "the 95 % interval of the difference lies below 0: the other one is better",
    OPEN: "the interval holds 0, or there is none",
    HOLDS: "the interval lies above 0",
    NOT_RUN: "a cell is missing",
}


def write_page(target: Target, made: Path, docs: Path) -> Path:
    """Write the page of a target, with its figure and its metrics beside it.

    Args:
        target: The target.
        made: The folder that `write_target` has written.
        docs: The folder of the pages; they lie in a folder for each size.

    Returns:
        The page.
    """
    stem = docs / target.size / target.entry.target
    stem.parent.mkdir(parents=True, exist_ok=True)
    text, picture = page(target), stem.with_suffix(".png")
    picture.unlink(missing_ok=True)
    if (made / FIGURE).is_file():
        picture.write_bytes((made / FIGURE).read_bytes())
        text = text.replace("\n## ", f"\n![{target.entry.title}]({picture.name})\n\n## ", 1)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    write_json(stem.with_suffix(".json"), json.loads((made / METRICS).read_text("utf-8")))
    return stem.with_suffix(".md")


def write_what_holds(docs: Path) -> Path:
    """Write the page of all claims, from the metrics beside the pages; what fails comes first.

    Args:
        docs: The folder of the pages.
    """
    order = {target: place for place, target in enumerate(targets())}
    files = (path for path in docs.rglob("*.json") if path.relative_to(docs).parts[2:])
    found = [(path, json.loads(path.read_text("utf-8"))) for path in files]
    found.sort(key=lambda each: (order.get(each[1]["target"], len(order)), each[1]["size"]))
    rows: dict[str, list[str]] = {verdict: [] for verdict in _ORDER}
    ours: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    for path, metrics in found:
        for raw in metrics["claims"]:
            verdict = Verdict(**raw)
            counts[verdict.verdict, _column(metrics["size"], verdict.ours)] += 1
            some = ours if verdict.ours else rows[verdict.verdict]
            some.append(_row(verdict, metrics, path.relative_to(docs)))
    path = docs / WHAT_HOLDS
    path.write_text(_what_holds(rows, ours, counts), encoding="utf-8")
    return path


def _column(size: str, ours: bool) -> str:
    return f"ours, `size={size}`" if ours else f"of the papers, `size={size}`"


def _row(verdict: Verdict, metrics: Mapping[str, Any], path: Path) -> str:
    link = f"[{metrics['target']}]({path.with_suffix('.md').as_posix()})"
    measured = verdict_cells(verdict)[: None if verdict.ours else -1]
    return f"| {' | '.join([verdict.says, *measured, link, metrics['size']])} |"


def _what_holds(
    rows: Mapping[str, list[str]], ours: list[str], counts: Mapping[tuple[str, str], int]
) -> str:
    columns = sorted({column for _, column in counts})
    lines = [
        *_HEAD.splitlines(),
        "",
        f"| verdict | {' | '.join(columns)} | what it means |",
        "| --- |" + " ---: |" * len(columns) + " --- |",
    ]
    for verdict in _ORDER:
        numbers = " | ".join(str(counts.get((verdict, column), 0)) for column in columns)
        lines.append(f"| {verdict} | {numbers} | {_MEANINGS[verdict]} |")
    for verdict in _ORDER:
        if rows[verdict]:
            lines += ["", f"## {_HEADINGS[verdict]}", ""]
            lines += ["| the paper says | compared | better by | in the paper | n | where | size |"]
            lines += ["| --- | --- | ---: | ---: | ---: | --- | --- |", *rows[verdict]]
    if ours:
        lines += ["", "## Ours, and no claim of a paper", ""]
        lines += ["| what | compared | better by | in the paper | n | verdict | where | size |"]
        lines += ["| --- | --- | ---: | ---: | ---: | --- | --- | --- |", *ours]
    return "\n".join(lines) + "\n"
