"""Files that are whole or not there: checksums, atomic writes, the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path


def cache_folder() -> Path:
    """``$GENPOE_CACHE``, or ``~/.cache/genpoe``."""
    return Path(os.environ.get("GENPOE_CACHE", "~/.cache/genpoe")).expanduser()


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes, sync: bool) -> None:
    """Write a file beside the one that it replaces, and rename it into its place.

    Args:
        path: The file; a reader sees the old content or all of the new.
        content: The new content.
        sync: Whether to wait for the disk before the rename, so that a loss of power cannot leave
            the new name with nothing behind it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
