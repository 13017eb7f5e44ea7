"""Reads the two formats of a corpus line by line: JSON lines and DPR's ``psgs_w100.tsv``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import (
    DataError,
    check_new_id,
    describe,
    parse_object,
    read_jsonl,
    read_lines,
    text_field,
)
from retrieval.corpus.table import read_rows, split_row
from retrieval.passage import Passage

Report = Callable[[DataError], None]


class CorpusSettingError(SettingValueError, DataError):
    """A setting of a corpus names no corpus file, or is impossible."""


COLUMNS = ["id", "text", "title"]  # of DPR's file
_READING = "Reading the corpus"  # the name of the progress bar
CONTROL = "".join(map(chr, range(33)))  # what Lucene calls blank


def read_corpus_file(path: Path, report: Report) -> Iterator[tuple[int, Passage]]:
    """Stream a corpus. The caller must check for repeated ids.

    Args:
        path: ``*.jsonl`` of ``{"id": str, "title": str, "text": str}``, or ``*.tsv`` with a header
            that names the columns id, text and title, quoted as in CSV or not at all
            (`retrieval.corpus.table`); other columns are ignored. Both may be compressed (``.gz``).
        report: Called with an error that says what is wrong with a line. It may raise the error; if
            it returns, the line is skipped.

    Yields:
        The number of the line where a passage begins, from 1, and the passage.

    Raises:
        DataError: If the file as a whole cannot be read: it is missing, truncated or damaged, it is
            of another kind, or a table lacks its header.
    """
    if not path.is_file():
        came = "a folder" if path.is_dir() else "nothing"
        raise CorpusSettingError("path", f"{path}: expected a corpus file, found {came}")
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _read_jsonl(path, report)
    if name.endswith(".tsv"):
        return _read_tsv(path, report)
    raise DataError(
        f"{path}: expected a corpus named *.jsonl or *.tsv, or either with .gz, got "
        f"{path.name!r}; rename it"
    )


def _read_jsonl(path: Path, report: Report) -> Iterator[tuple[int, Passage]]:
    for number, line in read_lines(path, _READING):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            passage = _checked(to_passage(parse_object(path, number, line), where), where)
        except DataError as error:
            report(error)
        else:
            yield number, passage


def _read_tsv(path: Path, report: Report) -> Iterator[tuple[int, Passage]]:
    # Bytes that are not UTF-8 become lone surrogates, so that their line can be named and skipped.
    lines = (line.decode("utf-8", "surrogateescape") for _, line in read_lines(path, _READING))
    names = _header(path, next(lines, ""))
    rows = read_rows(path, lines, len(names), names.index("id"), first=2, report=report)
    for number, row in rows:
        where = f"{path}:{number}"
        try:
            passage = _from_columns(names, row, where)
        except DataError as error:
            report(error)
        else:
            yield number, passage


def _header(path: Path, line: str) -> list[str]:
    """The names of a table's columns: id, text and title in any order, and possibly others."""
    names = split_row(line, len(COLUMNS))
    known = [name.strip().lower() for name in names]
    if any(known.count(name) != 1 for name in COLUMNS):
        advice = "; end its lines with a line feed" if "\r" in line.rstrip("\r\n") else "; add it"
        raise DataError(
            f"{path}:1: expected the header id, text, title with tabs between, got "
            f"{describe(names)}{advice}"
        )
    return known


def _from_columns(names: list[str], row: list[str], where: str) -> Passage:
    if len(row) != len(names):
        raise DataError(
            f"{where}: expected {len(names)} columns with tabs between ({', '.join(names)}), got "
            f"{len(row)}; mend the line, or its quotes"
        )
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: expected UTF-8; convert the file to UTF-8") from error
    return _checked(to_passage(dict(zip(names, row, strict=True)), where), where)


def _checked(passage: Passage, where: str) -> Passage:
    if not passage.text.strip(CONTROL):
        raise DataError(
            f"{where}: 'text' must hold some text, got control characters only; fill it in or "
            f"remove the line"
        )
    return passage


def read_passages(path: str | Path) -> list[Passage]:
    """Read a whole corpus into memory.

    Args:
        path: A JSON-lines file of ``{"id": str, "title": str, "text": str}``; other keys are
            ignored.

    Returns:
        The passages in the order of the file.

    Raises:
        DataError: If a line lacks a key, has a value of another type, has a blank id or a blank
            text, or repeats the id of an earlier line.
    """
    passages: list[Passage] = []
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        passage = to_passage(row, where)
        check_new_id(lines, passage.id, "passage", path, number)
        passages.append(passage)
    return passages


def to_passage(row: Mapping[str, Any], where: str) -> Passage:
    """Make a passage from the fields of one line.

    Args:
        row: The fields by name.
        where: The file and line number that an error names.

    Raises:
        DataError: If a key is missing, if a value is not a string, or if the id or the text is
            blank.
    """
    return Passage(
        id=text_field(row, "id", where),
        title=text_field(row, "title", where, may_be_blank=True),
        text=text_field(row, "text", where),
    )
