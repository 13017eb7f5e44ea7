"""The embedded data set: what every passage, question and split must satisfy."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict

import pytest

from qa.data.bios import generate
from qa.data.bios.names import MAX_ENTITIES
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.short import SHORT_KINDS
from qa.data.dataset import QADataset, Question, check_disjoint

ATTRIBUTES = [(kind, attribute) for kind in SHORT_KINDS for attribute in kind.attributes]


@pytest.fixture(scope="module")
def bios() -> QADataset:
    sizes = {"train": 800, "dev": 101, "distractor": 150, "test": 40, "unseen": 40}
    return generate(seed=3, **{f"{name}_entities": size for name, size in sizes.items()})


@pytest.fixture(scope="module")
def asked(bios: QADataset) -> dict[str, list[Question]]:
    """The splits whose questions have a passage."""
    return {name: questions for name, questions in bios.splits.items() if name != "known"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def kind_of(passage_id: str) -> Kind:
    """The kind of an entity; that of a distractor is that of the dev entity that it resembles."""
    _, group, number = passage_id.split("-")
    index = int(number) % {"distractor": 101}.get(group, 40 if "distractor" in group else 2**20)
    return SHORT_KINDS[index % 4]


def values_in(text: str, attribute: Attribute) -> list[str]:
    values = {value.lower() for value in (*attribute.values, *attribute.unseen)}
    return [word for word in words(text) if word in values]


def test_same_seed_same_data_and_another_seed_other_data() -> None:
    first, second, other = (generate(seed, 40, 12, 12, 4, 12, 12) for seed in (1, 1, 2))
    assert (first.passages, first.splits) == (second.passages, second.splits)
    titles = [{p.title for p in dataset.passages.values()} for dataset in (first, other)]
    assert len(titles[0] & titles[1]) < 3  # a title may come twice by chance


def test_published_data_have_not_changed() -> None:
    """Results in the documentation hold for these data; a new digest means to measure again."""
    dataset = generate(0, 200, 24, 24, test_entities=0, unseen_entities=0)
    del dataset.splits["known"], dataset.splits["train_reworded"]
    rows = [asdict(passage) for passage in dataset.passages.values()]
    rows += [asdict(question) for split in dataset.splits.values() for question in split]
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "e0b5c01aa0d0e7c7"


def test_sizes_ids_and_splits(bios: QADataset) -> None:
    assert bios.name == "bios"
    assert {name: len(questions) for name, questions in bios.splits.items()} == {
        "train": 4800,
        "train_reworded": 4800,
        "dev": 606,
        "dev_rephrased": 606,
        "test": 240,
        "test_rephrased": 240,
        "test_reworded": 240,
        "test_unseen": 240,
        "test_unseen_rephrased": 240,
        "known": 177,
    }
    distractors = 150 + 2 * (150 * 40 // 101)
    assert len(bios.passages) == 800 + 101 + 40 + 40 + distractors
    assert all(id == passage.id for id, passage in bios.passages.items())
    assert "bios-train-00012" in bios.passages
    ids = [question.id for questions in bios.splits.values() for question in questions]
    assert len(set(ids)) == len(ids)
    assert "bios-train-00012-profession" in ids
    assert "bios-dev-00000-profession-r" in ids
    for held_out in ("dev", "dev_rephrased", "test", "test_rephrased", "test_unseen"):
        check_disjoint(bios, "train", held_out)


def test_names_are_unique_and_stand_in_passage_and_questions(
    bios: QADataset, asked: dict[str, list[Question]]
) -> None:
    titles = [passage.title for passage in bios.passages.values()]
    assert len(set(titles)) == len(titles)
    for passage in bios.passages.values():
        assert passage.title in passage.text.split(".")[0]
    for questions in asked.values():
        for question in questions:
            assert bios.gold(question)[0].title in question.question


def test_passages_have_60_to_120_words_and_no_digits(bios: QADataset) -> None:
    for passage in bios.passages.values():
        assert 60 <= len(passage.text.split()) <= 120
        assert not re.search(r"[\d{}]", passage.text)
        assert all(sentence[0].isupper() for sentence in passage.text.split(". "))


def test_each_passage_holds_one_value_of_each_attribute(bios: QADataset) -> None:
    for passage in bios.passages.values():
        for attribute in kind_of(passage.id).attributes:
            assert len(values_in(passage.text, attribute)) == 1, (passage, attribute.name)


def test_the_answer_stands_once_in_the_gold_passage(
    bios: QADataset, asked: dict[str, list[Question]]
) -> None:
    for questions in asked.values():
        for question in questions:
            (answer,) = question.answers
            (passage,) = bios.gold(question)
            assert len(re.findall(rf"(?<= ){answer}\b", passage.text)) == 1
            assert words(passage.text).count(answer.lower()) == 1
            assert answer.lower() not in words(question.question)


def test_indefinite_articles_fit(bios: QADataset) -> None:
    for passage in bios.passages.values():
        assert not re.search(r"\b[Aa] [aio]|\b[Aa]n [^aeiouh]", passage.text), passage.text


def test_no_phrasing_is_shared_by_training_and_rephrased_questions(bios: QADataset) -> None:
    def phrasings(split: str) -> set[str]:
        return {
            question.question.replace(bios.gold(question)[0].title, "NAME")
            for question in bios.split(split)
        }

    assert phrasings("dev") <= phrasings("train")
    assert not phrasings("dev_rephrased") & phrasings("train")
    assert len(phrasings("train")) >= 24 * 4
    assert len(phrasings("dev_rephrased")) >= 24 * 2


def test_dev_splits_ask_the_same_facts(bios: QADataset) -> None:
    dev, rephrased = bios.split("dev"), bios.split("dev_rephrased")
    assert [(f"{q.id}-r", q.answers, q.passage_ids) for q in dev] == [
        (q.id, q.answers, q.passage_ids) for q in rephrased
    ]


def test_a_prefix_of_dev_is_a_fair_sample(bios: QADataset) -> None:
    dev = bios.split("dev")
    kinds = Counter(kind_of(question.passage_ids[0]).name for question in dev[:40])
    assert set(kinds.values()) == {10}
    assert len({question.passage_ids for question in dev[:101]}) == 101
    attributes = Counter(question.id.split("-")[-1] for question in dev[:96])
    assert set(attributes.values()) == {4}
    assert len(attributes) == 24


def test_values_are_spread_evenly() -> None:
    dataset = generate(seed=5, train_entities=8000, dev_entities=0, distractor_entities=0)
    questions = dataset.split("train")  # six of each entity, the four kinds in turn
    for number, (_, attribute) in enumerate(ATTRIBUTES):
        asked = questions[number::24]
        assert all(question.id.endswith(f"-{attribute.name}") for question in asked)
        answers = Counter(question.answers[0] for question in asked)
        assert set(answers) == set(attribute.values)
        assert max(answers.values()) < 4 * len(asked) / len(attribute.values)


def test_distractors_resemble_a_dev_entity(bios: QADataset) -> None:
    for number in range(150):
        twin = bios.passages[f"bios-distractor-{number:05}"]
        original = bios.passages[f"bios-dev-{number % 101:05}"]
        parts = set(words(twin.title)) & set(words(original.title)) - {"the"}
        assert parts
        attributes = kind_of(original.id).attributes
        shared = sum(
            values_in(twin.text, each) == values_in(original.text, each) for each in attributes
        )
        assert shared in (2, 3)


def test_dev_entities_do_not_depend_on_the_training_size() -> None:
    small, large = generate(0, 8, 16, 8), generate(0, 80, 16, 8)
    assert small.splits["dev"] == large.splits["dev"]
    held_out = [id for id in small.passages if "-train-" not in id]
    assert all(small.passages[id] == large.passages[id] for id in held_out)


def test_splits_may_be_empty() -> None:
    names = ("train", "dev", "distractor", "test", "unseen")
    dataset = generate(0, **{f"{name}_entities": 0 for name in names})
    assert dataset.splits.pop("known")
    assert list(dataset.splits.values()) == [[]] * 9
    assert dataset.passages == {}


@pytest.mark.parametrize(
    "name",
    [
        *("seed", "train_entities", "dev_entities", "distractor_entities", "test_entities"),
        *("unseen_entities", "namesakes"),
    ],
)
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        generate(**{name: -1})


def test_more_entities_than_names_are_refused() -> None:
    with pytest.raises(
        ValueError, match=f"names for {MAX_ENTITIES} entities, got {MAX_ENTITIES + 1}"
    ):
        generate(0, MAX_ENTITIES + 1, 0, 0, test_entities=0, unseen_entities=0)


def test_distractors_need_dev_entities_to_resemble() -> None:
    with pytest.raises(ValueError, match="0 dev entities, got 300; lower distractor_entities"):
        generate(0, 10, dev_entities=0)


def test_fewer_questions_of_each_training_entity_take_turns() -> None:
    dataset = generate(train_entities=48, dev_entities=4, distractor_entities=0, train_questions=2)
    questions = dataset.split("train")
    assert len(questions) == 2 * 48
    counts = Counter(question.id.split("-", 3)[-1] for question in questions)
    assert len(counts) == 24
    assert set(counts.values()) == {4}
    with pytest.raises(ValueError, match=r"train_questions must be in 1\.\.6, got 0"):
        generate(train_questions=0)
