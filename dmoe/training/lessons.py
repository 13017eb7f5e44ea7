"""What an expert is trained on: instances made from one passage (DMoE sec. 4.3).

The instances come from the passage's augmentation (a rewrite and question-answer pairs), or from a
data set's own questions about the passage. The second source shows what the method can do apart
from the quality of an augmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError, describe, read_jsonl, require_key, text_field
from qa.data.dataset import QADataset
from qa.prompts import build_prompt, prompt_template
from retrieval.passage import Passage

FORMATS = ("qa", "qa_with_passage", "qa_with_rewrite", "passage", "rewrite")


class InstancesError(SettingValueError):
    """A setting with which no instances can be made; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A text to continue, and its continuation.

    Attributes:
        prompt: What the model reads; it may be empty.
        answer: What the model learns to say.
    """

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything that one expert is trained on.

    Attributes:
        passage: The expert's passage.
        pairs: Questions about the passage, with their answers.
        rewrite: The passage in other words, or None if there is no rewrite.
    """

    passage: Passage
    pairs: tuple[tuple[str, str], ...]
    rewrite: str | None = None

    def instances(self, formats: Sequence[str]) -> list[Instance]:
        """Make the instances, format by format.

        Args:
            formats: Some of these: ``qa`` asks the question alone. ``qa_with_passage`` and
                ``qa_with_rewrite`` ask it after the text, as PRAG trains. ``passage`` and
                ``rewrite`` are the text itself.

        Returns:
            The instances. Formats with the rewrite give none if there is no rewrite.

        Raises:
            InstancesError: If a format is unknown.
        """
        check_formats(formats)
        found: list[Instance] = []
        for form in formats:
            text = self._text(form)
            if text is None:
                continue
            if form in ("passage", "rewrite"):
                found.append(Instance("", text.text))
                continue
            context = [] if form == "qa" else [text]
            found += [Instance(build_prompt(q, context), a) for q, a in self.pairs]
        return found

    def _text(self, form: str) -> Passage | None:
        if not form.endswith("rewrite"):
            return self.passage
        return None if self.rewrite is None else replace(self.passage, text=self.rewrite)


def check_formats(formats: Sequence[str]) -> None:
    """Check a choice of formats.

    Raises:
        InstancesError: If the choice is not a list or is empty, or if a format is unknown or named
            twice.
    """
    is_list = isinstance(formats, Sequence) and not isinstance(formats, str)
    given = list(formats) if is_list else []
    if not given or not all(form in FORMATS for form in given) or len(set(given)) < len(given):
        raise InstancesError(
            "formats",
            f"formats must be some of {', '.join(FORMATS)}, each once, as a list, got "
            f"{given if is_list else formats!r}",
            "set {}=[…]",
        )


def prompt_of(formats: Sequence[str]) -> str | None:
    """The prompt in the instances of some formats, as `qa.prompts.prompt_template` gives it.

    Returns:
        The prompt, or None if all formats are plain texts.
    """
    return prompt_template() if any(form.startswith("qa") for form in formats) else None


def lessons_from_questions(dataset: QADataset, split: str, part: str = "all") -> list[Lesson]:
    """Make one lesson for each gold passage of a split, in order of appearance.

    Args:
        dataset: The data set.
        split: The split that asks about the passages.
        part: "all" takes all questions of each passage. "even" and "odd" take every other one,
            counted from 0, so that the other half can be asked later.

    Returns:
        The lessons. A passage for which ``part`` leaves no question has none.

    Raises:
        InstancesError: If ``part`` is unknown.
        DataError: If there is no such split, or a passage is missing.
    """
    parts = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}
    if part not in parts:
        raise InstancesError("part", f"part must be one of {', '.join(parts)}, got {part!r}")
    pairs: dict[str, list[tuple[str, str]]] = {}
    for question in dataset.split(split):
        for passage in dataset.gold(question):
            pairs.setdefault(passage.id, []).append((question.question, question.answers[0]))
    return [
        Lesson(dataset.passages[id], tuple(chosen))
        for id, each in pairs.items()
        if (chosen := each[parts[part]])
    ]


def lessons_from_augmentation(
    path: str | Path, passages: Mapping[str, Passage]
) -> Iterator[Lesson]:
    """Read lessons from a file of augmentations, in the order of its lines.

    Args:
        path: JSON lines ``{"passage_id": str, "rewrite": str | null, "qa": [{"question": str,
            "answer": str}, …]}``. Further keys are ignored.
        passages: The corpus, by passage id.

    Raises:
        DataError: If a line is malformed, or names a passage that is unknown or was named before.
    """
    for where, augmentation in read_augmentations(path):
        id = augmentation.passage_id
        if id not in passages:
            raise DataError(
                f"{where}: 'passage_id' names {id!r}, which is not in the corpus; give the corpus "
                "that was augmented"
            )
        yield augmentation.lesson(passages[id])


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One line of a file of augmentations; its fields mean what those of `Lesson` mean."""

    passage_id: str
    pairs: tuple[tuple[str, str], ...]
    rewrite: str | None

    def lesson(self, passage: Passage) -> Lesson:
        """Make the lesson, given the passage itself."""
        return Lesson(passage, self.pairs, self.rewrite)


def read_augmentations(path: str | Path) -> Iterator[tuple[str, Augmentation]]:
    """Read the lines of a file of augmentations.

    Args:
        path: The file, in the form that `lessons_from_augmentation` describes.

    Yields:
        The place of each line, ``file:number``, and its augmentation.

    Raises:
        DataError: If a line is malformed, or names a passage that was named before.
    """
    seen: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        id = text_field(row, "passage_id", where)
        if id in seen:
            raise DataError(f"{where}: passage {id!r} is augmented in line {seen[id]} already")
        seen[id] = number
        rewrite = row.get("rewrite")
        if rewrite is not None and not isinstance(rewrite, str):
            raise DataError(f"{where}: 'rewrite' must be a text or null, got {describe(rewrite)}")
        pairs = tuple(_pairs(row, where))
        yield where, Augmentation(id, pairs, rewrite if rewrite and rewrite.strip() else None)


def _pairs(row: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    pairs = require_key(row, "qa", where)
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise DataError(f"{where}: 'qa' must be a list of objects, got {describe(pairs)}")
    for index, pair in enumerate(pairs):
        at = f"{where}: qa[{index}]"
        yield text_field(pair, "question", at), text_field(pair, "answer", at)
