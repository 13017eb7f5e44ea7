"""Hashes of plain values and of texts, by which artefacts and cache entries are known."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """The SHA-256 of a value's JSON text, in hexadecimal digits.

    The keys of objects are sorted, so equal values have equal digests. The result is stored in
    manifests, fingerprints and names of cache files; if the text that is hashed changed, artefacts
    on users' disks would no longer be recognised.

    Args:
        value: Plain JSON values. A tuple counts as a list.

    Raises:
        TypeError: If the value holds something that JSON has no form for.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def short_hash(text: str) -> bytes:
    """The 64-bit BLAKE2b hash of a text: for tables of ids and for draws that never change.

    Different texts may have equal hashes, so whoever looks up an id compares the id itself as well.

    Args:
        text: Any text; half of a surrogate pair is allowed.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
