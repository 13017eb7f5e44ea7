"""A shard of a bank: what it is on disk, how it is written, and how it is read.

A shard is a safetensors file. It begins with its header and the columns of `Records`, and ends with
the rows. So a row is loaded by a single read, however many there are. Where rows have lengths of
their own, one more column says where each ends. Everything before the rows is the *head*. A second
file holds a copy of the head, and the manifest holds its SHA-256. An open shard keeps its head in
memory and maps its rows.

Shapes: N rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qa.bank.errors import BankError
from qa.bank.layout import Bytes, Ends, Layout
from qa.bank.records import KEY_BYTES, SHA_BYTES, Records

FOLDER = "shards"
_ALIGN = 64  # the rows begin at a multiple of this many bytes
_DTYPES = {"U64": "<u8", "I64": "<i8", "U8": "u1"}
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says about a shard.

    Attributes:
        name: The name of its two files without their endings. No part of it comes from an id.
        rows: How many ids the shard holds.
        removed: Whether the shard removes these ids; then it holds no rows.
        head_bytes: How many bytes its head has.
        head_sha256: The SHA-256 of its head.
    """

    name: str
    rows: int
    removed: bool
    head_bytes: int
    head_sha256: str

    @classmethod
    def from_json(cls, value: Any) -> ShardEntry:
        """Make an entry from what a manifest holds, which a stranger may have written.

        Raises:
            ValueError: If a value is of another type or outside of its range.
            TypeError: If a value is missing or unknown.
        """
        entry = cls(**value)
        typed = {"name": str, "rows": int, "removed": bool, "head_bytes": int, "head_sha256": str}
        if any(type(getattr(entry, name)) is not kind for name, kind in typed.items()):
            raise ValueError(f"a shard of unexpected types: {value}")
        if not _NAME.fullmatch(entry.name) or entry.rows < 1 or entry.head_bytes < 8:
            raise ValueError(f"a shard of unexpected values: {value}")
        return entry

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain JSON values, in the order of the attributes."""
        return dict(vars(self))

    def paths(self, bank: Path) -> tuple[Path, Path]:
        """The paths of the shard and of the copy of its head."""
        stem = bank / FOLDER / self.name
        return stem.with_suffix(".safetensors"), stem.with_suffix(".head")

    def delete(self, bank: Path) -> None:
        """Delete those of its files that are there."""
        for path in self.paths(bank):
            path.unlink(missing_ok=True)


def write_shard(
    bank: Path,
    layout: Layout,
    records: Records,
    rows: Iterable[Bytes] | None,
) -> ShardEntry:
    """Write a shard. It does not count before a manifest names it.

    That is why the files are not written with `plumbing.storage.files.write_whole`: their names are
    new, and nobody looks for them before they are whole.

    Args:
        bank: The bank's folder.
        layout: The layout of the bank's rows.
        records: The ids and checksums of the rows.
        rows: The bytes of the rows, one or several at a time. None makes a shard that removes the
            ids.

    Returns:
        The entry for the manifest. If ``rows`` raises an error, nothing is left behind.
    """
    head = _head(records, rows is None, layout)
    sha256 = hashlib.sha256(head).hexdigest()
    entry = ShardEntry(uuid.uuid4().hex, len(records), rows is None, len(head), sha256)
    path, copy = entry.paths(bank)
    try:
        _write(path, head, rows or (), sync=True)
        # This need not wait for the disk, because the original survives a loss of power.
        _write(copy, head, (), sync=False)
    except BaseException:
        with suppress(OSError):
            entry.delete(bank)
        raise
    return entry


def _write(path: Path, head: bytes, rows: Iterable[Bytes], sync: bool) -> None:
    with path.open("xb") as file:
        file.write(head)
        for row in rows:
            file.write(row.data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


_Column = tuple[str, str, tuple[int, ...], int]  # name, type, shape, bytes


def _columns(layout: Layout, rows: int, id_bytes: int, there: int) -> list[_Column]:
    """The columns of a head, in their order.

    Args:
        layout: The layout of the rows.
        rows: How many ids there are.
        id_bytes: How many bytes the ids have together.
        there: How many rows of bytes there are: none if the ids are removed.
    """
    columns: list[_Column] = [
        ("keys", "U64", (rows, 2), KEY_BYTES * rows),
        ("id_ends", "I64", (rows,), 8 * rows),
        ("ids", "U8", (id_bytes,), id_bytes),
        ("passage_sha256", "U8", (rows, SHA_BYTES), SHA_BYTES * rows),
        (f"{layout.NOUN}_sha256", "U8", (there, SHA_BYTES), SHA_BYTES * there),
    ]
    if layout.row_bytes is None:
        columns.append((f"{layout.NOUN}_ends", "I64", (there,), 8 * there))
    return columns


def _header(columns: list[_Column], layout: Layout, there: int, total: int) -> bytes:
    """Make the header of safetensors: the length of a JSON object, and the object with padding."""
    ahead = sum(size for *_, size in columns)
    header: dict[str, Any] = {"__metadata__": {"layout": json.dumps(layout.to_json())}}
    start = 0
    for name, tag, shape, size in [
        *columns,
        (f"{layout.NOUN}s", *layout.column(there, total), total),
    ]:
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": (start, start + size)}
        start += size
    text = json.dumps(header).encode("ascii")
    text += b" " * (-(8 + len(text) + ahead) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def _total(layout: Layout, there: int, ends: Ends) -> int:
    """How many bytes the rows have together."""
    size = layout.row_bytes
    return there * size if size is not None else int(ends[-1]) if there else 0


def _head(records: Records, removed: bool, layout: Layout) -> bytes:
    there = 0 if removed else len(records)
    columns = _columns(layout, len(records), len(records.ids), there)
    header = _header(columns, layout, there, _total(layout, there, records.ends))
    return header + b"".join(getattr(records, one.name).tobytes() for one in fields(records))


def parse_head(path: Path, head: bytes, entry: ShardEntry, layout: Layout) -> Records:
    """Read the columns of a head.

    Raises:
        BankError: If its header is not the one that `write_shard` would write.
    """
    rows, there = entry.rows, 0 if entry.removed else entry.rows
    length = 8 + int.from_bytes(head[:8], "little")
    known = sum(size for *_, size in _columns(layout, rows, 0, there))
    id_bytes = len(head) - length - known
    if id_bytes >= 0:
        columns = _columns(layout, rows, id_bytes, there)
        parts, start = [], length
        for _, tag, shape, _ in columns:
            parts.append(np.frombuffer(head, _DTYPES[tag], math.prod(shape), start).reshape(shape))
            start += parts[-1].nbytes
        ends = parts[5] if layout.row_bytes is None else np.empty(0, np.int64)
        keys, id_ends, ids, passages, digests = parts[:5]
        records = Records(keys, id_ends, ids, passages, digests, ends)
        rising = bool((np.diff(ends, prepend=0) >= 0).all())
        total = _total(layout, there, ends)
        if rising and head[:length] == _header(columns, layout, there, total):
            return records
    raise BankError(
        f"{path}: expected a shard of {rows} {layout.NOUN}s in the manifest's layout, got another "
        "header; another version wrote the bank, or somebody tampered with it"
    )


class Shard:
    """An open shard. It stays readable when its files are deleted.

    Args:
        bank: The bank's folder.
        entry: What the manifest says about the shard.
        layout: The layout of the bank's rows.

    Attributes:
        entry: What the manifest says about the shard.
        paths: The paths of the shard and of the copy of its head.
        records: The ids and checksums of its rows.
        problems: What is wrong with its files, a line for each problem. The rows are checked only
            when they are read.

    Raises:
        BankError: If neither copy of the head is intact.
    """

    def __init__(self, bank: Path, entry: ShardEntry, layout: Layout) -> None:
        self.entry = entry
        self.problems: list[str] = []
        self.paths = entry.paths(bank)
        self._row_bytes = layout.row_bytes
        self.records = parse_head(self.paths[0], self._intact_head(), entry, layout)
        there = 0 if entry.removed else entry.rows
        self._end = entry.head_bytes + _total(layout, there, self.records.ends)
        self._bytes = self._map()

    def check_copy(self) -> str | None:
        """Say what is wrong with the copy of the head, or None if it is intact.

        Opening the shard does not read the copy if the head itself is intact.
        """
        return self._read_head(self.paths[1])[1]

    def _intact_head(self) -> bytes:
        for path in self.paths:
            head, problem = self._read_head(path)
            if problem is None:
                return head
            self.problems.append(problem)
        raise BankError(
            f"{'; '.join(self.problems)}; no copy is left: bring one of the two back from a backup"
        )

    def _read_head(self, path: Path) -> tuple[bytes, str | None]:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(min(self.entry.head_bytes, size))
        except OSError as error:
            return b"", f"{path}: cannot be read ({error.strerror})"
        if hashlib.sha256(head).hexdigest() != self.entry.head_sha256:
            return head, f"{path}: its ids and checksums are damaged"
        return head, None

    def _map(self) -> Bytes:
        size = self._size()
        if size != self._end:
            self.problems.append(f"{self.paths[0]}: expected {self._end} bytes, got {size or 0}")
        size = 0 if self.entry.removed else min(size or 0, self._end)
        if not size:
            return np.empty(0, np.uint8)
        try:
            # Unlike NumPy's mappings, this one keeps no file open; safetensors does the same.
            mapped = torch.from_file(str(self.paths[0]), shared=False, size=size, dtype=torch.uint8)
        except RuntimeError as error:
            self.problems.append(f"{self.paths[0]}: cannot be mapped ({error})")
            return np.empty(0, np.uint8)
        return mapped.numpy()

    def _size(self) -> int | None:
        """Return how many bytes the shard has now, or None if it was deleted."""
        try:
            return self.paths[0].stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, rows: Ends) -> Ends:
        """How many bytes rows have, by their numbers ``[N]``."""
        if self._row_bytes is not None:
            return np.full(len(rows), self._row_bytes, np.int64)
        ends = self.records.ends
        return ends[rows] - np.where(rows > 0, ends[rows - 1], 0)

    def read(self, row: int, out: Bytes) -> str | None:
        """Copy one row's bytes, and check the copy.

        Args:
            row: The number of the row.
            out: Gets the bytes; it has as many as `sizes` says.

        Returns:
            What is wrong with the row, or None if it is intact.
        """
        size = self._row_bytes
        ends = self.records.ends
        start = row * size if size is not None else int(ends[row - 1]) if row else 0
        start += self.entry.head_bytes
        end = start + len(out)
        size = self._size()  # a mapping survives that the file is deleted, but not that it shrinks
        if end > len(self._bytes) or (size is not None and end > size):
            return f"{self.paths[0].name} ends before it"
        out[:] = self._bytes[start:end]
        if hashlib.sha256(out.data).digest() != self.records.rows[row].tobytes():
            return f"its checksum differs from the one in {self.paths[0].name}"
        return None
