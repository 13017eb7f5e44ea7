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
