"""Whether a passage holds the answer of a question: what makes it an oracle negative or not.

Of "yes" and "no" the words say nothing: a passage that answers the question seldom holds them, and
one that holds "no" does so for other reasons. There the gold passages count as those that hold the
answer, and where none is known nothing can be said.
"""

from __future__ import annotations

from qa.dataset import Question
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

    Args:
        question: One that `can_be_judged`.
        passage: The passage, as a model reads it.
    """
    if is_yes_no(question):
        return passage.id in question.passage_ids
    return holds_answer(passage_text(passage), question.answers)
