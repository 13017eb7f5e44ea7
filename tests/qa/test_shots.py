"""Worked examples stand before every question, whichever method answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbone.model import Backbone
from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question
from qa.evaluation.evaluate import evaluate
from qa.method import BaseMethod, QuestionInput, RAGMethod
from qa.passages.gold import GoldPassages
from qa.prompts import build_prompt
from qa.shots import Shots, open_shots

PAPERS = Path(__file__).parents[2] / "docs/examples/hotpotqa.jsonl"
TRAINING = [Question(f"t{i}", f"Who {i}?", (f"Ann {i}", "other"), ()) for i in range(5)]
DATA = QADataset("made", {}, {"train": TRAINING})


def test_without_examples_the_prompt_is_as_ever() -> None:
    assert open_shots(0, None, DATA, 0) == Shots()
    assert Shots().answer("I think. So the answer is no.") == "I think. So the answer is no."


def test_examples_are_drawn_with_their_answers_and_depend_on_the_seed() -> None:
    text = open_shots(2, None, DATA, 0).text
    blocks = text.split("\n\n")[:-1]
    expected = [f"{build_prompt(one.question)} {one.answers[0]}" for one in TRAINING]
    assert len(blocks) == 2
    assert set(blocks) <= set(expected)
    assert len({open_shots(2, None, DATA, seed).text for seed in range(6)}) > 1


def test_the_examples_of_the_paper_conclude() -> None:
    shots = open_shots(0, str(PAPERS), DATA, 0)
    assert shots.concludes
    assert shots.text.count("So the answer is ") == 2
    assert shots.answer("A is B. So the answer is the sea.") == "the sea"
    assert shots.answer("the sea") == "the sea"


def test_faulty_examples_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="found none"):
        open_shots(0, str(path), DATA, 0)
    path.write_text(json.dumps({"question": "Who?"}))
    with pytest.raises(DataError, match=r"examples.jsonl:1.*'answer'"):
        open_shots(0, str(path), DATA, 0)
    with pytest.raises(SettingValueError, match="got shots=2"):
        open_shots(2, str(path), DATA, 0)
    with pytest.raises(SettingValueError, match="0 or more"):
        open_shots(-1, None, DATA, 0)
    with pytest.raises(DataError, match="needs as many training questions"):
        open_shots(6, None, DATA, 0)


def test_every_method_reads_them(
    tiny_backbone: Backbone, people: QADataset, tmp_path: Path
) -> None:
    questions = next(iter(people.splits.values()))[:2]
    for method in (BaseMethod(tiny_backbone, False, 2), RAGMethod(tiny_backbone, True, 2)):
        plain = method.prompt(QuestionInput(questions[0]))
        method.before = "Question: A?\nAnswer: B\n\n"
        assert method.prompt(QuestionInput(questions[0])) == f"{method.before}{plain}"
        evaluate(
            method, questions, GoldPassages(people), tmp_path, answer_of=lambda text: f"<{text}>"
        )
        made = json.loads((tmp_path / "made_with.json").read_text())
        assert made["prompt"].startswith(method.before)
        rows = [
            json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()
        ]
        assert all(row["prediction"].startswith("<") for row in rows)
