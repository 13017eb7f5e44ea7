"""Whether a passage holds the answer of a question: what makes it an oracle negative or not.

Of "yes" and "no" the words say nothing: a passage that answers the question seldom holds them, and
one that holds "no" does so for other reasons. There the gold passages count as those that hold the
answer, and where none is known nothing can be said.
"""

from __future__ import annotations

import functools

from qa.data.dataset import Question
from qa.metrics import normalize_answer
from retrieval.answers import answer_tokens, holds_answer
from retrieval.passage import Passage, passage_text

_YES_NO = (["yes"], ["no"])


def is_yes_no(question: Question) -> bool:
    """Whether all answers of a question are yes or no."""
    return all(answer_tokens(answer) in _YES_NO for answer in question.answers)


def can_be_judged(question: Question) -> bool:
    """Whether a passage can be said to hold the question's answer or not."""
    return bool(question.passage_ids) or not is_yes_no(question)


def answers_question(question: Question, passage: Passage) -> bool:
    """Whether a passage, its title included, holds an answer: any alias, token-wise, normalised.

    Normalised as top-K accuracy has it or as exact match has it, which leaves out punctuation and
    articles: a passage with "US Navy" holds "U.S. Navy", since answering so would be right.

    Args:
        question: One that `can_be_judged`.
        passage: The passage, as a model reads it.
    """
    if is_yes_no(question):
        return passage.id in question.passage_ids
    text = passage_text(passage)
    if holds_answer(text, question.answers):
        return True
    words = _normalized(text)
    return any(f" {alias} " in words for alias in map(normalize_answer, question.answers) if alias)


@functools.lru_cache(maxsize=16_384)  # passages recur for related questions
def _normalized(text: str) -> str:
    return f" {normalize_answer(text)} "
