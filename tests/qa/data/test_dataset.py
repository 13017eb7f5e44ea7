"""Question sets on disk: what loads, what is refused and how, and the check for overlap."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError, write_jsonl
from qa.data.dataset import (
    QADataset,
    Question,
    check_disjoint,
    drop_overlap,
    load_folder,
    read_questions,
    save_folder,
)
from retrieval.passage import Passage

PASSAGES = [
    {"id": "p1", "title": "One", "text": "First text."},
    {"id": "p2", "title": "Two", "text": "Second text."},
]


def question(name: str = "q1", /, **changes: Any) -> dict[str, Any]:
    row = {"id": name, "question": "Which?", "answers": ["First"], "passage_ids": ["p1"]}
    return row | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "passages.jsonl.gz", PASSAGES)
    write_jsonl(tmp_path / "train.jsonl", [question("q1")])
    write_jsonl(tmp_path / "dev.jsonl.gz", [question("q1", passage_ids=["p2"], more=0)])
    return tmp_path


def test_load_folder(folder: Path):
    dataset = load_folder(folder, "mine")
    assert dataset.name == "mine"
    assert dataset.passages["p2"] == Passage("p2", "Two", "Second text.")
    assert dataset.split("train") == [Question("q1", "Which?", ("First",), ("p1",))]
    assert list(dataset.splits) == ["train", "dev"]
    assert dataset.gold(dataset.split("dev")[0]) == [dataset.passages["p2"]]


def test_an_unknown_split_is_an_error_that_names_those_there_are(folder: Path):
    with pytest.raises(DataError, match=r"'local' has no split 'test'; it has: train, dev\."):
        load_folder(folder).split("test")


def test_gold_names_the_passage_it_lacks():
    dataset = QADataset("x", {}, {})
    with pytest.raises(DataError, match="question 'q' names the passage 'p'"):
        dataset.gold(Question("q", "?", ("a",), ("p",)))


def test_a_folder_without_passages_needs_questions_without_gold(tmp_path: Path):
    write_jsonl(tmp_path / "dev.jsonl", [question(passage_ids=[])])
    assert load_folder(tmp_path).gold(load_folder(tmp_path).split("dev")[0]) == []
    write_jsonl(tmp_path / "dev.jsonl", [question("q0", passage_ids=[]), question("q1")])
    with pytest.raises(
        DataError, match=r"dev\.jsonl:2: .*'p1', but the folder has no passages.*passages_path"
    ):
        load_folder(tmp_path)


def test_passages_path_takes_the_place_of_the_folders_own(folder: Path, tmp_path: Path):
    other = tmp_path / "elsewhere" / "wiki.jsonl"
    write_jsonl(other, [*PASSAGES, {"id": "p3", "title": "", "text": "Third."}])
    assert list(load_folder(folder, passages_path=other).passages) == ["p1", "p2", "p3"]
    (folder / "passages.jsonl.gz").unlink()
    assert list(load_folder(folder, passages_path=str(other)).passages) == ["p1", "p2", "p3"]
    write_jsonl(other, PASSAGES[:1])
    with pytest.raises(DataError, match=r"dev.*:1: .*'p2', which is not among the 1 passages of"):
        load_folder(folder, passages_path=other)
    with pytest.raises(DataError, match="expected a JSON-lines file, found none"):
        load_folder(folder, passages_path=tmp_path / "none.jsonl")


def test_missing_folder_and_missing_splits(tmp_path: Path):
    with pytest.raises(DataError, match="expected a folder with JSON lines, found nothing"):
        load_folder(tmp_path / "none")
    write_jsonl(tmp_path / "passages.jsonl", PASSAGES)
    with pytest.raises(DataError, match=r"expected at least one of train\.jsonl"):
        load_folder(tmp_path)
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(DataError, match="at least one question, got an empty file"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question": "?", "answers": ["a"], "passage_ids": []}, "expected the key 'id'"),
        ({"id": "b", "question": "?", "passage_ids": []}, "expected the key 'answers'"),
        ({"id": "b", "question": "?", "answers": ["a"]}, "expected the key 'passage_ids'"),
        (question("b", id=3), r"'id' must be a string, got a number \(3\)"),
        (question("b", question="  "), "'question' must hold some text"),
        (question("b", answers="First"), r"'answers' must be a list, got a string \('First'\)"),
        (question("b", answers=[]), "'answers' must hold at least one answer"),
        (question("b", answers=["x", ""]), r"'answers'\[1\] must be a string with some text"),
        (question("b", answers=[" "]), r"'answers'\[0\] must be a string with some text"),
        (question("b", answers=[2]), r"'answers'\[0\] .* got a number \(2\)"),
        (question("b", passage_ids=None), "'passage_ids' must be a list, got null"),
        (question("b", passage_ids=[""]), r"'passage_ids'\[0\] must be a string with some"),
        (question("b", passage_ids=["p2", "p2"]), "'passage_ids' names 'p2' twice"),
        (question("b", passage_ids=["p9"]), "names 'p9', which is not among the 2 passages"),
        (question("b", passage_ids=["../p1"]), r"names '\.\./p1', which is not among"),
        (question("q1"), "question id 'q1' stands already at line 1"),
    ],
)
def test_a_bad_question_is_named(folder: Path, line: dict[str, Any], message: str):
    path = folder / "train.jsonl"
    path.write_text(json.dumps(question("q1")) + "\n" + json.dumps(line), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}:2: .*{message}"):
        load_folder(folder)


filled = st.text(min_size=1).filter(str.strip)


@st.composite
def datasets(draw: st.DrawFn) -> QADataset:
    ids = draw(st.lists(filled, unique=True, max_size=4))
    passages = {id: Passage(id, draw(st.text()), draw(filled)) for id in ids}
    gold = st.lists(st.sampled_from(ids), unique=True) if ids else st.just([])
    splits = {
        name: [
            Question(
                id,
                draw(filled),
                tuple(draw(st.lists(filled, min_size=1, max_size=3))),
                tuple(draw(gold)),
            )
            for id in draw(st.lists(filled, unique=True, min_size=1, max_size=3))
        ]
        for name in draw(st.sampled_from([("train",), ("dev", "dev_rephrased"), ("test",)]))
    }
    return QADataset("drawn", passages, splits)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(dataset=datasets())
def test_save_then_load_is_identity(tmp_path_factory: pytest.TempPathFactory, dataset: QADataset):
    folder = tmp_path_factory.mktemp("drawn")
    save_folder(dataset, folder)
    assert load_folder(folder, "drawn") == dataset


def test_save_folder_refuses_a_split_that_would_not_load(tmp_path: Path):
    with pytest.raises(DataError, match=r"the splits train, .*dev, .*, got '\.\./x'"):
        save_folder(QADataset("x", {}, {"../x": []}), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def make(texts: dict[str, str], train: list[str], dev: list[str]) -> QADataset:
    """A data set with a question for each listed passage id."""

    def ask(ids: list[str]) -> list[Question]:
        return [Question(f"q{n}", "?", ("a",), (id,)) for n, id in enumerate(ids)]

    passages = {id: Passage(id, "t", text) for id, text in texts.items()}
    return QADataset("made", passages, {"train": ask(train), "dev": ask(dev)})


def test_disjoint_splits_pass():
    dataset = make({"a": "A.", "b": "B.", "unused": "A."}, ["a"], ["b"])
    check_disjoint(dataset)
    assert drop_overlap(dataset) == (dataset, 0)


def test_a_shared_passage_id_is_found():
    dataset = make({"a": "A.", "b": "B.", "c": "C."}, ["a", "b"], ["c", "b", "a", "b"])
    message = r"2 of 'dev' \(3 questions\) also occur in 'train', such as 'b';"
    with pytest.raises(DataError, match=message):
        check_disjoint(dataset)


def test_a_shared_text_under_another_id_is_found():
    dataset = make({"a": "Same  text.\n", "b": "Same text."}, ["a"], ["b"])
    with pytest.raises(DataError, match="such as 'b', whose text is that of 'a'"):
        check_disjoint(dataset)


def test_check_disjoint_names_a_missing_split():
    with pytest.raises(DataError, match="no split 'test'"):
        check_disjoint(make({}, [], []), held_out="test")


def test_drop_overlap_leaves_the_held_out_split_whole():
    texts = {"a": "A.", "b": "B.", "b2": " B. ", "c": "C."}
    dataset = make(texts, ["a", "b", "b2", "c"], ["b", "c"])
    kept, dropped = drop_overlap(dataset)
    check_disjoint(kept)
    assert dropped == 3
    assert [question.passage_ids for question in kept.split("train")] == [("a",)]
    assert kept.split("dev") == dataset.split("dev")
    assert len(dataset.split("train")) == 4


def test_questions_may_come_from_a_file_alone(tmp_path: Path):
    write_jsonl(tmp_path / "held_back.jsonl.gz", [question(passage_ids=["p1"])])
    passages = {"p1": Passage("p1", "One", "First text.")}
    found = read_questions(tmp_path / "held_back.jsonl.gz", passages)
    assert found == [Question("q1", "Which?", ("First",), ("p1",))]
