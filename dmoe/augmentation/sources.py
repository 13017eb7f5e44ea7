"""Sources of augmentations: one rewrite and three question-answer pairs per passage (sec. 4.3).

The result is a `Lesson` for each passage. It comes from a language model
(`dmoe.augmentation.augmenter`), from a file that was made before, or from the data set's own
questions.
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
        lesson: The passage with the pairs and the rewrite that were made; some may be missing.
        answers: How many answers of a model it took; 0 if no model was asked.
        doubted: How many of the pairs the model itself did not confirm.
        problems: What is missing in the end, and why.
        refusal: Why the writer refused a request; empty if it refused none.
    """

    lesson: Lesson
    answers: int = 0
    doubted: int = 0
    problems: tuple[str, ...] = ()
    refusal: str = ""

    def row(self) -> dict[str, Any]:
        """Make a line of ``augmentations.jsonl``, as `lessons_from_augmentation` reads it."""
        return {
            "passage_id": self.lesson.passage.id,
            "rewrite": self.lesson.rewrite,
            "qa": [{"question": q, "answer": a} for q, a in self.lesson.pairs],
            "problems": list(self.problems),
        }


class Augmenter(Protocol):
    """The interface of everything that augments passages."""

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """Augment passages, given by id.

        The augmentations come in the augmenter's own order. Some passages may have none.
        """
        ...


class FileAugmenter:
    """Augmentations that were made before, and are read from a file.

    Args:
        path: JSON lines, in the form that `lessons_from_augmentation` describes.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """Read the augmentations of the file, in its order.

        Raises:
            DataError: If a line is malformed, or names a passage that is not in ``passages``.
        """
        for lesson in lessons_from_augmentation(self._path, passages):
            yield Augmented(lesson, problems=missing(lesson))


class QuestionAugmenter:
    """The data set's own questions as exact pairs; there are no rewrites.

    These pairs show what the method can do apart from the quality of an augmentation. They come
    from the embedded bios, whose generator knows the facts, or from data sets with questions that
    people asked.

    Args:
        dataset: The data set with the questions.
        split: The split that the questions are taken from.
        part: "all" takes all questions of each passage. "even" and "odd" take every other one, so
            that the other half can be asked later.
    """

    def __init__(self, dataset: QADataset, split: str, part: str = "all") -> None:
        self._dataset, self._split, self._part = dataset, split, part

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """Make one augmentation for each passage that the split asks about.

        Raises:
            DataError: If the data set asks about a passage that is not in ``passages``.
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
    """List what a lesson lacks of one rewrite and three pairs.

    Args:
        lesson: The lesson.
        no_rewrite: The reason for a missing rewrite, if it is known.
        no_pairs: The reason for missing pairs, if it is known.
    """
    problems = []
    if len(lesson.pairs) < PAIRS:
        problems.append((f"{len(lesson.pairs)} of {PAIRS} pairs", no_pairs))
    if lesson.rewrite is None:
        problems.append(("no rewrite", no_rewrite))
    return tuple(f"{what}: {why}" if why else what for what, why in problems)


def surrogate(lesson: Lesson) -> Passage:
    """Make the text by which a router finds an expert: the passage and its augmentations.

    The surrogate (DMoE sec. 3.2.2) is itself a passage, with the same id and title, so that any
    retriever can index it.
    """
    pairs = [f"{question} {answer}" for question, answer in lesson.pairs]
    parts = [lesson.passage.text, *([lesson.rewrite] if lesson.rewrite else []), *pairs]
    return Passage(lesson.passage.id, lesson.passage.title, "\n".join(parts))


def surrogates(passages: Mapping[str, Passage], lessons: Iterable[Lesson]) -> Iterator[Passage]:
    """Make the surrogate of every passage, in the order of the corpus.

    The surrogate of a passage without augmentation is the passage itself.
    """
    augmented = {lesson.passage.id: lesson for lesson in lessons}
    for id in passages:
        yield surrogate(augmented[id]) if id in augmented else passages[id]
