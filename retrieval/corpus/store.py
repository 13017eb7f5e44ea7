"""The side store of a corpus: one file with all passages, and arrays that say where each one is.

======= ==========================================================================================
file    content
======= ==========================================================================================
records for each passage a header (checksum of the header, checksum of the text, lengths of id,
        title and text in bytes), then the three in UTF-8; in the order of the corpus
starts  uint64, the byte at which each passage's record starts, in the order of the corpus
hashes  uint64, the hash of each passage's id, sorted
rows    uint32, for each of the sorted hashes the passage's place in the corpus
skipped for each line that was skipped, what was wrong with it
======= ==========================================================================================

The arrays are little-endian and memory-mapped. A record is checked whenever it is read; opening a
store therefore checks only the arrays.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plumbing.storage.hashing import short_hash
from retrieval.passage import Passage

RECORDS, STARTS, HASHES, ROWS, SKIPPED = FILES = (
    "records.bin",
    "starts.u64",
    "hashes.u64",
    "rows.u32",
    "skipped.txt",
)
U64, U32 = np.dtype("<u8"), np.dtype("<u4")
BUFFER = 1 << 20  # bytes; for files that are read or written from beginning to end

_HEADER = struct.Struct("<IIIII")
_LENGTHS = struct.Struct("<IIII")  # the header without its own checksum


class RecordError(ValueError):
    """A record is damaged."""


def id_hash(id: str) -> int:
    """64-bit hash of a passage id, as corpora and dense indexes store it.

    Different ids may have equal hashes.
    """
    return int.from_bytes(short_hash(id), "little")


def encode_record(passage: Passage) -> bytes:
    """Encode a passage as a record of the file."""
    parts = [field.encode() for field in (passage.id, passage.title, passage.text)]
    body = b"".join(parts)
    rest = _LENGTHS.pack(zlib.crc32(body), *map(len, parts))
    return zlib.crc32(rest).to_bytes(4, "little") + rest + body


def record_at(data: mmap.mmap | bytes, start: int) -> Passage:
    """Decode the passage whose record starts at a byte.

    Raises:
        RecordError: If the record is damaged, or if none starts there.
    """
    end = start + _HEADER.size
    header = data[start:end]
    return _decode(header, data[end : end + _body_size(header)])


def read_in_order(path: Path, starts: np.ndarray) -> Iterator[Passage]:
    """Yield the passages whose records start at the given bytes, which must ascend.

    The file is read, not mapped, because the pages of a mapping would count as memory of the
    process, and a corpus may be larger than the memory.

    Raises:
        RecordError: If a record is damaged.
    """
    with path.open("rb", buffering=BUFFER) as file:
        position = 0
        for start in map(int, starts):
            if start != position:
                file.seek(start)
            header = file.read(_HEADER.size)
            body = file.read(_body_size(header))
            position = start + len(header) + len(body)
            yield _decode(header, body)


def map_array(path: Path, dtype: np.dtype) -> np.ndarray:
    """Memory-map a file as a read-only array."""
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


def map_bytes(path: Path) -> mmap.mmap | bytes:
    """Memory-map a file as read-only bytes."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _body_size(header: bytes) -> int:
    if len(header) != _HEADER.size:
        raise RecordError("a record is cut off")
    crc, _, *lengths = _HEADER.unpack(header)
    if zlib.crc32(header[4:]) != crc:
        raise RecordError("the checksum of a record's header differs")
    return sum(lengths)


def _decode(header: bytes, body: bytes) -> Passage:
    _, crc, id_size, title_size, _ = _HEADER.unpack(header)
    if zlib.crc32(body) != crc:
        raise RecordError("the checksum of a record differs")
    text_start = id_size + title_size
    return Passage(
        body[:id_size].decode(), body[id_size:text_start].decode(), body[text_start:].decode()
    )
