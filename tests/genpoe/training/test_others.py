"""Which passages of others a question is trained with, at random and by a retriever's ranking."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genpoe.training.datamodule import QADataModule
from genpoe.training.negatives import choose_negatives, read_rankings
from genpoe.training.others import Candidates, candidates, choose_passages, with_others
from plumbing.storage.jsonl import DataError, write_jsonl
from qa.data.dataset import QADataset, Question
from qa.prompts import encode_passage
from retrieval.passage import Passage


def anyone(rows, groups, also=None, which=None, hard=None) -> Candidates:
    """The candidates among groups of one passage each."""
    return candidates(batch_of(rows, groups, also, which, hard))


def batch_of(rows, groups, also=None, which=None, hard=None) -> dict[str, Any]:
    behind = 0 if which is None else len(which) - groups
    batch = {"rows": rows, "which": torch.arange(groups) if which is None else torch.tensor(which)}
    batch["passage_input_ids"] = torch.zeros(groups + behind, 1)
    if also is not None:
        batch["also"] = torch.tensor(also)
    if hard is not None:
        batch["hard"] = torch.tensor(hard)
    return batch


def test_other_passages_stand_beside_a_questions_own():
    rows = torch.tensor([0, 3, 3, 1])
    index, weight, wrong = with_others(rows, anyone(rows, 4), 2, torch.Generator().manual_seed(0))
    assert not wrong.any()
    assert index.shape == weight.shape == (4, 3)
    assert torch.equal(index[:, 0], rows)
    for row in index.tolist():
        assert len(set(row)) == 3
        assert set(row) <= {0, 1, 2, 3}
    torch.testing.assert_close(weight.sum(1), torch.ones(4))
    assert weight[:, 0].min() > 0
    assert (weight == 0).any()
    assert (weight[:, 1:] > 0).any()
    for share in (0.0, 1.0):
        index, weight, wrong = with_others(
            torch.tensor([0, 0]), anyone(torch.tensor([0, 0]), 1), 2, torch.Generator(), wrong=share
        )
        assert index.tolist() == [[0], [0]]  # nobody else is there
        assert weight.tolist() == [[1], [1]]
        assert not wrong.any()


@pytest.mark.parametrize("most", [0, 2, 3])
def test_wrong_passages_stand_in_the_place_of_a_questions_own(most):
    rows = torch.tensor([0, 3, 3, 1]).repeat(50)
    index, weight, wrong = with_others(
        rows, anyone(rows, 4), most, torch.Generator().manual_seed(0), wrong=0.3
    )
    assert 30 < wrong.sum() < 90
    assert index.shape == weight.shape == (200, 1 + most)
    torch.testing.assert_close(weight.sum(1), torch.ones(200))
    there = weight > 0
    own = (index == rows[:, None]) & there
    assert torch.equal(own.any(1), ~wrong)
    for row, seen in zip(index.tolist(), there.tolist(), strict=True):
        used = [passage for passage, is_there in zip(row, seen, strict=True) if is_there]
        assert len(used) == len(set(used))


def used(index, weight):
    """The passages that each question gets."""
    return [
        {place for place, share in zip(*pair, strict=True) if share > 0}
        for pair in zip(index.tolist(), weight.tolist(), strict=True)
    ]


def test_a_question_is_not_wrong_if_another_group_brings_its_own_passage() -> None:
    """Group 1 is group 0 with the passage in the prompt; group 2 has that passage as its second."""
    rows = torch.tensor([0, 1, 2, 3]).repeat(100)
    batch = batch_of(rows, 4, also=[[-1], [-1], [4], [-1]], which=[7, 7, 8, 9, 7])
    gold = [{7}, {7}, {7, 8}, {9}]
    index, weight, wrong = choose_passages(batch, torch.Generator().manual_seed(0), 3, wrong=0.5)
    assert wrong is not None
    assert all(100 * 0.3 < wrong[rows == group].sum() < 100 * 0.7 for group in range(4))
    for row, seen, is_wrong in zip(rows.tolist(), used(index, weight), wrong.tolist(), strict=True):
        names = {int(batch["which"][place]) for place in seen}
        assert names.isdisjoint(gold[row]) if is_wrong else gold[row] <= names


def test_a_question_whose_batch_has_its_own_passage_alone_keeps_it() -> None:
    rows = torch.tensor([0, 1])
    index, weight, wrong = choose_passages(
        batch_of(rows, 2, which=[5, 5]), torch.Generator(), 1, wrong=0.99
    )
    assert wrong is not None
    assert not wrong.any()
    assert used(index, weight) == [{0}, {1}]


def test_hard_passages_come_before_those_of_the_batch() -> None:
    rows = torch.tensor([0, 1, 2]).repeat(200)
    # Group 0 has two hard passages, of which one is that of group 2; group 1 has one; group 2 none.
    batch = batch_of(rows, 3, which=[1, 2, 3, 4], hard=[[3, 2], [3, -1], [-1, -1]])
    noise = torch.Generator().manual_seed(0)
    index, weight, wrong = choose_passages(batch, noise, 2, wrong=0.4)
    assert wrong is not None
    seen = used(index, weight)
    expected = {0: {0, 2, 3}, 1: {0, 1, 2, 3}, 2: {0, 1, 2}}
    for row in range(3):
        at = [i for i, each in enumerate(rows.tolist()) if each == row]
        assert set().union(*(seen[i] for i in at)) == expected[row]
        assert 0.25 * len(at) < wrong[at].sum() < 0.55 * len(at)
    # With one passage of others it is the hard one; the others never come.
    index, weight, _ = choose_passages(batch, noise, 1)
    seen = used(index, weight)
    assert {3} == set().union(
        *(each - {1} for each, row in zip(seen, rows, strict=True) if row == 1)
    )


def small_dataset() -> QADataset:
    texts = {
        "a": "Tova Blick was born in Lisbon.",
        "b": "Olen Marsk was born in Porto.",
        "c": "Lisbon and Porto are towns by the sea.",
        "d": "Yara Quist was born in Oslo.",
        "e": "Nils Holm was born in Bergen.",
    }
    passages = {id: Passage(id, "", text) for id, text in texts.items()}
    train = [
        Question("qa", "Where was Tova Blick born?", ("Lisbon",), ("a",)),
        Question("qb", "Where was Olen Marsk born?", ("Porto",), ("b",)),
        Question("qc", "What are the towns by?", ("the sea",), ("c",)),
        Question("qd", "Where was Yara Quist born?", ("Oslo",), ("d",)),
    ]
    dev = [Question("qe", "Where was Nils Holm born?", ("Bergen",), ("e",))]
    return QADataset("small", passages, {"train": train, "dev": dev})


RANKINGS = {
    "qa": ("a", "c", "e", "b", "d"),
    "qb": ("d", "b", "a"),
    "qc": ("c", "unknown"),
    "qd": ("e", "d", "c", "b"),
}


def test_negatives_hold_no_answer_and_are_of_the_training_split() -> None:
    dataset = small_dataset()
    groups = [[question] for question in dataset.split("train")]
    found = choose_negatives(dataset, "train", groups, RANKINGS, 2)
    # c holds Lisbon, e is of dev, and nothing is a question's own
    assert [[passage.id for passage in each] for each in found] == [
        ["b", "d"],
        ["d", "a"],
        [],
        ["c", "b"],
    ]
    both = [[*groups[0], *groups[1]]]
    (together,) = choose_negatives(dataset, "train", both, RANKINGS, 3)
    assert [passage.id for passage in together] == ["d"]  # what answers neither
    with pytest.raises(DataError, match=r"rankings of its 4 questions, got 1 of others; set neg"):
        choose_negatives(dataset, "train", groups, {"other": ("a",)}, 2)


def test_a_batch_has_the_hard_passages_of_its_groups(tiny_tokenizer, tmp_path) -> None:
    write_jsonl(
        tmp_path / "rankings.jsonl",
        ({"id": id, "passage_ids": list(ids)} for id, ids in RANKINGS.items()),
    )
    given: dict[str, Any] = {"passages_per_batch": 2, "train_limit": 3, "negatives": 2, "seed": 1}
    data = [
        QADataModule(small_dataset(), tiny_tokenizer, negatives_path=path, **given)
        for path in (None, str(tmp_path / "rankings.jsonl"))
    ]
    plain, examples = (each._prepare("train", each.train_limit) for each in data)
    assert plain.digest != examples.digest
    # Passages that other questions have are read once; the one that the sample lacks is read too.
    assert len(plain.passages) == 3
    assert len(examples.passages) == 4
    seen = 0
    for spec in data[1]._sampler("train", True).batches(0):
        batch = examples[spec]
        assert batch["hard"].shape == (len(spec.chunks), 2)
        for index, row in zip(batch["examples"].tolist(), batch["rows"].tolist(), strict=True):
            question = next(
                q
                for q in small_dataset().split("train")
                if examples.answers[index].tolist()
                == tiny_tokenizer(" " + q.answers[0])["input_ids"]
                + examples.answers[index].tolist()[-1:]
            )
            (wanted,) = choose_negatives(small_dataset(), "train", [[question]], RANKINGS, 2)
            places = [place for place in batch["hard"][row].tolist() if place >= 0]
            ids = [
                batch["passage_input_ids"][p][batch["passage_attention_mask"][p].bool()].tolist()
                for p in places
            ]
            assert ids == [encode_passage(tiny_tokenizer, each, 512) for each in wanted]
            seen += len(places)
    assert seen > 2
    assert "hard" not in data[1]._prepare("dev", None)[data[1]._sampler("dev", False).batches(0)[0]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "q"}, "line 1: .*passage_ids"),
        ({"id": "q", "passage_ids": "a"}, "line 1: passage_ids must be a list of passage ids"),
        ({"passage_ids": []}, "line 1: .*id"),
    ],
)
def test_a_malformed_ranking_is_named(tmp_path, row, message) -> None:
    write_jsonl(tmp_path / "rankings.jsonl", [row])
    with pytest.raises(DataError, match=message):
        read_rankings(tmp_path / "rankings.jsonl")
