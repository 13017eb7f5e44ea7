"""Makes the side store of a corpus (`retrieval.corpus.store`) in one pass over the corpus file.

It takes 20 bytes of memory for each passage, to sort the hashes of the ids at the end.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from plumbing.storage.jsonl import DataError
from plumbing.storage.manifest import write_manifest
from retrieval.corpus.formats import CorpusSettingError, Report, read_corpus_file
from retrieval.corpus.store import (
    BUFFER,
    FILES,
    HASHES,
    RECORDS,
    ROWS,
    SKIPPED,
    STARTS,
    U32,
    U64,
    encode_record,
    id_hash,
    map_array,
    map_bytes,
    read_in_order,
    record_at,
)
from retrieval.passage import SetHash, corpus_hashes, passage_digest

log = logging.getLogger(__name__)

_LINES = "lines.tmp"  # uint64, the line number of each passage, for messages
_NUMBER = struct.Struct("<Q")
_BLOCK = 1 << 20  # passages that are handled at once after sorting
_SHOWN = 10  # the number of skipped lines that the log shows


def write_store(folder: Path, path: Path, on_error: str, identity: dict[str, Any]) -> None:
    """Write the side store of a corpus into an empty folder.

    Args:
        folder: The folder.
        path: The corpus file.
        on_error: ``raise`` an error, or ``skip`` malformed lines and repeated ids. The first line
            with an id is kept.
        identity: What the store is made from, as the manifest records it (see `identity_of`).

    Raises:
        DataError: If the file cannot be used.
    """
    skipped = 0
    with (folder / SKIPPED).open("w", encoding="utf-8") as file:

        def report(error: DataError) -> None:
            nonlocal skipped
            if on_error == "raise":
                raise error
            skipped += 1
            file.write(f"{error}\n")
            if skipped <= _SHOWN:
                log.warning("skipped: %s", error)

        sha256, members = _stream(folder, path, report)
        hashes = np.fromfile(folder / HASHES, U64)
        order = np.argsort(hashes, kind="stable")  # stable: rows of equal hashes ascend
        repeated = _find_repeated(folder, path, report, hashes, order)
    if repeated:
        hashes, order = _leave_out(folder, repeated, hashes, order)
        starts = map_array(folder / STARTS, U64)
        sha256, members = corpus_hashes(read_in_order(folder / RECORDS, starts))
    _write_sorted(folder, hashes, order)
    (folder / _LINES).unlink()
    counts = {"passages": len(order), "skipped": skipped}
    hashes_of = {"sha256": sha256, "members": members}
    write_manifest(folder, {**identity, **counts, **hashes_of}, FILES)


def _stream(folder: Path, path: Path, report: Report) -> tuple[str, str]:
    """Write the records, their starts, and each id's hash and line; return the corpus's hashes."""
    ordered, members = hashlib.sha256(), SetHash()
    with (
        _create(folder / RECORDS) as records,
        _create(folder / STARTS) as starts,
        _create(folder / HASHES) as hashes,
        _create(folder / _LINES) as lines,
    ):
        start = 0
        for line, passage in read_corpus_file(path, report):
            record = encode_record(passage)
            records.write(record)
            for file, number in ((starts, start), (hashes, id_hash(passage.id)), (lines, line)):
                file.write(_NUMBER.pack(number))
            start += len(record)
            digest = passage_digest(passage)
            ordered.update(digest)
            members.add(digest)
    return ordered.hexdigest(), members.hexdigest()


def _create(path: Path) -> BinaryIO:
    return path.open("xb", buffering=BUFFER)


def _find_repeated(
    folder: Path, path: Path, report: Report, hashes: np.ndarray, order: np.ndarray
) -> list[int]:
    """Report the rows whose id an earlier row has already, and return them."""
    repeated: list[int] = []
    first: dict[str, int] = {}
    records, starts = map_bytes(folder / RECORDS), map_array(folder / STARTS, U64)
    lines = map_array(folder / _LINES, U64)
    for row in _rows_with_equal_hashes(hashes, order):
        id = record_at(records, int(starts[row])).id
        earlier = first.setdefault(id, row)
        if earlier != row:
            repeated.append(row)
            report(
                DataError(
                    f"{path}:{lines[row]}: passage id {id!r} stands already at line "
                    f"{lines[earlier]}; ids must be unique in a file, so rename or remove one of "
                    f"the two"
                )
            )
    return repeated


def _rows_with_equal_hashes(hashes: np.ndarray, order: np.ndarray) -> Iterator[int]:
    """The rows whose hash another row has as well; rows of equal hash ascend."""
    last = -1  # the place of the latest row that was yielded
    for start in range(0, len(order) - 1, _BLOCK):
        block = hashes[order[start : start + _BLOCK + 1]]
        for place in (np.flatnonzero(block[1:] == block[:-1]) + start).tolist():
            if place != last:  # otherwise it was yielded with the pair before
                yield int(order[place])
            last = place + 1
            yield int(order[last])


def _leave_out(
    folder: Path, repeated: list[int], hashes: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out rows. Their records stay in the file, but nothing points to them."""
    keep = np.ones(len(hashes), dtype=bool)
    keep[repeated] = False
    np.fromfile(folder / STARTS, U64)[keep].tofile(folder / STARTS)
    new_rows = np.cumsum(keep) - 1
    return hashes[keep], new_rows[order[keep[order]]]


def _write_sorted(folder: Path, hashes: np.ndarray, order: np.ndarray) -> None:
    with (folder / HASHES).open("wb") as sorted_hashes, _create(folder / ROWS) as rows:
        for start in range(0, len(order), _BLOCK):  # blocks avoid a second copy in memory
            block = order[start : start + _BLOCK]
            sorted_hashes.write(hashes[block].tobytes())
            rows.write(block.astype(U32).tobytes())


def identity_of(path: Path, on_error: str, version: int) -> dict[str, Any]:
    """What identifies a corpus file without reading it: its path, size and time of change.

    Raises:
        DataError: If the file does not exist.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise CorpusSettingError(
            "path", f"{path}: expected a corpus file, got '{error.strerror}'"
        ) from error
    return {
        "format": version,
        "path": str(path.resolve()),
        "bytes": stat.st_size,
        "changed": stat.st_mtime_ns,
        "on_error": on_error,
    }
