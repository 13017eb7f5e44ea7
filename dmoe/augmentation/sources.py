"""Augmentation of a passage from its own text: one rewrite and three question-answer pairs.

DMoE sec. 4.3. What comes of it is a `Lesson` a passage, whoever wrote it: a language model
(`dmoe.augmentation.augmenter`), a file made before, or the data set's own questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dmoe.augmentation.tasks import PAIRS
from dmoe.training.lessons import Lesson, lessons_from_augmentation, lessons_from_questions
from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset
from retrieval.passage import Passage


@dataclass(frozen=True, slots=True)
class Augmented:
    """A passage's augmentation, and how it came about.

    Attributes:
        lesson: The passage with its pairs and its rewrite, whatever of them there is.
        answers: How many answers of a model it took; 0 where none was asked.
        doubted: How many of the pairs the model itself did not confirm.
        problems: What is missing in the end, and why.
        refusal: Why the writer refused a request, if it refused one.
    """

    lesson: Lesson
    answers: int = 0
    doubted: int = 0
    problems: tuple[str, ...] = ()
    refusal: str = ""

    def row(self) -> dict[str, Any]:
        """A line of ``augmentations.jsonl``, as `lessons_from_augmentation` reads it."""
        return {
            "passage_id": self.lesson.passage.id,
            "rewrite": self.lesson.rewrite,
            "qa": [{"question": q, "answer": a} for q, a in self.lesson.pairs],
            "problems": list(self.problems),
        }


class Augmenter(Protocol):
    """Whatever augments passages."""

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """The augmentations of passages, in an order of its own; not all need to have one."""
        ...


class FileAugmenter:
    """Augmentations that were made before.

    Args:
        path: JSON lines; see `lessons_from_augmentation`.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """Those of the file, in its order.

        Raises:
            DataError: If a line is malformed, or names a passage that is not among these.
        """
        for lesson in lessons_from_augmentation(self._path, passages):
            yield Augmented(lesson, problems=missing(lesson))


class QuestionAugmenter:
    """The data set's own questions as exact pairs; there are no rewrites.

    They part what the method is worth from what the augmentation is: on the embedded bios, whose
    generator knows the facts, and with the questions that people asked.

    Args:
        dataset: Where the questions stand.
        split: Which of them.
        part: "all" of a passage's, or every other one ("even", "odd"), so that the other half can
            be asked.
    """

    def __init__(self, dataset: QADataset, split: str, part: str = "all") -> None:
        self._dataset, self._split, self._part = dataset, split, part

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """One for each passage that the split asks about.

        Raises:
            DataError: If the data set asks about a passage that is not among these.
        """
        for lesson in lessons_from_questions(self._dataset, self._split, self._part):
            if lesson.passage.id not in passages:
                raise DataError(
                    f"data set {self._dataset.name!r} asks about the passage "
                    f"{lesson.passage.id!r}, which is not in the corpus; give the corpus that it "
                    "belongs to"
                )
            yield Augmented(lesson)


def missing(lesson: Lesson, no_rewrite: str = "", no_pairs: str = "") -> tuple[str, ...]:
    """What a lesson lacks of one rewrite and three pairs, each with its reason if that is known."""
    problems = []
    if len(lesson.pairs) < PAIRS:
        problems.append((f"{len(lesson.pairs)} of {PAIRS} pairs", no_pairs))
    if lesson.rewrite is None:
        problems.append(("no rewrite", no_rewrite))
    return tuple(f"{what}: {why}" if why else what for what, why in problems)


def surrogate(lesson: Lesson) -> Passage:
    """The text by which a router finds an expert: its passage and the augmentations of it.

    DMoE sec. 3.2.2. It is a passage with the same id and title, so that any retriever can index it.
    """
    pairs = [f"{question} {answer}" for question, answer in lesson.pairs]
    parts = [lesson.passage.text, *([lesson.rewrite] if lesson.rewrite else []), *pairs]
    return Passage(lesson.passage.id, lesson.passage.title, "\n".join(parts))


def surrogates(passages: Mapping[str, Passage], lessons: Iterable[Lesson]) -> Iterator[Passage]:
    """The surrogate of every passage, in the order of the corpus; its own text where none is."""
    augmented = {lesson.passage.id: lesson for lesson in lessons}
    for id in passages:
        yield surrogate(augmented[id]) if id in augmented else passages[id]
