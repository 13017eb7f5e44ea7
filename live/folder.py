"""The folder of a session: the head says what it is made of, and the journal what it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbing.storage.files import write_json
from plumbing.storage.manifest import FolderError

HEAD, PASSAGES = "session.json", "passages.log"
_FORMAT = 1
_KEYS = {"experts", "backbone", "settings"}


def is_kept(folder: Path | None) -> bool:
    """Whether passages have been kept in a folder."""
    return folder is not None and (folder / PASSAGES).exists()


def write_head(folder: Path, head: Mapping[str, Any]) -> None:
    """Write what a session is made of: its experts, its backbone and its settings."""
    write_json(folder / HEAD, {"format": _FORMAT, **head})


def read_head(folder: Path) -> dict[str, Any]:
    """Read what `write_head` wrote.

    Raises:
        FolderError: If it is not there, or is damaged.
    """
    try:
        head: dict[str, Any] = json.loads((folder / HEAD).read_bytes())
        if head.pop("format") != _FORMAT or not head.keys() >= _KEYS:
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(
            f"{folder}: expected the folder of a session, found no sound {HEAD} ({error}); give a "
            "folder that KnowledgeSession.save wrote"
        ) from error
    return head


def keep_head(folder: Path, own: Mapping[str, Any]) -> None:
    """Write the head of a new folder, or compare that of an old one.

    A checkpoint is the same wherever it lies. Other settings replace those that are there.

    Raises:
        FolderError: If the folder is that of another session.
    """
    there = read_head(folder) if (folder / HEAD).exists() else None
    if there is not None and not _is_same(there, own):
        raise FolderError(
            f"{folder}: expected a session of {own['experts']} and {own['backbone']}, got one of "
            f"{there['experts']} and {there['backbone']}; give another folder"
        )
    if there != own:
        write_head(folder, own)


def _is_same(there: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether two heads are of one session.

    Where a checkpoint lies does not count if both know its hash. Heads of earlier versions do not.
    """
    both = "sha256" in there["experts"] and "sha256" in own["experts"]
    left_out = "checkpoint" if both else "sha256"
    one, other = (
        {name: value for name, value in head["experts"].items() if name != left_out}
        for head in (there, own)
    )
    return one == other and there["backbone"] == own["backbone"]
