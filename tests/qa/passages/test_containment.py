"""Which passages hold the answer of a question."""

from __future__ import annotations

import pytest

from qa.data.dataset import Question
from qa.passages.containment import answers_question, can_be_judged, is_yes_no
from retrieval.passage import Passage

PASSAGE = Passage("p1", "Lisbon", "There is no other town. Yes!")


def ask(*answers: str, gold: tuple[str, ...] = ()) -> Question:
    return Question("q", "?", answers, gold)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["yes"], True),
        (["No"], True),
        (["yes", "no"], True),
        (["yes", "Lisbon"], False),
        (["Yes."], False),
        (["No Way Out"], False),
        ([""], False),
    ],
)
def test_yes_and_no(answers: list[str], expected: bool) -> None:
    assert is_yes_no(ask(*answers)) is expected


def test_other_answers_are_looked_for_in_title_and_text() -> None:
    assert answers_question(ask("LISBON"), PASSAGE)
    assert answers_question(ask("nowhere", "other town", gold=("p2",)), PASSAGE)
    assert not answers_question(ask("nowhere", gold=("p1",)), PASSAGE)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("U.S. Navy", "He joined the US Navy."),
        ("1,000", "With 1000 men."),
        ("The Beatles", "Beatles for sale."),
        ("rock-n-roll", "It was rocknroll."),
    ],
)
def test_what_exact_match_would_count_as_right_is_held(answer: str, text: str) -> None:
    assert answers_question(ask(answer), Passage("p", "", text))
    assert not answers_question(ask("a", "the"), Passage("p", "", "Theory."))


def test_yes_and_no_are_held_by_gold_passages() -> None:
    assert not answers_question(ask("no", gold=("p2",)), PASSAGE)
    assert answers_question(ask("no", gold=("p2", "p1")), PASSAGE)


def test_what_can_be_judged() -> None:
    assert can_be_judged(ask("Lisbon"))
    assert can_be_judged(ask("no", gold=("p2",)))
    assert not can_be_judged(ask("no"))
