"""A journal of changes on disk: what `append` has returned for survives any kill of the process.

A change is a line of JSON behind its checksum. A line that a kill cut short is the last one, and
nobody was told that it is there; it is left out. A damaged line before it is an error.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbing.storage.files import write_whole

log = logging.getLogger(__name__)

_CHECKSUM = 32  # hexadecimal digits of SHA-256


class JournalError(ValueError):
    """A journal on disk is damaged; the message names the line."""


class ChangeLog:
    """A file to which changes are appended, each of them durable.

    Args:
        path: The file; its folder exists. It is made with the first change.

    Attributes:
        lines: How many lines the file has.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lines = 0

    def read(self) -> list[dict[str, Any]]:
        """Read all changes, in their order, and cut off a last line that was never acknowledged.

        Raises:
            JournalError: If another line is damaged.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        lines = content.split(b"\n")
        changes: list[dict[str, Any]] = []
        sound = 0  # bytes
        for number, line in enumerate(lines[:-1], start=1):
            change = _parsed(line)
            if change is None:
                raise JournalError(
                    f"{self.path}:{number}: the line is damaged (its checksum differs); take the "
                    "file from a backup, or delete the line if its change may be lost"
                )
            changes.append(change)
            sound += len(line) + 1
        if sound < len(content):
            log.warning(
                "%s: the last line was cut short when the process ended; its change had not been "
                "acknowledged, and is left out",
                self.path,
            )
            with self.path.open("r+b") as file:
                file.truncate(sound)
                os.fsync(file.fileno())
        self.lines = len(changes)
        return changes

    def append(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Add changes; when this returns, all of them are on the disk.

        A kill loses all or some of them; of the first ones of a new file, it loses all or none.

        Raises:
            OSError: If the disk is full or broken. The file is then as it was before.
        """
        if not self.path.exists():
            self.rewrite(changes)
            return
        left = memoryview(b"".join(map(_line, changes)))
        # A buffer would keep what a full disk did not take, and write it when the file is closed.
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise
        self.lines += len(changes)

    def rewrite(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Replace all changes by others, in one step: what was removed leaves the disk."""
        lines = list(map(_line, changes))
        with write_whole(self.path, sync_name=True, alone=True) as file:
            file.write(b"".join(lines))
        self.lines = len(lines)


def _line(change: Mapping[str, Any]) -> bytes:
    text = json.dumps(change, ensure_ascii=True, allow_nan=False).encode()
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECKSUM].encode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The change in a line; None if it is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != _checksum(text):
        return None
    change: dict[str, Any] = json.loads(text)
    return change
