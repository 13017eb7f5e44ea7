"""A training that dies between two steps, as a process does that is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning import Callback

from plumbing.training import setup


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


class KillAt(Callback):
    """Dies after a step: nothing is saved on the way out."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def die_at(step: int, train: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that dies after a step."""
    make = setup.training_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(setup, "training_callbacks", lambda c: [*make(c), KillAt(step)])
        with pytest.raises(Killed):
            train()
