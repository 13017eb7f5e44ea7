"""A journal of changes: acknowledged is kept, cut short is left out, damaged is an error."""

from __future__ import annotations

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
