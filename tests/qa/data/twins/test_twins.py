"""Twin passages: the same words, other answers, and names that training does not know."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.dataset import Question, check_disjoint
from qa.data.twins import generate_roles, generate_twins, same_words, twins_of

MADE = {
    "twins": generate_twins(3, 40, 10, 20, 20, 4),
    "roles": generate_roles(3, 40, 10, 20, 20),
}


@pytest.fixture(params=MADE)
def dataset(request):
    return MADE[request.param]


def passage(dataset, question):
    (found,) = dataset.gold(question)
    return found


def test_twins_have_the_same_words_and_each_has_its_own_answer(dataset):
    for questions in dataset.splits.values():
        pairs = twins_of(questions)
        assert len(pairs) == len(questions) / 2
        for one, other in pairs:
            texts = [passage(dataset, each).text for each in (one, other)]
            assert texts[0] != texts[1]
            assert same_words(*texts)
            assert sorted(re.findall(r"\w+", texts[0])) == sorted(re.findall(r"\w+", texts[1]))
            assert passage(dataset, one).title == passage(dataset, other).title
            for text in texts:  # both answers stand in both passages
                assert one.answers[0] in text
                assert other.answers[0] in text


def test_a_name_is_in_one_split_only(dataset):
    words = {}
    for split, questions in dataset.splits.items():
        titles = " ".join(passage(dataset, each).title for each in questions)
        words[split] = set(re.findall(r"[A-Z]\w+", titles))
    for one, other in combinations(words.values(), 2):
        assert one
        assert other
        assert not one & other
    for held_out in set(dataset.splits) - {"train"}:
        check_disjoint(dataset, "train", held_out)


@pytest.mark.parametrize("make", [generate_twins, generate_roles])
def test_the_size_of_training_changes_no_other_split(make):
    one, other, seeded = make(0, 5), make(0, 9), make(1, 5)
    for split in ("dev", "test"):
        assert one.splits[split] == other.splits[split] != seeded.splits[split]
    assert len(other.splits["train"]) * 5 == len(one.splits["train"]) * 9
    assert make(0, 5).passages == one.passages


def test_the_values_of_two_entities_are_exchanged():
    """Word by word, twins differ where a value stands, and there they have each other's values."""
    twins = MADE["twins"]
    values = {each.answers[0] for each in twins.splits["test"]}
    for pair in twins_of(twins.splits["test"]):
        texts = [re.findall(r"\w+", passage(twins, each).text) for each in pair]
        differ = [both for both in zip(*texts, strict=True) if both[0] != both[1]]
        exchanged = {both for both in differ if both[0] in values}
        assert {both[::-1] for both in exchanged} == exchanged
        assert {word for both in differ for word in both} <= values | {"a", "an", "A", "An"}
        assert (pair.one.answers[0], pair.other.answers[0]) in exchanged


def test_pronouns_stand_for_names_in_one_split_only():
    twins = MADE["twins"]
    begins = re.compile(r"(?:^|\. )(She|He|It|Her|His|Its)\b")
    named = {
        split: sum(bool(begins.search(passage(twins, each).text)) for each in questions)
        for split, questions in twins.splits.items()
    }
    assert named["test"] == 0
    assert named["test_pronouns"] > 0.9 * len(twins.splits["test_pronouns"])
    assert 0.3 < named["train"] / len(twins.splits["train"]) < 0.6


def test_each_sentence_of_roles_has_the_same_words_in_both():
    roles = MADE["roles"]
    for one, other in twins_of(roles.splits["train"]):
        texts = [passage(roles, each).text.split(". ") for each in (one, other)]
        turned = 0
        for sentences in zip(*texts, strict=True):
            assert same_words(*sentences)
            turned += sentences[0] != sentences[1]
        assert turned == 2


def test_the_roles_are_those_that_the_sentences_give():
    """Read back by patterns that are written out here."""
    roles = MADE["roles"]
    name = r"[A-Z][a-z]+ [A-Z][a-z]+"
    for split in ("test", "test_unseen"):
        found = 0
        for question in roles.splits[split]:
            text = passage(roles, question).text
            asked = re.findall(name, question.question[1:])[0]
            active = re.search(rf"(?:^|\. |spring )({name}) (?!was\b|had\b)\w+ ({name})\.", text)
            passive = re.search(rf"({name}) was (?!by\b)\w+ by ({name})\.", text)
            pairs = [m.groups() for m in (active,) if m] + [
                m.groups()[::-1] for m in (passive,) if m
            ]
            role = question.id.rsplit("-", 1)[1]
            for agent, patient in pairs:
                if role == "agent" and patient == asked:
                    assert question.answers == (agent,)
                    found += 1
                if role == "patient" and agent == asked:
                    assert question.answers == (patient,)
                    found += 1
        assert found > 5


def test_no_verb_of_test_unseen_is_in_another_split():
    roles = MADE["roles"]
    verbs = {
        split: {w for q in questions for w in re.findall(r"\b[a-z]+\b", q.question)}
        for split, questions in roles.splits.items()
    }
    frame = set("by whom was which person it that did who".split())
    assert verbs["test_unseen"] - frame
    for split in ("train", "dev", "test"):
        assert not (verbs["test_unseen"] & verbs[split]) - frame


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (generate_twins, {"seed": -1}, "seed must not be negative, got -1; set seed"),
        (generate_twins, {"facts": 7}, r"facts must be in 1\.\.6, got 7; set facts"),
        (generate_twins, {"train_questions": 7}, r"train_questions must be in 1\.\.6, got 7"),
        (generate_twins, {"train_pairs": 9999}, "names for 3000 pairs, got .*; lower train_pairs"),
        (generate_roles, {"train_questions": 3}, "train_questions must be 1 or 2, got 3"),
        (generate_roles, {"unseen_pairs": -2}, "unseen_pairs must not be negative, got -2"),
    ],
)
def test_a_wrong_setting_is_named(make, settings, message):
    with pytest.raises(SettingValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(("answers", "times"), [(("a",), 1), (("a", "a"), 2), (("a", "b", "c"), 3)])
def test_questions_without_a_twin_are_an_error(answers, times):
    asked = [Question(str(i), "Who?", (answer,)) for i, answer in enumerate(answers)]
    with pytest.raises(DataError, match=f"got 'Who\\?' {times} times.*choose data=twins"):
        twins_of(asked)
