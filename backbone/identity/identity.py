"""The fingerprint that tells two backbones apart, and what differs from that of an artefact."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.identity.legacy import sampled_fingerprint
from backbone.identity.parts import settings_hash, tokenizer_hash
from backbone.identity.weights import hash_of_files, hash_of_model, weight_files

_PARTS = ("weights", "settings", "tokenizer")  # in the order in which a fingerprint holds them


@dataclass(frozen=True)
class WeightsIdentity:
    """What the weights of a model are.

    Attributes:
        sha256: The hash of all weights, as they were loaded or built.
        legacy: The fingerprint that version 0.1 gave to the model.
        changes: A hash of the changes that were made since, or "" if there are none.
    """

    sha256: str
    legacy: str
    changes: str = ""

    @classmethod
    def of(cls, model: Any, folder: Path | None) -> WeightsIdentity:
        """Hash the weights of a model.

        Args:
            model: The model, as it was loaded or built.
            folder: The folder that the model was loaded from, whose files are then hashed. So the
                hash does not depend on the dtype in memory, and is computed once for all processes.
                With None, or if the files cannot be told, the weights in memory are hashed.
        """
        files = weight_files(folder) if folder is not None else []
        sha256 = hash_of_files(files) if files else hash_of_model(model)
        return cls(sha256, sampled_fingerprint(model))

    def changed(self, how: str, by: str) -> WeightsIdentity:
        """The identity after a change.

        Args:
            how: A word for the kind of change, such as "edited".
            by: A hash of everything that decides the change.
        """
        return WeightsIdentity(
            self.sha256,
            # Banks on users' disks were built under this fingerprint; so it stays what it is.
            _sha256(f"{how} {self.legacy} {by}"),
            _sha256(f"{how} {self.sha256}{self.changes} {by}"),
        )


@dataclass(frozen=True)
class Identity:
    """What decides everything that a backbone computes.

    Attributes:
        weights: The identity of its weights.
        settings: A hash of the settings with which the weights are used.
        tokenizer: A hash of the tokenizer.
    """

    weights: WeightsIdentity
    settings: str
    tokenizer: str

    @classmethod
    def of(cls, weights: WeightsIdentity, model: Any, tokenizer: Any) -> Identity:
        """Put the parts together; the settings and the tokenizer are hashed as they are now."""
        return cls(weights, settings_hash(model), tokenizer_hash(tokenizer))

    @property
    def fingerprint(self) -> str:
        """The hashes of the weights, the settings and the tokenizer, with hyphens between them.

        If the weights have been changed since they were loaded, a hash of the changes follows
        behind a plus sign.
        """
        changes = f"+{self.weights.changes[:16]}" if self.weights.changes else ""
        parts = f"{self.weights.sha256[:32]}-{self.settings[:16]}-{self.tokenizer[:16]}"
        return parts + changes

    def difference(self, fingerprint: str) -> str:
        """Say what differs from the backbone that an artefact was made with.

        Args:
            fingerprint: The fingerprint in the artefact. It may be one of version 0.1, which knew
                nothing of the tokenizer, and only a sample of the weights.

        Returns:
            The parts that differ, such as "the weights and the tokenizer", or "" if none does.
        """
        if fingerprint in (self.fingerprint, self.weights.legacy):
            return ""
        mine, theirs = self.fingerprint.partition("+"), fingerprint.partition("+")
        parts = theirs[0].split("-")
        if len(parts) != len(_PARTS):
            return "the weights or the settings"
        differing = [
            f"the {name}"
            for name, one, other in zip(_PARTS, mine[0].split("-"), parts, strict=True)
            if one != other
        ]
        if mine[2] != theirs[2]:
            differing.append("what was merged into the weights or edited in them")
        return " and ".join(differing)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
