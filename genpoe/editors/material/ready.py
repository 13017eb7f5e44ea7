"""Facts of passages: exact ones from a data set's own questions, or ready ones from a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Protocol

from genpoe.editors.material.fact_sets import FactSet
from genpoe.editors.parts.facts import Fact, read_facts
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question
from qa.metrics import normalize_answer
from qa.prompts import COMPLETE
from retrieval.passage import Passage


class Material(Protocol):
    """What gives the facts of a passage."""

    def prepare(self, passages: Sequence[Passage]) -> None:
        """Make the facts of passages ahead, on the model as it is now; by default, they exist."""
        return

    def facts(self, passage: Passage, asked: Question) -> tuple[list[Fact], int]:
        """The facts of a passage without the question that is asked, and how many it left out."""
        ...


class QuestionFacts(Material):
    """The questions of a data set about each passage, with their answers.

    They are exact for `bios`, whose passages have the subject as their title. Every fact comes
    once: of several phrasings with one answer, the first that is not the question asked.

    Args:
        dataset: The data set.
        splits: The splits whose questions are used; None: all of them.
        pairs: The most facts of a passage; None: all.
    """

    def __init__(
        self, dataset: QADataset, splits: Sequence[str] | None = None, pairs: int | None = None
    ) -> None:
        if pairs is not None and pairs < 1:
            raise SettingValueError("pairs", f"pairs must be positive or null, got {pairs}")
        self._pairs = pairs
        self._of: dict[str, list[Question]] = defaultdict(list)
        for name in dataset.splits if splits is None else splits:
            for question in dataset.split(name):
                for id in question.passage_ids:
                    self._of[id].append(question)

    def facts(self, passage: Passage, asked: Question) -> tuple[list[Fact], int]:
        """The facts of a passage, and how many questions were left out because they are asked."""
        found: dict[str, Fact] = {}
        out = 0
        for question in self._of[passage.id]:
            if is_same_question(question.question, asked.question):
                out += 1
                continue
            title = passage.title.strip()
            subject = title if title and title in question.question else None
            prompt = question.prompt()
            fact = Fact(question.id, prompt, question.answers[0], subject, passage_id=passage.id)
            found.setdefault(normalize_answer(question.answers[0]), fact)
        return list(found.values())[: self._pairs], out


class SetFacts(Material):
    """The facts of a fact set themselves; each has a passage of one line.

    Args:
        facts: The fact set.
    """

    def __init__(self, facts: FactSet) -> None:
        self._of = {fact.passage_id: fact for each in facts.facts.values() for fact in each}

    def facts(self, passage: Passage, asked: Question) -> tuple[list[Fact], int]:
        """The fact of a passage. It counts also if its prompt is asked: that is what it is for."""
        return [self._of[passage.id]] if passage.id in self._of else [], 0


class FileFacts(Material):
    """Facts from a file of JSON lines, by the passage that each of them names.

    Args:
        path: The file, as `read_facts` reads it.

    Raises:
        DataError: If a line is malformed, or names no passage.
    """

    def __init__(self, path: str | Path) -> None:
        self._of: dict[str, list[Fact]] = defaultdict(list)
        for fact in read_facts(path):
            if fact.passage_id is None:
                raise DataError(
                    f"{path}: the fact {fact.id!r} must name its passage as 'passage_id'; add it"
                )
            self._of[fact.passage_id].append(fact)

    def facts(self, passage: Passage, asked: Question) -> tuple[list[Fact], int]:
        """The facts of a passage, and how many were left out because their prompt is asked."""
        return without_asked(self._of[passage.id], asked)


def without_asked(facts: Sequence[Fact], asked: Question) -> tuple[list[Fact], int]:
    """The facts that do not ask a question, and how many others there are."""
    return without_texts(facts, {normalize_answer(asked.question)})


def without_texts(facts: Sequence[Fact], asked: Set[str]) -> tuple[list[Fact], int]:
    """The facts that ask none of some texts, and how many others there are.

    Args:
        facts: The facts. Their prompts may be those of the project, or the question alone.
        asked: The normalised texts of questions, without the frame of a prompt.
    """
    kept = [fact for fact in facts if not asked & texts_of(fact.prompt)]
    return kept, len(facts) - len(kept)


def texts_of(prompt: str) -> set[str]:
    """What a prompt may ask, normalised: its question, or all of it if it has no frame."""
    return {normalize_answer(content_of(prompt)), normalize_answer(prompt)}


def content_of(prompt: str) -> str:
    r"""What a prompt asks, without the instruction and the frame of the project's prompts.

    >>> content_of("Be brief.\nQuestion: Where was Tova Blick born?\nAnswer:")
    'Where was Tova Blick born?'
    """
    text = "\n" + prompt.strip().removesuffix("Answer:").strip()
    for frame in ("\nQuestion: ", f"\n{COMPLETE}\n"):
        if frame in text:
            return text.rpartition(frame)[2].strip()
    return text.rpartition("\n")[2].strip()


def is_same_question(one: str, other: str) -> bool:
    """Whether two questions are the same but for case, punctuation, articles and white space."""
    return normalize_answer(one) == normalize_answer(other)


def make_material(
    facts: str | Path | None,
    dataset: QADataset | None,
    splits: Sequence[str] | None = None,
    pairs: int | None = None,
) -> Material:
    """The facts of a file, or those of a data set or of its questions if no file is named."""
    if facts is not None:
        return FileFacts(facts)
    if dataset is None:
        raise SettingValueError(
            "facts", "expected a file of facts or a data set, got neither", "set {} to a file"
        )
    if isinstance(dataset, FactSet):
        return SetFacts(dataset)
    return QuestionFacts(dataset, splits, pairs)


def count_applicable(facts: Sequence[Fact], needs_subject: bool) -> Mapping[bool, list[Fact]]:
    """The facts that an editor can edit (True), and those without the subject it needs (False)."""
    found: dict[bool, list[Fact]] = {True: [], False: []}
    for fact in facts:
        subject = (fact.subject or "").strip()
        found[not needs_subject or bool(subject and subject in fact.prompt)].append(fact)
    return found
