"""Cases: questions that one method alone answers rightly (GenPoE Table 6).

The paper shows one case. Here a rule chooses them: for each of the cells that are compared, the
first questions, in the order of the data, that it alone answers exactly. So a method that is never
alone right has no case, and each has as many as it earns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.papers.entries import Entry
from benchmarks.papers.results import PREDICTIONS, Result
from plumbing.storage.jsonl import read_jsonl
from qa.tables.tables import markdown_table

_EACH = 3  # cases of each cell that are shown, at most


def cases_page(entry: Entry, results: Sequence[Result]) -> str:
    """The cases of the cells that an entry compares, as Markdown.

    Args:
        entry: The entry; its ``cases`` have the labels that are compared, by axis.
        results: All places of its table.
    """
    answers = {}
    for result in results:
        labels = result.place.labels
        chosen = all(labels[axis] in some for axis, some in entry.cases.items())
        if chosen and result.folder is not None:
            rows = read_jsonl(result.folder / PREDICTIONS)
            named = (label for axis, label in labels.items() if len(entry.axes[axis]) > 1)
            answers[", ".join(named)] = {row["id"]: row for _, row in rows}
    alone = alone_right(answers)
    counts = markdown_table(
        [[name, str(len(ids))] for name, ids in alone.items()], ["method", "alone right"], labels=1
    )
    parts = [f"## Cases\n\nQuestions that one of the methods alone answers exactly.\n\n{counts}"]
    for name, ids in alone.items():
        parts += [_case(name, id, answers) for id in ids[:_EACH]]
    return "\n".join(parts)


def alone_right(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The questions that each method alone answers exactly, among those that all were asked.

    Args:
        answers: For each method its lines of ``predictions.jsonl``, by the id of the question.

    Returns:
        The ids of the questions of each method, in the order of its lines.
    """
    shared = set.intersection(*(set(rows) for rows in answers.values())) if answers else set()
    right = {
        name: [id for id, row in rows.items() if id in shared and row["em"] == 1]
        for name, rows in answers.items()
    }
    return {
        name: [id for id in ids if sum(id in others for others in right.values()) == 1]
        for name, ids in right.items()
    }


def _case(name: str, id: str, answers: Mapping[str, Mapping[str, Any]]) -> str:
    row = answers[name][id]
    lines = [
        [method, _plain(rows[id]["prediction"]), "yes" if rows[id]["em"] == 1 else "no"]
        for method, rows in answers.items()
    ]
    head = f"**{_plain(row['question'])}** ({_plain(', '.join(row['answers']))}; `{id}`)\n"
    return f"{head}\n{markdown_table(lines, ['method', 'answer', 'right'])}"


def _plain(text: str) -> str:
    """A text that stands on one line and in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
