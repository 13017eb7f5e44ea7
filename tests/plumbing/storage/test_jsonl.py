"""Reading and writing JSON lines: the identity, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError, find_jsonl, read_jsonl, write_jsonl
from retrieval.corpus.formats import read_passages
from retrieval.passage import Passage

GOOD = b'{"id": "a", "title": "A", "text": "Some text."}\n'

finite = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=rows)
def test_write_then_read_is_identity(tmp_path: Path, name: str, rows: list[dict[str, Any]]):
    path = tmp_path / name
    write_jsonl(path, rows)
    assert list(read_jsonl(path)) == list(enumerate(rows, start=1))


def test_line_separators_of_unicode_stay_within_a_line(tmp_path: Path):
    row = {"text": "a\u2028b\u0085c\rd\x0be\nf"}
    write_jsonl(tmp_path / "x.jsonl", [row])
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [(1, row)]


def test_text_is_written_readably(tmp_path: Path):
    write_jsonl(tmp_path / "x.jsonl", [{"title": "Zürich 汶川"}])
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == '{"title": "Zürich 汶川"}\n'


def test_gzip_bytes_depend_on_the_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_jsonl(tmp_path / "a.jsonl.gz", [{"id": "1"}])
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_jsonl(tmp_path / "other.jsonl.gz", [{"id": "1"}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "other.jsonl.gz").read_bytes()


def test_missing_folders_are_made_and_nothing_else_is_left(tmp_path: Path):
    path = tmp_path / "new" / "deep" / "x.jsonl"
    write_jsonl(path, [{"id": "1"}])
    assert [entry.name for entry in path.parent.iterdir()] == ["x.jsonl"]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path, name: str):
    path = tmp_path / name
    write_jsonl(path, [{"id": "old"}])

    def failing():
        yield {"id": "new"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, failing())
    assert list(read_jsonl(path)) == [(1, {"id": "old"})]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_half_a_surrogate_pair_is_refused_in_both_directions(tmp_path: Path):
    with pytest.raises(DataError, match=r"x\.jsonl:1: .*surrogate"):
        write_jsonl(tmp_path / "x.jsonl", [{"text": "\ud800"}])
    (tmp_path / "y.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\\uD800"}\n')
    with pytest.raises(DataError, match=r"y\.jsonl:2: .*surrogate"):
        list(read_jsonl(tmp_path / "y.jsonl"))
    (tmp_path / "z.jsonl").write_bytes(b'{"text": "\\ud83d\\ude00"}\n')
    assert list(read_jsonl(tmp_path / "z.jsonl")) == [(1, {"text": "\U0001f600"})]


def test_blank_lines_a_byte_order_mark_and_dos_lines_are_tolerated(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\r\n  \n{"id": 2}')
    assert list(read_jsonl(path)) == [(1, {"id": 1}), (4, {"id": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{id: 1}", r"expected one JSON object, got a string \('\{id: 1\}'\).* at column 2"),
        (b'{"id": "a"', r"expected one JSON object.*at column \d+"),
        (b'["id"]', r"expected a JSON object, got a list"),
        (b'"id"', r"expected a JSON object, got a string"),
        (b"null", r"expected a JSON object, got null;"),
        (b"[" * 100_000, r"expected one JSON object"),
        (b'{"id": "\xff"}', r"expected UTF-8, got the byte 0xff at byte 9 of the line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"x\.jsonl:3: .*{message}"):
        list(read_jsonl(path))


@pytest.mark.parametrize("cut", [5, 30, -1, -8])
def test_a_truncated_gzip_file_is_named(tmp_path: Path, cut: int):
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress(json.dumps({"id": "a" * 50, "n": list(range(500))}).encode() + b"\n")
    path.write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"x\.jsonl\.gz: .*truncated or damaged after line \d"):
        list(read_jsonl(path))


def test_damaged_and_misnamed_gzip_files_are_named(tmp_path: Path):
    path = tmp_path / "x.jsonl.gz"
    data = bytearray(gzip.compress(GOOD * 100))
    data[-6] ^= 1  # in the checksum
    path.write_bytes(data)
    with pytest.raises(DataError, match="truncated or damaged after line 100"):
        list(read_jsonl(path))
    data = bytearray(gzip.compress(GOOD))
    data[10] = 0xFF  # no deflate block begins so
    path.write_bytes(data)
    with pytest.raises(DataError, match="truncated or damaged after line 0"):
        list(read_jsonl(path))
    path.write_bytes(GOOD)
    with pytest.raises(DataError, match="expected a whole gzip file"):
        list(read_jsonl(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl: expected a JSON-lines file, found none"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="expected a readable file, got 'Is a directory'"):
        list(read_jsonl(tmp_path))


def test_find_jsonl(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"expected train\.jsonl or train\.jsonl\.gz, found neither"
    ):
        find_jsonl(tmp_path, "train")
    (tmp_path / "train.jsonl.gz").touch()
    assert find_jsonl(tmp_path, "train") == tmp_path / "train.jsonl.gz"
    (tmp_path / "dev.jsonl").touch()
    assert find_jsonl(str(tmp_path), "dev") == tmp_path / "dev.jsonl"
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match="found both; remove"):
        find_jsonl(tmp_path, "train")
    with pytest.raises(DataError, match="expected a folder with JSON lines, found nothing"):
        find_jsonl(tmp_path / "none", "train")
    with pytest.raises(DataError, match="expected a folder with JSON lines, found a file"):
        find_jsonl(tmp_path / "dev.jsonl", "train")


def test_read_passages(tmp_path: Path):
    path = tmp_path / "passages.jsonl"
    path.write_bytes(GOOD + b'{"id": "../b", "title": "", "text": " B ", "more": 1}\n')
    assert read_passages(path) == [Passage("a", "A", "Some text."), Passage("../b", "", " B ")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"title": "B", "text": "b"}, "expected the key 'id', got the keys 'title', 'text'"),
        ({}, "expected the key 'id', got the keys none"),
        ({"id": 7, "title": "B", "text": "b"}, r"'id' must be a string, got a number \(7\)"),
        ({"id": True, "title": "B", "text": "b"}, r"'id' must be a string, got a boolean"),
        ({"id": " ", "title": "B", "text": "b"}, "'id' must hold some text"),
        ({"id": "b", "text": "b"}, "expected the key 'title'"),
        ({"id": "b", "title": None, "text": "b"}, "'title' must be a string, got null"),
        ({"id": "b", "title": "B"}, "expected the key 'text'"),
        ({"id": "b", "title": "B", "text": ["b"]}, "'text' must be a string, got a list"),
        ({"id": "b", "title": "B", "text": ""}, "'text' must hold some text"),
        ({"id": "b", "title": "B", "text": " \t\n"}, "'text' must hold some text"),
        ({"id": "a", "title": "B", "text": "b"}, "passage id 'a' stands already at line 1"),
    ],
)
def test_a_bad_passage_is_named(tmp_path: Path, line: dict[str, Any], message: str):
    path = tmp_path / "passages.jsonl"
    path.write_bytes(GOOD + json.dumps(line).encode())
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}:2: .*{message}"):
        read_passages(path)
