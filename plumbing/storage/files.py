"""Files that a reader finds whole or not at all, their checksums, and the cache folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_SHOWN = 40  # characters of a file's name that its temporary file repeats


def cache_folder() -> Path:
    """The folder of all caches: ``$GENPOE_CACHE``, or ``~/.cache/genpoe`` if that is not set."""
    return Path(os.environ.get("GENPOE_CACHE", "~/.cache/genpoe")).expanduser()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_whole(
    path: Path, *, sync: bool = True, sync_name: bool = False, alone: bool = False
) -> Iterator[BinaryIO]:
    """Write a file so that a reader sees the old content or all of the new content.

    The content goes into a temporary file in the same folder, because a rename is atomic only
    within one file system. When the block ends well, the temporary file is renamed to ``path``;
    when the block raises an error, the temporary file is removed and the old file stays.

    Args:
        path: The file to write. Its folder must exist.
        sync: Whether to wait until the content is on the disk before the rename. Without it, a loss
            of power may leave the new name with damaged content behind it.
        sync_name: Whether to wait after the rename until the name is on the disk, too. Without it,
            a loss of power may bring the old file back. A caller who writes several files into one
            folder can call `sync_folder` once instead.
        alone: Whether nobody else writes this file at the same time. The temporary file then always
            has the name ``.<name>.tmp``, so a later write overwrites what a killed one left behind.

    Yields:
        The temporary file, open for writing bytes. Code that can only write to a path may write to
        the handle's ``name`` instead.
    """
    if alone:
        temporary = path.with_name(f".{path.name}.tmp")
    else:
        temporary = path.with_name(f".{path.name[:_SHOWN]}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb" if alone else "xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if sync_name:
        sync_folder(path.parent)


def json_text(value: object, **settings: Any) -> str:
    """The JSON text of a value. Numbers that are not finite, which JSON lacks, become null.

    Args:
        value: Plain JSON values.
        **settings: Further arguments of ``json.dumps``.
    """
    try:
        return json.dumps(value, allow_nan=False, **settings)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **settings)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: object) -> None:
    """Write a value as indented `json_text`, and make the file's folder if needed.

    The file appears whole, as `write_whole` says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json_text(value, indent=2) + "\n"
    with write_whole(path) as file:
        file.write(text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, so that they survive a loss of power."""
    if os.name != "posix":  # other systems cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
