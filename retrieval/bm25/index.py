"""BM25 with Pyserini (Lucene): DMoE's router (sec. 3.2.2) and the first stage before reranking."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_types
from plumbing.storage.hashing import digest
from plumbing.storage.jsonl import DataError
from retrieval.bm25 import folder as bm25_folder
from retrieval.bm25 import lucene
from retrieval.bm25.lucene import Searcher
from retrieval.corpus.corpus import Corpus
from retrieval.current import Current
from retrieval.index_folder import check_name, index_path
from retrieval.passage import Passage, SetHash, passage_digest
from retrieval.retriever import Editable, Hit

_FORMAT = 1  # version of what a search does with the index; part of the fingerprint


@dataclass(frozen=True)
class BM25Settings:
    """Settings of a BM25 index, which build it and open it (`retrieval.retriever.IndexSettings`).

    Attributes:
        index_dir: The index's folder. Only within a hybrid it may be None: the hybrid then chooses
            the folder (`retrieval.fusion.HybridSettings`).
        k1: Saturation of a term's frequency.
        b: How much a passage's length counts, from 0 to 1.
        max_query_tokens: Only the first words of a query are used, at most this many (split at
            white space); None for no limit.
        threads: The number of Java threads that build the index or search a batch of queries.

    Raises:
        ValueError: If a setting is mistyped or out of range.
    """

    index_dir: str | Path | None
    k1: float = 0.9
    b: float = 0.4
    max_query_tokens: int | None = None
    threads: int = 2

    def __post_init__(self) -> None:
        check_types(self)
        check_name(self.index_dir)
        if not (isfinite(self.k1) and self.k1 >= 0):
            raise SettingValueError("k1", f"k1 must be 0 or more, got {self.k1}")
        if not 0 <= self.b <= 1:
            raise SettingValueError("b", f"b must lie between 0 and 1, got {self.b}")
        if self.max_query_tokens is not None and self.max_query_tokens < 1:
            raise SettingValueError(
                "max_query_tokens",
                f"max_query_tokens must be positive or null, got {self.max_query_tokens}",
            )
        check_positive(self, "threads")

    def build(self, corpus: Corpus) -> dict[str, float]:
        """Build the index, unless it exists already. It is built whole or not at all.

        Returns:
            ``bytes``, the index's size on disk.

        Raises:
            FolderError: If another index or an incomplete one is in the folder, or if another
                process is building it.
            JavaError: If there is no suitable Java.
        """
        folder = index_path(self.index_dir)
        bm25_folder.build_index(folder, corpus, self.recorded(corpus), self.threads)
        return {"bytes": float(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))}

    def open(self, corpus: Corpus) -> BM25:
        """Open the index.

        Raises:
            FolderError: If the index is missing or damaged, or if it was made with other
                passages or settings.
            JavaError: If there is no suitable Java.
        """
        return BM25(self, corpus)

    def recorded(self, corpus: Corpus) -> dict[str, Any]:
        """The settings that the index records, and that must be the same when it is opened."""
        return {
            "kind": bm25_folder.WHAT,
            "corpus": corpus.members,
            "k1": float(self.k1),
            "b": float(self.b),
            "software": lucene.software(),
        }


@dataclass(frozen=True)
class _Opened:
    """One generation of an index, open.

    Attributes:
        wanted: The settings that it must have, its corpus as it is now among them.
        state: The settings in its manifest.
        searcher: Its segments, open.
    """

    wanted: dict[str, Any]
    state: dict[str, Any]
    searcher: Searcher


class BM25(Editable):
    """An open BM25 index; a `retrieval.retriever.Retriever`.

    Python threads may share it. As always in Lucene, removed passages still count in the statistics
    of terms until `compact` is called.

    Args:
        settings: The settings that the index was built with.
        corpus: The passages that the index contains.

    Raises:
        FolderError: If the index is missing or damaged, or if it was made with other passages
            or settings.
    """

    def __init__(self, settings: BM25Settings, corpus: Corpus) -> None:
        self._settings, self._corpus = settings, corpus
        # The digest of each passage added since; None for a removed one.
        self._changes: dict[str, bytes | None] = {}
        self._writing = threading.Lock()
        opened = self._open(settings.recorded(corpus))
        self._current = Current(opened, close=lambda opened: opened.searcher.close())

    def _open(self, wanted: dict[str, Any]) -> _Opened:
        given = self._settings
        folder = index_path(given.index_dir)
        return _Opened(wanted, *bm25_folder.open_searcher(folder, wanted, given.k1, given.b))

    def __len__(self) -> int:
        with self._current.use() as opened:
            return int(opened.state["passages"])

    @property
    def fingerprint(self) -> str:
        """Hash of the passages and settings that decide the hits."""
        with self._current.use() as opened:
            decisive = {
                **opened.wanted,
                "format": _FORMAT,
                "max_query_tokens": self._settings.max_query_tokens,
                "stale": opened.state["stale"],  # removed passages still count
            }
        return digest(decisive)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first, ties in the order of the ids.

        Scores are Pyserini's, rounded to four decimals.

        Raises:
            ValueError: If ``k`` is not positive.
        """
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        if not queries:
            return []
        texts = [self._prepare(query) for query in queries]
        with self._current.use() as opened:
            return opened.searcher.search(texts, k, self._settings.threads)

    def _prepare(self, query: str) -> str:
        if (limit := self._settings.max_query_tokens) is not None:
            query = " ".join(query.split(maxsplit=limit)[:limit])
        return query.encode("utf-8", "replace").decode()  # Java refuses lone surrogates

    def update(self, add: Iterable[Passage] = (), remove: Iterable[str] = ()) -> None:
        """Remove passages, then add others, in one step, as `Editable.update` describes."""
        with self._writing, self._current.use() as opened:
            edit = _Edit(self._digest, opened.wanted["corpus"])
            removed = edit.leave(remove)

            def apply(segments: Path) -> dict[str, Any]:
                if removed:
                    lucene.delete(segments, removed)
                added = lucene.append(segments, edit.enter(add), self._settings.threads)
                return {
                    "corpus": edit.members.hexdigest(),
                    "passages": opened.state["passages"] - len(removed) + added,
                    "stale": uuid.uuid4().hex if removed else opened.state["stale"],
                }

            self._change(opened, apply)
            self._changes |= edit.changes

    def compact(self) -> None:
        """Merge all segments into one, which erases removed passages for good.

        Raises:
            FolderError: If another process has changed the index, or is writing to it.
        """

        def apply(segments: Path) -> dict[str, Any]:
            lucene.merge(segments)
            return {"stale": None}

        with self._writing, self._current.use() as opened:
            self._change(opened, apply)

    def _change(self, opened: _Opened, apply: Callable[[Path], dict[str, Any]]) -> None:
        folder = index_path(self._settings.index_dir)
        corpus = bm25_folder.change_index(folder, opened.state, apply)["corpus"]
        self._current.replace(self._open(opened.wanted | {"corpus": corpus}))

    def _digest(self, id: str) -> bytes | None:
        """The digest of a passage; None if it is not in the index."""
        if id in self._changes:
            return self._changes[id]
        return passage_digest(self._corpus[id]) if id in self._corpus else None


class _Edit:
    """The bookkeeping of one `BM25.update`.

    Args:
        digest_of: The digest of a passage in the index by its id, None if it is not there.
        members: The `SetHash` of the passages in the index.
    """

    def __init__(self, digest_of: Callable[[str], bytes | None], members: str) -> None:
        self._digest = digest_of
        self.members = SetHash(members)
        self.changes: dict[str, bytes | None] = {}

    def leave(self, ids: Iterable[str]) -> list[str]:
        """Record that passages are removed, and return their ids."""
        for id in ids:
            there = None if id in self.changes else self._digest(id)
            if there is None:
                raise DataError(
                    f"cannot remove the passage {id!r}: it is not in the index, or is named twice"
                )
            self.members.remove(there)
            self.changes[id] = None
        return list(self.changes)

    def enter(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Record that passages are added, and yield them."""
        for passage in passages:
            id = passage.id
            there = self.changes[id] if id in self.changes else self._digest(id)
            if there is not None:
                raise DataError(
                    f"cannot add the passage {id!r}: its id is in the index already, or is given "
                    f"twice; remove the old one in the same update"
                )
            self.changes[id] = passage_digest(passage)
            self.members.add(passage_digest(passage))
            yield passage
