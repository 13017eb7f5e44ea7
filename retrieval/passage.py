"""A passage: the unit of text that is retrieved, put into a prompt, or turned into an expert.

Hashes of their content identify passages and whole corpora.
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
        id: Unique in its corpus. Code must treat it as data: it never becomes part of a path, and
            it is never parsed.
        title: The title of the article that the passage comes from; may be empty.
        text: The text of the passage.
    """

    id: str
    title: str
    text: str


def passage_text(passage: Passage) -> str:
    """The title, if there is one, and the text on the next line.

    This is what encoders, rerankers, the hypernetwork and a RAG prompt read.
    """
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def passage_digest(passage: Passage) -> bytes:
    """SHA-256 of a passage's id, title and text, each preceded by its length in bytes."""
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
    """Hash of a set of passages, which does not depend on their order.

    It is the sum of the passages' digests modulo 2^256. Adding or removing a passage has constant
    cost. An index that was edited has the same hash as a new index of the same passages.

    Args:
        value: The hexadecimal hash to start from; by default that of the empty set.
    """

    def __init__(self, value: str = "0") -> None:
        self._sum = int(value, 16)

    def add(self, digest: bytes) -> None:
        """Add a passage, given its `passage_digest`."""
        self._sum = (self._sum + int.from_bytes(digest, "little")) % 2**256

    def remove(self, digest: bytes) -> None:
        """Remove a passage that is in the set, given its `passage_digest`."""
        self._sum = (self._sum - int.from_bytes(digest, "little")) % 2**256

    def hexdigest(self) -> str:
        """The hash as 64 hexadecimal digits."""
        return f"{self._sum:064x}"


def corpus_hashes(passages: Iterable[Passage]) -> tuple[str, str]:
    """The two hashes of a corpus.

    Args:
        passages: All passages of the corpus, in order.

    Returns:
        The SHA-256 of the passages' digests in their order, and the `SetHash`.
    """
    ordered, members = hashlib.sha256(), SetHash()
    for passage in passages:
        one = passage_digest(passage)
        ordered.update(one)
        members.add(one)
    return ordered.hexdigest(), members.hexdigest()
