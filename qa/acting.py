"""Experts that act in the rows of a batch while it is decoded, beside the final FFN.

Both methods use this interface. What acts are experts that were trained, or experts that are
generated from passages. Experts of both kinds change nothing below the final FFN's output, so they
can come and go without a change of the KV cache.

Shapes: B rows, b some of them, L tokens read so far, P positions, D d_model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from torch import Tensor

from backbone.final_ffn import Residual


@dataclass(frozen=True)
class LastRead:
    """What the backbone reads, or has read, in its last forward pass.

    Attributes:
        ids_BL: The tokens of each row so far.
        mask_BL: 1 at tokens, 0 at padding.
        positions: P. Experts may be asked for at the last P positions.
        residual: The residual stream before the final FFN at these positions. It is there as soon
            as the forward pass has come to the final FFN.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    positions: int
    residual: Residual


class ActingExperts(ABC):
    """Which passages' experts act in each row, and with what weights.

    Args:
        rows: B, the number of rows of the batch.
        k: K, the most experts that a row may have.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.k = k
        self._ids: list[tuple[str, ...]] = [()] * rows
        self._weights: list[dict[str, float]] = [{}] * rows

    @property
    def ids(self) -> list[tuple[str, ...]]:
        """The passages whose experts act now, for each row."""
        return list(self._ids)

    def swap(
        self,
        rows: Sequence[int],
        ids: Sequence[Iterable[str]],
        weights: Sequence[Sequence[float]] | None = None,
    ) -> list[int]:
        """Replace the experts that act in some rows by others.

        Args:
            rows: b rows.
            ids: The passages of each row, at most K, and none of them twice.
            weights: The weight of each of these experts; None: all weights are 1 (DMoE eq. 6).

        Returns:
            The rows whose experts, or the weights of these, changed.

        Raises:
            ValueError: If a row gets more than K experts, or the same expert twice.
        """
        wanted = dict(zip(rows, map(tuple, ids), strict=True))
        each = [[1.0] * len(wanted[row]) for row in rows] if weights is None else weights
        weighted = {
            row: dict(zip(wanted[row], values, strict=True))
            for row, values in zip(rows, each, strict=True)
        }
        for row_ids in wanted.values():
            if len(row_ids) > self.k or len(set(row_ids)) < len(row_ids):
                raise ValueError(f"expected at most {self.k} different experts, got {row_ids}")
        changed = [row for row in rows if weighted[row] != self._weights[row]]
        if changed:
            self._fill(changed, [weighted[row] for row in changed])
        for row in rows:
            self._ids[row], self._weights[row] = wanted[row], weighted[row]
        return changed

    @abstractmethod
    def _fill(self, rows: Sequence[int], weighted: Sequence[Mapping[str, float]]) -> None:
        """Put experts with their weights into some rows; a row without any becomes the backbone's.

        Args:
            rows: The rows whose experts change.
            weighted: The weight of each expert of each of these rows, by the passage's id.
        """

    @contextmanager
    def watching(self, read: LastRead) -> Iterator[None]:
        """Inside the block, where the backbone reads, note what the experts look at.

        What was noted stays until the next block. By default experts look at nothing but the FFN's
        input, and nothing is noted.
        """
        yield

    @abstractmethod
    def attached(
        self, rows: Tensor | None = None, position: int | None = None
    ) -> AbstractContextManager[None]:
        """Let the experts act on the final FFN inside the block.

        Args:
            rows: ``[b]``, the rows that the batches inside hold; None: all B rows.
            position: Which of the P positions that were read last the batches inside hold; None:
                all of them, as when the backbone reads.
        """
