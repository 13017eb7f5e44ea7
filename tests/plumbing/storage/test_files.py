"""Files that are written whole: what a reader, a failure, a kill and a loss of power see of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest

from plumbing.storage.files import sha256_of, write_json, write_whole
from plumbing.storage.jsonl import write_jsonl
from tests.helpers.faults import killed

# Writes ever longer files of one letter each, until it is killed.
WRITE = """
import sys
from pathlib import Path
from plumbing.storage.files import write_whole
print(flush=True)
for number in range(10**9):
    letter = b"abcdefghij"[number % 10 : number % 10 + 1]
    with write_whole(Path(sys.argv[1]), sync=False, alone=sys.argv[2] == "alone") as file:
        for _ in range(64):
            file.write(letter * 4096)
"""


def write(path: Path, content: bytes, **options: bool) -> None:
    with write_whole(path, **options) as file:
        file.write(content)


@pytest.mark.parametrize("alone", [True, False])
def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"", b"third"):
        with write_whole(path, alone=alone) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() != content
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, error: type[BaseException], alone: bool
) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def interrupted() -> None:
        with write_whole(path, alone=alone) as file:
            file.write(b"half of the new con")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_code_that_wants_a_path_gets_one(tmp_path: Path) -> None:
    with write_whole(tmp_path / "file") as file:
        temporary = Path(file.name)
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"by its path")
    assert (tmp_path / "file").read_bytes() == b"by its path"


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_whole(path) as one, write_whole(path) as other:
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() == b"one"  # its block ended last


def test_a_single_writer_overwrites_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"a long half of what was to be written")
    write(tmp_path / "file", b"new", alone=True)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_as_long_as_file_systems_allow(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255), b"new")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"new"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sync": False}, ["renamed"]),
        ({}, ["content", "renamed"]),
        ({"sync_name": True}, ["content", "renamed", "folder"]),
        ({"sync": False, "sync_name": True}, ["renamed", "folder"]),
    ],
)
def test_it_waits_for_the_disk_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], expected: list[str]
) -> None:
    events: list[str] = []
    replace = Path.replace

    def fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        if target.is_file():
            assert target.read_bytes() == b"content"  # nothing is left in Python's buffer
        events.append("folder" if target == tmp_path else "content")

    def rename(self: Path, target: Path) -> Path:
        events.append("renamed")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    write(tmp_path / "file", b"content", **options)
    assert events == expected


@pytest.mark.parametrize("alone", ["alone", "among others"])
def test_a_whole_file_is_there_whenever_the_writer_is_killed(tmp_path: Path, alone: str) -> None:
    random = Random(0)
    path = tmp_path / "file"
    write(path, b"z" * 4096 * 64)
    for _ in range(3):
        killed(WRITE, [str(path), alone], after=0.05 * random.random())
        content = path.read_bytes()
        assert len(content) == 4096 * 64
        assert len(set(content)) == 1
    left = [file for file in tmp_path.iterdir() if file != path]
    assert all(file.name.startswith(".file.") and file.suffix == ".tmp" for file in left)
    assert alone != "alone" or len(left) <= 1


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file.json"
    write_json(path, {"a": ["Zürich", 1.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": ["Zürich", 1.5]}
    before = sha256_of(path)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert sha256_of(path) == before


def test_what_is_not_finite_is_null_so_that_json_stays_json(tmp_path):
    value = {"nll": float("nan"), "n": 2, "each": [1.5, float("inf"), {"low": -float("inf")}]}
    write_json(tmp_path / "metrics.json", value)
    written = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert written == {"nll": None, "n": 2, "each": [1.5, None, {"low": None}]}
    write_jsonl(tmp_path / "lines.jsonl", [value])
    line = (tmp_path / "lines.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == written
