"""Splits a table with tabs between its columns into rows, such as DPR's ``psgs_w100.tsv``.

DPR's own code reads that file as CSV: a quote at the beginning of a field opens a quoted field,
which ends at the next single quote, possibly many rows later. But many tables are written without
quoting, and there a text may begin with a quote. So here a field is quoted only if it begins with a
quote, if the next quote that is not doubled stands before a tab or the end of a line, and if the
row then has the right number of columns. What was written as CSV is read as CSV.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from plumbing.storage.jsonl import DataError

_UP_TO_QUOTE = re.compile(r'[^"]*+(?:""[^"]*+)*+')  # doubled quotes are passed over
_DIGITS = re.compile(r"\d+")
_LONGEST = 1 << 24  # characters of a quoted field in further lines; bounds the memory


class _Lines:
    """Lines that can be looked at before they are taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rest = iter(lines)
        self._ahead: deque[str] = deque()

    def peek(self, number: int) -> str | None:
        """The line after the next ``number`` ones; None if there are no more."""
        while len(self._ahead) <= number:
            line = next(self._rest, None)
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[number]

    def take(self, count: int) -> None:
        for _ in range(count):
            self._ahead.popleft()


def read_rows(
    path: Path,
    lines: Iterable[str],
    width: int,
    key: int = 0,
    first: int = 1,
    report: Callable[[DataError], None] | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Split lines into rows. Blank lines are left out.

    A quoted field may have several lines. If one of the further lines would be a row by itself,
    with an id of the same form as this row's, such as ``p27`` beside ``p1``, then it is a row, and
    the quote is a plain one.

    Args:
        path: The file, for messages.
        lines: The lines, with their ends.
        width: The number of columns.
        key: The column of the id.
        first: The number of the first line.
        report: Called with an error if lines can be one row or several, and nothing says which. It
            may raise the error; if it returns, these lines are skipped. Default: it is raised.

    Yields:
        The number of the line where the row begins, and its fields. The line is malformed if their
        number is not ``width``.
    """
    source, number = _Lines(lines), first
    while (line := source.peek(0)) is not None:
        row, count = _next_row(source, line, width, key)
        source.take(count)
        if row is None:
            error = DataError(
                f"{path}:{number}: expected a row, got lines that can be one row with a quoted "
                f"field or {count} rows without quoting; write the corpus as JSON lines, or double "
                f"this quote and put the field in quotes"
            )
            if report is None:
                raise error
            report(error)
        elif line.strip():
            yield number, row
        number += count


def split_row(line: str, width: int) -> list[str]:
    """Split a row that is one line; the end of the line is left out.

    Quotes that would give another number of columns than ``width`` are plain ones.
    """
    line = line.rstrip("\r\n")
    plain = line.split("\t")
    if '"' not in line:
        return plain
    fields, _ = _split(line)
    return plain if len(plain) == width != len(fields) else fields


def _next_row(source: _Lines, line: str, width: int, key: int) -> tuple[list[str] | None, int]:
    """The fields of the next row, which are None if it is not clear, and its number of lines."""
    parts = _quoted_lines(source) if '"' in line else [line]
    fields, _ = _split("".join(parts).rstrip("\r\n"))
    if len(parts) == 1 or len(fields) != width:
        return split_row(line, width), 1
    rows = [split_row(part, width) for part in parts]
    whole = [row for row in rows[1:] if len(row) == width]
    if any(_form(row[key]) == _form(fields[key]) for row in whole):
        return rows[0], 1
    unclear = len(rows[0]) == width and len(whole) == len(rows) - 1
    return None if unclear else fields, len(parts)


def _quoted_lines(source: _Lines) -> list[str]:
    """The lines of the next row, if all quotes that they open are closed; else its first line."""
    parts, size = [source.peek(0) or ""], 0
    while _split("".join(parts).rstrip("\r\n"))[1]:
        while True:
            line = source.peek(len(parts))
            size += len(line or "")
            if line is None or size > _LONGEST:
                return parts[:1]
            parts.append(line)
            if _UP_TO_QUOTE.match(line).end() < len(line):  # type: ignore[union-attr]
                break
    return parts


def _split(text: str) -> tuple[list[str], bool]:
    """Split a row into fields, up to a quoted field that is not closed; True if there is one.

    There are no fields if lines were put together that are not one row.
    """
    fields: list[str] = []
    start = 0
    while start <= len(text):
        end = -1
        if text.startswith('"', start):
            close = _UP_TO_QUOTE.match(text, start + 1).end()  # type: ignore[union-attr]
            if close == len(text):
                return fields, True
            if text[close + 1 : close + 2] in ("", "\t"):
                fields.append(text[start + 1 : close].replace('""', '"'))
                end = close + 1
        if end < 0:
            end = text.find("\t", start)
            end = len(text) if end < 0 else end
            if "\n" in text[start:end]:  # only a quoted field has several lines
                return [], False
            fields.append(text[start:end])
        start = end + 1
    return fields, False


def _form(id: str) -> str:
    return _DIGITS.sub("0", id)
