"""The folder of a dense index, which is encoded in shards, built whole and changed by one rename.

=========================== =================================================================
file                        content
=========================== =================================================================
manifest.json               the settings, and the current files with their checksums
encoding.json               what the first shards were encoded from
shard-<n>-<hash>            the passages' ids and vectors (`retrieval.dense.shard`)
index-<hash>.faiss          the index that FAISS searches; missing for the kind "flat"
removed-<hash>.npy          int64, the rows that were removed, sorted; missing if there are none
=========================== =================================================================

All files except the first two have their SHA-256 in their names and never change. While the corpus
is encoded, the folder is called ``.<name>.encoding``. If the process is killed, this folder stays,
and the next build continues with it. A change writes new files, and takes effect when the new
manifest is renamed over the old one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.engines.job import Engine
from plumbing.mounts import mounted
from plumbing.storage.files import sha256_of, write_whole
from plumbing.storage.folders import only_writer
from plumbing.storage.manifest import MANIFEST, FolderError, read_manifest, write_manifest
from retrieval.dense.embeddings import Embeddings
from retrieval.dense.encoding import PLAN, EncodingJob, encode_corpus
from retrieval.dense.faiss_build import add_rows, check_dimension, check_learnable, new_index
from retrieval.dense.faiss_settings import HNSW, IVFPQ
from retrieval.dense.shard import Shard
from retrieval.index_folder import BUILD, check_built, open_current

log = logging.getLogger(__name__)

WHAT = "dense index"

_HASH = re.compile(r"-([0-9a-f]{64})\.")

State = dict[str, Any]  # the settings in a manifest: what the index was made from, and its files
IndexKind = IVFPQ | HNSW | None  # None for the kind "flat"


@dataclass(frozen=True)
class Snapshot:
    """One state of an index, with its files mapped. Later changes do not affect it.

    Attributes:
        state: The settings in its manifest.
        embeddings: All rows, including those that were removed.
        removed: The rows that were removed, sorted.
        faiss: The path of FAISS's file; None for the kind "flat".
    """

    state: State
    embeddings: Embeddings
    removed: np.ndarray
    faiss: Path | None


def encode_and_index(
    folder: Path, job: EncodingJob, engine: Engine, wanted: State, kind: IndexKind, threads: int
) -> None:
    """Build an index, unless it exists already.

    If an earlier build was interrupted, this one continues from there.

    Args:
        folder: The index's folder. It appears only when the index is whole.
        job: The passages and their encoder.
        engine: What has the passages encoded.
        wanted: The settings that the manifest records; `retrieval.index_folder.check_settings`
            compares them when the index is opened.
        kind: The settings of the index that FAISS searches.
        threads: The number of threads of FAISS.

    Raises:
        FolderError: If something else is in the folder, or if another process writes to it.
        ValueError: If a setting does not suit the passages.
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
        # `plumbing.storage.folders.new_folder` would remove what a killed build left; here the next
        # build goes on with it. `only_writer` keeps other processes away meanwhile.
        part.rename(folder)


def check_encodable(job: EncodingJob, kind: IndexKind) -> None:
    """Check that the index can be made from the passages, before all of them are encoded.

    Raises:
        ValueError: If there are too few passages to learn from, or if the dimension of their
            vectors does not suit the index.
    """
    if isinstance(kind, IVFPQ) and len(job.corpus):
        check_learnable(kind, len(job.corpus))
        with mounted("encoder"):
            vectors_ND = job.maker.load().encode_passages(list(job.corpus.passages(0, 1)))
        check_dimension(kind, vectors_ND.shape[1])


def open_snapshot(folder: Path, wanted: State) -> Snapshot:
    """Open the current state, after verifying its checksums and its settings.

    Raises:
        FolderError: If there is no whole index, or if it was made with other settings or
            passages.
    """
    return open_current(folder, WHAT, wanted, lambda state: _snapshot(folder, state))


def _snapshot(folder: Path, state: State) -> Snapshot:
    removed = np.empty(0, np.int64)
    if state["removed"]:
        removed = np.load(folder / state["removed"], allow_pickle=False)
    faiss = folder / state["faiss"] if state["faiss"] else None
    return Snapshot(state, open_embeddings(folder, state), removed, faiss)


def change_shards(
    folder: Path, opened: Snapshot, corpus: str, edit: Callable[[Path, Snapshot], State]
) -> Snapshot:
    """Publish a new state.

    Args:
        folder: The index's folder.
        opened: The state to change.
        corpus: The `retrieval.passage.SetHash` of the index's passages after the change.
        edit: Writes new files, and returns the entries of the state that change.

    Returns:
        The new state.

    Raises:
        FolderError: If the index has changed since it was opened, or if another process is
            writing to it.
    """
    with only_writer(folder, WHAT):
        manifest = read_manifest(folder, WHAT, verify=False, remedy=BUILD)
        if manifest["settings"] != opened.state:
            raise FolderError(
                f"{folder}: another process changed the {WHAT} since it was opened; open it again"
            )
        numbered = {"corpus": corpus, "generation": opened.state["generation"] + 1}
        state = {**opened.state, **numbered, **edit(folder, opened)}
        _publish(folder, state)
        return _snapshot(folder, state)


def open_embeddings(folder: Path, state: State) -> Embeddings:
    """Memory-map the embeddings of a state."""
    return Embeddings(folder, state["shards"], state["shard_rows"], state["dimension"])


def store_index(folder: Path, index: Any) -> str | None:
    """Write FAISS's index and return the file's name; for no index, return None."""
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
    """Write the manifest, then remove the files that it does not name."""
    names = [*state["shards"], state["faiss"], state["removed"]]
    hashes = {name: _HASH.search(name) for name in names if name}
    known = {  # checksums come from the names: computing them again would hide damage
        name: {"bytes": (folder / name).stat().st_size, "sha256": match[1]}
        for name, match in hashes.items()
        if match
    }
    write_manifest(folder, state, [*known, PLAN], known)
    for path in folder.iterdir():
        if path.name not in {*known, PLAN, MANIFEST}:
            path.unlink()
