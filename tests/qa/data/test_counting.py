"""The probe of counting: as many animals as the answer says, and the number nowhere."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from plumbing.mounts import SettingValueError
from qa.data.bios.short.person_pools import PETS
from qa.data.counting import NUMBERS, generate_counting
from qa.data.dataset import check_disjoint

COUNTING = generate_counting(1, 40, 20, 40)


def test_the_answer_is_the_number_of_animals_and_does_not_stand_in_the_passage():
    for questions in COUNTING.splits.values():
        for question in questions:
            (passage,) = COUNTING.gold(question)
            words = re.findall(r"[a-z]+", passage.text.lower())
            count = sum(word in PETS for word in words)
            assert question.answers == (NUMBERS[count], str(count))
            assert not set(words) & set(NUMBERS.values())
            assert passage.title in passage.text
            assert passage.title in question.question
            assert not re.search(r"\d|\ba [aeiou]|\ban [^aeiou]", passage.text)


def test_every_number_is_equally_often_right():
    for questions in COUNTING.splits.values():
        assert len(set(Counter(each.answers for each in questions).values())) == 1


def test_training_changes_no_other_split_and_shares_no_name():
    larger = generate_counting(1, 80, 20, 40)
    assert larger.splits["test"] == COUNTING.splits["test"]
    assert len({each.title for each in larger.passages.values()}) == 140
    check_disjoint(larger, "train", "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dev_passages": -1}, "dev_passages must not be negative, got -1; set dev_passages"),
        ({"train_passages": 10_000}, "names for 10000 passages, got .*; lower train_passages"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(SettingValueError, match=message):
        generate_counting(**settings)
