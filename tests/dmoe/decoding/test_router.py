"""Routers choose only experts that exist, enough of them, and always the same ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmoe.decoding.router import (
    OracleRouter,
    RandomRouter,
    RetrievalRouter,
    RoutingRequest,
    retrieval_router,
)
from dmoe.decoding.trigger import (
    ConstantTrigger,
    FirstTrigger,
    NewToken,
    RandomTrigger,
    UncertaintyTrigger,
)
from retrieval.passage import Passage
from tests.helpers.fakes import WordRetriever


def corpus(texts):
    return {id: Passage(id, "", text) for id, text in texts.items()}


TOKENS = [NewToken(0, "where?")]
TOWNS = corpus({f"p{i}": "town by the sea" + " in lisbon" * (i % 3) for i in range(40)})


class Noting(WordRetriever):
    """A retriever that records how many hits it was asked for."""

    def search(self, queries, k):
        self.depths = [*getattr(self, "depths", []), k]
        return super().search(queries, k)


def ids(hits):
    return [[hit.passage_id for hit in row] for row in hits]


def test_the_best_hits_that_have_an_expert_in_their_order():
    router = RetrievalRouter(
        {"b", "c"}, WordRetriever(corpus({"a": "x y z", "b": "x", "c": "x y"}))
    )
    assert ids(router.route([RoutingRequest("x y z")], 3)) == [["c", "b"]]
    assert ids(router.route([RoutingRequest("x y z")], 1)) == [["c"]]


def test_it_looks_further_down_until_it_has_k():
    retriever = Noting(TOWNS)
    bank = {"p30", "p31", "p39"}
    assert set(*ids(RetrievalRouter(bank, retriever).route([RoutingRequest("sea")], 3))) == bank
    assert retriever.depths == [3, 12, 48]


def test_it_ends_where_the_hits_end():
    retriever = Noting(TOWNS)
    assert ids(RetrievalRouter(set(), retriever).route([RoutingRequest("sea")], 3)) == [[]]
    assert retriever.depths == [3]  # with an empty bank it does not look further
    bank = set(ids(retriever.search(["sea"], 2))[0])
    retriever.depths.clear()
    assert set(*ids(RetrievalRouter(bank, retriever).route([RoutingRequest("sea")], 3))) == bank
    assert retriever.depths == [3]  # nor if all experts of the bank are found
    retriever.depths.clear()
    elsewhere = RetrievalRouter({"x", "y", "z"}, retriever)
    assert ids(elsewhere.route([RoutingRequest("sea")], 3)) == [[]]
    assert retriever.depths == [3, 12, 48]
    assert ids(RetrievalRouter(set(TOWNS), retriever).route([RoutingRequest("nothing")], 3)) == [[]]
    assert RetrievalRouter(set(TOWNS), retriever).route([], 3) == []


def test_a_query_is_searched_once():
    retriever = Noting(TOWNS)
    requests = [RoutingRequest("sea"), RoutingRequest("lisbon"), RoutingRequest("sea")]
    hits = RetrievalRouter(set(TOWNS), retriever).route(requests, 2)
    assert retriever.asked == [["sea", "lisbon"]]
    assert hits[0] == hits[2] != hits[1]


def test_an_index_is_opened_with_its_surrogates():
    class Settings:
        def open(self, surrogates):
            return WordRetriever(surrogates)

    router = retrieval_router({"a"}, Settings(), corpus({"a": "x"}))
    assert ids(router.route([RoutingRequest("x")], 3)) == [["a"]]
    retrieval_router(set(), Settings(), corpus({"a": "x"}))
    with pytest.raises(ValueError, match=r"a bank of others, such as 'b'; set corpus\.path"):
        retrieval_router({"b"}, Settings(), corpus({"a": "x"}))


@given(st.sets(st.text(), min_size=1), st.integers(1, 5), st.text(), st.integers(0, 3))
def test_random_experts_are_different_ones_of_the_bank(bank, k, query, seed):
    hits = RandomRouter(bank, seed).route([RoutingRequest(query), RoutingRequest("other")], k)
    assert len(set(ids(hits)[0])) == len(hits[0]) == min(k, len(bank))
    assert set(ids(hits)[0]) <= bank
    # Neither the order of the bank nor the rest of the batch matters.
    again = RandomRouter(sorted(bank, reverse=True), seed).route([RoutingRequest(query)], k)
    assert again == hits[:1]


def test_another_seed_draws_other_experts():
    bank = [f"p{i}" for i in range(1000)]
    first, second = (RandomRouter(bank, seed).route([RoutingRequest("q")], 3) for seed in (0, 1))
    assert first != second


def test_every_expert_is_drawn_about_equally_often():
    router = RandomRouter(["a", "b", "c", "d"])
    drawn = [ids(router.route([RoutingRequest(str(i))], 1))[0][0] for i in range(2000)]
    assert all(400 < drawn.count(id) < 600 for id in "abcd")


@given(st.sets(st.sampled_from("abcdef"), min_size=1), st.sets(st.sampled_from("abcdxy")))
def test_random_experts_are_never_the_right_ones(bank, gold):
    requests = [RoutingRequest(query, gold=tuple(gold)) for query in "pqrst"]
    for redraw in (True, False):
        for k in (1, 3, 9):
            for hits in ids(RandomRouter(bank, redraw=redraw).route(requests, k)):
                assert len(set(hits)) == len(hits) == min(k, len(bank - gold))
                assert set(hits) <= bank - gold


def test_a_fixed_draw_is_the_same_for_all_questions():
    bank = [f"p{i}" for i in range(100)]
    queries = [RoutingRequest(str(i)) for i in range(20)]
    fixed, redrawn = (
        ids(RandomRouter(bank, 0, redraw).route(queries, 3)) for redraw in (False, True)
    )
    assert all(hits == fixed[0] for hits in fixed)
    assert len({tuple(hits) for hits in redrawn}) > 10
    # A question to which one of them is right gets the next one in its place.
    (changed,) = ids(
        RandomRouter(bank, 0, False).route([RoutingRequest("q", gold=(fixed[0][1],))], 3)
    )
    assert changed[:2] == [fixed[0][0], fixed[0][2]]
    assert changed[2] not in fixed[0]
    assert ids(RandomRouter(bank, 1, False).route(queries, 3)) != fixed


def test_the_oracle_takes_the_given_passages():
    router = OracleRouter({"a", "b", "c"})
    requests = [RoutingRequest("q", ("c", "x", "a", "b")), RoutingRequest("q")]
    assert ids(router.route(requests, 2)) == [["c", "a"], []]


def test_only_the_oracle_needs_passages():
    assert OracleRouter(()).uses_passages
    assert not RandomRouter(["a"]).uses_passages
    assert not RetrievalRouter((), WordRetriever({})).uses_passages


def test_the_threshold_itself_does_not_trigger():
    assert UncertaintyTrigger(2.0).fires([1.9, 2.0, 2.1], TOKENS * 3) == [False, False, True]


def test_random_triggers_at_its_rate_whatever_the_batch():
    trigger = RandomTrigger(0.3)
    names = [NewToken(i, "q") for i in range(4000)]
    fired = trigger.fires([9.0] * len(names), names)
    assert 0.27 < sum(fired) / len(fired) < 0.33
    assert trigger.fires([0.0] * 10, names[5:15]) == fired[5:15]
    assert RandomTrigger(0.3, seed=1).fires([9.0] * len(names), names) != fired
    assert not any(RandomTrigger(0.0).fires([9.0] * len(names), names))
    assert all(RandomTrigger(1.0).fires([9.0] * len(names), names))


def test_constant_triggers():
    assert ConstantTrigger(True).fires([0.0, 9.0], TOKENS * 2) == [True, True]
    assert ConstantTrigger(False).fires([0.0, 9.0], TOKENS * 2) == [False, False]


def test_the_first_trigger_fires_before_anything_was_decoded():
    tokens = [NewToken(0, "a"), NewToken(1, "a"), NewToken(0, "b"), NewToken(7, "b")]
    assert FirstTrigger().fires([0.0, 9.0, 9.0, 9.0], tokens) == [True, False, True, False]


@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_a_bad_threshold_is_an_error(threshold):
    with pytest.raises(ValueError, match=r"threshold must not be negative, got .*; set threshold"):
        UncertaintyTrigger(threshold)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_bad_rate_is_an_error(rate):
    with pytest.raises(ValueError, match=r"rate must be in 0\.\.1, got .*; set rate"):
        RandomTrigger(rate)
