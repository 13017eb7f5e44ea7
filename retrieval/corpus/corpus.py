"""A corpus of any size, whose passages can be read by id and in order.

The corpus file is read once. After that, and until the file changes, its passages come from a
memory-mapped side store in the cache folder (`retrieval.corpus.store`), so that a large corpus
needs little memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.settings import typed
from plumbing.storage.files import cache_folder, sha256_of
from plumbing.storage.folders import new_folder, only_writer
from plumbing.storage.hashing import digest
from plumbing.storage.jsonl import DataError
from plumbing.storage.manifest import MANIFEST, FolderError, read_manifest
from retrieval.corpus.build import identity_of, write_store
from retrieval.corpus.formats import CorpusSettingError
from retrieval.corpus.store import (
    HASHES,
    RECORDS,
    ROWS,
    SKIPPED,
    STARTS,
    U32,
    U64,
    RecordError,
    id_hash,
    map_array,
    map_bytes,
    read_in_order,
    record_at,
)
from retrieval.passage import Passage

log = logging.getLogger(__name__)

_FORMAT = 2  # version of the side store, and of the way that a corpus file is read
_CHOICES = ("raise", "skip")
_WHAT = "side store of a corpus"


class Corpus(Mapping[str, Passage]):
    """A read-only mapping from ids to passages, which `Corpus.open` opens.

    Iteration yields the ids in the order of the file. Threads may share a corpus.

    Attributes:
        path: The corpus file.
        sha256: Hash of the passages in their order.
        members: Hash of the passages that does not depend on their order
            (`retrieval.passage.SetHash`). Indexes record it: after an edit, an index has the hash
            of the passages that it contains now.
        skipped: The number of lines of the file that were left out.
    """

    def __init__(self, path: Path, store: Path) -> None:
        self.path, self._store = path, store
        remedy = f"remove the folder {store}"  # the side store is made again
        manifest = read_manifest(store, _WHAT, verify=False, remedy=remedy)
        for name in (STARTS, HASHES, ROWS):  # each record has its own checksum
            if sha256_of(store / name) != manifest["files"][name]["sha256"]:
                raise FolderError(f"{store / name}: damaged; {remedy}")
        settings = manifest["settings"]
        self.sha256: str = settings["sha256"]
        self.members: str = settings["members"]
        self.skipped: int = settings["skipped"]
        self._length: int = settings["passages"]
        self._records = map_bytes(store / RECORDS)
        self._starts = map_array(store / STARTS, U64)
        self._hashes = map_array(store / HASHES, U64)
        self._rows = map_array(store / ROWS, U32)

    @classmethod
    @typed
    def open(
        cls, path: str | Path, cache_dir: str | Path | None = None, on_error: str = "raise"
    ) -> Corpus:
        """Open a corpus, and make its side store if there is none for this file yet.

        Args:
            path: ``*.jsonl`` or DPR's ``*.tsv``, plain or with ``.gz``;
                `retrieval.corpus.formats.read_corpus_file` describes them.
            cache_dir: The folder of the side stores; by default the cache folder.
            on_error: What to do with a malformed line or a repeated id: ``raise`` an error, or
                ``skip`` the line, which is then counted and logged. If lines have the same id, the
                first one is kept.

        Raises:
            DataError: If the file cannot be used; the message names the line.
        """
        if on_error not in _CHOICES:
            raise CorpusSettingError(
                "on_error", f"on_error must be one of {', '.join(_CHOICES)}, got {on_error!r}"
            )
        path = Path(path)
        identity = identity_of(path, on_error, _FORMAT)
        key = digest(identity)[:16]
        folder = cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
        store = folder / "corpora" / f"{path.name.partition('.')[0][:40]}-{key}"
        corpus = _try_open(path, store)
        if corpus is None:
            corpus = _make_store(store, path, on_error, identity)
        if corpus.skipped:
            log.warning(
                "%s: %d lines were skipped; %s lists them", path, corpus.skipped, store / SKIPPED
            )
        return corpus

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return (passage.id for passage in self.passages())

    def __getitem__(self, id: str) -> Passage:
        passage = self._find(id)[1]
        if passage is None:
            raise KeyError(f"{self.path}: no passage has the id {id!r}")
        return passage

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self._find(id)[1] is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.path, self._store)  # the other process maps the same files

    def passages(self, start: int = 0, stop: int | None = None) -> Iterator[Passage]:
        """Stream the passages from row ``start`` up to, but without, row ``stop``, in order.

        Raises:
            FolderError: If the side store is damaged.
        """
        try:
            yield from read_in_order(self._store / RECORDS, self._starts[start:stop])
        except RecordError as error:
            raise self._damaged(error) from error

    def row(self, row: int) -> Passage:
        """The passage at a row; rows count from 0, in the order of the file.

        Raises:
            IndexError: If there is no such row.
            FolderError: If the side store is damaged.
        """
        if not 0 <= row < self._length:
            raise IndexError(f"{self.path}: has rows 0 to {self._length - 1}, got {row}")
        try:
            return record_at(self._records, int(self._starts[row]))
        except RecordError as error:
            raise self._damaged(error) from error

    def rows(self, ids: Iterable[str]) -> list[int]:
        """The rows of passages, given their ids.

        Raises:
            KeyError: If the corpus has no passage with one of the ids.
        """
        rows = []
        for id in ids:
            row, passage = self._find(id)
            if passage is None:
                raise KeyError(f"{self.path}: no passage has the id {id!r}")
            rows.append(row)
        return rows

    def _find(self, id: str) -> tuple[int, Passage | None]:
        wanted = id_hash(id)
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while place < self._length and int(self._hashes[place]) == wanted:
            row = int(self._rows[place])
            passage = self.row(row)
            if passage.id == id:
                return row, passage
            place += 1  # that was another id with the same hash
        return -1, None

    def _damaged(self, error: Exception) -> FolderError:
        return FolderError(
            f"{self._store / RECORDS}: the side store of {self.path} is damaged ({error}); remove "
            f"the folder {self._store}"
        )


def _try_open(path: Path, store: Path) -> Corpus | None:
    if not (store / MANIFEST).is_file():
        return None
    try:
        return Corpus(path, store)
    except FolderError as error:
        log.warning("%s; it is made again", error)
        return None


def _make_store(store: Path, path: Path, on_error: str, identity: dict[str, Any]) -> Corpus:
    with only_writer(store, _WHAT, wait=True):
        if (corpus := _try_open(path, store)) is not None:  # another process made it meanwhile
            return corpus
        log.info("reading %s into %s, once", path, store)
        with new_folder(store, replace=True, alone=True) as folder:  # a damaged one is replaced
            write_store(folder, path, on_error, identity)
            if identity_of(path, on_error, _FORMAT) != identity:
                raise DataError(f"{path}: the corpus changed while it was read; run it again")
    return Corpus(path, store)
