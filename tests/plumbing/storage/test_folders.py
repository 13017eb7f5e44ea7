"""New folders: whole or not there, in place of an old one or not, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbing.storage import folders as building
from plumbing.storage.folders import _process_space, new_folder, publish_folder
from tests.helpers.faults import killed

ROOT = Path(__file__).parents[3]

# Replaces a folder by another, over and over, until it is killed.
PUBLISH = """
import sys
from pathlib import Path
from plumbing.storage.folders import publish_folder
home = Path(sys.argv[1])
number = 0
while True:
    new = home / f"new{number}"
    new.mkdir()
    for name in "abcdefgh":
        (new / name).write_text(str(number))
    publish_folder(new, home / "final")
    number += 1
"""


def make(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


@pytest.mark.parametrize("at_once", [True, False])
def test_the_new_one_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:  # as where the file system cannot exchange names
        monkeypatch.setattr(building, "_exchanged", lambda one, other: False)
    final = tmp_path / "final"
    for text in ("first", "second", "third"):
        publish_folder(make(tmp_path / "new", text), final)
        assert (final / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_file_system_that_cannot_exchange_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make(tmp_path / "one", "1"), make(tmp_path / "other", "2")
    if not building._exchanged(one, other):
        pytest.skip("the file system cannot exchange names")
    assert (one / "file").read_text() == "2"
    with pytest.raises(FileNotFoundError):
        building._exchanged(tmp_path / "nothing", other)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)
    assert not building._exchanged(tmp_path / "nothing", other)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges names at once")
def test_there_is_a_whole_folder_whenever_it_is_killed(tmp_path: Path) -> None:
    for after in (0.02, 0.05, 0.09):
        home = tmp_path / str(after)
        home.mkdir()
        process = subprocess.Popen([sys.executable, "-c", PUBLISH, str(home)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while not (home / "final").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(after)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        texts = {path.read_text() for path in (home / "final").iterdir()}
        assert len(list((home / "final").iterdir())) == 8
        assert len(texts) == 1


# Fills a new folder without end.
FILL = """
import sys, time
from pathlib import Path
from plumbing.storage.folders import new_folder
with new_folder(Path(sys.argv[1]), alone=sys.argv[2] == "alone") as part:
    (part / "half").write_text("half")
    print(flush=True)
    time.sleep(600)
"""


def build(folder: Path, text: str, **options: Any) -> None:
    with new_folder(folder, **options) as part:
        assert part.parent == folder.parent
        assert list(part.iterdir()) == []
        (part / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("replace", [True, False, lambda there: True, lambda there: False])
def test_a_new_folder_appears_when_it_is_whole(
    tmp_path: Path, alone: bool, replace: bool | Callable[[Path], bool]
) -> None:
    final = tmp_path / "parent" / "final"  # the parent is made
    with new_folder(final, replace=replace, alone=alone) as part:
        (part / "file").write_text("text")
        assert not final.exists()
    assert (final / "file").read_text() == "text"
    assert names(final.parent) == ["final"]
    assert oct(final.stat().st_mode) == oct(final.parent.stat().st_mode)  # not the maker's alone


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], alone: bool
) -> None:
    build(tmp_path / "final", "old")

    def interrupted() -> None:
        with new_folder(tmp_path / "final", replace=True, alone=alone) as part:
            (part / "file").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert (tmp_path / "final" / "file").read_text() == "old"
    assert names(tmp_path) == ["final"]


def test_an_old_folder_stays_or_is_replaced_as_asked(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    build(final, "first")  # an empty folder is nothing
    with pytest.raises(OSError, match="not empty"):
        build(final, "second")
    assert (final / "file").read_text() == "first"
    build(final, "third", replace=True)
    assert (final / "file").read_text() == "third"
    build(final, "fourth", replace=lambda there: (there / "file").read_text() != "third")
    assert (final / "file").read_text() == "third"
    build(final, "fifth", replace=lambda there: (there / "file").read_text() == "third")
    assert (final / "file").read_text() == "fifth"
    assert names(tmp_path) == ["final"]


def test_another_process_that_is_faster_by_a_hair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "final"

    def faster(new: Path, folder: Path) -> None:
        build(folder, "theirs")
        new.rename(folder)

    monkeypatch.setattr(building, "publish_folder", faster)
    build(final, "ours", replace=lambda there: not (there / "file").exists())
    assert (final / "file").read_text() == "theirs"
    shutil.rmtree(final)
    with pytest.raises(OSError, match="not empty"):  # theirs is no good, and in the way
        build(final, "ours", replace=lambda there: True)
    assert names(tmp_path) == ["final"]


@pytest.mark.parametrize("alone", ["alone", "among others"])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, alone: str) -> None:
    killed(FILL, [str(tmp_path / "final"), alone], after=0)
    (left,) = tmp_path.iterdir()
    assert names(left) == ["half"]
    build(tmp_path / "final", "whole", alone=alone == "alone")
    assert names(tmp_path) == ["final"]
    assert names(tmp_path / "final") == ["file"]


def test_what_others_are_at_work_on_stays(tmp_path: Path) -> None:
    space, ended = _process_space(), ended_process()
    here = f"{socket.gethostname()}-{space}"
    stay = [
        f".final.{socket.gethostname()}-{space}0.{ended}.01234567",  # of another container
        f".final.{here}.{os.getppid()}.01234567",  # alive
        f".final.{here}.1.01234567",  # alive, and perhaps another user's
        f".final.another-machine.{ended}.01234567",
        f".other.{here}.{ended}.01234567",
        f".final.{here}.no-process",
        ".final.building",
    ]
    go = [f".final.{here}.{ended}.01234567"]
    for name in stay + go:
        make(tmp_path / name, "half")
    build(tmp_path / "final", "whole")
    assert names(tmp_path) == sorted([*stay, "final"])
