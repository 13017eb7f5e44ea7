"""The manifest of a folder: what the folder was made of, and a checksum of each of its files.

Whoever opens an index, a cache or a saved model verifies the manifest first. So a flipped bit is
found before a result is computed from it, and a folder without a manifest was never finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from plumbing.storage.files import sha256_of, write_json
from plumbing.storage.hashing import digest

MANIFEST = "manifest.json"


class FolderError(ValueError):
    """A folder that was not finished, is damaged, or was made of something else."""


def write_manifest(
    folder: Path,
    settings: dict[str, Any],
    files: Iterable[str],
    known: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder's manifest whole; from then on the folder counts as finished.

    Args:
        folder: The folder.
        settings: What made the folder, as plain JSON values.
        files: Paths of its files, relative to the folder.
        known: Entries, as `read_manifest` returns them, of files that are certainly what an earlier
            manifest said. They are taken over without reading the files again.
    """
    known = known or {}
    entries = {name: known.get(name) or _entry(folder / name) for name in sorted(files)}
    content = {"settings": settings, "files": entries}
    write_json(folder / MANIFEST, {**content, "sha256": digest(content)})


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def read_manifest(
    folder: Path,
    what: str,
    verify: bool = True,
    *,
    remedy: str = "make it again",
    older_form: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Read a folder's manifest and check every file that it names.

    Args:
        folder: The folder.
        what: What messages call the folder, such as "BM25 index".
        verify: Whether to check the checksums of the files. Their sizes are checked in any case.
        remedy: What to do where the folder cannot be used, as messages say it.
        older_form: Turns a manifest that an earlier version of this project wrote in a form of its
            own into ``settings`` and ``files``; entries may lack ``bytes``. It is called for a
            manifest without ``settings``. None: there was no such form.

    Returns:
        ``settings`` and ``files``, as they were written.

    Raises:
        FolderError: If there is no manifest, or if it or a file is damaged or missing.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if older_form is not None and "settings" not in manifest:
            content = older_form(manifest)
        else:
            content = {"settings": dict(manifest["settings"]), "files": manifest["files"]}
            if manifest["sha256"] != digest(content):
                raise ValueError("its own checksum differs")
        entries = {name: (e.get("bytes"), e["sha256"]) for name, e in content["files"].items()}
    except FileNotFoundError as error:
        raise FolderError(
            f"{folder}: expected a {what}, found no {MANIFEST}: nothing was built here, or its "
            f"building did not end; {remedy}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(
            f"{path}: the manifest of the {what} is damaged ({error}); {remedy}"
        ) from error
    for name, (size, sha256) in entries.items():
        _check(folder / name, what, size, sha256 if verify else None, remedy)
    return content


def _check(file: Path, what: str, size: int | None, sha256: str | None, remedy: str) -> None:
    """Check a file's size and checksum, each unless it is None."""
    found = file.stat().st_size if file.is_file() else None
    if found is None or size not in (None, found):
        expected = "a file" if size is None else f"{size} bytes"
        came = "no such file" if found is None else f"{found} bytes"
        raise FolderError(f"{file}: expected {expected} of the {what}, got {came}; {remedy}")
    if sha256 is not None and sha256_of(file) != sha256:
        raise FolderError(
            f"{file}: the {what} is damaged (its checksum differs from the one in {MANIFEST}); "
            f"{remedy}"
        )
