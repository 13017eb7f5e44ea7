"""Gold ids that are compared with those of another corpus: it is said, and not just scored 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa.data.dataset import Question
from qa.evaluation.retrieval import evaluate_retrieval
from qa.passages.gold_ids import gold_ids, warn_of_missing_gold
from qa.passages.retrieved import OracleNegatives, RetrievedPassages
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline
from tests.helpers.fakes import WordRetriever

QUESTIONS = [
    Question(f"q{i}", f"Where is the house number {i}?", (f"street {i}",), (f"p{i}",))
    for i in range(10)
]


def pipeline(prefix: str, others: int = 0) -> Pipeline:
    """The questions' passages, of which the first ones have ids with another prefix."""
    passages = [
        Passage(f"{prefix if i < others else ''}p{i}", "", f"house number {i} in street {i}")
        for i in range(10)
    ]
    corpus = {passage.id: passage for passage in passages}
    return Pipeline(corpus, WordRetriever(corpus))


def test_gold_ids_of_another_corpus_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = evaluate_retrieval(pipeline("w", 10), QUESTIONS, [1], tmp_path)
    assert (metrics["accuracy@1"], metrics["recall@1"]) == (100, 0)
    assert "none of 10 gold passages (0 %) have their id in the corpus, and 'p0'" in caplog.text
    assert "give the corpus whose ids the data set's passage_ids name" in caplog.text


@pytest.mark.parametrize(("others", "said"), [(6, "only 4 of 10 gold passages (40 %)"), (5, "")])
def test_few_gold_ids_of_the_corpus_are_said_with_their_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, others: int, said: str
) -> None:
    evaluate_retrieval(pipeline("w", others), QUESTIONS, [1], tmp_path)
    assert said in caplog.text
    assert ("gold passages" in caplog.text) == bool(said)


@pytest.mark.parametrize("source", [RetrievedPassages, OracleNegatives])
def test_retrieved_passages_of_another_corpus_are_said(
    caplog: pytest.LogCaptureFixture, source: type[RetrievedPassages]
) -> None:
    source(pipeline("w", 10)).select(QUESTIONS)
    assert "none of 10 gold passages" in caplog.text
    caplog.clear()
    source(pipeline("w")).select(QUESTIONS)
    assert not caplog.text


def test_where_no_gold_passage_is_known_there_is_nothing_to_say(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert gold_ids([Question("q", "Who?", ("x",)), *QUESTIONS[:2], QUESTIONS[0]]) == ["p0", "p1"]
    warn_of_missing_gold([], {}, "the corpus", "nothing")
    assert not caplog.text
