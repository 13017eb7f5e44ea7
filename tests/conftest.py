"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest

from backbone.model import Backbone
from qa.data.dataset import QADataset, Question
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone, make_tokenizer, save_backbone

# The same examples every time: a run passes or fails by what was changed. Others:
# make test ARGS=--hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

PEOPLE = ("Tova Blick", "Ann Oakes", "Ulf Brand", "Mia Stone")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A tokenizer of `make_tokenizer`."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_backbone(tiny_tokenizer: Any) -> Backbone:
    """A model of `make_backbone`, shared by all tests: a test must leave nothing injected."""
    return make_backbone(tokenizer=tiny_tokenizer)


@pytest.fixture
def people() -> QADataset:
    """Four people, a passage each, and two questions about each of them; those of dev."""
    passages = {
        f"p{i}": Passage(f"p{i}", name, f"{name} was born in the old town. " * (i + 1))
        for i, name in enumerate(PEOPLE)
    }
    dev = [
        Question(f"q{i}{kind}", f"{verb} was {name} born{'?' * (i + 1)}", (answer,), (f"p{i}",))
        for i, name in enumerate(PEOPLE)
        for kind, verb, answer in (("a", "Where", "Lisbon"), ("b", "When", "9 1 0"))
    ]
    return QADataset("people", passages, {"dev": dev})


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never wait for the disk: it would matter after a loss of power only."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny backbone, for commands that load one."""
    backbone = make_backbone(max_position_embeddings=2048)
    return save_backbone(backbone, tmp_path_factory.mktemp("model"))
