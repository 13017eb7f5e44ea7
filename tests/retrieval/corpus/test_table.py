"""Tables as DPR writes them (CSV with tabs), tables without quoting, and every way between."""

from __future__ import annotations

import csv
import gzip
import io
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbing.storage.jsonl import DataError
from retrieval.corpus.corpus import Corpus
from retrieval.corpus.formats import read_corpus_file
from retrieval.corpus.table import read_rows

HEADER = b"id\ttext\ttitle\n"


def fail(error: DataError) -> None:
    raise error


def read(path: Path, content: bytes, header: bytes = HEADER) -> list[tuple[str, str, str]]:
    """The id, text and title of each passage of a file."""
    write = gzip.compress if path.suffix == ".gz" else bytes
    path.write_bytes(write(header + content))
    return [(p.id, p.text, p.title) for _, p in read_corpus_file(path, fail)]


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (b'He said "no" to it', 'He said "no" to it'),
        (b'He said "no"', 'He said "no"'),
        (b'a 5" disk of 3"', 'a 5" disk of 3"'),
        (b'"no" is what he said', '"no" is what he said'),
        (b'"no"', "no"),
        (b"no", "no"),
    ],
)
@pytest.mark.parametrize("opens", ['"He came\tA', 'He came\t"A', '"He came\tA"', '"\t"'])
def test_a_quote_that_is_not_closed_swallows_no_row(
    tmp_path: Path, opens: str, last: bytes, text: str
):
    lines = [b"1\t" + opens.encode(), b"2\tsecond\tB", b"", b"3\tthird\tC", b"4\t" + last + b"\tD"]
    rows = read(tmp_path / "c.tsv", b"\n".join([*lines, b"5\tfifth\tE"]))
    assert [id for id, _, _ in rows] == ["1", "2", "3", "4", "5"]
    assert rows[0][1:] == tuple(opens.split("\t"))
    assert rows[3] == ("4", text, "D")


ROWS = {
    "the whole field is quoted": (b'1\t"no"\t"T"\n', ("no", "T")),
    "quotes are doubled": (b'1\t"He said ""no"" to it"\t"""T"""\n', ('He said "no" to it', '"T"')),
    "doubled quotes at both ends": (b'1\t"""no"" and ""yes"""\tT\n', ('"no" and "yes"', "T")),
    "doubled quotes without quoting": (b'1\tHe said ""no""\tT\n', ('He said ""no""', "T")),
    "quotes at both ends that are not doubled": (
        b'1\t"no" and "yes"\tT\n',
        ('"no" and "yes"', "T"),
    ),
    "a quote in the middle": (b'1\ta 5" disk\tT\n', ('a 5" disk', "T")),
    "a tab in a quoted text": (b'1\t"a\tb"\tT\n', ("a\tb", "T")),
    "a line feed in a quoted text": (b'1\t"a\nb"\tT\n', ("a\nb", "T")),
    "blank lines in a quoted text": (b'1\t"a\n\n\nb"\tT\n', ("a\n\n\nb", "T")),
    "a tab and a line feed": (b'1\t"a\tb\nc"\tT\n', ("a\tb\nc", "T")),
    "text and title of two lines": (b'1\t"a\nb"\t"T\nU"\n', ("a\nb", "T\nU")),
    "a carriage return": (b"1\ta\rb\tT\n", ("a\rb", "T")),
    "a carriage return in a quoted text": (b'1\t"a\rb"\tT\n', ("a\rb", "T")),
    "lines that end as in DOS": (b'1\t"a\r\nb"\t"T"\r\n', ("a\r\nb", "T")),
    "an unquoted title before a DOS line end": (b"1\ta\tT\r\n", ("a", "T")),
    "no title": (b"1\ta\t\n", ("a", "")),
    "no line end at the end": (b'1\ta\t"T"', ("a", "T")),
    "a null character": (b"1\ta\0b\tT\n", ("a\0b", "T")),
    "a blank line": (b"\n \r\n1\ta\tT\n\n", ("a", "T")),
    "a text of a million characters": (
        b'1\t"' + b"ab " * 333_334 + b'"\tT\n',
        ("ab " * 333_334, "T"),
    ),
    "a separator of Unicode": (
        "1\ta\u2028b\u0085c\x0bd\tT\n".encode(),
        ("a\u2028b\u0085c\x0bd", "T"),
    ),
}


@pytest.mark.parametrize("name", ["c.tsv", "c.tsv.gz"])
@pytest.mark.parametrize("case", ROWS)
def test_fields_of_a_table(tmp_path: Path, case: str, name: str):
    content, (text, title) = ROWS[case]
    assert read(tmp_path / name, content) == [("1", text, title)]


@pytest.mark.parametrize(
    "header",
    [
        b"\xef\xbb\xbfid\ttext\ttitle\r\n",
        b"ID\tText\tTitle\n",
        b'"id"\t"text"\t"title"\n',
        b'\xef\xbb\xbf"id"\t"text"\t"title"\n',
    ],
)
def test_headers_of_a_table(tmp_path: Path, header: bytes):
    assert read(tmp_path / "c.tsv", b"1\ta\tT\n", header) == [("1", "a", "T")]


def test_columns_are_found_by_their_names(tmp_path: Path):
    header = b"title\tid\turl\ttext\n"
    assert read(tmp_path / "c.tsv", b"T\t1\tx\ta\n", header) == [("1", "a", "T")]
    with pytest.raises(DataError, match=r"c\.tsv:2: expected 4 columns .*\(title, id, url, text\)"):
        read(tmp_path / "c.tsv", b"T\t1\ta\n", header)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"id\ttext\n", "expected the header id, text, title .*; add it"),
        (b"id\ttext\ttitle\ttext\n", "expected the header"),
        (b"id,text,title\n", "expected the header"),
        (b"id\ttext\ttitle\r1\ta\tT\r", "expected the header .*; end its lines with a line feed"),
        ("id\ttext\ttitle\n".encode("utf-16"), "expected the header"),
    ],
)
def test_a_table_without_its_header(tmp_path: Path, header: bytes, message: str):
    with pytest.raises(DataError, match=rf"c\.tsv:1: {message}"):
        read(tmp_path / "c.tsv", b"", header)


def test_lines_of_which_nothing_says_if_they_are_one_row_or_several(tmp_path: Path):
    path = tmp_path / "c.tsv"
    path.write_bytes(HEADER + b'1\t"x\ty\nz\tw"\tT\n2\tb\tU\n')
    with pytest.raises(
        DataError, match=r"c\.tsv:2: .* one row .* or 2 rows without quoting; write"
    ):
        Corpus.open(path, tmp_path)
    assert list(Corpus.open(path, tmp_path, on_error="skip")) == ["2"]


def test_a_quote_without_end_costs_no_more_than_reading_on(tmp_path: Path):
    lines = b"".join(
        b'%d\t"a text\tT\n%d\tmany words\tT\n' % (n, n + 1) for n in range(0, 40_000, 2)
    )
    filler = b"".join(b"x%d\twords\tT\n" % n for n in range(40_000))
    start = time.perf_counter()
    assert len(read(tmp_path / "c.tsv", lines + filler)) == 80_000
    assert time.perf_counter() - start < 10


def fields(alphabet: str) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(alphabet), min_size=1, max_size=6).filter(str.strip)


# An id of quotes alone looks like the end of a quoted field.
ID = fields('a1 "').filter(lambda id: bool(set(id) & {"a", "1"}))
FIELD = fields('a1 "\t\r') | fields('a1 "\n\r')


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ID, FIELD, FIELD), max_size=3))
def test_what_was_written_as_csv_is_read_as_csv(rows: list[tuple[str, str, str]]):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t").writerows(rows)
    lines = [f"{line}\n" for line in file.getvalue().split("\n")]
    assert [tuple(row) for _, row in read_rows(Path("c.tsv"), lines, 3)] == rows
