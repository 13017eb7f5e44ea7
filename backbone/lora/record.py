"""The file beside an adapter that says which backbone and which prompt it was trained with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbone.lora.folder import check_files
from backbone.lora.settings import WEIGHTS, AdapterError
from backbone.model import Backbone
from plumbing.storage.files import sha256_of

RECORD = "backbone.json"  # beside PEFT's own files
_TEXTS = ("name", "fingerprint", "weights")


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter was trained with.

    Attributes:
        name: The name of the backbone.
        fingerprint: The fingerprint of the backbone.
        prompt: The prompt with names in braces for its parts, or None if there was none.
    """

    name: str
    fingerprint: str
    prompt: str | None

    def write(self, folder: Path) -> None:
        """Write the record into the folder of an adapter, with a checksum of its weights."""
        content = asdict(self) | {"weights": sha256_of(folder / WEIGHTS)}
        (folder / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_record(folder: Path, backbone: Backbone) -> dict[str, Any]:
    """Check that an adapter is what was written, and was trained for a backbone.

    Returns:
        The record. It has no ``prompt`` if version 0.1 wrote it.

    Raises:
        AdapterError: If a file is missing or damaged, or if the backbone is another one.
    """
    record, identity = _read_record(folder), backbone.identity
    if differing := identity.difference(record["fingerprint"]):
        raise AdapterError(
            f"{folder}: expected an adapter of {backbone.name} ({identity.fingerprint[:12]}), "
            f"got one of {record['name']} ({record['fingerprint'][:12]}); what differs: "
            f"{differing}; use that model, or another adapter"
        )
    if sha256_of(folder / WEIGHTS) != record["weights"]:
        raise AdapterError(
            f"{folder / WEIGHTS} is not what was written; train the adapter again "
            "(scripts/train_sft_lora.py)"
        )
    return record


def _read_record(folder: Path) -> dict[str, Any]:
    check_files(
        folder,
        "an adapter of scripts/train_sft_lora.py",
        "give its run folder's adapter as adapter_dir",
        [RECORD],
    )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {**record, **{key: str(record[key]) for key in _TEXTS}}
    except (ValueError, TypeError, KeyError) as error:
        raise AdapterError(
            f"{folder / RECORD} is damaged ({error}); train the adapter again "
            "(scripts/train_sft_lora.py)"
        ) from error
