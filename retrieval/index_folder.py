"""Checks on the folder of an index of any kind: it must be whole, and match the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from plumbing.mounts import SettingValueError
from plumbing.storage.jsonl import DataError
from plumbing.storage.manifest import MANIFEST, FolderError, read_manifest
from retrieval.corpus.corpus import Corpus

T = TypeVar("T")

BUILD = "build it (scripts/build_index.py)"  # what to do where there is no whole index


class IndexDirError(SettingValueError, FolderError):
    """What is in an index's folder is not what the settings ask for."""


def check_name(index_dir: str | Path | None) -> None:
    """Check that the path of an index ends in a folder's name, and is text.

    A new index is written to a folder beside its own and then renamed, which needs a name.

    Raises:
        ValueError: If the path has no name of its own, such as "", "." or "..", or is no UTF-8.
    """
    if index_dir is not None and Path(index_dir).name in ("", ".."):
        raise SettingValueError(
            "index_dir",
            f"index_dir must name a folder of its own, got {str(index_dir)!r}",
            "set {}, such as index/bm25",
        )
    try:
        str(index_dir).encode()
    except UnicodeEncodeError as error:
        raise SettingValueError(
            "index_dir",
            f"index_dir must be text that UTF-8 can express, got {str(index_dir)!a}",
            "set {} to a folder with another name, or start Python with PYTHONUTF8=1",
        ) from error


def index_path(index_dir: str | Path | None) -> Path:
    """The folder of an index; it need not exist yet.

    Raises:
        ValueError: If ``index_dir`` is None.
        FolderError: If the path exists and is not a folder.
    """
    if index_dir is None:
        raise SettingValueError("index_dir", "index_dir must be a folder, got null")
    folder = Path(index_dir)
    if folder.exists() and not folder.is_dir():
        raise IndexDirError(
            "index_dir", f"{folder}: expected a folder or nothing, got a file", "set another {}"
        )
    return folder


def check_corpus(corpus: Corpus) -> None:
    """Check that there is something to build an index of, of whichever kind.

    Raises:
        DataError: If the corpus has no passage.
    """
    if not len(corpus):
        came = f"none but {corpus.skipped} malformed lines" if corpus.skipped else "none"
        raise DataError(
            f"{corpus.path}: expected a corpus with passages, got {came}; name another corpus"
        )


def check_built(folder: Path, what: str, wanted: dict[str, Any]) -> None:
    """Check that a folder already contains the index that would be built there.

    Raises:
        FolderError: If it contains something else, a damaged index, or an index that was made
            with other settings.
    """
    try:
        recorded = read_manifest(folder, what, remedy=BUILD)["settings"]
    except FolderError as error:
        raise IndexDirError(
            "index_dir",
            f"{folder}: expected a whole {what} or nothing, but {error}",
            "remove the folder, or set another {}",
        ) from error
    check_settings(folder, what, recorded, wanted)


def check_settings(
    folder: Path, what: str, recorded: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Check that an index was made with the settings and passages that are wanted.

    Raises:
        FolderError: If any differ; the message names them.
    """
    differ = [
        f"{name} {_shown(recorded.get(name))}, not {_shown(value)}"
        for name, value in wanted.items()
        if recorded.get(name) != value
    ]
    if differ:
        raise IndexDirError(
            "index_dir",
            f"{folder}: expected the {what} of these settings and this corpus, found one made with "
            f"{' and '.join(differ)}",
            "set what it was made with, or set another {} and build (scripts/build_index.py)",
        )


def open_current(
    folder: Path, what: str, wanted: dict[str, Any], opened: Callable[[dict[str, Any]], T]
) -> T:
    """Open the current state of an index, after verifying its checksums and its settings.

    Args:
        folder: The index's folder.
        what: The kind of the index, as messages name it.
        wanted: The settings that its manifest must contain.
        opened: Opens the index; it is called with the settings in the manifest.

    Returns:
        What ``opened`` returns.

    Raises:
        FolderError: If there is no whole index, or if it was made with other settings or
            passages.
    """
    while True:
        before = _peek(folder)
        try:
            settings = read_manifest(folder, what, remedy=BUILD)["settings"]
            check_settings(folder, what, settings, wanted)
            return opened(settings)
        except (FolderError, FileNotFoundError):
            if _peek(folder) == before:
                raise
            # Meanwhile a writer published a new state and removed files of this one: try again.


def _shown(value: Any) -> str:
    """A value as a message shows it; a hash is shortened to its beginning."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _peek(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return b""
