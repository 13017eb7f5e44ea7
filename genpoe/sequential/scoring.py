"""What is asked at each state of a stream, and the rows of scores that come of it.

State 0 is before the first edit, and state i is after batch i. A row says at which state it was
scored, by the state's hash, and which batch the question belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genpoe.editors.material import content_of, count_applicable
from genpoe.sequential.answers import Answers
from genpoe.sequential.bank import GrowingIndex
from genpoe.sequential.learners import Learner
from genpoe.sequential.stream import Edit, Stream
from plumbing.settings import check_positive, check_types
from qa.data.dataset import Question
from qa.method import QuestionInput
from qa.passages.source import Selection

# What a row is about.
MAIN = "main"  # the test question, as the method answers it
RAG = "rag"  # the same with the passages that are found in the prompt
FINAL = "final"  # further test questions, at the last state only
GENERALITY = "generality"  # the test question in other words
EDIT = "edit"  # the first fact that was edited, in the words in which the editor was given it
ORACLE = "oracle"  # the test question with its own passage instead of those that are found
SHUFFLED = "shuffled"  # the test question with another edit's passage
LOCALITY = "locality"  # a question whose answer should stay


@dataclass(frozen=True)
class ScoreSettings:
    """How many questions are asked.

    Attributes:
        cell: Test questions of each batch at each state.
        final: Test questions of each batch at the last state, those of ``cell`` among them.
        rag_cell: Test questions of each batch and state with passages in the prompt.
        rag: Whether questions are also asked with passages in the prompt.
    """

    cell: int
    final: int
    rag_cell: int
    rag: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "cell", "final", "rag_cell")


@dataclass(frozen=True)
class _Item:
    kind: str
    batch: int
    edit: Edit | None
    asked: Question
    selection: str = "found"  # found | own | other | none
    rag: bool = False


class Scorer:
    """Asks the questions of a stream.

    Args:
        stream: The edits.
        learner: What learns and answers.
        answers: The answers of the run.
        settings: The numbers of questions.
        index: Finds passages; None if nobody needs any.
    """

    def __init__(
        self,
        stream: Stream,
        learner: Learner,
        answers: Answers,
        settings: ScoreSettings,
        index: GrowingIndex | None,
    ) -> None:
        self.stream, self.learner, self.answers = stream, learner, answers
        self.settings, self.index = settings, index
        edits = stream.edits
        self._other = dict(zip((e.id for e in edits), (*edits[1:], edits[0]), strict=True))

    def score(self, state: int, hashed: str) -> list[dict[str, Any]]:
        """Ask everything that belongs to a state, at which the learner must be.

        Args:
            state: The number of the state.
            hashed: Its hash, which every row gets.
        """
        items = list(self._items(state))
        rows: list[dict[str, Any]] = []
        for rag in (False, True):
            for kind in dict.fromkeys(item.kind for item in items if item.rag == rag):
                some = [item for item in items if item.rag == rag and item.kind == kind]
                rows += self._ask(some, rag, state, hashed)
        return rows

    def _items(self, state: int) -> Iterator[_Item]:
        last = state == len(self.stream.batches)
        finds, own = self.learner.finds_passages, self.learner.method.rag
        settings = self.settings
        for number, batch in enumerate(self.stream.batches, 1):
            cell = batch[: settings.cell]
            for edit in batch[: max(settings.cell, settings.final) if last else settings.cell]:
                kind = MAIN if edit in cell else FINAL
                yield _Item(kind, number, edit, edit.asked, rag=own)
                if last and finds:
                    yield _Item(ORACLE, number, edit, edit.asked, "own", own)
                    yield _Item(SHUFFLED, number, edit, edit.asked, "other", own)
            for edit in cell:
                if state == 0 or last:
                    for asked in edit.rephrasings[:1]:
                        yield _Item(GENERALITY, number, edit, asked, rag=own)
                if self.learner.edits_weights and (last or state == number):
                    for asked in first_fact(edit, self.learner.needs_subject):
                        yield _Item(EDIT, number, edit, asked, rag=own)
            if settings.rag and not own and (number <= state or state == 0):
                for edit in batch[: settings.rag_cell]:
                    yield _Item(RAG, number, edit, edit.asked, rag=True)
        for asked in self.stream.locality:
            yield _Item(LOCALITY, 0, None, asked, rag=own)

    def _ask(
        self, items: Sequence[_Item], rag: bool, state: int, hashed: str
    ) -> Iterator[dict[str, Any]]:
        selections = self.select(items, rag)
        method = self.learner.asking(rag)
        inputs = [
            QuestionInput(item.asked, selection)
            for item, selection in zip(items, selections, strict=True)
        ]
        # What a bank's method answers depends on the passages alone, and they are in the key.
        weights = hashed if self.learner.edits_weights else "frozen"
        found = self.answers.ask(method, inputs, weights)
        given = rag or self.learner.finds_passages
        for item, selection, answer in zip(items, selections, found, strict=True):
            yield _row(item, selection if given else None, answer, state, hashed)

    def select(self, items: Sequence[Any], rag: bool) -> list[Selection]:
        """The passages of each item, if the method is given any."""
        if not (rag or self.learner.finds_passages):
            return [Selection()] * len(items)
        found = (
            self.index.select([item.asked.question for item in items])
            if self.index is not None and any(item.selection == "found" for item in items)
            else [Selection()] * len(items)
        )
        return [
            self._given(item) if item.selection in ("own", "other") else each
            for item, each in zip(items, found, strict=True)
        ]

    def _given(self, item: _Item) -> Selection:
        edit = (
            item.edit if item.selection == "own" else self._other[item.edit.id if item.edit else ""]
        )
        return Selection.uniform([edit.passage] if edit else [])

    def locality_inputs(self) -> list[Any]:
        """The questions whose answers should stay, as the method is asked them now."""
        items = [_Item(LOCALITY, 0, None, asked) for asked in self.stream.locality]
        own = self.learner.method.rag
        selections = self.select(items, own)
        return [
            QuestionInput(item.asked, selection)
            for item, selection in zip(items, selections, strict=True)
        ]


def first_fact(edit: Edit, needs_subject: bool = False) -> list[Question]:
    """The question that is an edit's first fact, in the words of the fact.

    Args:
        edit: The edit.
        needs_subject: Whether only facts with a subject are edited, so that only they count.

    Returns:
        The question, or nothing if none of the facts is edited.
    """
    facts = count_applicable(edit.facts, needs_subject)[True]
    return [
        replace(edit.asked, id=fact.id, question=content_of(fact.prompt), answers=(fact.target,))
        for fact in facts[:1]
    ]


def _row(
    item: _Item, selection: Selection | None, answer: dict[str, Any], state: int, hashed: str
) -> dict[str, Any]:
    """A row; ``selection`` is None if the method is given no passages."""
    question = item.asked
    ids = [passage.id for passage in selection.passages] if selection else []
    routed = answer["details"].get("passage_ids")  # empty if nothing triggered
    looked = selection is not None and (routed is None or bool(routed))
    ids = ids if routed is None else routed
    return {
        "state": state,
        "state_hash": hashed,
        "kind": item.kind,
        "batch": item.batch,
        "edit": item.edit.id if item.edit else None,
        "id": question.id,
        "question": question.question,
        "answers": list(question.answers),
        **{name: answer[name] for name in _SCORES},
        "passage_ids": ids,
        "found": item.edit.passage.id in ids if item.edit and looked else None,
    }


_SCORES = ("prediction", "em", "f1", "prefix", "nll", "token_accuracy")
