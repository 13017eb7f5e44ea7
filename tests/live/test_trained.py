"""Experts that are trained on the spot: taught once, kept, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from backbone.model import Backbone
from dmoe.augmentation import ModelAugmenter
from dmoe.augmentation.sources import Augmented
from dmoe.bank import Bank
from dmoe.experts.expert import ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.lessons import Lesson
from live.experts import NoExpertError
from live.session import KnowledgeSession
from live.settings import SessionSettings
from live.trained import Course, course_of, plain
from retrieval.passage import Passage
from tests.helpers.live import PASSAGES, QUESTION, expert_bank
from tests.helpers.tiny import make_backbone

COURSE = Course(recipe=Recipe(lr=0.02, epochs=30))
SETTINGS = SessionSettings(k=1, trigger="always")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_backbone(max_position_embeddings=2048)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Writes a question about each passage, as a model that can write would."""
    titles: list[str] = []

    def augment(_: ModelAugmenter, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        for passage in passages.values():
            titles.append(passage.title)
            pair = (f"Where was {passage.title} born?", passage.text.split()[5].strip("."))
            yield Augmented(Lesson(passage, (pair,) if passage.title else ()))

    monkeypatch.setattr(ModelAugmenter, "augment", augment)
    return titles


def said(session: KnowledgeSession, question: str = QUESTION) -> list[Any]:
    return [(t.text, t.uncertainty, t.experts) for t in session.ask(question).tokens]


def test_a_passage_is_taught_kept_and_forgotten(
    backbone: Backbone, asked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    with KnowledgeSession.from_bank(
        None, backbone, folder, settings=SETTINGS, learn=COURSE
    ) as session:
        (first,) = session.add(PASSAGES[:1])
        alone = said(session)
        assert alone[0][2][0].passage == first
        assert session.ask(QUESTION).text == "Lisbon" != session.ask(QUESTION, "base").text
        second = session.add(PASSAGES[1:3])
        assert asked == [passage.title for passage in PASSAGES[:3]]
        session.remove([each.id for each in second])
        assert said(session) == alone
        assert list(Bank.open(folder / "experts")) == [first.id]
        session.save(tmp_path / "copy")
    for place in (folder, tmp_path / "copy"):
        with KnowledgeSession.load(place, backbone) as again:
            assert again.settings == SETTINGS
            assert said(again) == alone
    assert len(asked) == 3


def test_an_expert_of_a_change_that_was_killed_is_taken_away(
    backbone: Backbone, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kept"
    with KnowledgeSession.from_bank(
        None, backbone, folder, settings=SETTINGS, learn=COURSE
    ) as session:
        first, second = session.add(PASSAGES[:2])
        with monkeypatch.context() as patch:
            patch.setattr(session.experts, "forget", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                session.remove([second.id])
    assert set(Bank.open(folder / "experts")) == {first.id, second.id}
    KnowledgeSession.load(folder, backbone).close()
    assert list(Bank.open(folder / "experts")) == [first.id]


def test_what_a_bank_has_is_not_taught(
    backbone: Backbone, asked: list[str], tmp_path: Path
) -> None:
    bank = expert_bank(backbone, tmp_path, PASSAGES[:2])
    session = KnowledgeSession.from_bank(bank, backbone, settings=SETTINGS, learn=COURSE)
    session.add(PASSAGES[:3])
    assert asked == [PASSAGES[2].title]
    for passage in PASSAGES[:3]:
        found = session.ask(f"Where was {passage.title} born?").experts
        assert found[0].title == passage.title
    assert session.fill(PASSAGES) == 0  # those that would have to be taught are left out
    assert len(asked) == 1


def test_a_passage_about_which_nothing_is_written_is_refused(
    backbone: Backbone, asked: list[str]
) -> None:
    session = KnowledgeSession.from_bank(None, backbone, learn=COURSE)
    with pytest.raises(NoExpertError, match="wrote no question about the passage ''"):
        session.add([PASSAGES[0], ("", "one two three four five six seven")])
    assert len(session.passages) == 0


def test_experts_of_another_shape_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    bank = expert_bank(backbone, tmp_path, PASSAGES[:2])
    with pytest.raises(ValueError, match="have another rank, alpha or targets"):
        KnowledgeSession.from_bank(bank, backbone, learn=Course(ExpertSpec(rank=2)))


def test_a_course_is_kept_and_is_that_of_the_bank(backbone: Backbone, tmp_path: Path) -> None:
    course = Course(ExpertSpec(alpha=8, targets=["up"]), Recipe(epochs=3), ("qa", "passage"))
    assert course_of(plain(course)) == course
    bank = Bank.open(expert_bank(backbone, tmp_path, PASSAGES[:2]))
    assert Course.of_bank(bank.spec) == Course()
