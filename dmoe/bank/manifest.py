"""The bank's manifest: whose experts these are, and which shards count.

It is kept twice. Each copy is whole or not there, and says by a checksum when it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dmoe.bank.errors import BankError
from dmoe.bank.layout import ExpertLayout
from dmoe.bank.shard import FOLDER, ShardEntry
from plumbing.storage.files import replace_file, sync_folder

MANIFEST = "manifest.json"
COPY = "manifest.copy.json"
FORMAT = 1


@dataclass(frozen=True)
class BankSpec:
    """What all experts of a bank have in common.

    Attributes:
        backbone: The name of the model that they belong to.
        backbone_sha256: Its hash, `backbone.model.Backbone.fingerprint`.
        layout: The tensors of an expert, and the dtype that they are stored in.
        alpha: LoRA's scale: an expert adds ``alpha / rank * B A x``.
        recipe: How they are trained, whatever decides the result; plain JSON values.

    Raises:
        BankError: If alpha is not positive, or the recipe is no JSON.
    """

    backbone: str
    backbone_sha256: str
    layout: ExpertLayout
    alpha: float
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise BankError(f"alpha must be positive, got {self.alpha}")
        try:  # tuples become lists and so on: as it will be read again
            recipe = json.loads(json.dumps(self.recipe, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise BankError(f"a recipe must hold plain JSON values: {error}") from error
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "alpha", float(self.alpha))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
            **self.layout.to_json(),
            "alpha": self.alpha,
            "recipe": self.recipe,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BankSpec:
        """The opposite of ``to_json``.

        Raises:
            BankError: If a value cannot be used.
            KeyError: If one is missing.
        """
        layout = ExpertLayout(dict(value["shapes"]), value["dtype"])
        names = ("backbone", "backbone_sha256", "alpha", "recipe")
        return cls(layout=layout, **{name: value[name] for name in names})

    def check_same(self, other: BankSpec, where: object) -> None:
        """Check that another bank's experts are of the same kind.

        The backbone's name may differ: its hash decides.

        Args:
            other: What is expected.
            where: The bank that this one belongs to.

        Raises:
            BankError: Naming what differs.
        """
        mine, theirs = (dict(_leaves(spec.to_json())) for spec in (self, other))
        differing = [
            f"{key}: {_shown(theirs, key)} here, {_shown(mine, key)} in the bank"
            for key in sorted(mine | theirs)
            if key != "backbone"
            and (key in mine, mine.get(key)) != (key in theirs, theirs.get(key))
        ]
        if differing:
            raise BankError(
                f"{where}: the bank does not fit: {'; '.join(differing)}; use another folder, or "
                "the settings that it was built with"
            )


@dataclass(frozen=True)
class Manifest:
    """One version of a bank.

    Attributes:
        spec: What its experts are.
        generation: Counts the versions.
        shards: Those that count; a later one overrides those before it.
    """

    spec: BankSpec
    generation: int = 0
    shards: tuple[ShardEntry, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hash of all that decides the experts: the shards' heads have each one's checksum."""
        return hashlib.sha256(self._body).hexdigest()

    @cached_property
    def encoded(self) -> bytes:
        """The file: JSON, a line a shard, with the SHA-256 of all before it at its end."""
        return self._body + f'"sha256": "{self.sha256}"\n}}\n'.encode("ascii")

    @cached_property
    def _body(self) -> bytes:
        head = {"format": FORMAT, "generation": self.generation, **self.spec.to_json()}
        lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
        shards = ",\n".join(json.dumps(entry.to_json()) for entry in self.shards)
        return "".join(["{\n", *lines, f'"shards": [\n{shards}\n],\n']).encode("ascii")


def read_manifest(bank: Path) -> tuple[Manifest, list[str]]:
    """Read a bank's manifest, or its copy where it is damaged.

    Args:
        bank: The bank's folder.

    Returns:
        The manifest, and what is wrong with one of the two files, if anything is.

    Raises:
        BankError: If there is none, it is of another version, or both are damaged.
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
            f"{bank}: expected a bank of experts, found no {MANIFEST}; build one "
            "(scripts/build_experts.py), or check the path"
        )
    raise BankError(
        f"{'; '.join(problems)}; use the version of this code that wrote them, or bring one of the "
        "two back from a backup"
    )


def check_copy(bank: Path) -> str | None:
    """What is wrong with the copy, if anything is; reading may not have needed it."""
    return _read(bank / COPY)[1]


def publish(bank: Path, manifest: Manifest) -> None:
    """Make a version the one that counts, by one atomic rename; on return it is on the disk.

    So is the copy: it has all that was acknowledged when it must stand in for the manifest.
    """
    sync_folder(bank / FOLDER)
    replace_file(bank / MANIFEST, manifest.encoded, sync=True)
    replace_file(bank / COPY, manifest.encoded, sync=True)
    sync_folder(bank)


def mend(bank: Path) -> None:
    """Write both files anew, unless they are intact and the same; hold ``publishing`` meanwhile.

    Raises:
        BankError: If both are damaged.
    """
    manifest = read_manifest(bank)[0]
    paths = (bank / MANIFEST, bank / COPY)
    if any(not path.exists() or path.read_bytes() != manifest.encoded for path in paths):
        publish(bank, manifest)


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a nested mapping holds, by dotted keys."""
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _leaves(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part


def _shown(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "none"


def _read(path: Path) -> tuple[Manifest | None, str | None]:
    try:
        raw = path.read_bytes()
        value = json.loads(raw)
        if value["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {value['format']!r}")
        shards = tuple(map(ShardEntry.from_json, value["shards"]))
        manifest = Manifest(BankSpec.from_json(value), int(value["generation"]), shards)
        if manifest.encoded != raw:
            raise ValueError("its checksum differs")
    except OSError as error:
        return None, f"{path}: cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, f"{path}: the manifest cannot be used ({error})"
    return manifest, None
