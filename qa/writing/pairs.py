"""Tasks that make question-answer pairs of a passage: what a model is asked, and how it is read.

A large model is asked for a list. A model with a hundred million parameters cannot write one, but
it can write a question for a blank in a sentence. Its answers are then checked against the passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qa.writing.chatter import without_thinking
from qa.writing.parse import MalformedAnswerError, Pair, parse_pairs, parse_question
from qa.writing.prompts import BLANK, SMALL_ANSWER, SMALL_QUESTION, Prompt
from qa.writing.sentences import Span, answer_spans
from qa.writing.writer import WritingRequest
from retrieval.answers import holds_answer
from retrieval.passage import Passage, passage_text


class PairsTask(Protocol):
    """A task that asks for question-answer pairs."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make the requests of an attempt; there are none if nothing is left to ask."""
        ...

    def read(self, passage: Passage, attempt: int, answers: Sequence[str]) -> list[Pair]:
        """Read the usable pairs, possibly none, from the answers to the attempt's requests."""
        ...

    def doubt(self, passage: Passage, pairs: Sequence[Pair]) -> list[WritingRequest]:
        """Make a request for each pair, whose answer shows if the pair is right.

        By default there are no requests, and all pairs count as right.
        """
        return []

    def confirm(self, pairs: Sequence[Pair], answers: Sequence[str]) -> list[Pair]:
        """Select the pairs that are right, from the answers to the requests of `doubt`."""
        return list(pairs)


class ListOfPairs(PairsTask):
    """Asks for all pairs as one list, with one prompt.

    Args:
        prompt: The prompt, with the slots ``example`` and ``passage``.
        example: What the list looks like. A question that only repeats one of it is left out.
    """

    def __init__(self, prompt: Prompt, example: str) -> None:
        self._prompt, self._example = prompt, example

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make one request."""
        slots = {"example": self._example, "passage": passage_text(passage)}
        return [self._prompt.request(slots, 0, attempt)]

    def read(self, passage: Passage, attempt: int, answers: Sequence[str]) -> list[Pair]:
        """Read the usable pairs; those whose answers stand in the passage come first."""
        return parse_pairs(answers[0], passage, self._example)


class QuestionsForSpans(PairsTask):
    """Takes spans of the passage (dates, numbers, names) as answers, and asks for questions.

    The model sees the sentence with a blank in the answer's place. The first word of the question
    is given if the answer determines it, because a small model otherwise asks what something is,
    whatever the answer. A pair is right if the model finds the answer to its own question.

    Args:
        number: How many spans are asked about in an attempt.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make one request for each span.

        Every attempt takes other spans, and asks for the most likely question.
        """
        return [
            SMALL_QUESTION.request(
                {"title": passage.title or "none", "text": f"{span.before}{BLANK}{span.after}"},
                words=0,
                attempt=0,
                opening=span.question_word,
            )
            for span in self._spans(passage, attempt)
        ]

    def read(self, passage: Passage, attempt: int, answers: Sequence[str]) -> list[Pair]:
        """Pair each usable question with its span; spans without one are left out."""
        pairs: dict[str, str] = {}
        for span, answer in zip(self._spans(passage, attempt), answers, strict=True):
            try:
                pairs.setdefault(parse_question(answer, span.text, passage), span.text)
            except MalformedAnswerError:
                continue  # the next attempt asks about another span
        return list(pairs.items())

    def doubt(self, passage: Passage, pairs: Sequence[Pair]) -> list[WritingRequest]:
        """Ask each question, to be answered from the text around its span."""
        contexts = {span.text: span.context for span in answer_spans(passage.text)}
        title = passage.title or "none"
        return [
            SMALL_ANSWER.request(
                {"title": title, "text": contexts[answer], "question": question}, words=0, attempt=0
            )
            for question, answer in pairs
        ]

    def confirm(self, pairs: Sequence[Pair], answers: Sequence[str]) -> list[Pair]:
        """Select the pairs whose answer the model has found again."""
        said = map(without_thinking, answers)
        return [p for p, answer in zip(pairs, said, strict=True) if holds_answer(answer, [p[1]])]

    def _spans(self, passage: Passage, attempt: int) -> list[Span]:
        return answer_spans(passage.text)[self._number * attempt : self._number * (attempt + 1)]
