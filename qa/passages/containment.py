"""Whether a passage holds the answer of a question, which decides if it is an oracle negative.

The words "yes" and "no" say nothing about a passage. A passage that answers a yes/no question
seldom holds them, and a passage that holds "no" usually does so for another reason. So for yes/no
questions the gold passages count as those that hold the answer, and if a question has no gold
passage, nothing can be said about it.
"""

from __future__ import annotations

import functools

from qa.data.dataset import Question
from qa.metrics import answer_words
from retrieval.answers import answer_tokens, holds_answer
from retrieval.passage import Passage, passage_text

_YES_NO = (["yes"], ["no"])


def is_yes_no(question: Question) -> bool:
    """True if all answers of a question are yes or no."""
    return all(answer_tokens(answer) in _YES_NO for answer in question.answers)


def can_be_judged(question: Question) -> bool:
    """True if it can be said of a passage whether it holds the question's answer."""
    return bool(question.passage_ids) or not is_yes_no(question)


def answers_question(question: Question, passage: Passage) -> bool:
    """True if a passage holds any of the answers in its title or its text.

    Texts are compared token by token in two ways: normalised as in top-K accuracy, and normalised
    as in exact match, which leaves out punctuation and articles. By the second way a passage with
    "US Navy" holds the answer "U.S. Navy", because this answer would count as right.

    Args:
        question: A question that `can_be_judged`.
        passage: The passage, as a model reads it.
    """
    if is_yes_no(question):
        return passage.id in question.passage_ids
    text = passage_text(passage)
    if holds_answer(text, question.answers):
        return True
    words = _normalized(text)
    aliases = filter(None, map(answer_words, question.answers))
    return any(f" {' '.join(alias)} " in words for alias in aliases)


@functools.lru_cache(maxsize=16_384)  # related questions have the same passages
def _normalized(text: str) -> str:
    return f" {' '.join(answer_words(text))} "
