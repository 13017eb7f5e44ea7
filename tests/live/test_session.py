"""A knowledge session: what is added is found, what is removed leaves no trace."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.model import Backbone
from dmoe.bank import BankError
from genpoe.model import GenPoE
from live.answer import MODES, Answer, Ask, Token
from live.decoding import TooLongError
from live.experts import NoExpertError
from live.passages import Entry, PassageSet, as_passage
from live.session import KnowledgeSession
from live.settings import SessionSettings
from plumbing.mounts import SettingValueError
from plumbing.storage.manifest import FolderError
from qa.prompts import build_prompt
from retrieval.passage import Passage
from tests.helpers.live import (
    PASSAGES,
    QUESTION,
    expert_bank,
    mean_checkpoint,
    reader_checkpoint,
    reader_session,
)
from tests.helpers.tiny import make_backbone


def said(answer: Answer) -> list[object]:
    """All that an answer says, to the last bit."""
    return [
        answer.text,
        [
            (token.text, token.uncertainty, token.triggered, token.experts)
            for token in answer.tokens
        ],
        answer.passages,
    ]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_backbone(max_position_embeddings=2048)


@pytest.fixture(params=["reader", "mean", "trained"])
def make(request, backbone, tmp_path):
    """Makes sessions of one kind, all of the same experts."""
    settings: dict[str, Any] = {"k": 2}
    if request.param == "trained":
        bank = expert_bank(backbone, tmp_path, PASSAGES)
        settings |= {"trigger": "uncertainty", "threshold": 0.5}
        return lambda folder=None: KnowledgeSession.from_bank(
            bank, backbone, folder, settings=SessionSettings(**settings)
        )
    if request.param == "reader":
        path = reader_checkpoint(backbone, tmp_path)
    else:
        path = mean_checkpoint(backbone, tmp_path, layer=1)
    return lambda folder=None: KnowledgeSession.from_checkpoint(
        path, backbone, folder, settings=SessionSettings(**settings)
    )


def test_a_passage_that_was_added_is_found_by_the_next_question(make) -> None:
    session = make()
    before = session.ask(QUESTION)
    assert before.experts == ()
    assert said(before)[0] == session.ask(QUESTION, "base").text
    (added,) = session.add(PASSAGES[:1])
    answer = session.ask(QUESTION)
    assert answer.experts == (added,)
    assert [t.uncertainty for t in answer.tokens] != [t.uncertainty for t in before.tokens]
    session.add(PASSAGES)
    found = session.ask("Where was Ann Oakes born?").experts
    assert found[0].title == "Ann Oakes"
    assert len(session.passages) == len(PASSAGES)


def test_a_passage_that_was_removed_leaves_no_trace(make) -> None:
    """Random changes on one side, the passages that are left on the other."""
    session, chance = make(), random.Random(0)
    for _ in range(12):
        there = list(session.passages)
        if there and chance.random() < 0.4:
            session.remove(chance.sample(there, 1))
        else:
            session.add(chance.sample(PASSAGES, 2))
        session.ask(chance.choice(PASSAGES).title)
    kept = list(session.passages.values())
    assert 0 < len(kept) < len(PASSAGES)
    fresh = make()
    fresh.add(kept)
    for passage in PASSAGES[::2]:
        for mode in ("experts", "rag"):
            asked = f"Where was {passage.title} born?"
            assert said(session.ask(asked, mode)) == said(fresh.ask(asked, mode))


def test_the_modes_differ_in_what_they_see(make, backbone: Backbone, monkeypatch) -> None:
    session = make()
    session.add(PASSAGES)
    read: list[list[int]] = []
    decoder = backbone.decoder.forward

    def note(*args, **kwargs):
        read.append(kwargs["input_ids"][0].tolist())
        return decoder(*args, **kwargs)

    monkeypatch.setattr(backbone.decoder, "forward", note)
    shown = {}
    for mode in ("experts", "rag", "base"):
        read.clear()
        answer = session.ask(QUESTION, mode, 4)
        shown[mode] = backbone.tokenizer.decode(read[0])
        assert (answer.experts != ()) == (mode == "experts")
        assert (answer.passages != ()) == (mode == "rag")
        assert answer.prompt_tokens == len(read[0])
    assert shown["experts"] == shown["base"] == build_prompt(QUESTION)
    assert PASSAGES[0].text in shown["rag"]


def test_rows_that_are_decoded_together_do_not_see_one_another(make) -> None:
    session = make()
    session.add(PASSAGES)
    asks = [
        Ask(f"Where was {passage.title} born?", mode, 3 + place)
        for place, passage in enumerate(PASSAGES)
        for mode in MODES
    ]
    batch = session.begin(asks)
    tokens: list[list[Token]] = [[] for _ in asks]
    while batch.running:
        for spoken in batch.step():
            if spoken.token is not None:
                tokens[spoken.row].append(spoken.token)
    for row, ask in enumerate(asks):
        together = batch.answer(row, tokens[row])
        alone = session.ask(ask.question, ask.mode, ask.max_new_tokens)
        assert together.text == alone.text
        assert together.finish_reason == alone.finish_reason
        assert [t.experts for t in together.tokens] == [t.experts for t in alone.tokens]
        assert [t.uncertainty for t in together.tokens] == pytest.approx(
            [t.uncertainty for t in alone.tokens], abs=1e-4
        )


def test_it_answers_as_genpoe_does(backbone: Backbone, tmp_path: Path) -> None:
    session = reader_session(backbone, tmp_path, k=1)
    session.add(PASSAGES)
    genpoe = GenPoE.from_checkpoint(tmp_path / "reader.ckpt", backbone)
    for passage in PASSAGES:
        question = f"Where was {passage.title} born?"
        answer = session.ask(question).text
        with genpoe.injected([passage]):
            assert answer == genpoe.ask(question)
    assert session.ask(QUESTION, "base").text == genpoe.ask(QUESTION)


def test_the_tokens_are_the_answer(make) -> None:
    session = make()
    session.add(PASSAGES)
    answer = session.ask(QUESTION, max_new_tokens=12)
    tokens = list(session.stream(QUESTION, max_new_tokens=12))
    assert tuple(tokens) == answer.tokens
    assert "".join(token.text for token in tokens) == answer.text
    assert all(token.uncertainty >= 0 for token in tokens)
    assert sum(e.weight for e in answer.tokens[-1].experts) == pytest.approx(1, abs=1e-5)


def test_a_folder_keeps_what_was_acknowledged(make, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    with make(folder) as session:
        added = session.add(PASSAGES)
        session.remove([added[1].id])
        wanted = said(session.ask(QUESTION))
        with pytest.raises(FolderError, match="is writing this session"):
            make(folder)
    with KnowledgeSession.load(folder, session.backbone) as again:
        assert list(again.passages) == [each.id for each in added if each != added[1]]
        assert said(again.ask(QUESTION)) == wanted
        again.save(tmp_path / "copy")
        with pytest.raises(FolderError, match="there is a session already"):
            again.save(tmp_path / "copy")
    assert added[1].text not in (folder / "passages.log").read_text()
    with KnowledgeSession.load(tmp_path / "copy", session.backbone) as copy:
        assert said(copy.ask(QUESTION)) == wanted


def test_ids_are_of_the_content(make) -> None:
    session = make()
    (first,) = session.add([replace(PASSAGES[0], id="whatever")])
    (second,) = session.add([(PASSAGES[0].title, PASSAGES[0].text)])
    assert first == second == as_passage(PASSAGES[0])
    assert len(first.id) == 32
    assert len(session.passages) == 1


def test_what_is_wrong_is_refused(make) -> None:
    session = make()
    with pytest.raises(ValueError, match="is empty"):
        session.add([PASSAGES[0], ("title", "  ")])
    with pytest.raises(ValueError, match="surrogate pair"):
        session.add([("title", "\ud800")])
    with pytest.raises(KeyError, match="no passage with the id"):
        session.remove(["nothing"])
    assert len(session.passages) == 0
    for question, mode, tokens, words in (
        ("", "base", 4, "the question is empty"),
        ("\udc00", "base", 4, "surrogate"),
        ("who?", "best", 4, "mode must be one of"),
        ("who?", "rag", 0, "max_new_tokens must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            session.ask(question, mode, tokens)
    with pytest.raises(TooLongError, match="exceed the 2048 positions"):
        session.ask("sea " * 3000)
    with pytest.raises(SettingValueError, match="trigger must be one of"):
        SessionSettings(trigger="never")


def test_rag_shows_what_fits(backbone: Backbone, tmp_path: Path) -> None:
    session = reader_session(backbone, tmp_path, k=3)
    long = [Passage("", "", f"Tova Blick was born {'by the sea ' * 400}{n}") for n in range(3)]
    session.add(long)
    assert 0 < len(session.ask(QUESTION, "rag", 4).passages) < 3


def test_experts_of_another_layer_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    path = mean_checkpoint(backbone, tmp_path, layer=0)
    with pytest.raises(SettingValueError, match="only beside the last layer's FFN"):
        KnowledgeSession.from_checkpoint(path, backbone)


def test_a_passage_without_an_expert_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    bank = expert_bank(backbone, tmp_path, PASSAGES[:2])
    session = KnowledgeSession.from_bank(bank, backbone)
    with pytest.raises(NoExpertError, match="has no expert in the bank"):
        session.add(PASSAGES[:3])
    assert len(session.passages) == 0
    with pytest.raises(ValueError, match="neither"):
        KnowledgeSession.from_bank(None, backbone)
    with pytest.raises(BankError):
        KnowledgeSession.from_bank(tmp_path / "nothing", backbone)


def test_the_folder_of_another_session_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    reader_session(backbone, tmp_path, tmp_path / "kept").close()
    bank = expert_bank(backbone, tmp_path, PASSAGES[:2])
    with pytest.raises(FolderError, match="expected a session of"):
        KnowledgeSession.from_bank(bank, backbone, tmp_path / "kept")
    with pytest.raises(FolderError, match=r"found no sound session\.json"):
        KnowledgeSession.load(tmp_path)


def test_a_folder_knows_its_checkpoint_wherever_that_lies(
    backbone: Backbone, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    reader_session(backbone, tmp_path, kept).close()
    moved = (tmp_path / "reader.ckpt").rename(tmp_path / "moved.ckpt")
    KnowledgeSession.from_checkpoint(moved, backbone, kept).close()
    KnowledgeSession.load(kept, backbone).close()  # the folder names the new place
    head = json.loads((kept / "session.json").read_text())
    del head["experts"]["sha256"]  # as earlier versions wrote it
    (kept / "session.json").write_text(json.dumps(head))
    KnowledgeSession.load(kept, backbone).close()
    other = mean_checkpoint(backbone, tmp_path, layer=1)
    with pytest.raises(FolderError, match="expected a session of"):
        KnowledgeSession.from_checkpoint(other, backbone, kept)


def test_passages_are_read_when_they_are_asked_to_be(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reader_session(backbone, tmp_path)
    read: list[str] = []
    monkeypatch.setattr(session.experts, "prepare", read.extend)
    first, second, _ = session.add(PASSAGES[:3], read=False)
    assert read == []
    session.remove([first.id])
    session.read([first.id, second.id])
    assert read == [second.id]


def test_nothing_stays_on_the_backbone(make, backbone: Backbone) -> None:
    ids = torch.arange(9)[None]
    before = backbone.model(input_ids=ids).logits
    session = make()
    session.add(PASSAGES)
    stream = session.stream(QUESTION)
    next(stream)
    assert torch.equal(backbone.model(input_ids=ids).logits, before)


def test_sessions_of_one_model_do_not_meet(make, backbone: Backbone) -> None:
    """Experts are hooks on the model, which another session or a batch might run into."""
    one, other = make(), make()
    one.add(PASSAGES)
    other.add(PASSAGES[3:])
    questions = [f"Where was {passage.title} born?" for passage in PASSAGES]
    wanted = said(other.ask(questions[4]))
    many = [Ask(question, "experts", 12) for question in questions]
    ended, wrong = threading.Event(), list[object]()

    def decode() -> None:
        try:
            while not ended.is_set():
                batch = one.begin(many)
                while batch.running:
                    batch.step()
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        for _ in range(10):
            assert said(other.ask(questions[4])) == wanted
            make()
    finally:
        ended.set()
        thread.join()
    assert wrong == []


def test_a_folder_is_new_until_passages_were_kept_there(make, tmp_path: Path) -> None:
    """A server that is killed before it has filled its session fills it at the next start."""
    for wanted in (False, False):
        with make(tmp_path / "kept") as session:
            assert session.was_there is wanted
            assert session.fill([]) == 0
    with make(tmp_path / "kept") as session:
        (only,) = session.add(PASSAGES[:1])
        session.remove([only.id])
    with make(tmp_path / "kept") as session:
        assert session.was_there


def test_a_page_is_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    passages = PassageSet()
    passages.add([Entry(as_passage(each)) for each in PASSAGES])
    entries = PassageSet.entries

    def then_removed(there: PassageSet) -> list[Entry]:
        found = entries(there)
        there.remove([found[0].passage.id])  # as another thread may do
        return found

    monkeypatch.setattr(PassageSet, "entries", then_removed)
    assert [each.title for each in passages.page(2)[0]] == [each.title for each in PASSAGES[:2]]
    with pytest.raises(KeyError):
        passages.page(2, "none")
