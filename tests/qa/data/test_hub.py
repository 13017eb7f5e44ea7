"""Named sets: rows as the hub gives them, converted; and what is asked of the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbing.storage.jsonl import DataError, write_jsonl
from qa.data.dataset import QADataset
from qa.data.hub import NAMED, load_named
from retrieval.passage import Passage

Rows = dict[str, list[dict[str, Any]]]


class FakeHub:
    """Stands in for the package ``datasets``: gives rows, and notes what it was asked for."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.calls: list[dict[str, Any]] = []

    def load_dataset(self, **arguments: Any) -> list[dict[str, Any]]:
        self.calls.append(arguments)
        return self.rows[arguments["split"]]


def load(monkeypatch: pytest.MonkeyPatch, name: str, rows: Rows) -> tuple[QADataset, FakeHub]:
    hub = FakeHub(rows)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub.load_dataset))
    return load_named(name), hub


def test_squad(monkeypatch: pytest.MonkeyPatch):
    def row(id: str, context: str, *answers: str) -> dict[str, Any]:
        starts = [0] * len(answers)
        return {
            "id": id,
            "title": "Amazon_rainforest",
            "context": context,
            "question": " Which name? ",
            "answers": {"text": list(answers), "answer_start": starts},
        }

    rows = {
        "train": [row("1", "One.", "x"), row("2", "One.", "y"), row("3", "Two.", "z")],
        "validation": [row("4", "Three.", "a", "a", "b")],
    }
    dataset, hub = load(monkeypatch, "squad", rows)
    assert hub.calls[0] == {"path": "rajpurkar/squad", "split": "train"}
    train, dev = dataset.split("train"), dataset.split("dev")
    assert len(dataset.passages) == 3
    assert train[0].passage_ids == train[1].passage_ids != train[2].passage_ids
    assert dataset.gold(train[0])[0].title == "Amazon rainforest"
    assert dataset.gold(dev[0])[0].text == "Three."
    assert (dev[0].id, dev[0].question, dev[0].answers) == ("squad-4", "Which name?", ("a", "b"))


def test_nq_has_questions_and_answers_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    row = {"question": "who is the bad guy", "answer": ["Sauron"]}
    rows = {"train": [row, row, {**row, "answer": ["Sauron", "Morgoth"]}], "validation": [row]}
    dataset, hub = load(monkeypatch, "nq", rows)
    assert [call["path"] for call in hub.calls] == ["google-research-datasets/nq_open"] * 2
    assert [question.answers for question in dataset.split("train")] == [
        ("Sauron",),
        ("Sauron", "Morgoth"),
    ]
    assert dataset.passages == {}
    write_jsonl(tmp_path / "wiki.jsonl", [{"id": "w", "title": "W", "text": "Wiki."}])
    with_corpus = load_named("nq", passages_path=tmp_path / "wiki.jsonl")
    assert with_corpus.passages == {"w": Passage("w", "W", "Wiki.")}
    assert with_corpus.splits == dataset.splits


def test_triviaqa_takes_the_first_passage_of_an_article_that_holds_an_alias(
    monkeypatch: pytest.MonkeyPatch,
):
    filler = "Nothing to see here, boxers only. " * 30  # 180 words; "boxers" is not "boxer"
    row = {
        "question_id": "tc_3",
        "question": "Ezzard Charles was a champion in which sport?",
        "answer": {"value": "Boxing", "aliases": ["Boxing", "Boxer", ""]},
        "entity_pages": {
            "title": ["Ezzard Charles", "Nobody"],
            "wiki_context": [filler + "x " * 19 + "BOXER. " + filler + "Boxing.", filler],
        },
    }
    dataset, hub = load(monkeypatch, "triviaqa", {"train": [row], "validation": [row]})
    assert hub.calls[0]["name"] == "rc.wikipedia"
    question = dataset.split("dev")[0]
    assert question.id == "triviaqa-tc_3"
    assert question.answers == ("Boxing", "Boxer")
    (passage,) = dataset.gold(question)
    assert passage.title == "Ezzard Charles"
    assert passage.text.endswith("x x BOXER.")
    assert len(passage.text.split()) == 100


def test_hotpotqa_gold_is_what_the_supporting_facts_name(monkeypatch: pytest.MonkeyPatch):
    row = {
        "id": "5a",
        "question": "Are A and C plants?",
        "answer": "yes",
        "context": {
            "title": ["A", "B", "C", "Empty"],
            "sentences": [["A is.", " A was."], ["B is."], ["C is."], []],
        },
        "supporting_facts": {"title": ["C", "A", "A"], "sent_id": [0, 0, 1]},
    }
    dataset, hub = load(monkeypatch, "hotpotqa", {"train": [row], "validation": [row]})
    assert hub.calls[0]["name"] == "distractor"
    texts = [passage.text for passage in dataset.gold(dataset.split("dev")[0])]
    assert texts == ["A is. A was.", "C is."]
    assert len(dataset.passages) == 3


@pytest.mark.parametrize("as_columns", [True, False])
def test_cwq_answers_with_aliases(monkeypatch: pytest.MonkeyPatch, as_columns: bool):
    answers: Any = [
        {"answer": "Belmont University", "aliases": ["Belmont"], "answer_id": "m.1"},
        {"answer": None, "aliases": [], "answer_id": "m.2"},
    ]
    if as_columns:
        answers = {key: [answer[key] for answer in answers] for key in answers[0]}
    row = {"ID": "W-1_a", "question": "Where?", "answers": answers}
    dataset, hub = load(monkeypatch, "cwq", {"train": [row], "validation": [row]})
    assert hub.calls[0] == {
        "path": "drt/complex_web_questions",
        "data_dir": "complex_web_questions",
        "revision": "refs/convert/parquet",
        "split": "train",
    }
    question = dataset.split("dev")[0]
    assert (question.id, question.passage_ids) == ("cwq-W-1_a", ())
    assert question.answers == ("Belmont University", "Belmont")


def test_quasart(monkeypatch: pytest.MonkeyPatch):
    row = {"uid": "s3q1674", "question": "Lockjaw is another name for what", "answer": "tetanus"}
    dataset, hub = load(monkeypatch, "quasart", {"train": [row], "validation": [row]})
    assert hub.calls[0]["data_dir"] == "quasar-t"
    assert dataset.split("dev")[0].id == "quasart-s3q1674"
    assert dataset.split("dev")[0].answers == ("tetanus",)


@pytest.mark.parametrize(
    "facts", ["Caesar had three. Khan had 16.", ["Caesar had three.", "Khan had 16."]]
)
def test_strategyqa(monkeypatch: pytest.MonkeyPatch, facts: str | list[str]):
    row: dict[str, Any] = {
        "qid": "2b",
        "term": "Genghis Khan",
        "question": "More?",
        "answer": True,
        "facts": facts,
    }
    no: dict[str, Any] = {**row, "qid": "2c", "answer": False, "facts": type(facts)()}
    dataset, _ = load(monkeypatch, "strategyqa", {"train": [row], "test": [row, no]})
    first, second = dataset.split("dev")
    (passage,) = dataset.gold(first)
    assert (passage.title, passage.text) == ("Genghis Khan", "Caesar had three. Khan had 16.")
    assert (first.answers, second.answers, second.passage_ids) == (("yes",), ("no",), ())


def test_code_of_a_hub_repository_is_never_trusted(monkeypatch: pytest.MonkeyPatch):
    for name, source in NAMED.items():
        assert "trust_remote_code" not in source.arguments(), name
        assert list(source.splits) == ["train", "dev"], name


def test_rows_without_an_answer_are_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    good: dict[str, Any] = {"question": "who", "answer": ["me"]}
    bad: list[dict[str, Any]] = [
        {"question": "who", "answer": [" "]},
        {"question": None, "answer": ["me"]},
    ]
    dataset, _ = load(monkeypatch, "nq", {"train": [*bad, good], "validation": [good]})
    assert len(dataset.split("train")) == 1
    assert "nq: left out 2 rows" in caplog.text
    with pytest.raises(DataError, match="expected questions for 'nq', got none"):
        load(monkeypatch, "nq", {"train": bad, "validation": bad})


def test_changed_columns_are_named(monkeypatch: pytest.MonkeyPatch):
    rows: Rows = {"train": [{"id": "1", "query": "who", "answer": ["me"]}]}
    message = r"nq_open on the hub, row 0: its columns are id, query, answer.*'question'.*data\.dir"
    with pytest.raises(DataError, match=message):
        load(monkeypatch, "nq", rows)


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    def unreachable(**arguments: Any) -> None:
        raise ConnectionError("Couldn't reach it\nmore lines")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(
        DataError, match=r"rajpurkar/squad .*\(Couldn't reach it\); .*data\.dir=DIR"
    ):
        load_named("squad")


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes its import fail
    with pytest.raises(DataError, match=r"pip install 'genpoe-dmoe\[hub\]', or .*data\.dir=DIR"):
        load_named("squad")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match="'squat'; named sets are squad, nq, triviaqa, hotpotqa"):
        load_named("squat")


def test_a_folder_takes_the_place_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    row = {"id": "q", "question": "?", "answers": ["a"], "passage_ids": ["p"]}
    write_jsonl(tmp_path / "cwq" / "dev.jsonl", [row])
    write_jsonl(tmp_path / "wiki.jsonl", [{"id": "p", "title": "P", "text": "Text."}])
    dataset = load_named("cwq", dir=tmp_path / "cwq", passages_path=tmp_path / "wiki.jsonl")
    assert dataset.name == "cwq"
    assert dataset.gold(dataset.split("dev")[0]) == [Passage("p", "P", "Text.")]
