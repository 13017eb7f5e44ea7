"""The tasks of augmentation: what a model is asked about a passage, and how its answers are read.

The paper asks for a whole rewrite and for a list of pairs (appendix C.1). A model with a hundred
million parameters cannot do that: it loses names, and says things that the passage does not say.
But it can put a single sentence in other words, and write a question for a blank in a sentence. Its
answers are then checked against the passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dmoe.augmentation.chatter import without_thinking
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
from dmoe.augmentation.sentences import (
    Span,
    answer_spans,
    count_words,
    fronted,
    split_sentences,
)
from dmoe.augmentation.writer import WritingRequest
from plumbing.mounts import SettingValueError
from retrieval.answers import holds_answer
from retrieval.passage import Passage, passage_text

PAIRS = 3  # question-answer pairs of each passage (DMoE sec. 4.3)


class RewriteTask(Protocol):
    """A task that asks for a passage in other words."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make the requests of an attempt."""
        ...

    def read(self, passage: Passage, answers: Sequence[str]) -> str:
        """Read the rewrite from the answers, one for each request.

        Raises:
            MalformedAnswerError: If the answers hold no rewrite.
        """
        ...


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


class WholeRewrite:
    """The paper's Prompt 1, which asks for the whole passage in other words."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make one request."""
        words = count_words(passage.text)
        return [PAPER_REWRITE.request({"passage": passage_text(passage)}, words, attempt)]

    def read(self, passage: Passage, answers: Sequence[str]) -> str:
        """Read the rewrite with `parse_rewrite`.

        Raises:
            MalformedAnswerError: If the answer holds no rewrite.
        """
        return parse_rewrite(answers[0], passage)


class ListOfPairs(PairsTask):
    """The paper's Prompt 2, which asks for all pairs as one list."""

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make one request."""
        slots = {"example": PAPER_EXAMPLE, "passage": passage_text(passage)}
        return [PAPER_PAIRS.request(slots, 0, attempt)]

    def read(self, passage: Passage, attempt: int, answers: Sequence[str]) -> list[Pair]:
        """Read the usable pairs; those whose answers stand in the passage come first."""
        return parse_pairs(answers[0], passage, PAPER_EXAMPLE)


class SentenceRewrite:
    """Rewrites a passage sentence by sentence.

    A sentence keeps its old form if its rewrite loses or invents a name or number. If a sentence
    says when or where something was, its rewrite is made to begin with that, because a small model
    otherwise repeats the sentence.
    """

    def ask(self, passage: Passage, attempt: int) -> list[WritingRequest]:
        """Make one request for each sentence."""
        return [
            SMALL_REWRITE.request(
                {"sentence": sentence}, count_words(sentence), attempt, fronted(sentence)
            )
            for sentence in split_sentences(passage.text)
        ]

    def read(self, passage: Passage, answers: Sequence[str]) -> str:
        """Join the rewritten sentences, and the old ones where the rewrite is not usable.

        Raises:
            MalformedAnswerError: If the result is no rewrite, for example because no sentence has
                changed.
        """
        sentences = split_sentences(passage.text)
        rewritten = []
        for sentence, answer in zip(sentences, answers, strict=True):
            try:
                rewritten.append(parse_sentence(answer, sentence))
            except MalformedAnswerError:
                rewritten.append(sentence)
        return check_rewrite(" ".join(rewritten), passage)


class QuestionsForSpans(PairsTask):
    """Takes three spans of the passage (dates, numbers, names) as answers, and asks for questions.

    The model sees the sentence with a blank in the answer's place. The first word of the question
    is given if the answer determines it, because a small model otherwise asks what something is,
    whatever the answer. A pair is right if the model finds the answer to its own question.
    """

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
        return answer_spans(passage.text)[PAIRS * attempt : PAIRS * (attempt + 1)]


@dataclass(frozen=True)
class TaskSet:
    """The two tasks of an augmentation: the rewrite and the pairs."""

    rewrite: RewriteTask
    pairs: PairsTask


TASK_SETS = {
    "paper": TaskSet(WholeRewrite(), ListOfPairs()),
    "small": TaskSet(SentenceRewrite(), QuestionsForSpans()),
}
"""``paper`` is for instruction-tuned models with a billion parameters or more. ``small`` is for the
small model that comes with the project."""


def task_set(name: str) -> TaskSet:
    """Find the tasks of a set of prompts by its name.

    Raises:
        ValueError: If there is no set of that name.
    """
    if name not in TASK_SETS:
        raise SettingValueError(
            "prompts", f"prompts must be one of {', '.join(TASK_SETS)}, got {name!r}"
        )
    return TASK_SETS[name]
