"""A passage: the unit of text that is retrieved, put into a prompt, or turned into an expert.

Passages and whole corpora are known by hashes of their content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from plumbing.storage.hashing import digest


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a corpus.

    Attributes:
        id: Unique in its corpus. It is data: never a path, never parsed.
        title: The title of the article it comes from; may be empty.
        text: The text itself.
    """

    id: str
    title: str
    text: str


def passage_text(passage: Passage) -> str:
    """Title and text, as encoders, rerankers, the hypernetwork and a prompt with RAG read them."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def passage_digest(passage: Passage) -> bytes:
    """SHA-256 of a passage's id, title and text, each after its length in bytes."""
    sha256 = hashlib.sha256()
    for field in (passage.id, passage.title, passage.text):
        data = field.encode("utf-8")
        sha256.update(len(data).to_bytes(8, "little"))
        sha256.update(data)
    return sha256.digest()


def text_digest(passage: Passage) -> bytes:
    """SHA-256 of a passage's title and text, whatever its id: what an expert was made of.

    Banks and the adapters of PRAG store this hash; corpora, indexes and caches store that of
    `passage_digest`. Each is checked when an artefact is opened, so both stay what they are.
    """
    return bytes.fromhex(digest([passage.title, passage.text]))


class SetHash:
    """Hash of a set of passages, whatever their order; passages come and go at constant cost.

    It is the sum of the passages' digests modulo 2^256, so an index to which passages were added
    and from which others were removed has the hash of the corpus that holds exactly what it holds.

    Args:
        value: The hexadecimal hash to go on from; of the empty set by default.
    """

    def __init__(self, value: str = "0") -> None:
        self._sum = int(value, 16)

    def add(self, digest: bytes) -> None:
        """Put a passage in, by its `passage_digest`."""
        self._sum = (self._sum + int.from_bytes(digest, "little")) % 2**256

    def remove(self, digest: bytes) -> None:
        """Take a passage out that is in the set."""
        self._sum = (self._sum - int.from_bytes(digest, "little")) % 2**256

    def hexdigest(self) -> str:
        """The hash, 64 hexadecimal digits."""
        return f"{self._sum:064x}"


def corpus_hashes(passages: Iterable[Passage]) -> tuple[str, str]:
    """The two hashes of a corpus.

    Args:
        passages: All of them, in order.

    Returns:
        SHA-256 over the passages' digests in their order, and the `SetHash`.
    """
    ordered, members = hashlib.sha256(), SetHash()
    for passage in passages:
        one = passage_digest(passage)
        ordered.update(one)
        members.add(one)
    return ordered.hexdigest(), members.hexdigest()
