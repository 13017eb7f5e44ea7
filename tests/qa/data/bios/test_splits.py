"""The splits beyond train and dev: entities of their own, unseen values, namesakes, known facts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import pytest

from plumbing.storage.hashing import digest
from plumbing.storage.jsonl import write_jsonl
from qa.data.bios import generate, generate_long, known_questions, names
from qa.data.bios.entities import Entity, draw_populations
from qa.data.bios.short import SHORT_KINDS
from qa.data.bios.splits import BIOS, BIOS_LONG, Form
from qa.data.dataset import QADataset, Question, check_disjoint
from qa.metrics import normalize_answer
from retrieval.bm25 import BM25Settings
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage

Make = Callable[..., QADataset]
HELD_OUT = ("dev", "test", "test_unseen")


@pytest.fixture(scope="module")
def bios() -> QADataset:
    """The data set with its default sizes."""
    return generate()


def of_group(dataset: QADataset, group: str) -> list[Passage]:
    return [each for each in dataset.passages.values() if each.id.split("-")[1] == group]


def short_digest(rows: Iterable[Passage | Question]) -> str:
    return digest([asdict(row) for row in rows])[:16]


def stem(word: str) -> str:
    """A word in the singular, roughly."""
    for plural, singular in {"ies": "y", "es": "", "s": ""}.items():
        if word.endswith(plural) and len(word) > len(plural) + 2:
            return word.removesuffix(plural) + singular
    return word


def stems(*texts: str) -> set[str]:
    found = [word for text in texts for word in re.findall("[a-z]+", text.lower())]
    return {form for word in found for form in (word, word.removesuffix("s"), stem(word))}


def test_the_default_train_and_dev_have_not_changed(bios: QADataset) -> None:
    """Of before there were other splits; results in the documentation hold for them."""
    assert {name: short_digest(bios.split(name)) for name in ("train", "dev", "dev_rephrased")} == {
        "train": "428a039e8a591482",
        "dev": "e3a28cd2c0a41a4f",
        "dev_rephrased": "57a385f85c9b2886",
    }
    groups = ("train", "dev", "distractor")
    assert {group: short_digest(of_group(bios, group)) for group in groups} == {
        "train": "097abfc03c51ec25",
        "dev": "afaede8b9fa94b85",
        "distractor": "bb83bd6441cc7b3d",
    }


def test_the_splits_of_bios_have_not_changed(bios: QADataset) -> None:
    names = ("test", "test_rephrased", "test_reworded", "test_unseen", "test_unseen_rephrased")
    assert {name: short_digest(bios.split(name)) for name in (*names, "known")} == {
        "test": "7085d14b100c4b97",
        "test_rephrased": "78d5d7137dd4d901",
        "test_reworded": "baa2d5fc383afa38",
        "test_unseen": "9781b990d6006744",
        "test_unseen_rephrased": "530792415cf43e2f",
        "known": "f3c3372bb115a36a",
    }
    assert short_digest(bios.passages.values()) == "d04016c33cacb9b3"


def test_the_splits_of_bios_long_have_not_changed() -> None:
    dataset = generate_long(0, 40, 12, 12, test_entities=12)
    found = {name: short_digest(questions) for name, questions in dataset.splits.items()}
    assert found == {
        "train": "2e03b599aede4ae5",
        "train_reworded": "7c781a13a23c2c0e",
        "dev": "7987fe007ffd8ca0",
        "dev_rephrased": "06a6a3b3f811e74f",
        "test": "e52a4bd89b061975",
        "test_rephrased": "67ccce353b418b21",
        "test_reworded": "d43b3aba00b5afa1",
        "known": "f3c3372bb115a36a",
    }
    assert short_digest(dataset.passages.values()) == "ff7d0bb3a5e8b39c"


def test_no_entity_is_in_two_splits(bios: QADataset) -> None:
    groups = ("train", "dev", "test", "unseen")
    titles = [{passage.title for passage in of_group(bios, group)} for group in groups]
    assert [len(found) for found in titles] == [2500, 150, 150, 150]
    assert len(set().union(*titles)) == 2500 + 3 * 150
    for held_out in ("dev_rephrased", *HELD_OUT, "test_reworded", "test_unseen_rephrased"):
        check_disjoint(bios, "train", held_out)
    check_disjoint(bios, "dev", "test")
    check_disjoint(bios, "test", "test_unseen")


def test_the_size_of_training_changes_no_test_entity() -> None:
    small, large = (generate(0, size, 16, 8, test_entities=20) for size in (8, 2500))
    for name in ("test", "test_reworded", "test_unseen", "test_unseen_rephrased"):
        assert small.split(name) == large.split(name)
    for group in ("test", "unseen", "test_distractor"):
        assert of_group(small, group) == of_group(large, group)


def test_a_test_fact_is_asked_in_three_ways(bios: QADataset) -> None:
    """In the phrasings of training, as in dev, and in two that are held out."""
    phrasings: dict[str, list[str]] = {}
    for name in ("train", "dev", "test", "test_rephrased", "test_reworded"):
        phrasings[name] = [
            question.question.replace(bios.gold(question)[0].title, "NAME")
            for question in bios.split(name)
        ]
    first, second = phrasings["test_rephrased"], phrasings["test_reworded"]
    assert set(phrasings["test"]) <= set(phrasings["train"])
    assert not {*first, *second} & {*phrasings["train"], *phrasings["dev"]}
    assert all(one != other for one, other in zip(first, second, strict=True))
    facts = [(each.answers, each.passage_ids) for each in bios.split("test")]
    for name in ("test_rephrased", "test_reworded"):
        assert [(each.answers, each.passage_ids) for each in bios.split(name)] == facts


@pytest.mark.parametrize(
    ("split", "share"),
    [("dev", 97.8), ("test", 97.1), ("test_unseen", 0.0), ("test_unseen_rephrased", 0.0)],
)
def test_the_share_of_answers_that_training_has(bios: QADataset, split: str, share: float) -> None:
    assert closed(bios, split) == pytest.approx(share, abs=0.05)


def test_the_share_of_long_answers_that_training_has() -> None:
    dataset = generate_long()
    shares = {split: closed(dataset, split) for split in ("dev", "test")}
    assert shares == {"dev": pytest.approx(30.5), "test": pytest.approx(29.5)}


def closed(dataset: QADataset, split: str) -> float:
    """The percentage of a split's answers that are also a training answer."""
    trained = {normalize_answer(each.answers[0]) for each in dataset.split("train")}
    answers = [normalize_answer(each.answers[0]) for each in dataset.split(split)]
    return 100 * sum(answer in trained for answer in answers) / len(answers)


def test_no_word_of_an_unseen_value_occurs_elsewhere(bios: QADataset) -> None:
    unseen = stems(*(each.answers[0] for each in bios.split("test_unseen")))
    apart = ("unseen", "unseen_distractor")
    seen = [each for each in bios.passages.values() if each.id.split("-")[1] not in apart]
    texts = [text for each in seen for text in (each.title, each.text)]
    for name in ("train", "dev", "dev_rephrased", "test", "test_rephrased", "test_reworded"):
        texts += [each.question for each in bios.split(name)]
        texts += [each.answers[0] for each in bios.split(name)]
    assert unseen & stems(*texts) == set()


def test_no_pool_of_unseen_values_has_a_word_of_another_pool_or_sentence() -> None:
    attributes = [attribute for kind in SHORT_KINDS for attribute in kind.attributes]
    words = stems(
        *(text for attribute in attributes for text in attribute.texts),
        *(text for kind in SHORT_KINDS for text in (*kind.fillers, *kind.shorts, kind.full)),
        *(*names.TITLE_ADJECTIVES, *names.TITLE_NOUNS, *names.SUFFIXES),
        *(form for kind in SHORT_KINDS for _, form in kind.epithets),
    )
    pools = [stems(*attribute.unseen) for attribute in attributes]
    assert [pool & words for pool in pools if pool & words] == []
    assert sum(map(len, pools)) == len(set().union(*pools))


def test_no_invented_name_looks_like_an_unseen_value() -> None:
    """For no seed: no unseen value can come out of the syllables of names."""

    def any_of(*parts: Iterable[str]) -> str:
        return "".join(f"({'|'.join(part)})" for part in parts)

    word = re.compile(
        "|".join(
            [
                any_of(names._ONSETS, names._VOWELS, names._MIDDLES, names._VOWELS),
                any_of(names._CLUSTERS, names._VOWELS, names._CODAS),
                any_of(names._ONSETS, names._VOWELS, names._STEM_CODAS, names._ENDINGS),
            ]
        )
    )
    assert word.fullmatch("befu")
    assert word.fullmatch("gild")
    values = [value for kind in SHORT_KINDS for each in kind.attributes for value in each.unseen]
    assert [value for value in values if word.fullmatch(value.lower())] == []


SIZES = {"train": 8, "dev": 12, "test": 8, "unseen": 8}


@pytest.mark.parametrize("form", [BIOS, BIOS_LONG], ids=lambda form: form.name)
def test_a_question_fits_one_of_those_who_share_a_name(form: Form) -> None:
    families: dict[str, list[Entity]] = defaultdict(list)
    for population in draw_populations(form, 2, SIZES, 12, namesakes=3).values():
        everybody = (*population.entities, *population.distractors, *population.namesakes)
        for entity in everybody:
            families[entity.name].append(entity)
    originals = sum(SIZES[group.name] for group in form.groups if group.held_out)
    assert Counter(map(len, families.values()))[3] == originals
    for family in families.values():
        assert all(entity.shares_name == (len(family) > 1) for entity in family)
        for asked in range(form.attributes):
            assert len({entity.values[asked] for entity in family}) == len(family)
            for rephrased in (False, True):
                called = [entity.called(asked, rephrased) for entity in family]
                assert len(set(called)) == len(family)
                assert not any(
                    entity.values[asked] in name
                    for entity, name in zip(family, called, strict=True)
                )


@pytest.mark.parametrize("make", [generate, generate_long])
def test_namesakes_are_asked_about_in_the_splits_of_their_original(make: Make) -> None:
    sizes = {f"{name}_entities": size for name, size in SIZES.items()}
    if make is generate_long:
        del sizes["unseen_entities"]
    plain, crowded = (make(2, **sizes, distractor_entities=12, namesakes=n) for n in (0, 3))
    assert crowded.split("train") == plain.split("train")
    assert all(crowded.passages[id] == passage for id, passage in plain.passages.items())
    for split in ("dev", "dev_rephrased", "test", "test_reworded"):
        originals, questions = plain.split(split), crowded.split(split)
        assert len(questions) == 4 * len(originals)
        assert [each.id for each in questions[: len(originals)]] == [each.id for each in originals]
        for question in questions:
            (gold,) = crowded.gold(question)
            namesakes = [each for each in crowded.passages.values() if each.title == gold.title]
            answer = re.compile(rf"\b{question.answers[0]}\b")
            assert [each for each in namesakes if answer.search(each.text)] == [gold]
            told_apart = len(namesakes) > 1
            assert told_apart == ("n2-" not in question.id)
            assert gold.title in question.question
    asked = [question for question in crowded.split("dev") if "n" in question.id.split("-")[2]]
    assert asked[0].id.startswith(f"{crowded.name}-dev-00000n1-")


@pytest.mark.slow
def test_bm25_confuses_namesakes_and_is_above_chance(tmp_path: Path) -> None:
    shares = {}
    for number in (0, 4):
        dataset = generate(0, 0, 0, 0, test_entities=40, unseen_entities=0, namesakes=number)
        folder = tmp_path / str(number)
        write_jsonl(folder / "corpus.jsonl", map(asdict, dataset.passages.values()))
        corpus = Corpus.open(folder / "corpus.jsonl", folder / "cache")
        settings = BM25Settings(folder / "index")
        settings.build(corpus)
        questions = dataset.split("test")[: 40 * 6]  # those about the originals
        found = settings.open(corpus).search([each.question for each in questions], 1)
        right = [
            hits[0].passage_id == each.passage_ids[0]
            for hits, each in zip(found, questions, strict=True)
        ]
        shares[number] = sum(right) / len(right)
    assert 1 / 5 < shares[4] < min(0.95, shares[0])


def test_probes_of_general_knowledge() -> None:
    known = known_questions()
    assert len(known) == 177
    for attribute in ("id", "question"):
        assert len({getattr(each, attribute) for each in known}) == len(known)
    for question in known:
        assert question.question.endswith("?")
        assert question.passage_ids == ()
        assert all(0 < len(answer.split()) <= 4 for answer in question.answers)
        assert all(answer == answer.strip() for answer in question.answers)


@pytest.mark.parametrize("make", [generate, generate_long])
def test_every_form_has_the_probes(make: Make) -> None:
    dataset = make(0, 0, 1, 0, test_entities=0)
    assert dataset.split("known") == known_questions()
