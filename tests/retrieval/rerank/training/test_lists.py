"""Mining lists for a reranker: which passages are positives, negatives or neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError, write_jsonl
from retrieval.answers import holds_answer
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage, passage_text
from retrieval.rerank.training.lists import (
    LabelledQuery,
    RankedList,
    digest,
    hold_out,
    mine,
    mine_cached,
)
from retrieval.retriever import Hit

CORPUS = {
    "gold": Passage("gold", "Tova Blick", "Tova Blick was born in Lisbon."),
    "twin": Passage("twin", "Blick", "The surgeon came from LISBON by the sea."),
    "titled": Passage("titled", "Lisbon", "A town."),
    "alias": Passage("alias", "Lisboa", "Locals say Olissipo."),
    "party": Passage("party", "Parts", "Lisbonne is another word."),
    "no1": Passage("no1", "Porto", "Tova was not born in Porto."),
    "no2": Passage("no2", "Fox", "The quick brown fox."),
}


def holds(query: LabelledQuery, passage: Passage) -> bool:
    return holds_answer(passage_text(passage), query.answers)


QUERY = LabelledQuery("Where was Tova Blick born?", ("Lisbon", "Olissipo"), ("gold",))


class Fixed:
    """A retriever that finds the same passages for every query, and counts the queries."""

    def __init__(self, *ids: str, fingerprint: str = "fixed") -> None:
        self.ids = ids
        self.fingerprint = fingerprint
        self.asked = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.asked += len(queries)
        return [[Hit(id, -float(i)) for i, id in enumerate(self.ids[:k])] for _ in queries]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    path = tmp_path / "passages.jsonl"
    write_jsonl(path, [{"id": p.id, "title": p.title, "text": p.text} for p in CORPUS.values()])
    return Corpus.open(path, cache_dir=tmp_path / "cache")


def test_negatives_hold_no_alias_in_title_or_text() -> None:
    found = mine([QUERY], Fixed(*reversed(CORPUS)), CORPUS, holds)
    (one,) = found.lists
    assert one == RankedList(QUERY.query, ("gold",), ("no2", "no1", "party"), 3)
    assert (found.without_positive, found.without_negative) == (0, 0)


def test_above_counts_the_negatives_before_the_gold_passage() -> None:
    (one,) = mine([QUERY], Fixed("twin", "no1", "gold", "no2"), CORPUS, holds).lists
    assert (one.negative_ids, one.above) == (("no1", "no2"), 1)


def test_a_gold_passage_that_is_not_found_is_below_all() -> None:
    (one,) = mine([QUERY], Fixed("no1", "no2", "gold"), CORPUS, holds, depth=2).lists
    assert (one.positive_ids, one.negative_ids, one.above) == (("gold",), ("no1", "no2"), 2)


def test_a_gold_passage_is_no_negative_where_the_answer_is_not_in_it() -> None:
    query = LabelledQuery("Is it?", ("yes",), ("no1", "no2"))
    (one,) = mine([query], Fixed("party", "no2", "gold", "no1"), CORPUS, holds).lists
    assert (one.positive_ids, one.negative_ids, one.above) == (
        ("no1", "no2"),
        ("party", "gold"),
        1,
    )


def test_what_is_held_out_is_in_no_list() -> None:
    both = LabelledQuery("Where?", ("Lisbon",), ("gold", "twin"))
    found = mine(
        [QUERY, both], Fixed("no1", "no2", "twin"), CORPUS, holds, held_out={"gold", "no1"}
    )
    (one,) = found.lists
    assert one == RankedList("Where?", ("twin",), ("no2",), 1)
    assert found.without_positive == 1


def test_queries_that_give_no_list_are_counted() -> None:
    homeless = LabelledQuery("Who?", ("x",), ("elsewhere",))
    unknown = LabelledQuery("What?", ("x",), ())
    easy = LabelledQuery("Where?", ("Porto", "fox"), ("gold",))
    found = mine([homeless, easy, unknown, QUERY], Fixed("no1", "no2"), CORPUS, holds)
    assert [one.query for one in found.lists] == [QUERY.query]
    assert (found.without_positive, found.without_negative) == (2, 1)


def test_a_retriever_that_finds_nothing_gives_no_list() -> None:
    with pytest.raises(DataError, match=r"got none among 1 queries, of which 1 have a gold"):
        mine([QUERY], Fixed(), CORPUS, holds)
    with pytest.raises(DataError, match=r"of which 0 have a gold passage there; give the corpus"):
        mine([LabelledQuery("Who?", ("x",), ("elsewhere",))], Fixed("no1"), CORPUS, holds)
    with pytest.raises(ValueError, match=r"depth must be positive, got 0; set depth"):
        mine([QUERY], Fixed("no1"), CORPUS, holds, depth=0)


@given(
    st.permutations(sorted(CORPUS)),
    st.integers(1, 9),
    st.lists(st.sampled_from(["Lisbon", "Porto", "fox", "Town", "x"]), min_size=1),
    st.sets(st.sampled_from(sorted(CORPUS)), min_size=1),
)
def test_lists_are_sound_whatever_is_found(
    order: list[str], depth: int, answers: list[str], gold: set[str]
) -> None:
    query = LabelledQuery("q", tuple(answers), tuple(sorted(gold)))
    hits = order[:depth]
    expected = [
        id for id in hits if id not in gold and not holds_answer(passage_text(CORPUS[id]), answers)
    ]
    if not expected:
        with pytest.raises(DataError):
            mine([query], Fixed(*order), CORPUS, holds, depth)
        return
    (one,) = mine([query], Fixed(*order), CORPUS, holds, depth).lists
    assert list(one.negative_ids) == expected
    places = [hits.index(id) for id in gold if id in hits]
    assert one.above == sum(hits.index(id) < min(places, default=depth) for id in expected)


def test_lists_are_mined_once(corpus: Corpus, tmp_path: Path) -> None:
    retriever = Fixed("no1", "gold", "no2")
    folder = tmp_path / "lists"
    first = mine_cached([QUERY], retriever, corpus, holds, 3, (), folder)
    assert first == mine([QUERY], Fixed("no1", "gold", "no2"), CORPUS, holds, 3)
    assert mine_cached([QUERY], retriever, corpus, holds, 3, (), folder) == first
    assert retriever.asked == 1
    mine_cached([QUERY], retriever, corpus, holds, 3, (), None)
    assert retriever.asked == 2


def test_all_that_decides_the_lists_is_in_their_key(corpus: Corpus, tmp_path: Path) -> None:
    folder, retriever = tmp_path / "lists", Fixed("no1", "gold", "no2")
    other = LabelledQuery(QUERY.query, ("Lisbon",), QUERY.gold_ids)
    mine_cached([QUERY], retriever, corpus, holds, 3, (), folder)
    mine_cached([QUERY], retriever, corpus, holds, 2, (), folder)
    mine_cached([other], retriever, corpus, holds, 3, (), folder)
    mine_cached([QUERY, QUERY], retriever, corpus, holds, 3, (), folder)
    mine_cached([QUERY], retriever, corpus, holds, 3, {"no1"}, folder)
    mine_cached([QUERY], Fixed("no1", "no2", fingerprint="b"), corpus, holds, 3, (), folder)
    path = tmp_path / "fewer.jsonl"
    rows = [{"id": p.id, "title": p.title, "text": p.text} for p in CORPUS.values()]
    write_jsonl(path, rows[:1] + rows[2:])
    fewer = Corpus.open(path, cache_dir=tmp_path / "cache")
    mine_cached([QUERY], retriever, fewer, holds, 3, (), folder)
    assert len(list(folder.iterdir())) == 7


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "other rows"])
def test_damaged_lists_are_mined_again(
    corpus: Corpus, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    retriever, folder = Fixed("no1", "gold", "no2"), tmp_path / "lists"
    whole = mine_cached([QUERY, QUERY], retriever, corpus, holds, 3, (), folder)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "other rows":
        write_jsonl(path, [{"lists": 1, "without_positive": 0, "without_negative": 0}])
    else:
        path.write_bytes(content[: -20 if damage == "truncated" else 0])
    assert mine_cached([QUERY, QUERY], retriever, corpus, holds, 3, (), folder) == whole
    assert "is damaged and made again" in caplog.text
    assert retriever.asked == 4
    mine_cached([QUERY, QUERY], retriever, corpus, holds, 3, (), folder)
    assert retriever.asked == 4


def some_lists(n: int, passages: int) -> list[RankedList]:
    random = np.random.default_rng(0)
    return [
        RankedList(f"q{i}", tuple(f"p{j}" for j in random.integers(passages, size=2)), ("n",), 0)
        for i in range(n)
    ]


@given(st.integers(0, 30), st.integers(0, 3), st.integers(60, 200))
def test_training_never_sees_a_passage_held_out(size: int, seed: int, passages: int) -> None:
    lists = some_lists(60, passages)
    train, held_out = hold_out(lists, size, seed)
    assert len(held_out) <= size
    seen = {id for one in held_out for id in one.positive_ids}
    assert all(seen.isdisjoint(one.positive_ids) for one in train)
    assert [one for one in lists if one in held_out] == held_out
    assert (train, held_out) == hold_out(lists, size, seed)


def test_a_passage_held_out_is_no_negative_either() -> None:
    lists = [
        RankedList("q0", ("p0",), ("n", "p1", "m", "p2"), 3),
        RankedList("q1", ("p1",), ("p0", "p2", "n"), 0),
        RankedList("q2", ("p2",), ("p0", "p1"), 2),
    ]
    for seed in range(9):
        train, held_out = hold_out(lists, 1, seed)
        (gold,) = held_out[0].positive_ids
        assert all(gold not in one.negative_ids for one in train)
        if gold == "p1":
            assert train == [
                RankedList("q0", ("p0",), ("n", "m", "p2"), 2),
                RankedList("q2", ("p2",), ("p0",), 1),
            ]
    only = [RankedList("q0", ("p0",), ("p1",), 1), lists[1], RankedList("q2", ("p2",), ("n",), 0)]
    kept = {one.query for seed in range(9) for one in hold_out(only, 1, seed)[0]}
    assert kept == {"q0", "q1", "q2"}
    assert [[one.query for one in hold_out(only, 1, seed)[0]] for seed in range(9)].count(["q2"])


def test_as_many_are_held_out_as_passages_allow() -> None:
    lists = [RankedList(f"q{i}", (f"p{i // 5}",), ("n",), 0) for i in range(100)]
    train, held_out = hold_out(lists, 12)
    assert (len(train), len(held_out)) == (90, 10)
    assert hold_out(lists, 12, seed=1)[1] != held_out
    assert hold_out(lists, 0) == (lists, [])
    with pytest.raises(ValueError, match=r"beside 100 held out, got 100 in all; give more"):
        hold_out(lists, 100)


def test_the_digest_is_of_lists_and_order() -> None:
    lists = some_lists(3, 5)
    assert digest(lists) == digest(list(lists))
    assert len({digest(lists), digest(lists[::-1]), digest(lists[:2])}) == 3
