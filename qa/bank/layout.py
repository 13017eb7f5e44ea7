"""What a bank must know of its rows. Everything else about their bytes is known to their package.

Shapes: N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ends = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The bytes of N rows in memory, one row after another.

    Attributes:
        data: All bytes.
        ends: ``[N]``, where each row ends in ``data``.
    """

    data: Bytes
    ends: Ends

    @classmethod
    def empty(cls, sizes: Ends) -> Rows:
        """Make room for rows of these sizes in bytes ``[N]``."""
        ends = np.cumsum(sizes, dtype=np.int64)
        return cls(np.empty(int(ends[-1]) if len(ends) else 0, np.uint8), ends)

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> Rows:
        """Put rows together."""
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        return cls(np.frombuffer(b"".join(rows), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> Bytes:
        """The bytes of one row; they are a view."""
        return self.data[self.ends[row - 1] if row else 0 : self.ends[row]]

    def part(self, part: slice) -> Rows:
        """The rows of a slice without a step; the bytes are a view."""
        start, stop, _ = part.indices(len(self))
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop]
        return Rows(self.data[first : int(ends[-1]) if len(ends) else first], ends - first)


class Layout(ABC):
    """How a row is laid out.

    Attributes:
        row_bytes: How many bytes each row takes; None: each has its own length.
    """

    # What a row is called: in messages, and in the names of a shard's columns. With an "s" it is
    # the kind of the bank.
    NOUN: ClassVar[str]
    # The command that makes rows, for messages.
    MADE_BY: ClassVar[str]

    @property
    @abstractmethod
    def row_bytes(self) -> int | None:
        """How many bytes each row takes; None: each has its own length."""

    @abstractmethod
    def column(self, rows: int, total: int) -> tuple[str, tuple[int, ...]]:
        """The type in safetensors, and the shape, of a column of rows.

        Args:
            rows: How many rows there are.
            total: How many bytes they have together.
        """

    @abstractmethod
    def wrong(self, rows: Rows) -> dict[int, str]:
        """Say which rows hold what none can hold, although their checksums may be right.

        Returns:
            What is wrong with each of them, by its index.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain JSON values, as the manifest and every shard hold it."""
