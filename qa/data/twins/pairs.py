"""Two questions of the same text about two passages of the same words, with other answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from plumbing.storage.jsonl import DataError
from qa.data.bios.names import Draw
from qa.data.dataset import QADataset, Question
from retrieval.passage import Passage

_WORD = re.compile(r"\w+|[^\w\s]")


class Twins(NamedTuple):
    """Two questions that have the same text, and other passages and answers."""

    one: Question
    other: Question


class Pair(NamedTuple):
    """What `dataset_of_pairs` asks for.

    Attributes:
        id: The beginning of the ids of its passages and questions.
        split: The name of its split.
        number: Its number in the split, from 0.
        draw: Draws everything random about it.
    """

    id: str
    split: str
    number: int
    draw: Draw


def dataset_of_pairs(
    name: str,
    seed: int,
    sizes: Mapping[str, int],
    make: Callable[[Pair], tuple[list[Passage], list[Twins]]],
    train_questions: int,
) -> QADataset:
    """Make a data set of pairs of passages.

    Args:
        name: Its name.
        seed: The seed.
        sizes: The number of pairs of each split. They are made in this order, in which train is the
            last one, so that its size changes no other.
        make: Makes the two passages of a pair, and the pairs of questions about them.
        train_questions: The number of questions that each passage of train keeps.
    """
    passages: dict[str, Passage] = {}
    splits: dict[str, list[Question]] = {}
    for split, size in sizes.items():
        splits[split] = []
        for number in range(size):
            id = f"{name}-{split}-{number:05}"
            draw = Draw(f"{name} {seed} {id}")
            told, questions = make(Pair(id, split, number, draw))
            passages |= {passage.id: passage for passage in told}
            if split == "train":
                questions = draw.shuffled(questions)[:train_questions]
            splits[split] += [question for each in questions for question in each]
    first = [split for split in ("train", "dev", "test") if split in splits]
    ordered = {split: splits[split] for split in (*first, *sorted(splits.keys() - first))}
    return QADataset(name, passages, ordered)


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
