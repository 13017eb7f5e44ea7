"""The embeddings of an index: its memory-mapped shards, as one matrix.

All shards except the last have the same number of passages, so that a division finds the shard of a
row.

Shapes: R rows that are asked for, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from retrieval.corpus.store import id_hash
from retrieval.dense.shard import Shard


class Embeddings:
    """All shards of an index. Their rows are numbered consecutively, from 0.

    Args:
        folder: The folder of the shards.
        names: The names of the shards, in order.
        shard_rows: The number of rows in every shard except the last.
        dimension: The dimension of the vectors.
    """

    def __init__(self, folder: Path, names: Sequence[str], shard_rows: int, dimension: int) -> None:
        self.shards = [Shard(folder / name) for name in names]
        self.rows = sum(map(len, self.shards))
        self.dimension = dimension
        self._shard_rows = shard_rows

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first row and the float32 vectors of each shard.

        The vectors are copied only if they are stored in another dtype.
        """
        start = 0
        for shard in self.shards:
            yield start, np.asarray(shard.vectors_ND, dtype=np.float32)
            start += len(shard)

    def vectors(self, rows_R: np.ndarray) -> np.ndarray:
        """The float32 vectors ``[R, D]`` of at least one row, in the order of ``rows_R``."""
        numbers_R, inside_R = np.divmod(rows_R, self._shard_rows)
        vectors_RD = np.empty((len(rows_R), self.dimension), np.float32)
        order_R = np.argsort(numbers_R, kind="stable")
        numbers, starts = np.unique(numbers_R[order_R], return_index=True)
        for number, chosen in zip(numbers, np.split(order_R, starts[1:]), strict=True):
            vectors_RD[chosen] = self.shards[number].vectors_ND[inside_R[chosen]]
        return vectors_RD

    def id(self, row: int) -> str:
        """The id of the passage at a row."""
        number, inside = divmod(row, self._shard_rows)
        return self.shards[number].id(inside)

    def digest(self, row: int) -> bytes:
        """The `retrieval.passage.passage_digest` of the passage at a row."""
        number, inside = divmod(row, self._shard_rows)
        return self.shards[number].digests[inside].tobytes()

    def find(self, ids: Iterable[str]) -> dict[str, list[int]]:
        """The rows of ids; ids without a row are left out. Reads the hashes of all rows once."""
        by_hash: dict[int, list[str]] = {}
        for id in ids:
            by_hash.setdefault(id_hash(id), []).append(id)
        wanted = np.array(list(by_hash), np.uint64)
        found: dict[str, list[int]] = {}
        for number, shard in enumerate(self.shards):
            for inside in np.flatnonzero(np.isin(shard.id_hashes, wanted)).tolist():
                id = shard.id(inside)
                if id in by_hash[int(shard.id_hashes[inside])]:  # not another id of equal hash
                    found.setdefault(id, []).append(number * self._shard_rows + inside)
        return found
