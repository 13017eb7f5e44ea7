"""A stream of edits, the same for every method: what is edited, in which order, and what is asked.

An edit has two forms. Methods that keep passages are given its passage; editors are given facts.
After each batch the same questions are asked of all methods.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from genpoe.editors.material import content_of, texts_of, without_texts
from genpoe.editors.parts.facts import Fact
from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_seed, check_types
from plumbing.storage.hashing import digest
from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question
from qa.metrics import normalize_answer
from qa.prompts import build_prompt
from retrieval.passage import Passage

log = logging.getLogger(__name__)

KNOWN = "known"  # the split of general knowledge, if a data set has one


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a stream.

    Attributes:
        id: Its id, unique in the stream.
        asked: What is asked to see whether the edit holds (reliability).
        rephrasings: The test question in words that no method was given (generality).
        facts: What editors are given; in the passage track none of them is asked by any edit.
        passage: What methods are given that keep passages.
        left_out: How many facts were left out because this edit or another one asks them.
    """

    id: str
    asked: Question
    rephrasings: tuple[Question, ...]
    facts: tuple[Fact, ...]
    passage: Passage
    left_out: int = 0

    @property
    def target(self) -> str:
        """The answer that the edit makes right."""
        return self.asked.answers[0]


@dataclass(frozen=True)
class Stream:
    """Edits in batches.

    Attributes:
        name: Where they come from.
        batches: The edits of each batch.
        locality: Questions whose answers should stay as they are.
        distractors: The passages that are found beside those of the edits; they are there from the
            beginning.
    """

    name: str
    batches: tuple[tuple[Edit, ...], ...]
    locality: tuple[Question, ...]
    distractors: tuple[Passage, ...] = ()

    @property
    def edits(self) -> list[Edit]:
        """All edits in their order."""
        return [edit for batch in self.batches for edit in batch]

    @property
    def fingerprint(self) -> str:
        """A hash of everything in the stream."""
        whole = [[asdict(edit) for edit in batch] for batch in self.batches]
        others = [asdict(each) for each in self.locality]
        others += [asdict(each) for each in self.distractors]
        prompts = [question.prompt() for question in self.locality]
        return digest([self.name, whole, others, prompts])


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is made.

    Attributes:
        edits: The number of edits.
        batch: How many of them come at once; the last batch may have fewer.
        pairs: The facts that an editor is given of a passage, at most.
        locality: The most questions whose answers should stay.
        seed: The seed of the order, and of what is drawn.
    """

    edits: int
    batch: int
    pairs: int = 4
    locality: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "edits", "batch", "pairs", "locality")
        check_seed(self.seed)
        if self.batch > self.edits:
            raise SettingValueError(
                "batch", f"batch must be at most edits={self.edits}, got {self.batch}"
            )

    def draw(self, items: Sequence[Any], number: int) -> list[Any]:
        """So many of the items, in a random order that the seed decides.

        Raises:
            SettingValueError: If there are fewer.
        """
        if len(items) < number:
            raise SettingValueError(
                "edits",
                f"edits must be at most {len(items)}, the edits that the data have, got {number}",
                "lower {}, or give data with more",
            )
        order = np.random.default_rng(self.seed).permutation(len(items))
        return [items[i] for i in order[:number].tolist()]

    def batches(self, edits: Sequence[Edit]) -> tuple[tuple[Edit, ...], ...]:
        """The edits in batches."""
        starts = range(0, len(edits), self.batch)
        return tuple(tuple(edits[start : start + self.batch]) for start in starts)


def passage_stream(
    dataset: QADataset,
    split: str,
    settings: StreamSettings,
    material: Mapping[str, Sequence[Fact]] | None = None,
) -> Stream:
    """A stream of passages: each edit is a passage, with one test question about it.

    Editors are given facts of the passage, none of which is a test question of the stream: those
    of ``material``, or else exact ones from the data set's own questions. The latter are ``pairs``
    different facts, and the first of them is the fact that the test asks about in other words.

    Args:
        dataset: The data set. Passages of which no edit is made are distractors.
        split: The split of the test questions.
        settings: The sizes.
        material: The facts of each passage, by its id. A passage that it lacks has no facts.

    Raises:
        DataError: If no question has a passage, or the material lacks all of the passages.
        SettingValueError: If there are too few passages.
    """
    of: dict[str, list[Question]] = defaultdict(list)
    for question in dataset.split(split):
        for id in question.passage_ids[:1]:
            of[id].append(question)
    if not of:
        raise DataError(
            f"data set {dataset.name!r}: no question of the split {split!r} has a gold passage, "
            "and an edit is a passage; choose another split"
        )
    about: dict[str, list[Question]] = defaultdict(list)
    for each in dataset.splits:
        for question in dataset.split(each):
            for id in question.passage_ids:
                about[id].append(question)
    random = np.random.default_rng([settings.seed, 1])
    drawn = settings.draw(list(of), settings.edits)
    asked_of = {id: of[id][int(random.integers(len(of[id])))] for id in drawn}
    if material is not None:
        _check_given(material, drawn)
    texts = {normalize_answer(question.question) for question in asked_of.values()}
    edits = []
    for id, asked in asked_of.items():
        (passage,) = dataset.gold(asked)[:1]
        if material is None:
            made = _own_facts(asked, about[id], passage, settings.pairs, texts)
            facts, rephrasings, left_out = made
        else:
            facts, left_out = without_texts(material.get(id, ()), texts)
            facts = facts[: settings.pairs]
            rephrasings = [each for each in about[id] if _is_same_fact(each, asked)]
        edits.append(Edit(passage.id, asked, tuple(rephrasings), tuple(facts), passage, left_out))
    edits = _without_given(edits)
    edited = {edit.passage.id for edit in edits}
    edited_texts = {edit.passage.text for edit in edits}
    others = tuple(
        passage
        for id, passage in dataset.passages.items()
        if id not in edited and passage.text not in edited_texts
    )
    locality = _locality(dataset, edited, settings)
    return Stream(f"{dataset.name}/{split}", settings.batches(edits), locality, others)


def _own_facts(
    asked: Question,
    about: Sequence[Question],
    passage: Passage,
    number: int,
    texts: Container[str],
) -> tuple[list[Fact], list[Question], int]:
    """Exact facts of a passage, phrasings of the test question, and how many others are asked.

    No fact and no phrasing is among ``texts``, the normalised questions that the stream asks.
    """
    others = [each for each in about if not _is_same_text(each.question, asked.question)]
    free = [each for each in others if normalize_answer(each.question) not in texts]
    same = [each for each in free if _is_same_fact(each, asked)]
    chosen = {normalize_answer(each.answers[0]): each for each in same[:1]}
    for each in free:
        chosen.setdefault(normalize_answer(each.answers[0]), each)
    if not same:  # what the test asks is then no fact
        chosen.pop(normalize_answer(asked.answers[0]), None)
    facts = [_fact(each, passage) for each in [*chosen.values()][:number]]
    return facts, same[1:], len(others) - len(free)


def _check_given(material: Mapping[str, Sequence[Fact]], ids: Sequence[str]) -> None:
    """Warn if some passages have no facts in the material, and raise if none of them has any."""
    missing = [id for id in ids if not material.get(id)]
    if len(missing) == len(ids):
        raise DataError(
            f"the facts have none of the {len(ids)} passages that are edited, such as "
            f"{missing[0]!r}; make the facts of the same data and split, or leave facts out"
        )
    if missing:
        log.warning(
            "%d of the %d passages that are edited have no facts, such as %r; editors learn "
            "nothing about them, and they are asked all the same",
            *(len(missing), len(ids), missing[0]),
        )


def _without_given(edits: Sequence[Edit]) -> list[Edit]:
    """The edits without the rephrasings that are a fact of any of them."""
    given = {text for edit in edits for fact in edit.facts for text in texts_of(fact.prompt)}
    return [
        replace(
            edit,
            rephrasings=tuple(
                each for each in edit.rephrasings if normalize_answer(each.question) not in given
            ),
        )
        for edit in edits
    ]


def _fact(question: Question, passage: Passage) -> Fact:
    title = passage.title.strip()
    subject = title if title and title in question.question else None
    prompt = build_prompt(question.question)
    # A question about several passages is a fact of each of them.
    id = question.id if len(question.passage_ids) == 1 else f"{passage.id}/{question.id}"
    return Fact(id, prompt, question.answers[0], subject, passage_id=passage.id)


def _locality(
    dataset: QADataset, edited: set[str], settings: StreamSettings
) -> tuple[Question, ...]:
    """Questions of general knowledge if the data set has them, else about other passages."""
    if KNOWN in dataset.splits:
        found = dataset.split(KNOWN)
    else:
        found = [
            question
            for split in dataset.splits
            for question in dataset.split(split)
            if edited.isdisjoint(question.passage_ids)
        ]
    number = min(settings.locality, len(found))
    return tuple(settings.draw(found, number))


def fact_stream(
    dataset: QADataset, split: str, facts: Sequence[Fact], settings: StreamSettings
) -> Stream:
    """A stream of facts: an edit is one fact, which editors are given and which is also asked.

    Methods that keep passages are given the gold passage of its question, which is the fact as one
    line. The lines of facts that are not edited are distractors.

    Args:
        dataset: The questions of the facts, by the same ids; ``<split>_rephrased`` asks them in
            other words, if there is such a split.
        split: The split that asks the prompts of the facts.
        facts: The facts, with the locality prompts whose answers are known.
        settings: The sizes; ``pairs`` has no effect.

    Raises:
        DataError: If a fact has no question.
        SettingValueError: If there are too few facts.
    """
    asked = {question.id: question for question in dataset.split(split)}
    others: dict[str, list[Question]] = defaultdict(list)
    for question in dataset.splits.get(f"{split}_rephrased", []):
        for id in question.passage_ids:
            others[id].append(question)
    edits, probes = [], []
    for fact in settings.draw(list(facts), settings.edits):
        if fact.id not in asked:
            raise DataError(
                f"no question of the split {split!r} has the id of the fact {fact.id!r}"
            )
        question = asked[fact.id]
        (passage,) = dataset.gold(question)[:1]
        edits.append(Edit(fact.id, question, tuple(others[passage.id]), (fact,), passage))
        pairs = zip(fact.locality, fact.locality_answers, strict=False)
        for number, (prompt, answer) in enumerate(pairs):
            text = content_of(prompt)
            probes.append(type(question)(f"{fact.id}-locality{number}", text, (answer,)))
    edited = {edit.passage.id for edit in edits}
    lines = {question.passage_ids[0] for question in asked.values()} - edited
    number = min(settings.locality, len(probes))
    return Stream(
        f"{dataset.name}/{split}",
        settings.batches(edits),
        tuple(settings.draw(probes, number)),
        tuple(dataset.passages[id] for id in dataset.passages if id in lines),
    )


def _is_same_text(one: str, other: str) -> bool:
    return normalize_answer(one) == normalize_answer(other)


def _is_same_fact(one: Question, other: Question) -> bool:
    """Whether two questions about one passage have the same answer and other words."""
    return _is_same_text(one.answers[0], other.answers[0]) and not _is_same_text(
        one.question, other.question
    )


def write_rows(stream: Stream) -> Iterator[dict[str, Any]]:
    """The lines of ``stream.jsonl``: what was edited, and in which batch."""
    for number, batch in enumerate(stream.batches, 1):
        for edit in batch:
            yield {
                "batch": number,
                "id": edit.id,
                "question": edit.asked.question,
                "answers": list(edit.asked.answers),
                "rephrasings": [each.question for each in edit.rephrasings],
                "facts": [[fact.prompt, fact.target] for fact in edit.facts],
                "passage": asdict(edit.passage),
            }
