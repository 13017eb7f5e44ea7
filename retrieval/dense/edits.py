"""Edits of a dense index: adding rows, removing rows, and erasing removed rows for good.

Each edit writes new files into the index's folder, and returns the entries of the index's state
that change. It takes effect when `retrieval.dense.folder.change_shards` publishes the new state.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from plumbing.storage.files import write_whole
from plumbing.storage.jsonl import DataError
from retrieval.dense.faiss_build import add_rows
from retrieval.dense.folder import IndexKind, Snapshot, State, open_embeddings, store_index
from retrieval.dense.shard import Rows, repacked, store_shard
from retrieval.passage import Passage, SetHash, passage_digest


def checked_edit(
    snapshot: Snapshot, passages: list[Passage], gone: list[str]
) -> tuple[list[int], str]:
    """Check an edit, and find out what it does to an index.

    Args:
        snapshot: The index before the edit.
        passages: The passages to add.
        gone: The ids of the passages to remove.

    Returns:
        The rows to remove, and the `SetHash` of the index's passages after the edit.

    Raises:
        DataError: If an id to add is in the index and is not removed, or if an id to remove is not
            in the index.
    """
    embeddings, removed = snapshot.embeddings, set(snapshot.removed.tolist())
    there = {
        id: row
        for id, rows in embeddings.find({*gone, *(passage.id for passage in passages)}).items()
        for row in rows
        if row not in removed
    }
    members = SetHash(snapshot.state["corpus"])
    leaving = []
    for id in gone:
        if id not in there:
            raise DataError(
                f"cannot remove the passage {id!r}: it is not in the index, or is named twice"
            )
        leaving.append(there.pop(id))
        members.remove(embeddings.digest(leaving[-1]))
    for passage in passages:
        if passage.id in there:
            raise DataError(
                f"cannot add the passage {passage.id!r}: its id is in the index already, or is "
                "given twice; remove the old one in the same update"
            )
        there[passage.id] = -1
        members.add(passage_digest(passage))
    return leaving, members.hexdigest()


def drop_rows(folder: Path, opened: Snapshot, rows: list[int]) -> State:
    """Remove rows, so that no search finds them. Their vectors stay until `forget_removed`."""
    data = io.BytesIO()
    np.save(data, np.union1d(opened.removed, np.array(rows, np.int64)), allow_pickle=False)
    name = f"removed-{hashlib.sha256(data.getvalue()).hexdigest()}.npy"
    with write_whole(folder / name, sync_name=True) as file:
        file.write(data.getvalue())
    return {"removed": name}


def append_rows(folder: Path, opened: Snapshot, rows: Rows, kind: IndexKind, threads: int) -> State:
    """Add rows. If the last shard has room, it is replaced by a fuller one."""
    state, shards = opened.state, opened.embeddings.shards
    full = len(shards) - bool(opened.embeddings.rows % state["shard_rows"])
    rest = [shard.select(np.arange(len(shard))) for shard in shards[full:]]
    names = _store(folder, state, state["shards"][:full], [*rest, rows])
    return _with_index(folder, opened, names, kind, threads, anew=False)


def forget_removed(folder: Path, opened: Snapshot, kind: IndexKind, threads: int) -> State:
    """Write new shards and a new FAISS index, without the rows that were removed."""
    names = _store(folder, opened.state, [], _live_parts(opened))
    changed = _with_index(folder, opened, names, kind, threads, anew=True)
    return {**changed, "removed": None}


def _store(folder: Path, state: State, names: list[str], parts: Iterable[Rows]) -> list[str]:
    """Store more rows in shards after the given ones, and return the names of all shards."""
    names = list(names)
    for rows in repacked(parts, state["shard_rows"]):
        names.append(store_shard(folder, len(names), rows.to_bytes()))
    return names


def _live_parts(opened: Snapshot) -> Iterator[Rows]:
    start = 0
    for shard in opened.embeddings.shards:
        rows = np.arange(start, start + len(shard))
        yield shard.select(np.setdiff1d(rows, opened.removed, assume_unique=True) - start)
        start += len(shard)


def _with_index(
    folder: Path, opened: Snapshot, names: list[str], kind: IndexKind, threads: int, anew: bool
) -> State:
    """The state with these shards, and with a FAISS index of all their rows."""
    import faiss

    embeddings = open_embeddings(folder, {**opened.state, "shards": names})
    index = None
    if kind is not None:
        index = faiss.read_index(str(opened.faiss))
        if anew:
            index.reset()  # removes all rows, but keeps what the index has learnt
        add_rows(kind, index, embeddings, threads)
    return {"shards": names, "rows": embeddings.rows, "faiss": store_index(folder, index)}
