"""A folder's manifest: what made it, and a checksum of each of its files.

Whoever opens an index or a bank of embeddings verifies the manifest first: a flipped bit is found
before a result is served, and a folder without a manifest was never finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plumbing.storage.files import sha256_of, write_json

MANIFEST = "manifest.json"


class IndexFolderError(ValueError):
    """A folder that was not finished, is damaged, or was made of something else."""


def write_manifest(
    folder: Path,
    settings: dict[str, Any],
    files: Iterable[str],
    known: Mapping[str, Any] | None = None,
) -> None:
    """Publish a folder: its settings and its files' sizes and checksums, by one atomic rename.

    Args:
        folder: The folder.
        settings: What made it; plain JSON values.
        files: Paths of its files, relative to it.
        known: Entries, as `read_manifest` returns them, of those files that are certainly what an
            earlier manifest said; they are taken over without reading the files.
    """
    known = known or {}
    entries = {name: known.get(name) or _entry(folder / name) for name in sorted(files)}
    content = {"settings": settings, "files": entries}
    write_json(folder / MANIFEST, {**content, "sha256": _digest(content)})


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, what: str, verify: bool = True) -> dict[str, Any]:
    """Read a folder's manifest and check every file that it names.

    Args:
        folder: The folder.
        what: How messages call it, such as "BM25 index".
        verify: Whether to check the files' checksums (their sizes are checked in any case).

    Returns:
        ``settings`` and ``files``, as written.

    Raises:
        IndexFolderError: If there is no manifest, or it or a file is damaged or missing.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        entries = {name: (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
        settings = dict(manifest["settings"])
        if manifest["sha256"] != _digest({"settings": settings, "files": manifest["files"]}):
            raise ValueError("its own checksum differs")
    except FileNotFoundError as error:
        raise IndexFolderError(
            f"{folder}: expected a {what}, found no {MANIFEST}: nothing was built here, or its "
            "building did not end; build it (scripts/build_index.py)"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexFolderError(
            f"{path}: the manifest of the {what} is damaged ({error}); build it again"
        ) from error
    for name, (size, digest) in entries.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            came = "no such file" if found is None else f"{found} bytes"
            raise IndexFolderError(
                f"{file}: expected {size} bytes of the {what}, got {came}; build it again"
            )
        if verify and sha256_of(file) != digest:
            raise IndexFolderError(
                f"{file}: the {what} is damaged (its checksum differs from the one in "
                f"{MANIFEST}); build it again"
            )
    return {"settings": settings, "files": manifest["files"]}
