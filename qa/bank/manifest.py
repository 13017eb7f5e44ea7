"""The manifest of a bank: whose experts these are, and which shards count.

The manifest is kept twice. Each of the two files is written whole, and a checksum in it tells when
it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qa.bank.errors import BankError
from dmoe.bank.layout import ExpertLayout
from qa.bank.shard import FOLDER, ShardEntry
from plumbing.storage.files import sync_folder, write_whole
from qa.prompts import PROMPT_OF_0_1

MANIFEST = "manifest.json"
COPY = "manifest.copy.json"
FORMAT = 1


@dataclass(frozen=True)
class BankSpec:
    """What all experts of a bank have in common.

    Attributes:
        backbone: The name of the model that the experts belong to.
        backbone_sha256: The hash of that model, `backbone.model.Backbone.fingerprint`.
        layout: The tensors of an expert, and the dtype that they are stored in.
        alpha: The numerator of LoRA's scale: an expert adds ``alpha / rank * B A x``.
        recipe: Everything about the training that decides the result, as plain JSON values.

    Raises:
        BankError: If alpha is not positive, or if the recipe holds other than JSON values.
    """

    backbone: str
    backbone_sha256: str
    layout: ExpertLayout
    alpha: float
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise BankError(f"alpha must be positive, got {self.alpha}")
        try:  # tuples become lists and so on, so that the recipe equals what will be read again
            recipe = json.loads(json.dumps(self.recipe, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise BankError(f"a recipe must hold plain JSON values: {error}") from error
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def prompt(self) -> str | None:
        """The `qa.prompts.prompt_template` of the training; None if no question was asked in it."""
        prompt: str | None = _told(self).get("recipe.prompt")
        return prompt

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return {
            "backbone": self.backbone,
            "backbone_sha256": self.backbone_sha256,
            **self.layout.to_json(),
            "alpha": self.alpha,
            "recipe": self.recipe,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BankSpec:
        """Make a spec of what ``to_json`` returned.

        Raises:
            BankError: If a value cannot be used.
            KeyError: If a value is missing.
        """
        layout = ExpertLayout(dict(value["shapes"]), value["dtype"])
        names = ("backbone", "backbone_sha256", "alpha", "recipe")
        return cls(layout=layout, **{name: value[name] for name in names})

    def check_same(self, other: BankSpec, where: object, but: Collection[str] = ()) -> None:
        """Check that a bank holds experts of the expected kind.

        The name of the backbone may differ, because its hash decides. A bank of version 0.1 does
        not say its prompt, and counts as made with the prompt of that version.

        Args:
            other: The spec that is expected.
            where: The folder of the bank that has this spec, for the message.
            but: The keys of values that may differ, such as "recipe.source".

        Raises:
            BankError: If the two differ; the message names each difference.
        """
        mine, theirs = (_told(spec) for spec in (self, other))
        differing = [
            f"{key}: {_shown(theirs, key)} here, {_shown(mine, key)} in the bank"
            for key in sorted(mine | theirs)
            if key not in ("backbone", *but)
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
        spec: What all experts of the bank have in common.
        generation: The number of this version. It grows by one with each version.
        shards: The shards that count. A later shard overrides the ones before it.
    """

    spec: BankSpec
    generation: int = 0
    shards: tuple[ShardEntry, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """A hash of everything that decides the experts.

        It includes the hash of each shard's head, which holds the checksum of each expert.
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
            f"{bank}: expected a bank of experts, found no {MANIFEST}; build one "
            "(scripts/build_experts.py), or check the path"
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


def _told(spec: BankSpec) -> dict[str, Any]:
    """The values of a spec under dotted keys, with the prompt where an old bank does not say it."""
    formats = spec.recipe.get("formats")
    asks = isinstance(formats, list) and any(str(form).startswith("qa") for form in formats)
    old = {"recipe.prompt": PROMPT_OF_0_1} if asks else {}
    return {**old, **dict(_leaves(spec.to_json()))}


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested mapping holds, under dotted keys."""
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
