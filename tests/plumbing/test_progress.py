"""The progress bar: shown where somebody watches, silent elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import plumbing.progress
from plumbing.progress import Bar, is_shown, progress
from plumbing.storage.jsonl import DataError, read_lines


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    # Not sys.stderr itself, which pytest puts back before the test begins.
    monkeypatch.setattr(plumbing.progress, "sys", SimpleNamespace(stderr=found))
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return found


def last(terminal: Terminal) -> str:
    return terminal.getvalue().rstrip("\n").rpartition("\r")[2]


def test_a_bar_has_a_name_and_an_end(terminal: Terminal) -> None:
    assert list(progress(["a", "b"], "Answering")) == ["a", "b"]
    assert last(terminal).startswith("Answering: 100%")
    assert " 2/2 " in last(terminal)


def test_the_position_may_be_of_something_else(terminal: Terminal) -> None:
    done: list[int] = []
    for item in progress(iter([3, 4]), "Building", 10, lambda: sum(done)):
        done.append(item)
    assert last(terminal).startswith("Building:  70%")
    assert " 7/10 " in last(terminal)


def test_a_bar_is_moved_by_hand(terminal: Terminal) -> None:
    with Bar("Building", 10) as bar:
        bar.move(3)
        bar.move(7, "loss=4")
    assert last(terminal).startswith("Building:  70%")
    assert last(terminal).endswith("loss=4]")


def test_there_is_no_bar_without_an_estimate() -> None:
    def endless() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="Answering: expected items with a length, got generator"):
        progress(endless(), "Answering")


@pytest.mark.parametrize("how", ["no terminal", "switched off"])
def test_where_nobody_watches_nothing_is_written(
    how: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "switched off":
        monkeypatch.setenv("TQDM_DISABLE", "1")
    else:
        monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    assert not is_shown()
    assert list(progress([1, 2], "Answering")) == [1, 2]
    with Bar("Answering", 2) as bar:
        bar.move(1)
    assert terminal.getvalue() == ""


def test_an_error_ends_the_bar_and_passes(terminal: Terminal) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        list(progress(failing(), "Reading", 5))
    assert last(terminal).startswith("Reading:  20%")


def test_the_log_is_written_above_the_bar(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)  # a handler of the log writes to sys.stderr
    handler = logging.StreamHandler(terminal)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        for _ in progress([1], "Answering"):
            logging.getLogger("x").warning("a line of its own")
    finally:
        root.removeHandler(handler)
    # The bar is cleared first, and drawn again below the line.
    assert "\ra line of its own\n" in terminal.getvalue()


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_file_is_read_with_a_bar(name: str, tmp_path: Path, terminal: Terminal) -> None:
    import gzip

    path = tmp_path / name
    with gzip.open(path, "wb") if name.endswith(".gz") else path.open("wb") as file:
        file.write(b"one\ntwo\n")
    assert list(read_lines(path, "Reading")) == [(1, b"one\n"), (2, b"two\n")]
    assert last(terminal).startswith("Reading: 100%")
    terminal.truncate(0)
    assert list(read_lines(path)) == [(1, b"one\n"), (2, b"two\n")]
    assert terminal.getvalue().strip("\0") == ""
