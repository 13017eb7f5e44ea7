"""What opening an index checks, whatever its kind: that it is whole, and of these settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from plumbing.mounts import SettingValueError
from plumbing.storage.manifest import MANIFEST, IndexFolderError, read_manifest

T = TypeVar("T")


class IndexDirError(SettingValueError, IndexFolderError):
    """What is in an index's folder is not what the settings ask for."""


def check_name(index_dir: str | Path | None) -> None:
    """Check that a folder of this path can be made, written beside and renamed.

    Raises:
        ValueError: If the path has no name of its own, as "", "." and "..".
    """
    if index_dir is not None and Path(index_dir).name in ("", ".."):
        raise SettingValueError(
            "index_dir",
            f"index_dir must name a folder of its own, got {str(index_dir)!r}",
            "set {}, such as index/bm25",
        )


def index_path(index_dir: str | Path | None) -> Path:
    """The folder of an index, which need not exist yet.

    Raises:
        ValueError: If none is named.
        IndexFolderError: If something else is there.
    """
    if index_dir is None:
        raise SettingValueError("index_dir", "index_dir must be a folder, got null")
    folder = Path(index_dir)
    if folder.exists() and not folder.is_dir():
        raise IndexDirError(
            "index_dir", f"{folder}: expected a folder or nothing, got a file", "set another {}"
        )
    return folder


def check_built(folder: Path, what: str, wanted: dict[str, Any]) -> None:
    """Check that what is in a folder is the index that would be built there.

    Raises:
        IndexFolderError: If it is something else, damaged, or of other settings.
    """
    try:
        recorded = read_manifest(folder, what)["settings"]
    except IndexFolderError as error:
        raise IndexDirError(
            "index_dir",
            f"{folder}: expected a whole {what} or nothing, but {error}",
            "remove the folder, or set another {}",
        ) from error
    check_settings(folder, what, recorded, wanted)


def check_settings(
    folder: Path, what: str, recorded: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Check that an index was made of the settings and passages that are wanted.

    Raises:
        IndexFolderError: Naming those that differ.
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
    """Open what an index is now, after verifying its checksums and its settings.

    Args:
        folder: The index's folder.
        what: How messages call it.
        wanted: Settings that its manifest must have.
        opened: Opens it, given the settings in its manifest.

    Raises:
        IndexFolderError: If there is no whole index, or one of other settings or passages.
    """
    while True:
        before = _peek(folder)
        try:
            settings = read_manifest(folder, what)["settings"]
            check_settings(folder, what, settings, wanted)
            return opened(settings)
        except (IndexFolderError, FileNotFoundError):
            if _peek(folder) == before:
                raise
            # A writer published another state meanwhile and removed files of this one.


def _shown(value: Any) -> str:
    """A value in a message; of a hash its beginning."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _peek(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return b""
