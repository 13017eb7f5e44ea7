"""Fixtures of DMoE's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never wait for the disk: it would matter after a loss of power only."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
