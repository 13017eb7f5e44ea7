"""EM and F1 against the official SQuAD arithmetic."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa.metrics import (
    QAMetrics,
    exact_match,
    f1_score,
    normalize_answer,
    yes_no_accuracy,
)

GOLDEN_NORMALIZED = {
    "U.S. Navy": "us navy",
    "The U.S. Navy": "us navy",
    "3.14 million": "314 million",
    "$1,000.50": "100050",
    "an apple, a day; the doctor": "apple day doctor",
    "Theatre and Anthem": "theatre and anthem",
    "a-ha": "aha",
    "rock 'n' roll": "rock n roll",
    "  spaced\tout\n words ": "spaced out words",
    "the": "",
    "A An THE": "",
    "?!": "",
    "": "",
    "Zürich–Łódź": "zürich–łódź",  # only ASCII punctuation is punctuation
    "“quoted”": "“quoted”",
    "vitamin a–b": "vitamin –b",  # an article beside a dash is one, officially
    "ΑΘΗΝΑ": "αθηνα",
    "東京 都": "東京 都",
    "thé": "thé",
    "non\u00a0breaking": "non breaking",
}

# prediction, answers, EM, F1
GOLDEN_SCORES = [
    ("us navy", ["The U.S. Navy"], 1.0, 1.0),
    ("3.14 million", ["3.14 million"], 1.0, 1.0),
    ("3", ["3.14 million"], 0.0, 0.0),
    ("", ["Lisbon"], 0.0, 0.0),
    ("the", ["Lisbon"], 0.0, 0.0),
    ("the", ["a"], 1.0, 1.0),
    ("Lisbon, Portugal", ["Lisbon"], 0.0, 2 / 3),
    ("Portugal", ["Lisbon", "the Portugal."], 1.0, 1.0),
    ("a b c d", ["b c x", "q"], 0.0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),
    ("to be or not to be", ["to be to"], 0.0, 2 * (3 / 6) * (3 / 3) / (3 / 6 + 1)),
    ("new new york", ["new york"], 0.0, 0.8),
    ("Straße", ["strasse"], 0.0, 0.0),
]


def official_normalize(s: str) -> str:
    """The steps of SQuAD's evaluation, written down independently, one after the other."""
    lowered = s.lower()
    unpunctuated = "".join(c for c in lowered if c not in set(string.punctuation))
    unarticled = re.sub(r"\b(a|an|the)\b", " ", unpunctuated)
    return " ".join(unarticled.split())


def official_f1(prediction: str, answer: str) -> float:
    """Precision, recall and their harmonic mean, with the SQuAD 2.0 rule for empty answers."""
    got, gold = official_normalize(prediction).split(), official_normalize(answer).split()
    same = sum((Counter(got) & Counter(gold)).values())
    if not got or not gold:
        return float(got == gold)
    if same == 0:
        return 0.0
    precision, recall = same / len(got), same / len(gold)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(("text", "expected"), GOLDEN_NORMALIZED.items())
def test_normalisation_of_nasty_strings(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(("prediction", "answers", "em", "f1"), GOLDEN_SCORES)
def test_scores_of_nasty_strings(prediction: str, answers: list[str], em: float, f1: float) -> None:
    assert exact_match(prediction, answers) == em
    assert f1_score(prediction, answers) == pytest.approx(f1)


words = st.lists(
    st.sampled_from(["the", "a", "an", "Navy", "U.S.", "3.14", "é", "-", "A.", "x", "“", "\u00a0"])
).map(" ".join)


@given(prediction=words | st.text(), answers=st.lists(words | st.text(), min_size=1, max_size=3))
def test_scores_equal_the_official_arithmetic(prediction: str, answers: list[str]) -> None:
    assert exact_match(prediction, answers) == max(
        float(official_normalize(prediction) == official_normalize(answer)) for answer in answers
    )
    assert f1_score(prediction, answers) == pytest.approx(
        max(official_f1(prediction, answer) for answer in answers)
    )


@pytest.mark.parametrize("answers", [[], "Lisbon"])
def test_scores_need_a_list_of_answers(answers: list[str]) -> None:
    for score in (exact_match, f1_score):
        with pytest.raises(ValueError, match="at least one answer"):
            score("Lisbon", answers)


def test_running_metrics_are_means_in_percent() -> None:
    metrics = QAMetrics()
    metrics.update(["Lisbon", "Lisbon, Portugal"], [["Lisbon"], ["Lisbon", "Porto"]])
    metrics.update(["wrong"], [["right"]])
    scores = metrics.compute()
    assert scores["em"].item() == pytest.approx(100 / 3)
    assert scores["f1"].item() == pytest.approx(100 * (1 + 2 / 3) / 3)
    metrics.reset()
    assert metrics.count == 0


def test_running_metrics_add_up_over_ranks() -> None:
    ranks = [QAMetrics(), QAMetrics()]
    ranks[0].update(["a x", "y"], [["x"], ["z"]])
    ranks[1].update(["q"], [["q"]])
    ranks[0].merge_state(ranks[1])
    assert ranks[0].compute()["em"].item() == pytest.approx(200 / 3)


def test_running_metrics_refuse_unequal_batches() -> None:
    with pytest.raises(ValueError, match="got 1 predictions and 0 lists"):
        QAMetrics().update(["x"], [])


def test_yes_and_no_are_read_at_the_beginning() -> None:
    assert yes_no_accuracy("Yes, it would.", ["yes"]) == 1
    assert yes_no_accuracy("No", ["yes"]) == 0
    assert yes_no_accuracy("the yes", ["yes"]) == 1
    assert yes_no_accuracy("It is yes.", ["yes"]) == 0
    assert yes_no_accuracy("", ["no"]) == 0
