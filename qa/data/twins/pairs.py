"""Two questions of the same text about two passages of the same words, with other answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from plumbing.storage.jsonl import DataError
from qa.data.dataset import Question

_WORD = re.compile(r"\w+|[^\w\s]")


class Twins(NamedTuple):
    """Two questions that have the same text, and other passages and answers."""

    one: Question
    other: Question


def twins_of(questions: Iterable[Question]) -> list[Twins]:
    """Pair the questions of a split by their text.

    Raises:
        DataError: If a text occurs once or more than twice, or if both questions have the same
            first answer.
    """
    by_text: dict[str, list[Question]] = {}
    for question in questions:
        by_text.setdefault(question.question, []).append(question)
    pairs = []
    for text, found in by_text.items():
        if len(found) != 2 or found[0].answers[0] == found[1].answers[0]:
            answers = ", ".join(repr(each.answers[0]) for each in found[:3])
            raise DataError(
                f"expected each question twice, about two passages and with two answers, got "
                f"{text!r} {len(found)} times, with the answers {answers}; choose data=twins or "
                "data=roles"
            )
        pairs.append(Twins(*found))
    return pairs


def same_words(one: str, other: str) -> bool:
    """Whether two texts have the same words and punctuation marks, each equally often."""
    return Counter(_WORD.findall(one)) == Counter(_WORD.findall(other))
