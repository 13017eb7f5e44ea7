"""Which passages a question gets."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question
from qa.passages.choose import make_passage_source
from qa.passages.gold import GoldPassages, ShuffledPassages
from qa.passages.source import NoPassages, Selection
from retrieval.passage import Passage


def make_dataset(*gold: tuple[int, ...]) -> QADataset:
    """A data set whose questions have these gold passages."""
    numbers = sorted({number for ids in gold for number in ids})
    passages = {f"p{n}": Passage(f"p{n}", f"Title {n}", f"Text {n}.") for n in numbers}
    questions = [
        Question(f"q{i}", f"Question {i}?", ("yes",), tuple(f"p{n}" for n in ids))
        for i, ids in enumerate(gold)
    ]
    return QADataset("made", passages, {"dev": questions})


def ids(selections: list[Selection]) -> list[tuple[str, ...]]:
    return [tuple(passage.id for passage in selection.passages) for selection in selections]


def test_gold_takes_the_first_k_with_equal_weights() -> None:
    dataset = make_dataset((0, 1, 2), (3,))
    selections = GoldPassages(dataset, 2).select(dataset.split("dev"))
    assert ids(selections) == [("p0", "p1"), ("p3",)]
    assert [selection.weights for selection in selections] == [(0.5, 0.5), (1.0,)]


def test_no_passages_are_an_empty_selection_each() -> None:
    questions = make_dataset((0,), (1,)).split("dev")
    assert NoPassages().select(questions) == [Selection(), Selection()]


def test_shuffled_is_a_derangement_of_the_gold_passages(people: QADataset) -> None:
    questions = people.split("dev")
    gold = ids(GoldPassages(people, 1).select(questions))
    for seed in range(20):
        shuffled = ids(ShuffledPassages(people, seed, 1).select(questions))
        assert Counter(shuffled) == Counter(gold)
        assert not any(own == other for own, other in zip(gold, shuffled, strict=True))


def test_shuffled_follows_its_seed(people: QADataset) -> None:
    questions = people.split("dev")
    drawn = [ids(ShuffledPassages(people, seed, 1).select(questions)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@given(
    gold=st.lists(
        st.lists(st.integers(0, 12), min_size=1, max_size=3, unique=True).map(tuple),
        min_size=1,
        max_size=20,
    ),
    seed=st.integers(0, 5),
)
def test_shuffled_shares_no_passage_or_says_that_it_must(
    gold: list[tuple[int, ...]], seed: int
) -> None:
    dataset = make_dataset(*gold)
    questions = dataset.split("dev")
    stuck = [i for i, own in enumerate(gold) if all(set(own) & set(other) for other in gold)]
    source = ShuffledPassages(dataset, seed, 3)
    if stuck:
        with pytest.raises(DataError, match="passages=shuffled needs another question"):
            source.select(questions)
        return
    selections = source.select(questions)
    for question, selection in zip(questions, selections, strict=True):
        assert selection.passages
        assert {passage.id for passage in selection.passages}.isdisjoint(question.passage_ids)


def test_shuffled_never_gives_the_same_text_under_another_id() -> None:
    dataset = make_dataset((0,), (1,), (2,))
    twins = {"p0": Passage("p0", "", "One  text."), "p1": Passage("p1", "", "One text.")}
    dataset = QADataset("made", {**dataset.passages, **twins}, dataset.splits)
    for seed in range(10):
        shuffled = ids(ShuffledPassages(dataset, seed, 1).select(dataset.split("dev")))
        assert shuffled[:2] == [("p2",), ("p2",)]


def test_shuffled_of_few_questions_borrows_from_the_data_set(people: QADataset) -> None:
    question = people.split("dev")[:1]
    (selection,) = ShuffledPassages(people, k=1).select(question)
    assert selection.passages[0].id != "p0"


def test_shuffled_with_one_passage_is_impossible() -> None:
    dataset = make_dataset((0,), (0,))
    with pytest.raises(DataError, match=r"'q0'.*'made' has none; use a data set with more"):
        ShuffledPassages(dataset, k=1).select(dataset.split("dev"))


def test_shuffled_lends_passages_to_probes_that_have_none(people: QADataset) -> None:
    probes = [Question(f"k{number}", "What?", ("It",)) for number in range(3)]
    selections = ShuffledPassages(people, seed=1, k=1).select(probes)
    assert all(len(selection.passages) == 1 for selection in selections)
    with pytest.raises(DataError, match="3 of 3 questions"):
        GoldPassages(people).select(probes)


@pytest.mark.parametrize("source", [GoldPassages, ShuffledPassages])
def test_questions_without_gold_passage_are_named_and_counted(source: type) -> None:
    dataset = make_dataset((0,), (), (1,), ())
    with pytest.raises(DataError, match=r"2 of 4 questions of data set 'made'.*such as 'q1'"):
        source(dataset).select(dataset.split("dev"))


@pytest.mark.parametrize("source", [GoldPassages, ShuffledPassages])
def test_k_must_be_positive(source: type, people: QADataset) -> None:
    with pytest.raises(ValueError, match=r"k must be a whole number of at least 1, got 0; set k$"):
        source(people, k=0)


def test_a_selection_needs_a_weight_for_each_passage(people: QADataset) -> None:
    with pytest.raises(ValueError, match="got 1 passages and 2 weights"):
        Selection((people.passages["p0"],), (0.5, 0.5))


def test_sources_by_name(people: QADataset) -> None:
    questions = people.split("dev")
    for kind, source in (("gold", GoldPassages(people)), ("shuffled", ShuffledPassages(people, 7))):
        made = make_passage_source(kind, people, seed=7)
        assert made.select(questions) == source.select(questions)


@pytest.mark.parametrize("kind", ["retrieved", "oracle_negative"])
def test_retrieval_without_an_index_is_an_error(kind: str, people: QADataset) -> None:
    with pytest.raises(ValueError, match=f"passages={kind} needs a retrieval index"):
        make_passage_source(kind, people)


def test_unknown_source_is_an_error(people: QADataset) -> None:
    with pytest.raises(ValueError, match=r"must be one of gold, .*, got 'golden'"):
        make_passage_source("golden", people)
