"""A folder that is published in place of another: there is always one under the final name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plumbing.storage import folders as building
from plumbing.storage.folders import publish_folder

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
