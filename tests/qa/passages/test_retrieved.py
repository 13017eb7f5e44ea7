"""Passages from retrieval: the best, and the best that hold no answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.model import Backbone
from genpoe.hypernet.mean import MeanSettings
from genpoe.model import GenPoE
from plumbing.storage.jsonl import DataError, read_jsonl
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import evaluate
from qa.method import AnsweringMethod, BaseMethod, QuestionInput, RAGMethod
from qa.metrics import normalize_answer
from qa.passages.choose import make_passage_source
from qa.passages.retrieved import (
    OracleNegativeError,
    OracleNegatives,
    RetrievedPassages,
    check_oracle_negatives,
)
from qa.passages.source import NoPassages, Selection
from retrieval.answers import holds_answer
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline, PipelineSettings
from retrieval.rerank.reranker import Reranker, relevance
from tests.helpers.fakes import FakeReranker, WordRetriever

CORPUS = {
    passage.id: passage
    for passage in (
        Passage("a", "Tova Blick", "Tova Blick was born in Lisbon by the sea"),
        Passage("b", "Lisbon", "Tova Blick liked it"),
        Passage("c", "", "Tova Brand is no surgeon"),
        Passage("d", "", "The old town by the sea"),
    )
}
WHERE = Question("q1", "Where was Tova Blick born?", ("lisbon", "Lisboa"), ("a",))
LOST = Question("q2", "zebra", ("stripes",), ("d",))
IS_IT = Question("q3", "Is Tova Brand no surgeon?", ("no",), ("c",))
SEA = Question("q4", "sea", ("by the sea",), ("d",))
QUESTIONS = [WHERE, LOST, IS_IT, SEA]


def make(reranker: Reranker | None = None, n: int = 50) -> Pipeline:
    return Pipeline(CORPUS, WordRetriever(CORPUS), reranker, PipelineSettings(n))


def ids(selections: Sequence[Selection]) -> list[str]:
    return ["".join(passage.id for passage in selection.passages) for selection in selections]


def test_retrieved_are_the_best_k_with_the_pipeline_s_weights() -> None:
    source = RetrievedPassages(make(), 2)
    assert ids(source.select(QUESTIONS)) == ["ab", "", "ca", "ad"]
    assert source.select(QUESTIONS)[0].weights == (0.5, 0.5)
    assert source.select([LOST]) == [Selection()]


def test_retrieved_follow_the_reranker_and_its_relevance() -> None:
    (selection,) = RetrievedPassages(make(FakeReranker(rule)), 2).select([WHERE])
    assert ids([selection]) == ["cb"]
    assert selection.weights == relevance([3.0, 2.0])


def rule(query: str, passage: Passage) -> float:
    return {"a": 1.0, "b": 2.0, "c": 3.0}.get(passage.id, 0.0)


def test_the_audit_counts_questions_with_fewer_and_with_none() -> None:
    source = RetrievedPassages(make(), 3)
    selections = source.select(QUESTIONS)
    assert ids(selections) == ["abc", "", "cab", "ad"]
    assert source.audit(QUESTIONS, selections) == {"n_fewer_than_k": 2, "n_without_passage": 1}


def test_oracle_negatives_hold_no_answer_in_title_or_text() -> None:
    source = OracleNegatives(make(), 2)
    # a holds it in its text, b in its title; of a yes/no question the gold passage is left out;
    # both passages about the sea hold the answer.
    assert ids(source.select(QUESTIONS)) == ["c", "", "ab", ""]
    source = OracleNegatives(make(), 1)
    assert ids(source.select([WHERE, IS_IT])) == ["c", "a"]
    selections = source.select(QUESTIONS)
    assert source.audit(QUESTIONS, selections) == {"n_fewer_than_k": 2, "n_without_passage": 2}


def test_weights_of_oracle_negatives_are_over_those_that_are_kept() -> None:
    question = Question("q", "Tova Blick", ("surgeon",))
    (selection,) = OracleNegatives(make(FakeReranker(rule)), 2).select([question])
    assert ids([selection]) == ["ba"]
    assert selection.weights == relevance([2.0, 1.0])


words = st.sampled_from("lisbon lisboa the sea no town u.s. us".split())
texts = st.lists(words, max_size=5).map(" ".join)


@settings(deadline=None)  # processors may be shared
@given(
    st.lists(texts, max_size=5),
    st.lists(texts.filter(bool), min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_oracle_negatives_of_any_corpus(contents: list[str], answers: list[str], k: int) -> None:
    corpus = {str(i): Passage(str(i), text[:3], f"q {text}") for i, text in enumerate(contents)}
    question = Question("q", "q", tuple(answers), ("0",))
    source = OracleNegatives(Pipeline(corpus, WordRetriever(corpus)), k)
    (selection,) = source.select([question])
    source.audit([question], [selection])
    if set(answers) != {"no"}:  # then the gold passages count, not the words
        best = [p for p in corpus.values() if not holds(f"{p.title}\n{p.text}", answers)]
        assert list(selection.passages) == best[:k]


def holds(text: str, answers: list[str]) -> bool:
    """As top-K accuracy counts, or as exact match of any of the text's stretches would."""
    parts = normalize_answer(text).split()
    stretches = {
        " ".join(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)
    }
    return holds_answer(text, answers) or not stretches.isdisjoint(map(normalize_answer, answers))


def test_yes_and_no_without_gold_passages_are_named_and_counted() -> None:
    vague = [Question("v1", "q", ("yes",)), WHERE, Question("v2", "q", ("no",))]
    with pytest.raises(
        DataError, match=r"2 of 3 questions have neither, such as 'v1' \(yes or no\)"
    ):
        OracleNegatives(make()).select(vague)
    assert len(RetrievedPassages(make()).select(vague)) == 3


@pytest.mark.parametrize(
    ("question", "id", "message"),
    [
        (
            WHERE,
            "a",
            r"'a' was selected .* of question 'q1', but it holds the answer 'lisbon'; this",
        ),
        (WHERE, "b", "'b' was selected .* but it holds the answer 'lisbon'"),
        (IS_IT, "c", "'c' was selected .* of question 'q3', but it is a gold passage"),
        (SEA, "d", "'d' was selected .* but it holds the answer 'by the sea'"),
    ],
)
def test_the_checker_refuses_what_holds_an_answer(
    question: Question, id: str, message: str
) -> None:
    good, bad = Selection.uniform([CORPUS["c"]]), Selection.uniform([CORPUS["d"], CORPUS[id]])
    check_oracle_negatives([WHERE], [good])
    with pytest.raises(OracleNegativeError, match=message):
        check_oracle_negatives([WHERE, question], [good, bad])


def test_the_checker_fails_a_run_in_which_one_slips_through(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    class Leaking(OracleNegatives):
        def select(self, questions: Sequence[Question]) -> list[Selection]:
            return RetrievedPassages(self.pipeline, self.k).select(questions)

    method = RAGMethod(tiny_backbone, max_new_tokens=1)
    with pytest.raises(OracleNegativeError, match="'a' was selected"):
        evaluate(method, QUESTIONS, Leaking(make()), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", [RetrievedPassages, OracleNegatives])
def test_k_is_at_most_what_is_retrieved(source: type[RetrievedPassages]) -> None:
    with pytest.raises(ValueError, match=r"k must be in 1 … 3, .* got 4; set k or pipeline\.n"):
        source(make(n=3), 4)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2", None])
def test_k_is_a_positive_whole_number(k: Any) -> None:
    for source in (RetrievedPassages, OracleNegatives):
        with pytest.raises(ValueError, match=f"whole number of at least 1, got {k!r}; set k$"):
            source(make(n=3), k)


def test_evaluation_writes_passages_weights_and_counts(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    method = RAGMethod(tiny_backbone, max_new_tokens=1)
    metrics = evaluate(method, QUESTIONS, OracleNegatives(make(FakeReranker(rule)), 2), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert (metrics["n"], metrics["n_fewer_than_k"], metrics["n_without_passage"]) == (4, 3, 2)
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert ["".join(row["passage_ids"]) for row in rows] == ["c", "", "ba", ""]
    assert rows[2]["weights"] == list(relevance([2.0, 1.0]))


def test_sources_by_name(people: QADataset) -> None:
    for kind, source in (("retrieved", RetrievedPassages), ("oracle_negative", OracleNegatives)):
        made = make_passage_source(kind, people, pipeline=make())
        assert type(made) is source


class Injecting(AnsweringMethod):
    """GenPoE with random experts that are not zero."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, max_new_tokens=4)
        hypernet = MeanSettings(layer=1, rank=4, hidden_width=8).build(backbone)
        with torch.no_grad():
            for parameter in hypernet.parameters():
                parameter.normal_(std=0.5)
        self.genpoe = GenPoE(backbone, hypernet.requires_grad_(False), layer=0)

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        return self.genpoe.injected(
            [input.selection.passages for input in inputs],
            [input.selection.weights for input in inputs],
        )


@pytest.mark.parametrize("make_method", [RAGMethod, Injecting])
def test_a_question_without_passages_is_answered_closed_book(
    make_method: type[AnsweringMethod], tiny_backbone: Backbone
) -> None:
    """In a batch of its own, and beside questions that have some."""
    torch.manual_seed(0)
    method, base = make_method(tiny_backbone), BaseMethod(tiny_backbone, max_new_tokens=4)
    method.max_new_tokens = 4
    selections = RetrievedPassages(make(), 2).select([LOST, WHERE])
    inputs = [QuestionInput(*pair) for pair in zip([LOST, WHERE], selections, strict=True)]
    closed = [QuestionInput(LOST, NoPassages().select([LOST])[0]), QuestionInput(WHERE)]
    assert selections[0] == Selection()
    assert method.answer(inputs[:1]) == base.answer(closed[:1])
    mixed, expected = method.answer(inputs), base.answer(closed)
    assert mixed[0].text == expected[0].text
    assert mixed[0].nll == pytest.approx(expected[0].nll, rel=1e-5)
    assert mixed[1].nll != pytest.approx(expected[1].nll, rel=1e-3)
