"""The class DMoE for users answers as the method does."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout
from dmoe.decoding.router import RetrievalRouter
from dmoe.decoding.trigger import UncertaintyTrigger
from dmoe.experts.expert import ExpertSpec
from dmoe.method import load_dmoe
from dmoe.model import DMoE
from plumbing.storage.jsonl import write_jsonl
from qa.data.dataset import Question
from qa.method import QuestionInput
from retrieval.bm25.index import BM25Settings
from retrieval.passage import Passage
from tests.helpers.dmoe_doubles import MemoryExperts
from tests.helpers.fakes import WordRetriever
from tests.helpers.tiny import make_backbone

PASSAGES = [Passage(f"p{i}", "", f"passage {i} about lisbon") for i in range(6)]
QUESTION = "passage 4 about what?"


@pytest.fixture
def folder(tiny_backbone, tmp_path, monkeypatch):
    experts = MemoryExperts(tiny_backbone).get([passage.id for passage in PASSAGES])
    spec = BankSpec(
        tiny_backbone.name,
        tiny_backbone.fingerprint,
        ExpertLayout.of(experts),
        float(ExpertSpec().alpha),
    )
    Bank.create(tmp_path / "bank", spec).add(PASSAGES, experts)
    write_jsonl(tmp_path / "surrogates.jsonl", map(asdict, PASSAGES))
    monkeypatch.setenv("GENPOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(BM25Settings, "open", lambda self, corpus: WordRetriever(corpus))
    return tmp_path


def open_in(folder, backbone, **settings):
    places = folder / "bank", folder / "surrogates.jsonl", folder / "index"
    return DMoE.from_bank(*places, backbone, **settings)


def test_it_answers_as_the_method_does(folder, tiny_backbone):
    dmoe = open_in(folder, tiny_backbone, experts=2, threshold=0.0)
    retriever = WordRetriever({passage.id: passage for passage in PASSAGES})
    method = load_dmoe(
        tiny_backbone,
        folder / "bank",
        router=lambda bank: RetrievalRouter(bank, retriever),
        trigger=UncertaintyTrigger(0.0),
        experts=2,
    )
    (prediction,) = method.answer([QuestionInput(Question("q", QUESTION, ("a",)))])
    assert dmoe.ask(QUESTION) == prediction.text
    steps = list(dmoe.steps(QUESTION))
    assert len(steps) == prediction.details["tokens"]
    assert "p4" in steps[0].active


def test_the_banks_backbone_is_loaded_by_its_name(folder, tiny_backbone, monkeypatch):
    asked = []

    def load(name, device):
        asked.append((name, device))
        return tiny_backbone

    monkeypatch.setattr("dmoe.model.load_backbone", load)
    assert open_in(folder, None).backbone is tiny_backbone
    assert asked == [(tiny_backbone.name, "cpu")]


def test_another_backbone_is_an_error(folder, tiny_tokenizer):
    with pytest.raises(BankError, match="got a bank for tiny-llama-0"):
        open_in(folder, make_backbone(seed=1, tokenizer=tiny_tokenizer))


def test_an_empty_bank_is_an_error(folder, tiny_backbone):
    Bank.open(folder / "bank").remove([passage.id for passage in PASSAGES])
    with pytest.raises(BankError, match="got an empty bank"):
        open_in(folder, tiny_backbone)
