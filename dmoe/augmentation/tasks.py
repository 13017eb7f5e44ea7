"""What a model is asked about a passage, and how its answers are read.

The paper asks for a whole rewrite and for a list of pairs (appendix C.1). A model of a hundred
million parameters cannot do that: it loses the names and answers with what the passage does not
say. It can put one sentence in other words, and ask for what is missing in one; what it then
says is checked against the passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dmoe.augmentation.parse import (
    MalformedAnswerError,
    Pair,
    check_rewrite,
    parse_pairs,
    parse_question,
    parse_rewrite,
    parse_sentence,
)
from dmoe.augmentation.prompts import (
    BLANK,
    PAPER_EXAMPLE,
    PAPER_PAIRS,
    PAPER_REWRITE,
    SMALL_ANSWER,
    SMALL_QUESTION,
    SMALL_REWRITE,
)
from dmoe.augmentation.sentences import Span, answer_spans, fronted, split_sentences
from dmoe.augmentation.writer import WritingRequest
from plumbing.mounts import SettingValueError
from retrieval.answers import holds_answer
from retrieval.passage import Passage, passage_text

PAIRS = 3  # question-answer pairs a passage (DMoE sec. 4.3)


class RewriteTask(Protocol):
    """Asks for a passage in other words."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """The requests of an attempt."""
        ...

    def read(self, passage: Passage, answers: Sequence[str]) -> str:
        """The rewrite, from the answer to each request.

        Raises:
            MalformedAnswerError: If there is none in them.
        """
        ...


class PairsTask(Protocol):
    """Asks for question-answer pairs."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """The requests of an attempt; none if there is nothing left to ask."""
        ...

    def read(self, passage: Passage, attempt: int, answers: Sequence[str]) -> list[Pair]:
        """The usable pairs, from the answer to each request of the attempt; possibly none."""
        ...

    def doubt(self, passage: Passage, pairs: Sequence[Pair]) -> list[WritingRequest]:
        """A request for each pair whose answer shows whether it holds; none: all of them do."""
        return []

    def confirm(self, pairs: Sequence[Pair], answers: Sequence[str]) -> list[Pair]:
        """The pairs that hold, from the answer to each request of `doubt`."""
        return list(pairs)


class WholeRewrite:
    """The paper's Prompt 1: the passage at once."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """One request."""
        words = len(passage.text.split())
        return [PAPER_REWRITE.request({"passage": passage_text(passage)}, words, attempt)]

    def read(self, passage: Passage, answers: Sequence[str]) -> str:
        """See `RewriteTask.read`."""
        return parse_rewrite(answers[0], passage)


class ListOfPairs(PairsTask):
    """The paper's Prompt 2: a list of pairs at once."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """One request."""
        slots = {"example": PAPER_EXAMPLE, "passage": passage_text(passage)}
        return [PAPER_PAIRS.request(slots, 0, attempt)]

    def read(self, passage: Passage, attempt: int, answers: Sequence[str]) -> list[Pair]:
        """See `PairsTask.read`; those first whose answer stands in the passage."""
        return parse_pairs(answers[0], passage, PAPER_EXAMPLE)


class SentenceRewrite:
    """Sentence by sentence; one that loses or invents a name or number stays as it was.

    Where a sentence says when or where, its rewrite is made to begin with that: a small model left
    to itself repeats the sentence.
    """

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """One request a sentence."""
        return [
            SMALL_REWRITE.request(
                {"sentence": sentence}, len(sentence.split()), attempt, fronted(sentence)
            )
            for sentence in split_sentences(passage.text)
        ]

    def read(self, passage: Passage, answers: Sequence[str]) -> str:
        """See `RewriteTask.read`."""
        sentences = split_sentences(passage.text)
        rewritten = []
        for sentence, answer in zip(sentences, answers, strict=True):
            try:
                rewritten.append(parse_sentence(answer, sentence))
            except MalformedAnswerError:
                rewritten.append(sentence)
        return check_rewrite(" ".join(rewritten), passage)


class QuestionsForSpans(PairsTask):
    """A question for each of three dates, numbers or names in the passage: they are the answers.

    The model sees a blank in the answer's place, and the question's first word is given where the
    answer tells: left to itself, a small model asks what something is, whatever the answer. A pair
    holds if the model finds the answer to its own question.
    """

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """One request a span; every attempt takes other spans, and the most likely question."""
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
        """See `PairsTask.read`."""
        pairs: dict[str, str] = {}
        for span, answer in zip(self._spans(passage, attempt), answers, strict=True):
            try:
                pairs.setdefault(parse_question(answer, span.text, passage), span.text)
            except MalformedAnswerError:
                continue  # the next attempt asks about another span
        return list(pairs.items())

    def doubt(self, passage: Passage, pairs: Sequence[Pair]) -> list[WritingRequest]:
        """The question alone, to be answered from the same text."""
        contexts = {span.text: span.context for span in answer_spans(passage.text)}
        title = passage.title or "none"
        return [
            SMALL_ANSWER.request(
                {"title": title, "text": contexts[answer], "question": question}, words=0, attempt=0
            )
            for question, answer in pairs
        ]

    def confirm(self, pairs: Sequence[Pair], answers: Sequence[str]) -> list[Pair]:
        """Those whose answer was found again."""
        zipped = zip(pairs, answers, strict=True)
        return [pair for pair, answer in zipped if holds_answer(answer, [pair[1]])]

    def _spans(self, passage: Passage, attempt: int) -> list[Span]:
        return answer_spans(passage.text)[PAIRS * attempt : PAIRS * (attempt + 1)]


@dataclass(frozen=True)
class TaskSet:
    """The two tasks of an augmentation."""

    rewrite: RewriteTask
    pairs: PairsTask


TASK_SETS = {
    "paper": TaskSet(WholeRewrite(), ListOfPairs()),
    "small": TaskSet(SentenceRewrite(), QuestionsForSpans()),
}
"""``paper``: for instruction-tuned models of a billion parameters and more. ``small``: for the
embedded default."""


def task_set(name: str) -> TaskSet:
    """The tasks of a set of prompts.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in TASK_SETS:
        raise SettingValueError(
            "prompts", f"prompts must be one of {', '.join(TASK_SETS)}, got {name!r}"
        )
    return TASK_SETS[name]
