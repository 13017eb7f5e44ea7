"""Several sets as one: whose questions and passages are whose, and what the log says."""

from __future__ import annotations

import logging

import pytest

from plumbing.storage.jsonl import DataError
from qa.data.dataset import QADataset, Question, save_folder
from qa.data.mixed import load_mixed, mix
from retrieval.passage import Passage

SAME = Passage("p0", "Same", "A text that both have.")


def dataset(name, text, splits=("train", "dev")):
    passages = {"p0": SAME, "p1": Passage("p1", name, text)}
    questions = [
        Question("q0", f"{name}?", ("a",), ("p1", "p0")),
        Question("q1", "Who?", ("b",), ("p0",)),
        Question("q2", "Without a passage?", ("c",)),
    ]
    return QADataset(name, passages, {split: list(questions) for split in splits})


def test_ids_stay_apart_and_equal_passages_are_one():
    one, two = dataset("squad", "Text one."), dataset("nq", "Text two.", splits=["dev"])
    mixed = mix([one, two])
    assert mixed.name == "squad+nq"
    assert list(mixed.splits) == ["train", "dev"]
    assert {id: passage.text for id, passage in mixed.passages.items()} == {
        "p0": SAME.text,
        "p1": "Text one.",
        "nq/p1": "Text two.",
    }
    ids = [question.id for question in mixed.split("dev")]
    assert ids == ["squad/q0", "squad/q1", "squad/q2", "nq/q0", "nq/q1", "nq/q2"]
    for source in (one, two):
        for question in source.split("dev"):
            found = next(
                each for each in mixed.split("dev") if each.id == f"{source.name}/{question.id}"
            )
            texts = [
                [passage.text for passage in d.gold(q)]
                for d, q in ((source, question), (mixed, found))
            ]
            assert texts[0] == texts[1]
            assert (question.question, question.answers) == (found.question, found.answers)
    assert all(id == passage.id for id, passage in mixed.passages.items())


def test_sets_are_read_from_folders_and_cut(tmp_path, caplog):
    for name, splits in (("squad", ("train", "dev")), ("hotpotqa", ("dev",))):
        save_folder(dataset(name, f"Text of {name}.", splits), tmp_path / name)
    with caplog.at_level(logging.INFO, "qa.data.mixed"):
        mixed = load_mixed({"squad": 2, "hotpotqa": 1}, tmp_path)
    assert [question.id for question in mixed.split("train")] == ["squad/q0", "squad/q1"]
    assert len(mixed.split("dev")) == 6  # only training questions are cut
    train, dev = caplog.messages
    assert train == "train: squad 2 (100.0 %)"
    assert dev.startswith("dev: squad 2 (50.0 %), hotpotqa 2 (50.0 %), squad 1 without a gold")


@pytest.mark.parametrize("limit", [0, -1, "all", 1.5])
def test_a_wrong_number_is_named(limit):
    with pytest.raises(ValueError, match=r"positive or null, got nq: .*set sets"):
        load_mixed({"squad": None, "nq": limit})


def test_one_set_is_no_mixture():
    with pytest.raises(DataError, match=r"two sets at least, got squad; name more in data\.sets"):
        load_mixed({"squad": None})
