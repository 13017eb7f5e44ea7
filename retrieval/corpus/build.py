"""Making a corpus's side store (`retrieval.corpus.store`), in one pass over the corpus file.

Memory grows by 20 bytes a passage, for sorting the hashes of ids at the end.
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

_LINES = "lines.tmp"  # uint64, line number of each passage; for messages
_NUMBER = struct.Struct("<Q")
_BLOCK = 1 << 20  # passages handled at once after sorting
_SHOWN = 10  # skipped lines that the log shows


def write_store(folder: Path, path: Path, on_error: str, identity: dict[str, Any]) -> None:
    """Write the side store of a corpus into an empty folder.

    Args:
        folder: The folder.
        path: The corpus file.
        on_error: ``raise``, or ``skip`` malformed lines and repeated ids (the first line stays).
        identity: What the manifest says the store was made of.

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
    """Write records, their starts, and the hashes and lines of ids; return the two hashes."""
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
    """Rows whose id stands in an earlier row; each is reported."""
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
    """Rows whose hash another row has as well, those of equal hashes in ascending order."""
    last = -1  # place of the latest row that was yielded
    for start in range(0, len(order) - 1, _BLOCK):
        block = hashes[order[start : start + _BLOCK + 1]]
        for place in (np.flatnonzero(block[1:] == block[:-1]) + start).tolist():
            if place != last:  # else it came with the pair before
                yield int(order[place])
            last = place + 1
            yield int(order[last])


def _leave_out(
    folder: Path, repeated: list[int], hashes: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Forget rows; their records stay in the file, where nothing points at them."""
    keep = np.ones(len(hashes), dtype=bool)
    keep[repeated] = False
    np.fromfile(folder / STARTS, U64)[keep].tofile(folder / STARTS)
    new_rows = np.cumsum(keep) - 1
    return hashes[keep], new_rows[order[keep[order]]]


def _write_sorted(folder: Path, hashes: np.ndarray, order: np.ndarray) -> None:
    with (folder / HASHES).open("wb") as sorted_hashes, _create(folder / ROWS) as rows:
        for start in range(0, len(order), _BLOCK):  # in blocks: no second copy in memory
            block = order[start : start + _BLOCK]
            sorted_hashes.write(hashes[block].tobytes())
            rows.write(block.astype(U32).tobytes())


def identity_of(path: Path, on_error: str, version: int) -> dict[str, Any]:
    """What tells one corpus file from another without reading it: path, size and time of change.

    Raises:
        DataError: If there is no such file.
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
