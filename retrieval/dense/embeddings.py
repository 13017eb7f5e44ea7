"""The embeddings of an index: its shards, memory-mapped, as one matrix.

All shards but the last hold the same number of passages, so that a row's place is a division.

Shapes: R rows asked for, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from retrieval.corpus.store import id_hash
from retrieval.dense.shard import Shard


class Embeddings:
    """All shards of an index; rows are numbered through them, from 0.

    Args:
        folder: Where they are.
        names: Their names, in order.
        shard_rows: Rows of every shard but the last.
        dimension: Of the vectors.
    """

    def __init__(self, folder: Path, names: Sequence[str], shard_rows: int, dimension: int) -> None:
        self.shards = [Shard(folder / name) for name in names]
        self.rows = sum(map(len, self.shards))
        self.dimension = dimension
        self._shard_rows = shard_rows

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and float32 vectors of each shard; copies only of what is stored otherwise."""
        start = 0
        for shard in self.shards:
            yield start, np.asarray(shard.vectors_ND, dtype=np.float32)
            start += len(shard)

    def vectors(self, rows_R: np.ndarray) -> np.ndarray:
        """float32 vectors ``[R, D]`` of some rows, in their order; at least one."""
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
        """`retrieval.passage.passage_digest` of the passage at a row."""
        number, inside = divmod(row, self._shard_rows)
        return self.shards[number].digests[inside].tobytes()

    def find(self, ids: Iterable[str]) -> dict[str, list[int]]:
        """The rows of each of some ids that has any; reads the hashes of all ids once."""
        by_hash: dict[int, list[str]] = {}
        for id in ids:
            by_hash.setdefault(id_hash(id), []).append(id)
        wanted = np.array(list(by_hash), np.uint64)
        found: dict[str, list[int]] = {}
        for number, shard in enumerate(self.shards):
            for inside in np.flatnonzero(np.isin(shard.id_hashes, wanted)).tolist():
                id = shard.id(inside)
                if id in by_hash[int(shard.id_hashes[inside])]:  # else another of equal hash
                    found.setdefault(id, []).append(number * self._shard_rows + inside)
        return found
