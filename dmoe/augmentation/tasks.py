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

from dmoe.augmentation.prompts import PAPER_EXAMPLE, PAPER_PAIRS, PAPER_REWRITE, SMALL_REWRITE
from plumbing.mounts import SettingValueError
from qa.writing.pairs import ListOfPairs, PairsTask, QuestionsForSpans
from qa.writing.parse import MalformedAnswerError, check_rewrite, parse_rewrite, parse_sentence
from qa.writing.sentences import count_words, fronted, split_sentences
from qa.writing.writer import WritingRequest
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


@dataclass(frozen=True)
class TaskSet:
    """The two tasks of an augmentation: the rewrite and the pairs."""

    rewrite: RewriteTask
    pairs: PairsTask


TASK_SETS = {
    "paper": TaskSet(WholeRewrite(), ListOfPairs(PAPER_PAIRS, PAPER_EXAMPLE)),
    "small": TaskSet(SentenceRewrite(), QuestionsForSpans(PAIRS)),
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
