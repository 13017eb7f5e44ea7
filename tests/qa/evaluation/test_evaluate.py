"""Evaluation: what is asked, in which order, and what is written."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from backbone.model import Backbone
from plumbing.storage.files import write_json
from plumbing.storage.jsonl import DataError, read_jsonl
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import answer_all, evaluate, sample
from qa.method import BaseMethod, Prediction, QuestionInput, RAGMethod
from qa.passages.gold import GoldPassages, ShuffledPassages
from qa.passages.source import Selection
from qa.prompts import prompt_template
from qa.statistics import clusters_of, estimate
from qa.tables.tables import summary


class Agreeing(RAGMethod):
    """Answers "Yes, …" to everything."""

    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        return [Prediction("Yes, and more.", 1.0) for _ in inputs]


def test_accuracy_where_all_questions_want_yes_or_no(
    tiny_backbone: Backbone, people: QADataset, tmp_path: Path
) -> None:
    first, *others = people.split("dev")
    asked = [replace(first, answers=(answer,)) for answer in ("yes", "no", "No", "yes")]
    method, source = Agreeing(tiny_backbone), GoldPassages(people)
    metrics = evaluate(method, asked, source, tmp_path / "all")
    assert metrics["acc"] == 50
    assert metrics["acc_low"] < 50 < metrics["acc_high"]
    assert metrics["em"] == 0
    assert "acc" not in evaluate(method, [*asked, *others], source, tmp_path / "some")


class Routed(Agreeing):
    """Agrees, and finds a gold passage for every second question that has one."""

    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        found = [None, False, True, False, True]
        return [Prediction("yes", 1.0, {"found": one}) for one in found[: len(inputs)]]

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return {"found": 50.0, "tokens": 3.0}


def test_a_share_of_the_questions_that_a_method_measures_has_an_interval(
    tiny_backbone: Backbone, people: QADataset, tmp_path: Path
) -> None:
    asked = people.split("dev")[:5]
    metrics = evaluate(Routed(tiny_backbone), asked, GoldPassages(people), tmp_path)
    passages = [question.passage_ids for question in asked[1:]]
    expected = estimate([0, 100, 0, 100], clusters_of(passages), 100)
    keys = [f"found{end}" for end in ("", "_low", "_high")]
    assert [metrics[key] for key in keys] == pytest.approx(expected)
    assert "tokens_low" not in metrics


def test_questions_of_a_single_passage_have_no_interval_of_the_nll(
    scripted: Scripted, people: QADataset, tmp_path: Path
) -> None:
    asked = people.split("dev")[:2]
    metrics = evaluate(scripted, asked, GoldPassages(people), tmp_path)
    assert (metrics["n"], metrics["clusters"]) == (2, 1)
    assert "nll_low" not in metrics
    assert metrics["em_high"] - metrics["em_low"] > 70
    assert summary(metrics).endswith("over 2 questions")


def test_a_score_that_is_not_finite_is_an_error_that_keeps_the_answers(
    scripted: Scripted, people: QADataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, source = people.split("dev"), GoldPassages(people)
    evaluate(scripted, asked, source, tmp_path)
    monkeypatch.setattr(
        scripted, "answer", lambda inputs: [Prediction("x", float("nan"))] * len(inputs)
    )
    message = rf"of 8 of 8 right answers is not finite, such as that of question '{asked[0].id}'"
    with pytest.raises(ValueError, match=message):
        evaluate(scripted, asked, source, tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["made_with.json", "predictions.jsonl"]


class Scripted(RAGMethod):
    """Answers "Lisbon" to everything, with an nll that tells the questions apart."""

    batches: list[list[str]]

    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        self.batches.append([input.question.id for input in inputs])
        return [Prediction("Lisbon", float(len(self.prompt(input)))) for input in inputs]


@pytest.fixture
def scripted(tiny_backbone: Backbone) -> Scripted:
    method = Scripted(tiny_backbone)
    method.batches = []
    return method


def test_metrics_and_predictions_are_written(
    scripted: Scripted, people: QADataset, tmp_path: Path
) -> None:
    questions = people.split("dev")
    metrics = evaluate(
        scripted, questions, GoldPassages(people), tmp_path / "new", batch_size=3, seed=5
    )
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == metrics
    rows = [row for _, row in read_jsonl(tmp_path / "new" / "predictions.jsonl")]
    nll = [float(len(scripted.prompt(i))) for i in inputs_of(people)]
    assert rows[1] == {
        "id": "q0b",
        "question": "When was Tova Blick born?",
        "answers": ["9 1 0"],
        "gold_ids": ["p0"],
        "prediction": "Lisbon",
        "passage_ids": ["p0"],
        "weights": [1.0],
        "em": 0.0,
        "f1": 0.0,
        "nll": nll[1],
    }
    assert [row["id"] for row in rows] == [question.id for question in questions]
    assert [row["nll"] for row in rows] == nll
    assert metrics["em"] == metrics["f1"] == 50.0
    assert metrics["nll"] == pytest.approx(np.mean(nll))
    # Each passage has two questions, one of which is right: as good as eight independent ones.
    wilson = scipy.stats.binomtest(4, 8).proportion_ci(method="wilson")
    assert metrics["em_low"] == pytest.approx(100 * wilson.low, abs=5)
    assert metrics["em_high"] == pytest.approx(100 * wilson.high, abs=5)
    assert metrics["nll_low"] < metrics["nll"] < metrics["nll_high"]
    assert (metrics["n"], metrics["clusters"]) == (8, 4)
    assert metrics["seconds_per_question"] > 0
    assert metrics["peak_memory"] > 1e7
    assert set(metrics) == {
        *("n", "clusters", "peak_memory"),
        *("seconds_per_question", "retrieval_seconds_per_question"),
        *(f"{name}{end}" for name in ("em", "f1", "nll") for end in ("", "_low", "_high")),
    }
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "made_with.json",
        "metrics.json",
        "predictions.jsonl",
    ]
    assert json.loads((tmp_path / "new" / "made_with.json").read_text()) == {
        "prompt": prompt_template(),
        "backbone": scripted.backbone.name,
        "fingerprint": scripted.backbone.fingerprint,
    }


class SlowlyFound(GoldPassages):
    """Passages that it takes a while to find."""

    def select(self, questions: Sequence[Question]) -> list[Selection]:
        time.sleep(0.4)
        return super().select(questions)


def test_the_seconds_of_retrieval_are_told_apart(
    scripted: Scripted, people: QADataset, tmp_path: Path
) -> None:
    metrics = evaluate(scripted, people.split("dev"), SlowlyFound(people), tmp_path)
    assert metrics["retrieval_seconds_per_question"] > 0.4 / metrics["n"]


def inputs_of(people: QADataset) -> list[QuestionInput]:
    questions = people.split("dev")
    selections = GoldPassages(people, 1).select(questions)
    return [QuestionInput(*pair) for pair in zip(questions, selections, strict=True)]


def test_batches_are_of_near_equal_length_and_answers_in_order(
    scripted: Scripted, people: QADataset
) -> None:
    inputs = inputs_of(people)
    predictions = answer_all(scripted, inputs, batch_size=3)
    assert [p.nll for p in predictions] == [len(scripted.prompt(input)) for input in inputs]
    lengths = {input.question.id: len(scripted.prompt(input)) for input in inputs}
    answered = [lengths[id] for batch in scripted.batches for id in batch]
    assert answered == sorted(lengths.values(), reverse=True)
    assert [len(batch) for batch in scripted.batches] == [3, 3, 2]


def test_batch_size_changes_nothing(
    tiny_backbone: Backbone, people: QADataset, tmp_path: Path
) -> None:
    method = RAGMethod(tiny_backbone, max_new_tokens=4)
    written = []
    for size in (1, 3, 100):
        evaluate(
            method, people.split("dev"), GoldPassages(people), tmp_path / str(size), batch_size=size
        )
        rows = [row for _, row in read_jsonl(tmp_path / str(size) / "predictions.jsonl")]
        written.append([(row["id"], row["prediction"]) for row in rows])
        assert [row["nll"] for row in rows] == pytest.approx(
            [p.nll for input in inputs_of(people) for p in method.answer([input])], rel=1e-4
        )
    assert written[0] == written[1] == written[2]


def test_shuffled_passages_stand_in_the_predictions(
    tiny_backbone: Backbone, people: QADataset, tmp_path: Path
) -> None:
    source = ShuffledPassages(people, seed=2)
    evaluate(RAGMethod(tiny_backbone, max_new_tokens=1), people.split("dev"), source, tmp_path)
    rows = [row for _, row in read_jsonl(tmp_path / "predictions.jsonl")]
    selections = source.select(people.split("dev"))
    assert [row["passage_ids"] for row in rows] == [[s.passages[0].id] for s in selections]


def test_sample_is_seeded_ordered_and_no_prefix() -> None:
    questions = [Question(f"q{i}", "?", ("x",)) for i in range(100)]
    chosen = sample(questions, 10, seed=1)
    assert chosen == sample(questions, 10, seed=1) != sample(questions, 10, seed=2)
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen, key=questions.index)
    assert questions.index(chosen[-1]) > 50
    assert sample(questions, None) == sample(questions, 100) == sample(questions, 999) == questions


@pytest.mark.parametrize(
    ("questions", "limit", "message"),
    [(0, None, "no question to evaluate"), (2, 0, "limit must be a positive .* got 0; set limit$")],
)
def test_sample_refuses_nothing(questions: int, limit: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample([Question(str(i), "?", ("x",)) for i in range(questions)], limit)


def test_batch_size_must_be_positive(
    tiny_backbone: Backbone, people: QADataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        evaluate(
            BaseMethod(tiny_backbone),
            people.split("dev"),
            GoldPassages(people),
            tmp_path,
            batch_size=0,
        )


def test_a_failure_leaves_no_files(scripted: Scripted, people: QADataset, tmp_path: Path) -> None:
    questions = [*people.split("dev"), Question("odd", "?", ("x",))]
    with pytest.raises(DataError, match="'odd'"):
        evaluate(scripted, questions, GoldPassages(people), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"em": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"em": object()})
    assert json.loads(path.read_text()) == {"em": 1.0}
    assert list(tmp_path.iterdir()) == [path]
