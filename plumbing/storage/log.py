"""A cache on disk: one file to which entries are appended, each with a checksum of its own.

An entry is a line of ASCII text, ``<key> <checksum> <value as JSON>``. If a crash cut the line
short or a bit of it flipped, its checksum no longer fits, and the entry counts as absent: whoever
asked for it computes the value again and appends it. Several processes may read and append at the
same time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from plumbing.storage.hashing import digest

log = logging.getLogger(__name__)

_CHECKSUM = 32  # hexadecimal digits of SHA-256


def cache_key(*parts: Any) -> str:
    """Make the key of a cached value from everything that decides the value.

    Args:
        *parts: What decides the value, as plain JSON values.

    Returns:
        64 hexadecimal digits.
    """
    return digest(parts)


class EntryLog:
    """A cache of values by key, kept in one file.

    Args:
        path: The file, which need not exist yet. The cache is kept nowhere else, so removing the
            file empties it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[
            bytes, list[tuple[int, int]]
        ] = {}  # where each line starts, and its length
        self._end = 0  # where the lines that are in _places end

    def read(self, keys: Iterable[str]) -> dict[str, list[Any]]:
        """Read the intact values of each key, the oldest first.

        Args:
            keys: Keys that `cache_key` made.

        Returns:
            The values by key, without the keys that have no intact value.
        """
        if not self.path.is_file():
            return {}
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # waits until an append has ended
            self._catch_up(file)
            lines = {key: self._lines(file, key) for key in keys}
        values = {key: [_value(key, line) for line in found] for key, found in lines.items()}
        intact = {key: [v for v in found if v is not None] for key, found in values.items()}
        damaged = sum(len(values[key]) > len(found) == 0 for key, found in intact.items())
        if damaged:
            log.warning("%s: %d entries are damaged and will be made again", self.path, damaged)
        return {key: found for key, found in intact.items() if found}

    def append(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Add values. A key may have several values.

        Args:
            entries: Pairs of a key and a plain JSON value, which must not be null.

        Raises:
            ValueError: If a value holds a number that is not finite.
        """
        data = b"".join(_line(key, value) for key, value in entries)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, 2) > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a line that a crash cut short must not swallow ours
                    data = b"\n" + data
            file.write(data)

    def _catch_up(self, file: BinaryIO) -> None:
        """Note where the lines are that any process has appended since the last time."""
        if file.seek(0, 2) < self._end:  # it is another file by now
            self._places, self._end = {}, 0
        file.seek(self._end)
        for line in file:
            if line.endswith(b"\n"):
                self._places.setdefault(line[:64], []).append((self._end, len(line)))
                self._end += len(line)

    def _lines(self, file: BinaryIO, key: str) -> list[bytes]:
        lines = []
        for start, length in self._places.get(key.encode(), []):
            file.seek(start)
            lines.append(file.read(length))
        return lines


def _line(key: str, value: Any) -> bytes:
    text = json.dumps(value, allow_nan=False)
    return f"{key} {_checksum(key, text.encode())} {text}\n".encode()


def _checksum(key: str, text: bytes) -> str:
    return hashlib.sha256(key.encode() + b" " + text).hexdigest()[:_CHECKSUM]


def _value(key: str, line: bytes) -> Any:
    """Return the value of a line, or None if the line is damaged."""
    start = len(key) + 1
    checksum, _, text = line[start:].rstrip(b"\n").partition(b" ")
    if line[:start] != f"{key} ".encode() or checksum != _checksum(key, text).encode():
        return None
    return json.loads(text)
