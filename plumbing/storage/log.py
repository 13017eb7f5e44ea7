"""A cache on disk: a file to which entries are only ever appended, each with its own checksum.

An entry is one line, ``<key> <checksum> <value as JSON>``, all of it ASCII. A line that a crash cut
short, or in which a bit flipped, fails its checksum and counts as absent: whoever asked computes it
again and appends it. Several processes may read and append at once.
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
    """A key of everything that made a value: 64 hexadecimal digits.

    Args:
        *parts: Plain JSON values.
    """
    return digest(parts)


class EntryLog:
    """Values by key in one file, which need not exist yet.

    Args:
        path: The file. Removing it empties the cache, and nothing else keeps what it holds.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[bytes, list[tuple[int, int]]] = {}  # start and length of each line
        self._end = 0  # of what is in _places

    def read(self, keys: Iterable[str]) -> dict[str, list[Any]]:
        """The intact values of each key that has one, the oldest first.

        Args:
            keys: Of `cache_key`.
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
            log.warning("%s: %d entries are damaged and are made anew", self.path, damaged)
        return {key: found for key, found in intact.items() if found}

    def append(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Add values; a key may have several.

        Args:
            entries: Pairs of a key and a JSON value other than null.

        Raises:
            ValueError: If a value holds a number that is not finite.
        """
        data = b"".join(_line(key, value) for key, value in entries)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, 2) > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # what a crash left behind must not swallow our first
                    data = b"\n" + data
            file.write(data)

    def _catch_up(self, file: BinaryIO) -> None:
        """Note where the lines are that came since the last time, by whichever process."""
        if file.seek(0, 2) < self._end:  # another file by now
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
    """The value of a line; None if it is damaged."""
    start = len(key) + 1
    checksum, _, text = line[start:].rstrip(b"\n").partition(b" ")
    if line[:start] != f"{key} ".encode() or checksum != _checksum(key, text).encode():
        return None
    return json.loads(text)
