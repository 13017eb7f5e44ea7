"""A shard of a bank: what it is on disk, how it is written, and how it is read.

A shard is a safetensors file. It begins with its header and the columns of `Records`, and ends with
the weights, a row for each expert. So an expert is loaded by a single read, however many there are.
Everything before the rows is the *head*. A second file holds a copy of the head, and the manifest
holds its SHA-256. An open shard keeps its ids and checksums in memory and maps its weights.

Shapes: N experts, P parameters of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qa.bank.errors import BankError
from dmoe.bank.layout import ExpertLayout
from qa.bank.records import KEY_BYTES, SHA_BYTES, Records

FOLDER = "shards"
_ALIGN = 64  # the rows begin at a multiple of this many bytes
_TAGS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says about a shard.

    Attributes:
        name: The name of its two files without their endings. No part of it comes from an id.
        rows: How many ids the shard holds.
        removed: Whether the shard removes these ids; then it holds no weights.
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
    layout: ExpertLayout,
    records: Records,
    rows: Iterable[npt.NDArray[np.uint8]] | None,
) -> ShardEntry:
    """Write a shard. It does not count before a manifest names it.

    That is why the files are not written with `plumbing.storage.files.write_whole`: their names are
    new, and nobody looks for them before they are whole.

    Args:
        bank: The bank's folder.
        layout: The layout of the bank's experts.
        records: The ids and checksums of the experts.
        rows: The weights, one or several rows at a time. None makes a shard that removes the ids.

    Returns:
        The entry for the manifest. If ``rows`` raises an error, nothing is left behind.
    """
    head = _head(records, len(records.ids), 0 if rows is None else len(records), layout)
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


def _write(path: Path, head: bytes, rows: Iterable[npt.NDArray[np.uint8]], sync: bool) -> None:
    with path.open("xb") as file:
        file.write(head)
        for row in rows:
            file.write(row.data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _header(rows: int, id_bytes: int, experts: int, layout: ExpertLayout) -> bytes:
    """Make the header of safetensors: the length of a JSON object, and the object with padding."""
    columns: list[tuple[str, str, tuple[int, ...], int]] = [
        ("keys", "U64", (rows, 2), KEY_BYTES * rows),
        ("id_ends", "I64", (rows,), 8 * rows),
        ("ids", "U8", (id_bytes,), id_bytes),
        ("passage_sha256", "U8", (rows, SHA_BYTES), SHA_BYTES * rows),
        ("expert_sha256", "U8", (experts, SHA_BYTES), SHA_BYTES * experts),
    ]
    ahead = sum(size for *_, size in columns)
    shape = (experts, layout.numel)
    columns.append(("experts", _TAGS[layout.dtype], shape, experts * layout.row_bytes))
    header: dict[str, Any] = {"__metadata__": {"layout": json.dumps(layout.to_json())}}
    start = 0
    for name, tag, shape_, size in columns:
        header[name] = {"dtype": tag, "shape": shape_, "data_offsets": (start, start + size)}
        start += size
    text = json.dumps(header).encode("ascii")
    text += b" " * (-(8 + len(text) + ahead) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def _head(records: Records, id_bytes: int, experts: int, layout: ExpertLayout) -> bytes:
    columns = (records.keys, records.id_ends, records.ids, records.passages, records.weights)
    header = _header(len(records), id_bytes, experts, layout)
    return header + b"".join(column.tobytes() for column in columns)


def parse_head(path: Path, head: bytes, entry: ShardEntry, layout: ExpertLayout) -> Records:
    """Read the columns of a head.

    Raises:
        BankError: If its header is not the one that `write_shard` would write.
    """
    rows, experts = entry.rows, 0 if entry.removed else entry.rows
    length = 8 + int.from_bytes(head[:8], "little")
    id_bytes = len(head) - length - (KEY_BYTES + 8 + SHA_BYTES) * rows - SHA_BYTES * experts
    if id_bytes < 0 or head[:length] != _header(rows, id_bytes, experts, layout):
        raise BankError(
            f"{path}: expected a shard of {rows} experts in the manifest's layout, got another "
            "header; another version wrote the bank, or somebody tampered with it"
        )
    columns = []
    for count, dtype in (
        (2 * rows, "<u8"),
        (rows, "<i8"),
        (id_bytes, "u1"),
        (SHA_BYTES * rows, "u1"),
        (SHA_BYTES * experts, "u1"),
    ):
        columns.append(np.frombuffer(head, dtype, count, length))
        length += columns[-1].nbytes
    keys, id_ends, ids, passages, weights = columns
    return Records(
        keys.reshape(-1, 2),
        id_ends,
        ids,
        passages.reshape(-1, SHA_BYTES),
        weights.reshape(-1, SHA_BYTES),
    )


class Shard:
    """An open shard. It stays readable when its files are deleted.

    Args:
        bank: The bank's folder.
        entry: What the manifest says about the shard.
        layout: The layout of the bank's experts.

    Attributes:
        entry: What the manifest says about the shard.
        paths: The paths of the shard and of the copy of its head.
        records: The ids and checksums of its experts.
        problems: What is wrong with its files, a line for each problem. The rows are checked only
            when they are read.

    Raises:
        BankError: If neither copy of the head is intact.
    """

    def __init__(self, bank: Path, entry: ShardEntry, layout: ExpertLayout) -> None:
        self.entry = entry
        self.problems: list[str] = []
        self.paths = entry.paths(bank)
        self._row_bytes = layout.row_bytes
        self._end = entry.head_bytes + (0 if entry.removed else entry.rows * layout.row_bytes)
        self.records = parse_head(self.paths[0], self._intact_head(), entry, layout)
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

    def _map(self) -> npt.NDArray[np.uint8]:
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

    def read(self, row: int, out: npt.NDArray[np.uint8]) -> str | None:
        """Copy one expert's bytes, and check the copy.

        Args:
            row: The row of the expert.
            out: ``[row_bytes]``, which gets the bytes.

        Returns:
            What is wrong with the expert, or None if it is intact.
        """
        start = self.entry.head_bytes + row * self._row_bytes
        end = start + self._row_bytes
        size = self._size()  # a mapping survives that the file is deleted, but not that it shrinks
        if end > len(self._bytes) or (size is not None and end > size):
            return f"{self.paths[0].name} ends before it"
        out[:] = self._bytes[start:end]
        if hashlib.sha256(out.data).digest() != self.records.weights[row].tobytes():
            return f"its checksum differs from the one in {self.paths[0].name}"
        return None
