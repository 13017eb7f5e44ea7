"""Passages that resemble a question's own and hold no answer, for training what to be silent about.

Passages of others that are drawn at random are easily told from a question's own. Those that a
retriever finds for the question are not. A ranking of them comes from a file, such as the
``rankings.jsonl`` of ``scripts/evaluate_retrieval.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from plumbing.storage.jsonl import DataError, describe, read_jsonl, require_key, text_field
from qa.data.dataset import QADataset, Question
from qa.passages.containment import answers_question, can_be_judged
from retrieval.passage import Passage

log = logging.getLogger(__name__)


def read_rankings(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read which passages a retriever found for each question, the best one first.

    Args:
        path: JSON lines with ``id``, of a question, and ``passage_ids``.

    Raises:
        DataError: If the file is missing or malformed; the message names the line.
    """
    rankings: dict[str, tuple[str, ...]] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        ids = require_key(row, "passage_ids", where)
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise DataError(
                f"{where}: passage_ids must be a list of passage ids, got {describe(ids)}; give "
                "the rankings that scripts/evaluate_retrieval.py writes"
            )
        rankings[text_field(row, "id", where)] = tuple(ids)
    return rankings


def choose_negatives(
    dataset: QADataset,
    split: str,
    groups: Sequence[Sequence[Question]],
    rankings: Mapping[str, Sequence[str]],
    most: int,
) -> list[list[Passage]]:
    """Choose for each group of questions passages that answer none of them.

    They are gold passages of other questions of the split, so that no passage is seen in training
    that an evaluation asks about. Those that rank first for any of the questions come first.

    Args:
        dataset: The questions and passages.
        split: The split of the questions.
        groups: The questions that share a passage.
        rankings: What `read_rankings` returned.
        most: The largest number of passages of a group.

    Raises:
        DataError: If the rankings have none of the questions.
    """
    questions = list(chain.from_iterable(groups))
    if not any(question.id in rankings for question in questions):
        raise DataError(
            f"{split}: expected rankings of its {len(questions)} questions, got "
            f"{len(rankings)} of others; set negatives_path to the rankings that "
            f"scripts/evaluate_retrieval.py writes with split={split}"
        )
    allowed = {id for question in dataset.split(split) for id in question.passage_ids}
    found = [_negatives(dataset, group, rankings, allowed, most) for group in groups]
    log.info(
        "%s: %d passages without an answer for %d groups of questions; %d groups have fewer than "
        "%d (negatives)",
        *(split, sum(map(len, found)), len(groups), sum(len(f) < most for f in found), most),
    )
    return found


def _negatives(
    dataset: QADataset,
    group: Sequence[Question],
    rankings: Mapping[str, Sequence[str]],
    allowed: set[str],
    most: int,
) -> list[Passage]:
    if not all(map(can_be_judged, group)):
        return []
    own = {id for question in group for id in question.passage_ids}
    ranked = zip_longest(*(rankings.get(question.id, ()) for question in group))
    found: list[Passage] = []
    for id in dict.fromkeys(chain.from_iterable(ranked)):
        if id is None or id in own or id not in allowed:
            continue
        passage = dataset.passages[id]
        if not any(answers_question(question, passage) for question in group):
            found.append(passage)
            if len(found) == most:
                break
    return found
