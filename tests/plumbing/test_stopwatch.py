"""The stopwatch."""

from __future__ import annotations

import time

import pytest

from plumbing.stopwatch import Stopwatch


def test_seconds_and_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.5, 12.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    assert watch.seconds == 1.5
    assert watch.lap() == 2.0
    assert watch.seconds == 3.0
