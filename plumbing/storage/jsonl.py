"""JSON lines, plain or gzipped: the form of every corpus and question set on disk.

Every fault of a file is found here, where the file's name and the line's number are still known.
"""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbing.progress import progress
from plumbing.storage.files import json_text, write_whole


class DataError(ValueError):
    """A corpus or question set cannot be used; the message says where, why and what to do."""


def find_jsonl(folder: str | Path, stem: str) -> Path:
    """Find the file ``stem.jsonl`` or ``stem.jsonl.gz`` in a folder.

    Args:
        folder: The folder to look in.
        stem: The file's name without its endings, such as ``passages``.

    Returns:
        The path of the one that exists.

    Raises:
        DataError: If the folder, or the file in it, is missing, or if both files exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing"
        raise DataError(
            f"{folder}: expected a folder with JSON lines, found {came}; check the path"
        )
    plain, zipped = folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz"
    found = [path for path in (plain, zipped) if path.is_file()]
    if not found:
        raise DataError(f"{folder}: expected {plain.name} or {zipped.name}, found neither; add one")
    if len(found) > 1:
        raise DataError(
            f"{folder}: expected one of {plain.name} and {zipped.name}, found both; remove the "
            f"one that is out of date"
        )
    return found[0]


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON-lines file, which is gzipped if its name ends in ``.gz``.

    Blank lines are skipped, but they count in the line numbers.

    Args:
        path: The file.

    Yields:
        The number of the line, counted from 1, and its object.

    Raises:
        DataError: If the file is missing, unreadable, truncated, not UTF-8, or if a line is not a
            JSON object.
    """
    path = Path(path)
    for number, line in read_lines(path):
        if line.strip():
            yield number, parse_object(path, number, line)


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file with `write_whole`: a reader sees the old file or the whole new one.

    Missing folders are made. If the name ends in ``.gz``, the file is gzipped without a time stamp,
    so that equal rows give equal bytes.

    Args:
        path: The file, which is replaced if it exists.
        rows: The objects, one for each line. If they come from a generator that raises an error,
            the old file stays.

    Raises:
        DataError: If a row holds text that UTF-8 cannot express (a lone surrogate).
        TypeError: If a row holds something that JSON has no form for.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as zipped:
                _write_lines(path, zipped.write, rows)
        else:
            _write_lines(path, raw.write, rows)


def text_field(row: Mapping[str, Any], key: str, where: str, *, may_be_blank: bool = False) -> str:
    """Read the string under a key of a row.

    Args:
        row: The object of one line.
        key: The key that must be there.
        where: ``file:line``, for the message.
        may_be_blank: Whether the string may be empty or hold white space only.

    Returns:
        The string, unchanged.

    Raises:
        DataError: If the key is missing, or if its value is not a string or is blank.
    """
    value = require_key(row, key, where)
    if not isinstance(value, str):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        advice = "put it in quotes" if number else "correct the line"
        raise DataError(f"{where}: {key!r} must be a string, got {describe(value)}; {advice}")
    if not may_be_blank and not value.strip():
        raise DataError(
            f"{where}: {key!r} must hold some text, got {describe(value)}; fill it in or remove "
            f"the line"
        )
    return value


def require_key(row: Mapping[str, Any], key: str, where: str) -> Any:
    """Read the value under a key of a row, whatever its type.

    Raises:
        DataError: If the key is missing.
    """
    if key not in row:
        keys = ", ".join(repr(name) for name in row) or "none"
        raise DataError(f"{where}: expected the key {key!r}, got the keys {keys}; add it")
    return row[key]


def check_new_id(lines: dict[str, int], id: str, kind: str, path: str | Path, number: int) -> None:
    """Check that no earlier line has the same id, and note the line of this one in ``lines``.

    Raises:
        DataError: If an earlier line has the same id; the message names both lines.
    """
    if id in lines:
        raise DataError(
            f"{path}:{number}: {kind} id {id!r} stands already at line {lines[id]}; ids must be "
            f"unique in a file, so rename or remove one of the two"
        )
    lines[id] = number


def describe(value: Any) -> str:
    """Describe a value from a file for an error message: its JSON type and the value, shortened."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    name = names.get(type(value), type(value).__name__)
    return name if value is None else f"{name} ({shown})"


def read_lines(path: Path, description: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each line, counted from 1, and the line as bytes.

    The lines are bytes, so that a line that is not UTF-8 can be named by its number. The file is
    gzipped if its name ends in ``.gz``. A byte-order mark at its beginning is left out.

    Args:
        path: The file.
        description: The name of a progress bar that shows how much of the file has been read.
            Default: there is no bar.

    Raises:
        DataError: If the file is missing, unreadable, truncated or damaged.
    """
    number = 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as stream:
            size = path.stat().st_size
            lines = progress(stream, description, size, raw.tell) if description else stream
            for number, line in enumerate(lines, start=1):
                yield number, line.removeprefix(BOM_UTF8) if number == 1 else line
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: expected a JSON-lines file, found none; check the path"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: expected a whole gzip file, but it is truncated or damaged after line "
            f"{number} ({error}); copy or download it again"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: expected a readable file, got '{reason}'; check it") from error


def parse_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse the JSON object of one line.

    Raises:
        DataError: If the line is not UTF-8, is not a JSON object, or holds half a surrogate pair.
    """
    where = f"{path}:{number}"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: expected UTF-8, got the byte 0x{line[error.start]:02x} at byte "
            f"{error.start + 1} of the line; convert the file to UTF-8"
        ) from error
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(": line ")[0]
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{where}: expected one JSON object, got {describe(text.strip())}, which is not JSON "
            f"({reason}{column}); write one object a line, with double quotes"
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: expected a JSON object, got {describe(row)}; write one object a line"
        )
    if b"\\ud" in line.lower():  # escaped surrogates, of which a single half breaks tokenizers
        _encode(path, number, row)
    return row


def _write_lines(
    path: Path, write: Callable[[bytes], object], rows: Iterable[Mapping[str, Any]]
) -> None:
    for number, row in enumerate(rows, start=1):
        write(_encode(path, number, row) + b"\n")


def _encode(path: Path, number: int, row: Mapping[str, Any]) -> bytes:
    try:
        return json_text(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}:{number}: expected text that UTF-8 can express, got half a surrogate pair "
            f"({error.object[error.start]!r}); remove or repair that character"
        ) from error
