"""The folder of a dense index: encoded shard by shard, built whole, changed by one rename.

=========================== =================================================================
file                        content
=========================== =================================================================
manifest.json               settings, the current files and their checksums
encoding.json               what the first shards were encoded from
shard-<n>-<hash>            passages' ids and vectors (`retrieval.dense.shard`)
index-<hash>.faiss          the index that FAISS searches; none of kind flat
removed-<hash>.npy          int64, rows that were removed, sorted; none if there are none
=========================== =================================================================

All but the first two are named after their SHA-256 and never change. While a corpus is encoded, the
folder is called ``.<name>.encoding``; what is in it stays when the process is killed, and the next
build goes on with it. A change writes new files and takes effect when the new manifest is renamed
over the old one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.mounts import mounted
from plumbing.storage.files import sha256_of, write_whole
from plumbing.storage.folders import only_writer
from plumbing.storage.manifest import MANIFEST, IndexFolderError, read_manifest, write_manifest
from retrieval.dense.embeddings import Embeddings
from retrieval.dense.encoding import PLAN, EncodingJob, Engine, encode_corpus
from retrieval.dense.faiss_build import add_rows, check_dimension, check_learnable, new_index
from retrieval.dense.faiss_settings import HNSW, IVFPQ
from retrieval.dense.shard import Shard
from retrieval.index_folder import check_built, open_current

log = logging.getLogger(__name__)

WHAT = "dense index"

_HASH = re.compile(r"-([0-9a-f]{64})\.")

State = dict[str, Any]  # the settings in a manifest: what an index is of, and what it is now
IndexKind = IVFPQ | HNSW | None  # None: flat


@dataclass(frozen=True)
class Snapshot:
    """One state of an index, its files mapped; changes elsewhere do not reach it.

    Attributes:
        state: The settings in its manifest.
        embeddings: All rows, those that were removed among them.
        removed: The rows that were removed, sorted.
        faiss: FAISS's file; None if the kind is flat.
    """

    state: State
    embeddings: Embeddings
    removed: np.ndarray
    faiss: Path | None


def build(
    folder: Path, job: EncodingJob, engine: Engine, wanted: State, kind: IndexKind, threads: int
) -> None:
    """Build an index, unless it is there; go on where an earlier build was interrupted.

    Args:
        folder: The index's folder; it appears when the index is whole.
        job: The passages, and what encodes them.
        engine: Has them encoded.
        wanted: What the manifest records (see `check`).
        kind: Settings of the index that FAISS searches.
        threads: Of FAISS.

    Raises:
        IndexFolderError: If something else is in the folder, or another process writes it.
        ValueError: If a setting does not fit the passages.
    """
    with only_writer(folder, WHAT):
        if folder.exists() and any(folder.iterdir()):
            check_built(folder, WHAT, wanted)
            log.info("%s: the %s is there already", folder, WHAT)
            return
        check_encodable(job, kind)
        part = folder.with_name(f".{folder.name}.encoding")
        names = encode_corpus(job, engine, part)
        state = {
            **wanted,
            "rounding": job.maker.load().rounding,
            "generation": 0,
            "rows": len(job.corpus),
            "dimension": Shard(part / names[0]).vectors_ND.shape[1],
            "shard_rows": job.shard_rows,
            "shards": names,
            "removed": None,
        }
        embeddings = open_embeddings(part, state)
        index = None
        if kind is not None:
            index = new_index(kind, embeddings, threads)
            add_rows(kind, index, embeddings, threads)
        _publish(part, {**state, "faiss": store_index(part, index)})
        part.rename(folder)


def check_encodable(job: EncodingJob, kind: IndexKind) -> None:
    """Check that the index can be made of the passages, before all of them are encoded.

    Raises:
        ValueError: If they are too few to learn from, or their vectors of a dimension that does not
            fit.
    """
    if isinstance(kind, IVFPQ) and len(job.corpus):
        check_learnable(kind, len(job.corpus))
        with mounted("encoder"):
            vectors_ND = job.maker.load().encode_passages(list(job.corpus.passages(0, 1)))
        check_dimension(kind, vectors_ND.shape[1])


def open_snapshot(folder: Path, wanted: State) -> Snapshot:
    """Open the current state, after verifying its checksums and its settings.

    Raises:
        IndexFolderError: If there is no whole index, or one of other settings or passages.
    """
    return open_current(folder, WHAT, wanted, lambda state: _snapshot(folder, state))


def _snapshot(folder: Path, state: State) -> Snapshot:
    removed = np.empty(0, np.int64)
    if state["removed"]:
        removed = np.load(folder / state["removed"], allow_pickle=False)
    faiss = folder / state["faiss"] if state["faiss"] else None
    return Snapshot(state, open_embeddings(folder, state), removed, faiss)


def change(
    folder: Path, opened: Snapshot, corpus: str, edit: Callable[[Path, Snapshot], State]
) -> Snapshot:
    """Publish a new state.

    Args:
        folder: The index's folder.
        opened: The state to change.
        corpus: The `retrieval.passage.SetHash` of the passages that it holds then.
        edit: Writes new files and returns what of the state they change.

    Returns:
        The new state.

    Raises:
        IndexFolderError: If the index has changed since, or another process is writing it.
    """
    with only_writer(folder, WHAT):
        if read_manifest(folder, WHAT, verify=False)["settings"] != opened.state:
            raise IndexFolderError(
                f"{folder}: another process changed the {WHAT} since it was opened; open it again"
            )
        numbered = {"corpus": corpus, "generation": opened.state["generation"] + 1}
        state = {**opened.state, **numbered, **edit(folder, opened)}
        _publish(folder, state)
        return _snapshot(folder, state)


def open_embeddings(folder: Path, state: State) -> Embeddings:
    """The embeddings of a state, mapped."""
    return Embeddings(folder, state["shards"], state["shard_rows"], state["dimension"])


def store_index(folder: Path, index: Any) -> str | None:
    """Write FAISS's index, if there is one, and return the file's name."""
    import faiss

    if index is None:
        return None
    # Its hash is known only once it is written; until a manifest names it, it counts for nothing.
    unnamed = folder / "index.faiss"
    with write_whole(unnamed, sync=False, alone=True) as file:
        faiss.write_index(index, file.name)
    name = f"index-{sha256_of(unnamed)}.faiss"
    unnamed.rename(folder / name)
    return name


def _publish(folder: Path, state: State) -> None:
    """Write the manifest, then remove what it does not name."""
    names = [*state["shards"], state["faiss"], state["removed"]]
    hashes = {name: _HASH.search(name) for name in names if name}
    known = {  # by their names: to read them again would bless damage
        name: {"bytes": (folder / name).stat().st_size, "sha256": match[1]}
        for name, match in hashes.items()
        if match
    }
    write_manifest(folder, state, [*known, PLAN], known)
    for path in folder.iterdir():
        if path.name not in {*known, PLAN, MANIFEST}:
            path.unlink()
