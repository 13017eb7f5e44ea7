"""The ids and checksums of the rows in a shard, as arrays.

Shapes: N rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa.bank.errors import BankError, shown

KEY_BYTES, SHA_BYTES = 16, 32


@dataclass(frozen=True)
class Records:
    """Everything that a shard knows about N rows, except their bytes.

    Attributes:
        keys: ``[N, 2]`` uint64, the key of each passage id, from `keys_of`.
        id_ends: ``[N]`` int64, where each id ends in ``ids``.
        ids: The passage ids as bytes in UTF-8, one after another.
        passages: ``[N, 32]`` uint8, the `retrieval.passage.text_digest` of each row's passage.
        rows: ``[N, 32]`` uint8, the SHA-256 of each row; ``[0, 32]`` where rows are removed.
        ends: ``[N]`` int64, where each row ends, counted from the first one's beginning; ``[0]``
            where all rows have one length.
    """

    keys: npt.NDArray[np.uint64]
    id_ends: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint8]
    passages: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        passages: Iterable[bytes],
        rows: Iterable[bytes],
        sizes: npt.NDArray[np.int64] | None = None,
    ) -> Records:
        """Make the columns.

        Args:
            ids: The passage ids.
            passages: The digest of each passage.
            rows: The checksum of each row.
            sizes: The length of each row in bytes, where each has its own.
        """
        encoded = [encode_id(id) for id in ids]
        return cls(
            keys_of(ids),
            np.cumsum([len(id) for id in encoded], dtype=np.int64),
            np.frombuffer(b"".join(encoded), np.uint8),
            np.frombuffer(b"".join(passages), np.uint8).reshape(-1, SHA_BYTES),
            np.frombuffer(b"".join(rows), np.uint8).reshape(-1, SHA_BYTES),
            np.cumsum([] if sizes is None else sizes, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def id(self, row: int) -> str:
        """Return the passage id of a row."""
        start = int(self.id_ends[row - 1]) if row else 0
        return self.ids[start : int(self.id_ends[row])].tobytes().decode("utf-8")

    def sound(self) -> bool:
        """Whether the keys were made of these ids, and each id is there once."""
        ends = np.concatenate([[0], self.id_ends])
        if (np.diff(ends) < 0).any() or ends[-1] != len(self.ids):
            return False
        try:
            ids = [self.id(row) for row in range(len(self))]
        except UnicodeDecodeError:
            return False
        return len(set(ids)) == len(ids) and bool((keys_of(ids) == self.keys).all())


def keys_of(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The first 128 bits of each id's SHA-256, ``[N, 2]``, by which rows are found.

    In practice only equal ids have equal keys, so the ids themselves need not be compared. The 64
    bits by which a corpus finds passages (`retrieval.corpus.store.id_hash`) would not do for that.
    Both are stored in artefacts, so both stay what they are.
    """
    digests = [
        hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES] for id in ids
    ]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def encode_id(id: Any) -> bytes:
    """Encode a passage id in UTF-8. An id never becomes a path, so it may be any text.

    Raises:
        BankError: If the id is not a string, or if it holds half of a surrogate pair.
    """
    if not isinstance(id, str):
        raise BankError(f"a passage id must be a string, got {id!r}; correct the corpus")
    try:
        return id.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BankError(
            f"a passage id must be text that UTF-8 can express, got {shown(id)} with half a "
            "surrogate pair; correct the corpus"
        ) from error
