"""A shard of embeddings: one file with the ids, digests and vectors of some thousand passages.

It is a safetensors file with these tensors:

========== ======================================================================
tensor     content
========== ======================================================================
vectors    float32 or float16 ``[N, D]``
digests    uint8 ``[N, 32]``, each passage's `retrieval.passage.passage_digest`
id_hashes  uint64 ``[N]``, each id's `retrieval.corpus.store.id_hash`
id_ends    int64 ``[N]``, where each id ends in ``id_bytes``
id_bytes   uint8, the ids in UTF-8, one after another
========== ======================================================================

Its name is ``shard-<number>-<SHA-256 of its bytes>.safetensors``. One rename publishes the data and
the checksum together, so that a shard is either whole or missing, and the name of a damaged shard
does not match its bytes.

Shapes: N passages of the shard, D dimensions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from plumbing.mounts import SettingValueError
from plumbing.storage.files import sha256_of, write_whole
from retrieval.corpus.store import id_hash
from retrieval.passage import Passage, passage_digest

STORAGES: dict[str, Any] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}

_NAME = re.compile(r"shard-(\d{6})-([0-9a-f]{64})\.safetensors")
_DTYPES = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I64": "<i8", "U64": "<u8"}


@dataclass(frozen=True)
class Rows:
    """The content of a shard, in memory.

    Attributes:
        vectors_ND: The vectors, in the dtype in which they are stored.
        digests: uint8 ``[N, 32]``.
        id_hashes: uint64 ``[N]``.
        ids: The N ids in UTF-8.
    """

    vectors_ND: np.ndarray
    digests: np.ndarray
    id_hashes: np.ndarray
    ids: list[bytes]

    @classmethod
    def of(cls, passages: Sequence[Passage], vectors_ND: np.ndarray, storage: str) -> Rows:
        """Make rows from passages and their vectors.

        Args:
            passages: N passages.
            vectors_ND: Their vectors.
            storage: "float32" or "float16".

        Raises:
            ValueError: If a number of a vector is not finite, or does not fit into ``storage``.
        """
        with np.errstate(over="ignore"):  # the check below finds an overflow
            stored_ND = np.ascontiguousarray(vectors_ND, dtype=STORAGES[storage])
        wrong = np.flatnonzero(~np.isfinite(stored_ND).all(axis=1))
        if wrong.size:
            raise SettingValueError(
                "storage",
                f"the vector of passage {passages[wrong[0]].id!r} is not finite in {storage}",
                "set {} and the dtype of the encoder to float32",
            )
        digests = np.frombuffer(b"".join(map(passage_digest, passages)), np.uint8)
        hashes = np.array([id_hash(passage.id) for passage in passages], np.uint64)
        ids = [passage.id.encode() for passage in passages]
        return cls(stored_ND, digests.reshape(-1, 32), hashes, ids)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Join the rows of several parts, in their order. There must be at least one part."""
        return cls(
            np.concatenate([part.vectors_ND for part in parts]),
            np.concatenate([part.digests for part in parts]),
            np.concatenate([part.id_hashes for part in parts]),
            list(itertools.chain.from_iterable(part.ids for part in parts)),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` up to, but without, ``stop``."""
        part = slice(start, stop)
        return Rows(self.vectors_ND[part], self.digests[part], self.id_hashes[part], self.ids[part])

    def to_bytes(self) -> bytes:
        """The bytes of the shard's file; equal rows give equal bytes."""
        return save(
            {
                "vectors": np.ascontiguousarray(self.vectors_ND),
                "digests": np.ascontiguousarray(self.digests),
                "id_hashes": np.ascontiguousarray(self.id_hashes),
                "id_ends": np.cumsum([len(id) for id in self.ids], dtype=np.int64),
                "id_bytes": np.frombuffer(b"".join(self.ids), np.uint8),
            }
        )


class Shard:
    """One shard, memory-mapped. The caller must have verified its checksum.

    Attributes:
        vectors_ND: The passages' vectors, in the dtype in which they are stored.
        digests: uint8 ``[N, 32]``.
        id_hashes: uint64 ``[N]``.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._start = 8 + int.from_bytes(self._map[:8], "little")
        self._header = json.loads(self._map[8 : self._start])
        self.vectors_ND = self._tensor("vectors")
        self.digests = self._tensor("digests")
        self.id_hashes = self._tensor("id_hashes")
        self._id_ends = self._tensor("id_ends")
        self._id_bytes = self._tensor("id_bytes")

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def id(self, row: int) -> str:
        """The id of the passage at a row."""
        return self._id(row).decode()

    def select(self, rows: np.ndarray) -> Rows:
        """Copy some rows."""
        ids = [self._id(row) for row in rows.tolist()]
        return Rows(self.vectors_ND[rows], self.digests[rows], self.id_hashes[rows], ids)

    def _id(self, row: int) -> bytes:
        start = int(self._id_ends[row - 1]) if row else 0
        return self._id_bytes[start : int(self._id_ends[row])].tobytes()

    def _tensor(self, name: str) -> np.ndarray:
        entry = self._header[name]
        count = int(np.prod(entry["shape"], dtype=np.int64))
        offset = self._start + entry["data_offsets"][0]
        flat = np.frombuffer(self._map, _DTYPES[entry["dtype"]], count, offset)
        return flat.reshape(entry["shape"])


def store_shard(folder: Path, number: int, data: bytes) -> str:
    """Write a shard so that it survives any later crash, and return its name.

    Args:
        folder: The folder of the shards.
        number: The number of the shard, from 0.
        data: The bytes from `Rows.to_bytes`.
    """
    name = f"shard-{number:06d}-{hashlib.sha256(data).hexdigest()}.safetensors"
    with write_whole(folder / name, sync_name=True) as file:
        file.write(data)
    return name


def find_shards(folder: Path) -> dict[int, str]:
    """Read all shards of a folder, and remove the damaged ones.

    Args:
        folder: The folder of an encoding that may have been interrupted.

    Returns:
        The names of the intact shards, by number.
    """
    found: dict[int, str] = {}
    for path in sorted(folder.glob("shard-*")):
        match = _NAME.fullmatch(path.name)
        if match is None or int(match[1]) in found or sha256_of(path) != match[2]:
            path.unlink()
        else:
            found[int(match[1])] = path.name
    return found


def repacked(parts: Iterable[Rows], size: int) -> Iterable[Rows]:
    """Divide the same rows into parts of another size.

    At most one old part and one new part are in memory at a time.

    Args:
        parts: The rows, in order.
        size: The number of rows in each new part; the last part may have fewer.
    """
    pending: list[Rows] = []
    room = size
    for rows in parts:
        start = 0
        while start < len(rows):
            taken = rows.part(start, start + room)
            pending.append(taken)
            start += len(taken)
            room -= len(taken)
            if room == 0:
                yield Rows.joined(pending)
                pending, room = [], size
    if pending:
        yield Rows.joined(pending)
