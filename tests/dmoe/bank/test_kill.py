"""A writer that is killed at any moment: finished steps are there, and nothing is half done."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmoe.bank import Bank, compact, verify
from tests.helpers.tiny_bank import add, holds, make_bank

pytestmark = pytest.mark.usefixtures("no_sync")

Model = dict[str, int]


def steps(bank: Bank) -> list[tuple[Callable[[], Any], Model]]:
    """List the writer's steps, each with what the bank holds after it."""
    return [
        (lambda: add(bank, ["a", "b", "c"]), {"a": 0, "b": 1, "c": 2}),
        (lambda: add(bank, ["b"], 10, replace=True), {"a": 0, "b": 10, "c": 2}),
        (lambda: bank.remove(["a"]), {"b": 10, "c": 2}),
        (lambda: compact(bank), {"b": 10, "c": 2}),
        (lambda: add(bank, ["d", "a"], 20), {"b": 10, "c": 2, "d": 20, "a": 21}),
    ]


def write(path: Path, told: int, kill_at: int | None) -> None:
    """Do all steps and report each; die at the ``kill_at``-th call of a builtin."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "c_call"
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    bank = Bank.open(path)
    sys.setprofile(count)
    for step, _ in steps(bank):
        step()
        os.write(told, b".")
    sys.setprofile(None)
    os.write(told, str(calls).encode())


def in_child(path: Path, kill_at: int | None) -> tuple[int, int]:
    """Count the steps that a child reported and, if it lived, its calls of builtins."""
    read, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            write(path, told, kill_at)
        finally:
            os._exit(0)
    os.close(told)
    heard = b""
    while some := os.read(read, 4096):
        heard += some
    os.close(read)
    os.waitpid(child, 0)
    return heard.count(b"."), int(heard.strip(b".") or 0)


def check_kills(folder: Path, count: int) -> None:
    for step, _ in steps(make_bank(folder / "first")):
        step()  # anything that is done once in a process must happen before calls are counted
    done, calls = in_child(make_bank(folder / "whole").path, None)
    assert done == 5
    assert calls > 1000
    chance = random.Random(count)
    states = [Model(), *(model for _, model in steps(Bank.open(folder / "whole")))]
    killed = 0
    for number in range(count):
        path = make_bank(folder / str(number)).path
        done, finished = in_child(path, chance.randrange(1, calls))
        killed += not finished  # a child may need fewer calls than the first one
        bank = Bank.open(path)
        # Reported steps are there. The step in which the writer died is there wholly or not at all.
        state = next(model for model in states[done : done + 2] if holds(bank, model))
        report = verify(path)
        assert not report.damaged
        # The manifest's copy may be an old one or missing; nothing else may be wrong.
        add(bank, ["z"], 30)
        compact(bank)
        report = verify(path)
        assert report.sound
        assert report.unnamed == ()
        assert holds(Bank.open(path), {**state, "z": 30})
    assert killed >= 0.9 * count


def test_kills(tmp_path: Path):
    check_kills(tmp_path, 10)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path):
    check_kills(tmp_path, 200)


@pytest.mark.parametrize("name", ["fsync", "open"])
def test_an_error_while_publishing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    bank = make_bank(tmp_path)
    add(bank, ["a"])
    before = sorted(tmp_path.rglob("*"))
    for after in range(4):
        left, real = after, getattr(os, name)

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)  # noqa: B023, called in this round only

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                add(bank, ["b"], seed=1)
            except OSError:
                bank.refresh()
        if "b" in bank:
            bank.remove(["b"])
            compact(bank)
            assert holds(bank, {"a": 0})
        else:
            locks = {tmp_path / ".writers.lock", tmp_path / ".publish.lock"}
            assert sorted({*tmp_path.rglob("*")} - locks) == sorted({*before} - locks)
    assert verify(tmp_path).sound
