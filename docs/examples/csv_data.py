"""An example of a data set: a table with a question, its answer and its passage in each row."""

from __future__ import annotations

import csv
from pathlib import Path

from plumbing.storage.jsonl import DataError
from qa.data import QADataset, Question
from retrieval import Passage

COLUMNS = ("split", "question", "answer", "title", "text")


def load_csv(path: str | Path) -> QADataset:
    """Read a CSV file with the columns split, question, answer, title and text.

    Args:
        path: The file, in UTF-8.

    Returns:
        The data set; rows with the same title and text share a passage.

    Raises:
        DataError: If a column is missing, or a row has no question or no answer.
    """
    ids: dict[tuple[str, str], str] = {}
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {}
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = set(COLUMNS) - set(rows.fieldnames or ())
        if missing:
            raise DataError(f"{path}:1: expected the column {min(missing)!r}; add it")
        for row in rows:
            if not (row["question"] and row["answer"]):
                raise DataError(f"{path}:{rows.line_num}: expected a question and an answer")
            id = ids.setdefault((row["title"], row["text"]), f"csv-{len(ids)}")
            passages[id] = Passage(id, row["title"], row["text"])
            question = Question(f"q{rows.line_num}", row["question"], (row["answer"],), (id,))
            splits.setdefault(row["split"], []).append(question)
    return QADataset(Path(path).stem, passages, splits)
