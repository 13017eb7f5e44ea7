"""A journal of changes: acknowledged is kept, cut short is left out, damaged is an error."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from live.journal import ChangeLog, JournalError

CHANGES = [{"add": str(number), "text": "é\n" * number} for number in range(4)]


def written(path: Path) -> bytes:
    journal = ChangeLog(path)
    journal.append(CHANGES[:1])
    journal.append(CHANGES[1:])
    return path.read_bytes()


def test_it_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert ChangeLog(path).read() == []
    written(path)
    again = ChangeLog(path)
    assert again.read() == CHANGES
    again.append(CHANGES[:1])
    assert ChangeLog(path).read() == [*CHANGES, CHANGES[0]]
    again.rewrite(CHANGES[2:])
    assert ChangeLog(path).read() == CHANGES[2:]


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    whole = written(tmp_path / "log")
    lines = whole.splitlines(keepends=True)
    before = len(whole) - len(lines[-1])
    for cut in range(before, len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:cut])
        journal = ChangeLog(path)
        assert journal.read() == CHANGES[:-1]
        assert path.read_bytes() == whole[:before]
        journal.append(CHANGES[-1:])
        assert ChangeLog(path).read() == CHANGES


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = bytearray(written(path))
    whole[40] ^= 1
    path.write_bytes(whole)
    with pytest.raises(JournalError, match="log:1: the line is damaged"):
        ChangeLog(path).read()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    whole = written(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    journal = ChangeLog(path)
    journal.read()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(CHANGES)
    assert path.read_bytes() == whole
    assert ChangeLog(path).read() == CHANGES


def test_the_last_line_is_named_too_if_it_is_whole_but_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = bytearray(written(path))
    whole[-3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(JournalError, match="log:4: the line is damaged"):
        ChangeLog(path).read()
    assert path.read_bytes() == whole


def test_what_a_full_disk_did_not_take_is_not_written_later(tmp_path: Path) -> None:
    """The disk takes a part of a change, and has room again once that is taken back."""
    path = tmp_path / "log"
    whole = written(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            ChangeLog(path).append([{"add": "long", "text": "x" * 150}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == whole


def test_the_first_changes_are_kept_all_or_none(tmp_path: Path, monkeypatch) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        ChangeLog(tmp_path / "log").append(CHANGES)
    assert not (tmp_path / "log").exists()
