"""An open shard: ids and checksums in memory, the weights mapped."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dmoe.bank.errors import BankError
from dmoe.bank.layout import ExpertLayout
from dmoe.bank.shard_file import ShardEntry, parse_head


class Shard:
    """An open shard. It stays readable when its files are deleted.

    Args:
        bank: The bank's folder.
        entry: Which shard.
        layout: What the bank stores.

    Attributes:
        entry: The same.
        paths: The file, and the copy of its head.
        records: Its ids and checksums.
        problems: What is wrong with its files, a line each; the rows are not checked before they
            are read.

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
        """What is wrong with the copy of the head, if anything is; opening may not have read it."""
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
            # As safetensors does; unlike numpy's, the mapping keeps no file open.
            mapped = torch.from_file(str(self.paths[0]), shared=False, size=size, dtype=torch.uint8)
        except RuntimeError as error:
            self.problems.append(f"{self.paths[0]}: cannot be mapped ({error})")
            return np.empty(0, np.uint8)
        return mapped.numpy()

    def _size(self) -> int | None:
        """Bytes of the shard now; None where it was deleted."""
        try:
            return self.paths[0].stat().st_size
        except FileNotFoundError:
            return None

    def read(self, row: int, out: npt.NDArray[np.uint8]) -> str | None:
        """Copy one expert's bytes, and check the copy.

        Args:
            row: Which.
            out: ``[row_bytes]``, filled.

        Returns:
            What is wrong with it, if anything is.
        """
        start = self.entry.head_bytes + row * self._row_bytes
        end = start + self._row_bytes
        size = self._size()  # what was mapped stays when the file goes, but not when it shrinks
        if end > len(self._bytes) or (size is not None and end > size):
            return f"{self.paths[0].name} ends before it"
        out[:] = self._bytes[start:end]
        if hashlib.sha256(out.data).digest() != self.records.weights[row].tobytes():
            return f"its checksum differs from the one in {self.paths[0].name}"
        return None
