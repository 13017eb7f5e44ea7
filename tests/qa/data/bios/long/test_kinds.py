"""The form bios_long: what its passages, questions and pools must satisfy."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from qa.data.bios import generate_long
from qa.data.bios.long import LONG_KINDS
from qa.data.bios.schema import Attribute, Composed
from qa.data.dataset import QADataset, check_disjoint

ATTRIBUTES = [(kind.name, attribute) for kind in LONG_KINDS for attribute in kind.attributes]
IDS = [f"{kind}-{attribute.name}" for kind, attribute in ATTRIBUTES]


@pytest.fixture(scope="module")
def bios_long() -> QADataset:
    return generate_long(3, 400, 60, 60, test_entities=40)


def test_sizes_and_splits(bios_long: QADataset) -> None:
    sizes = {name: len(questions) for name, questions in bios_long.splits.items()}
    assert sizes == {
        **{"train": 1600, "train_reworded": 1600, "dev": 240, "dev_rephrased": 240},
        **{"test": 160, "test_rephrased": 160, "test_reworded": 160, "known": 177},
    }
    assert len(bios_long.passages) == 400 + 60 + 60 + 40 + 40
    for held_out in ("dev", "test"):
        check_disjoint(bios_long, "train", held_out)
    assert len({passage.title for passage in bios_long.passages.values()}) == 600


def test_answers_have_three_words_or_more_on_average(bios_long: QADataset) -> None:
    for split in ("train", "dev", "test"):
        lengths = [len(each.answers[0].split()) for each in bios_long.split(split)]
        assert sum(lengths) / len(lengths) >= 3
        assert min(lengths) >= 3


def test_each_answer_stands_once_in_its_passage(bios_long: QADataset) -> None:
    for name, questions in bios_long.splits.items():
        for question in questions if name != "known" else ():
            (answer,), (passage,) = question.answers, bios_long.gold(question)
            assert len(re.findall(rf"(?<= ){answer}\b", passage.text)) == 1
            assert answer not in question.question
            assert passage.title in question.question


def test_passages_have_60_to_120_words(bios_long: QADataset) -> None:
    for passage in bios_long.passages.values():
        assert 60 <= len(passage.text.split()) <= 120
        assert not re.search(r"[{}]", passage.text)
        assert passage.title in passage.text.split(".")[0]
        assert all(sentence[0].isupper() for sentence in passage.text.split(". "))


@pytest.mark.parametrize(("kind", "attribute"), ATTRIBUTES, ids=IDS)
def test_pools_and_phrasings_of_long_answers(kind: str, attribute: Attribute) -> None:
    assert len(attribute.values) >= 300
    assert len(set(attribute.values)) == len(attribute.values)
    assert len(attribute.sentences) == len(attribute.questions) == 4
    assert len(attribute.rephrasings) == 2
    assert all(sentence.count("{x}") == 1 for sentence in attribute.sentences)
    assert not any(sentence.startswith("{x}") for sentence in attribute.sentences)
    asked = [*attribute.questions, *attribute.rephrasings]
    assert len(set(asked)) == len(asked)
    assert all(each.count("{name}") == 1 and each.endswith("?") for each in asked)


def test_values_of_two_parts_are_all_combinations() -> None:
    values = Composed("{} and {}", ("a", "b"), ("c", "d", "e"))
    assert list(values) == [f"{one} and {two}" for one in "ab" for two in "cde"]
    assert values[-1] == "b and e"
    assert list(values[1:3]) == ["a and d", "a and e"]
    assert [values.index(value) for value in values] == list(range(6))
    with pytest.raises(IndexError):
        values[6]


def test_kinds_of_long_answers_alternate(bios_long: QADataset) -> None:
    asked = Counter(each.id.split("-")[-1] for each in bios_long.split("dev"))
    assert sum(asked.values()) == 240
    assert len(bios_long.split("train")) == 4 * 400
