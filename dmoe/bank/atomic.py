"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


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
