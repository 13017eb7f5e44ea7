"""The manifest of a bank: what its rows are, and which shards count.

The manifest is kept twice. Each of the two files is written whole, and a checksum in it tells when
it is damaged.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from plumbing.storage.files import sync_folder, write_whole
from qa.bank.errors import BankError
from qa.bank.shard import FOLDER, ShardEntry
from qa.bank.spec import Spec, read_spec

MANIFEST = "manifest.json"
COPY = "manifest.copy.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """One version of a bank.

    Attributes:
        spec: What all rows of the bank have in common.
        generation: The number of this version. It grows by one with each version.
        shards: The shards that count. A later shard overrides the ones before it.
    """

    spec: Spec
    generation: int = 0
    shards: tuple[ShardEntry, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """A hash of everything that decides the rows.

        It includes the hash of each shard's head, which holds the checksum of each row.
        """
        return hashlib.sha256(self._body).hexdigest()

    @cached_property
    def encoded(self) -> bytes:
        """The content of the file: JSON with a line for each shard, and a SHA-256 at the end."""
        return self._body + f'"sha256": "{self.sha256}"\n}}\n'.encode("ascii")

    @cached_property
    def _body(self) -> bytes:
        head = {"format": FORMAT, "generation": self.generation, **self.spec.to_json()}
        lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
        shards = ",\n".join(json.dumps(entry.to_json()) for entry in self.shards)
        return "".join(["{\n", *lines, f'"shards": [\n{shards}\n],\n']).encode("ascii")


def read_bank_manifest(bank: Path) -> tuple[Manifest, list[str]]:
    """Read the manifest of a bank, or its copy if the manifest is damaged.

    Args:
        bank: The bank's folder.

    Returns:
        The manifest, and what is wrong with the files that were read.

    Raises:
        BankError: If there is no manifest, if another version wrote it, or if both are damaged.
    """
    problems: list[str] = []
    for path in (bank / MANIFEST, bank / COPY):
        manifest, problem = _read(path)
        if problem:
            problems.append(problem)
        if manifest:
            return manifest, problems
    if not (bank / MANIFEST).exists() and not (bank / COPY).exists():
        raise BankError(
            f"{bank}: expected a bank, found no {MANIFEST}; build one of experts "
            "(scripts/build_experts.py) or of codes (scripts/encode_passages.py), or check the path"
        )
    raise BankError(
        f"{'; '.join(problems)}; use the version of this code that wrote them, or bring one of the "
        "two back from a backup"
    )


def check_copy(bank: Path) -> str | None:
    """Say what is wrong with the copy of the manifest, or None if it is intact.

    `read_bank_manifest` does not look at the copy if the manifest itself is intact.
    """
    return _read(bank / COPY)[1]


def publish(bank: Path, manifest: Manifest) -> None:
    """Make a version the one that counts, by one rename.

    When the function returns, the version is on the disk, and so is its copy. So if the copy must
    replace the manifest one day, it knows everything that was acknowledged.
    """
    sync_folder(bank / FOLDER)
    for name in (MANIFEST, COPY):
        with write_whole(bank / name) as file:
            file.write(manifest.encoded)
    sync_folder(bank)


def mend(bank: Path) -> None:
    """Write both files again, unless they are intact and equal.

    The caller holds the lock ``publishing`` meanwhile.

    Raises:
        BankError: If both are damaged.
    """
    manifest = read_bank_manifest(bank)[0]
    paths = (bank / MANIFEST, bank / COPY)
    if any(not path.exists() or path.read_bytes() != manifest.encoded for path in paths):
        publish(bank, manifest)


def _read(path: Path) -> tuple[Manifest | None, str | None]:
    try:
        raw = path.read_bytes()
        value = json.loads(raw)
        if value["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {value['format']!r}")
        shards = tuple(map(ShardEntry.from_json, value["shards"]))
        manifest = Manifest(read_spec(value), int(value["generation"]), shards)
        if manifest.encoded != raw:
            raise ValueError("its checksum differs")
    except OSError as error:
        return None, f"{path}: cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, f"{path}: the manifest cannot be used ({error})"
    return manifest, None
