"""Scores of groups of questions, apart: of those that an augmentation covers, for instance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plumbing.storage.jsonl import DataError, check_new_id, read_jsonl, text_field
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import Predictions
from qa.tables.side_by_side import Evaluated, table
from qa.tables.tables import SCORES

_COUNT = {"n": ("n", 0)}

Groups = dict[str, list[str]]
"""The ids of the questions of each group."""


def read_groups(path: str | Path) -> Groups:
    """Read which question belongs to which group.

    Args:
        path: JSON lines ``{"id": str, "group": str}``, such as the ``coverage.jsonl`` of
            ``scripts/augment.py``. Further keys are ignored.

    Raises:
        DataError: If a line is malformed, or names a question twice, or there is no line.
    """
    groups: Groups = {}
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        id = text_field(row, "id", where)
        check_new_id(lines, id, "question", Path(path), number)
        groups.setdefault(text_field(row, "group", where), []).append(id)
    if not groups:
        raise DataError(f"{path}: expected a line for each question, found none")
    return groups


def by_group(
    runs: Mapping[str, Predictions], groups: Groups, compared: str, seed: int, common: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Score each run on the questions of each group alone, and compare it with the baseline there.

    Args:
        runs: The runs by their labels.
        groups: The questions of each group. Questions that no run has answered are left out.
        compared: The label of the baseline.
        seed: The seed of the bootstrap.
        common: As in `differences`.

    Returns:
        By group and label: ``n``, the scores with their intervals, and under
        ``minus/<baseline>/<metric>`` the differences from the baseline.

    Raises:
        DataError: If no question of a run is in a group, or runs cannot be compared.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for group, ids in groups.items():
        parts = {name: part for name, run in runs.items() if (part := run.part(ids)).questions}
        for name, part in parts.items():
            row = {"n": float(len(part.questions)), **part.summary(seed)}
            if name != compared and compared in parts:
                gains = differences(part, parts[compared], seed, common)
                row |= {f"minus/{compared}/{key}": value for key, value in gains.items()}
            found.setdefault(group, {})[name] = row
    for name, run in runs.items():
        if not any(name in rows for rows in found.values()):
            raise DataError(
                f"{run.path}: none of its questions is in a group; give the groups of the "
                "questions that were asked"
            )
    return found


def groups_page(found: Mapping[str, Mapping[str, Mapping[str, float]]], compared: str) -> str:
    """Write a Markdown page: the scores of each group, and the differences from the baseline."""
    scores, gains = [], []
    prefix = f"minus/{compared}/"
    for group, rows in found.items():
        for name, row in rows.items():
            labels = {"Questions": group, "Run": name}
            scores.append(Evaluated(labels, dict(row)))
            own = {key.removeprefix(prefix): v for key, v in row.items() if key.startswith(prefix)}
            if own:
                gains.append(Evaluated(labels, own))
    page = f"The questions of each group apart.\n\n{table(scores, SCORES | _COUNT)}"
    if gains:
        page += f"\nHow much each run differs from {compared} there.\n\n"
        page += table(gains, SCORES | _COUNT)
    return page
