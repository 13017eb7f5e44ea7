"""Fixtures of DMoE's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_backbone


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never wait for the disk: it would matter after a loss of power only."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny backbone, for commands that load one."""
    folder = tmp_path_factory.mktemp("model")
    backbone = make_backbone(max_position_embeddings=2048)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder
