"""Every state of a journal comes back bit for bit, in this process and in another one."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
import torch

from backbone.edits import state_hash
from genpoe.editors.alphaedit import AlphaEdit, AlphaEditSettings
from genpoe.editors.editor import EditError
from genpoe.editors.ft_lora import FTLoRA, FTLoRASettings
from genpoe.editors.grace import GRACE, GRACESettings
from genpoe.editors.parts.covariance import Covariances, measure_covariances
from genpoe.editors.parts.facts import Fact, FactError
from genpoe.editors.parts.values import ValueSettings
from genpoe.editors.ultraedit import UltraEdit, UltraEditSettings
from genpoe.sequential import journal as module
from genpoe.sequential.bank import PassageBank
from genpoe.sequential.journal import START, Journal, JournalError, hash_of_all
from genpoe.sequential.packing import hash_of, pack, unpack
from qa.prompts import build_prompt
from retrieval.passage import Passage
from tests.helpers.killed import Killed
from tests.helpers.tiny import make_backbone

NAMES = ("Tova Blick", "the dog", "the town", "the sea", "a surgeon", "the fox")
FACTS = [
    Fact(f"f{i}", build_prompt(f"Where was {name} born?"), target, name)
    for i, (name, target) in enumerate(
        zip(NAMES, ("Lisbon", "violins", "dog", "town", "sea", "fox"), strict=True)
    )
]
IDS = torch.arange(3, 40)[None]


def ultraedit(backbone, **settings):
    return UltraEdit(backbone, UltraEditSettings([1], ("down",), **{"eta": 1e-2, **settings}))


def ft_lora(backbone):
    return FTLoRA(backbone, FTLoRASettings(passes=2))


def grace(backbone):
    return GRACE(backbone, GRACESettings(1, steps=2))


def alphaedit(backbone):
    texts = [f"Tova Blick {i} was born in Lisbon by the sea {i * 7}." for i in range(200)]
    found: Covariances = measure_covariances(backbone, [0], texts)
    value = ValueSettings(contexts=0, steps=2)
    return AlphaEdit(backbone, AlphaEditSettings([0], share=0.5, value=value), found)


EDITORS = {"ultraedit": ultraedit, "ft_lora": ft_lora, "grace": grace, "alphaedit": alphaedit}


def logits(backbone):
    with torch.no_grad():
        return backbone.model(IDS).logits


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_process_goes_on_where_the_first_was(tmp_path, name, dtype):
    """What a new process finds is what the first one had, and further edits are the same."""

    def fresh():
        backbone = make_backbone()
        backbone.model.to(dtype)
        return EDITORS[name](backbone)

    first = fresh()
    journal = Journal(tmp_path / "journal", first)
    journal.commit(FACTS[:2])
    journal.commit(FACTS[2:4])
    second = fresh()
    again = Journal(tmp_path / "journal", second)  # as after a kill
    assert hash_of_all(second) == hash_of_all(first)
    assert second.batches == 2
    assert torch.equal(logits(second.backbone), logits(first.backbone))
    shutil.copytree(tmp_path / "journal", tmp_path / "copy")
    other = fresh()
    copied = Journal(tmp_path / "copy", other)
    assert again.commit(FACTS[4:]).state == copied.commit(FACTS[4:]).state
    again.rollback(START)
    assert again.hashes() == again.start
    untouched = make_backbone()
    untouched.model.to(dtype)
    assert state_hash(second.backbone) == state_hash(untouched)
    assert torch.equal(logits(second.backbone), logits(untouched))


def test_random_edits_and_rollbacks_come_back_bit_for_bit(tmp_path):
    """50 random moves over the commits of a tree; each state is what it was when it was made."""
    editor = ultraedit(make_backbone())
    journal = Journal(tmp_path / "journal", editor)
    random = np.random.default_rng(0)
    states = {START: (journal.hashes(), logits(editor.backbone))}
    untouched = {n: p.clone() for n, p in editor.backbone.model.named_parameters()}
    for _ in range(50):
        if len(journal.log()) < 4 and random.random() < 0.4:
            some = random.permutation(len(FACTS))[:2]
            commit = journal.commit([FACTS[i] for i in some])
            states[commit.id] = (journal.hashes(), logits(editor.backbone))
        else:
            to = [*states][int(random.integers(len(states)))]
            journal.rollback(to)
            hashes, expected = states[to]
            assert journal.hashes() == hashes
            assert torch.equal(logits(editor.backbone), expected)
    assert len(states) > 5
    (written,) = editor.changed(0) or {editor.places[0].parameter: None}
    for name, parameter in editor.backbone.model.named_parameters():
        if name != written:
            assert torch.equal(parameter, untouched[name])


def test_branches(tmp_path):
    editor = ultraedit(make_backbone())
    journal = Journal(tmp_path / "journal", editor)
    first = journal.commit(FACTS[:1])
    journal.branch("other")
    second = journal.commit(FACTS[1:2])
    assert [commit.id for commit in journal.log()] == [first.id, second.id]
    assert [commit.edits for commit in journal.log()] == [("f0",), ("f1",)]
    journal.branch("main")
    assert journal.head == first.id
    third = journal.commit(FACTS[2:3])
    assert third.parent == first.id
    assert journal.branches == {"main": third.id, "other": second.id}
    journal.branch("other")
    assert hash_of_all(editor) == second.state
    journal.rollback(first.id[:6])
    assert hash_of_all(editor) == first.state


@pytest.mark.parametrize("step", ["edit", "write_tensors", "write_json", "_write_head"])
def test_a_commit_that_is_interrupted_never_was(tmp_path, monkeypatch, step):
    editor = ultraedit(make_backbone())
    journal = Journal(tmp_path / "journal", editor)
    first = journal.commit(FACTS[:1])

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "edit":
            patch.setattr(type(editor), "_write", die)
        elif step == "_write_head":
            patch.setattr(Journal, step, die)
        else:
            patch.setattr(module, step, die)
        with pytest.raises(Killed):
            journal.commit(FACTS[1:2])
    # A killed process is gone; the next one finds the commit before.
    again = ultraedit(make_backbone())
    opened = Journal(tmp_path / "journal", again)
    assert [commit.id for commit in opened.log()] == [first.id]
    assert hash_of_all(again) == first.state
    assert opened.commit(FACTS[1:2]).edits == ("f1",)


def test_what_is_refused_changes_nothing(tmp_path):
    """Bad edits: one clear error each, and nothing is half edited."""
    editor = alphaedit(make_backbone())
    journal = Journal(tmp_path / "journal", editor)
    journal.commit(FACTS[:1])
    before = journal.hashes()
    for bad, message in (
        (Fact("x", FACTS[1].prompt, " ", "the dog"), "the edit 'x' has no target"),
        (Fact("x", FACTS[1].prompt, "y", "Nobody"), "subject of the edit 'x' must occur in its"),
        (FACTS[2], "two edits of a batch have the id 'f2'"),
    ):
        with pytest.raises(FactError, match=message):
            journal.commit([FACTS[2], bad])
        assert journal.hashes() == before
        assert len(journal.log()) == 1
    exploding = ultraedit(make_backbone(), eta=1e300)
    other = Journal(tmp_path / "other", exploding)
    with pytest.raises((EditError, ValueError), match="not finite"):
        other.commit(FACTS[:1])
    assert other.hashes() == other.start
    assert other.log() == []


def test_what_a_journal_refuses(tmp_path):
    editor = ultraedit(make_backbone())
    journal = Journal(tmp_path / "journal", editor)
    commit = journal.commit(FACTS[:1])
    with pytest.raises(JournalError, match=f"got 'nobody', which none has.*start, {commit.id}"):
        journal.rollback("nobody")
    with pytest.raises(JournalError, match="begins before the first edit, but 1 batches stand"):
        Journal(tmp_path / "new", editor)
    with pytest.raises(JournalError, match="begins with other weights"):
        Journal(tmp_path / "journal", ultraedit(make_backbone(seed=1)))
    with torch.no_grad():
        editor.backbone.model.get_input_embeddings().weight[0, 0] += 1
    with pytest.raises(JournalError, match="something else changed the model"):
        journal.rollback(START)
    changes = tmp_path / "journal" / "commits" / commit.id / "changes.safetensors"
    damaged = bytearray(changes.read_bytes())
    damaged[-1] ^= 1
    changes.write_bytes(damaged)
    with pytest.raises(JournalError, match="the commit is damaged"):
        Journal(tmp_path / "journal", ultraedit(make_backbone()))


def test_passages_are_added_and_revoked_in_less_than_a_millisecond():
    """Beside the index, an edit of a bank is an entry of a dict; the best of 20 is measured."""
    bank = PassageBank(make_backbone())
    bank.edit([Passage(f"p{i}", "", "text " * 100) for i in range(10_000)])
    added, revoked = [], []
    for _ in range(20):
        start = time.perf_counter()
        bank.edit([Passage("new", "", "text")])
        added.append(time.perf_counter() - start)
        assert "new" in bank.passages
        start = time.perf_counter()
        bank.undo(1)
        revoked.append(time.perf_counter() - start)
        assert "new" not in bank.passages
    assert min(added) < 1e-3
    assert min(revoked) < 1e-3


def test_a_bank_is_journaled_like_an_editor(tmp_path):
    bank = PassageBank(make_backbone())
    journal = Journal(tmp_path / "journal", bank)
    first = journal.commit([Passage("a", "A", "one")])
    journal.commit([Passage("b", "", "two"), Passage("a", "A", "changed")])
    again = PassageBank(make_backbone())
    opened = Journal(tmp_path / "journal", again)
    assert (
        again.passages
        == bank.passages
        == {
            "a": Passage("a", "A", "changed"),
            "b": Passage("b", "", "two"),
        }
    )
    opened.rollback(first.id)
    assert again.passages == {"a": Passage("a", "A", "one")}
    opened.rollback()
    assert again.passages == {}


def test_packing_keeps_everything():
    backbone = make_backbone()
    editor = ultraedit(backbone)
    (place,) = editor.places
    value = {place: (1, 2.5, None, [torch.arange(3)]), ("a", 1): Passage("p", "t", "x")}
    packed, tensors = pack(value)
    found = unpack(packed, tensors, backbone)
    assert found.keys() == value.keys()
    assert found[place][:3] == (1, 2.5, None)
    assert torch.equal(found[place][3][0], torch.arange(3))
    assert found["a", 1] == value["a", 1]
    assert hash_of(value) == hash_of(found)
    assert hash_of(value) != hash_of({**value, "b": 1})
    with pytest.raises(TypeError, match="a journal cannot hold a set"):
        pack({"a": {1}})
    with pytest.raises(ValueError, match="expected a value that was packed"):
        unpack({"object": ["os", "stat_result", {}]}, {}, backbone)
