"""Lucene through Pyserini: writing, changing and searching a folder of segments.

Writing goes through Pyserini's ``LuceneIndexer``. For searching we call the class of Anserini that
Pyserini's ``LuceneSearcher`` wraps: importing the wrapper loads encoders that BM25 has no use for,
and it fetches hits from Java one attribute at a time, where here a batch comes as one string.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.storage.jsonl import DataError
from plumbing.storage.manifest import IndexFolderError
from retrieval.bm25.java import HEAP, find_jar, java_class, start_java
from retrieval.passage import Passage
from retrieval.retriever import Hit

LOCK = "write.lock"  # Lucene's own file in the folder, which is no part of the index
_LONGEST_ID = 32_766  # bytes; of a term in Lucene
_BATCH = 2_000  # passages handed to Java at once
_FLUSH = 200_000  # passages after which Lucene must write what it holds; it would take 2 GB else


def software() -> str:
    """The release of Anserini, which decides how text becomes terms."""
    return find_jar().name.removesuffix("-fatjar.jar")


def append(folder: Path, passages: Iterable[Passage], threads: int) -> int:
    """Add passages to a folder of segments, which may be empty.

    The title stands before the text, on a line of its own, as in Pyserini's corpora.

    Args:
        folder: The folder.
        passages: Of ids that are not in it yet.
        threads: Java threads that index.

    Returns:
        How many there were.

    Raises:
        DataError: If an id is too long.
        IndexFolderError: If Lucene fails.
    """
    start_java()
    from pyserini.index.lucene import LuceneIndexer

    rest, total = iter(passages), 0
    with _java_errors(folder):
        while total % _FLUSH == 0:
            indexer = LuceneIndexer(str(folder), append=True, threads=threads)
            try:
                added = _append_until_flush(folder, indexer.object, rest)
            finally:
                indexer.close()
            total += added
            if not added:
                break
    return total


def _append_until_flush(folder: Path, indexer: Any, passages: Iterator[Passage]) -> int:
    count = 0
    while count < _FLUSH and (batch := list(islice(passages, _BATCH))):
        accepted = indexer.addRawDocuments([_as_json(passage) for passage in batch])
        if accepted != len(batch):
            raise IndexFolderError(
                f"{folder}: expected Lucene to take {len(batch)} passages, it took {accepted}; "
                f"the first of them is {batch[0].id!r}"
            )
        count += len(batch)
    return count


def _as_json(passage: Passage) -> str:
    if len(passage.id.encode()) > _LONGEST_ID:
        raise DataError(
            f"BM25 takes passage ids of at most {_LONGEST_ID} bytes, got {passage.id[:40]!r}… of "
            f"{len(passage.id.encode())}; rename the passage"
        )
    return json.dumps({"id": passage.id, "contents": f"{passage.title}\n{passage.text}"})


def delete(folder: Path, ids: Sequence[str]) -> None:
    """Delete passages by id. They count in the statistics of BM25 until `merge`."""
    term = java_class("org.apache.lucene.index.Term")
    with _writer(folder) as writer:
        writer.deleteDocuments([term("id", id) for id in ids])


def merge(folder: Path) -> None:
    """Merge all segments into one, without the passages that were deleted."""
    with _writer(folder) as writer:
        writer.forceMerge(1)


@contextmanager
def _writer(folder: Path) -> Iterator[Any]:
    """Lucene's own writer of a folder, which commits when the block ends well."""
    config = java_class("org.apache.lucene.index.IndexWriterConfig")()
    with _java_errors(folder):
        config.setUseCompoundFile(False)
        writer = _writer_class()(_directory(folder), config)
        try:
            yield writer
            writer.commit()
        finally:
            writer.close()


@cache
def _writer_class() -> Any:
    """``IndexWriter`` with the methods that we call; jnius by itself confuses its overloads."""
    start_java()
    from jnius import JavaClass, JavaMethod, MetaJavaClass

    lucene = "Lorg/apache/lucene"
    arguments = f"{lucene}/store/Directory;{lucene}/index/IndexWriterConfig;"
    methods = {
        "deleteDocuments": JavaMethod(f"([{lucene}/index/Term;)J"),
        "forceMerge": JavaMethod("(I)V"),
        "commit": JavaMethod("()J"),
        "close": JavaMethod("()V"),
    }
    names = {
        "__javaclass__": "org/apache/lucene/index/IndexWriter",
        "__javaconstructor__": [(f"({arguments})V", False)],
    }
    return MetaJavaClass("IndexWriter", (JavaClass,), {**names, **methods})


def count(folder: Path) -> int:
    """How many passages a folder of segments holds, deleted ones not counted."""
    reader_class = java_class("org.apache.lucene.index.DirectoryReader")
    with _java_errors(folder):
        reader = reader_class.open(_directory(folder))
        try:
            return reader.numDocs()
        finally:
            reader.close()


def _directory(folder: Path) -> Any:
    path = java_class("java.nio.file.Paths").get(str(folder))
    return java_class("org.apache.lucene.store.FSDirectory").open(path)


@contextmanager
def _java_errors(folder: Path) -> Iterator[None]:
    from jnius import JavaException

    try:
        yield
    except JavaException as error:
        reason = str(error).partition("\n")[0]
        advice = f"; set {HEAP}, such as 4g" if "OutOfMemoryError" in reason else ""
        raise IndexFolderError(f"{folder}: Lucene failed ({reason}){advice}") from error


class Searcher:
    """An open folder of segments. Python threads may share it.

    Args:
        folder: The folder.
        k1: Saturation of a term's frequency in BM25.
        b: How much of a passage's length counts, from 0 to 1.

    Raises:
        IndexFolderError: If Lucene cannot open the folder.
    """

    def __init__(self, folder: Path, k1: float, b: float) -> None:
        self._folder = folder
        searcher_class = java_class("io.anserini.search.SimpleSearcher")
        # Of distinct terms in a query; 1,024 by default, beyond which Lucene raises an error.
        java_class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)
        with _java_errors(folder):
            self._searcher = searcher_class(str(folder))
            self._searcher.set_bm25(k1, b)
        self._to_json = _json_writer()

    def search(self, queries: Sequence[str], k: int, threads: int) -> list[list[Hit]]:
        """The ``k`` best passages of each query, ties in the order of the ids."""
        if len(queries) == 1:
            return [self._search_one(queries[0], k)]
        texts, numbers = (java_class("java.util.ArrayList")() for _ in range(2))
        for number, query in enumerate(queries):
            texts.add(query)
            numbers.add(str(number))
        with _java_errors(self._folder):
            found = self._searcher.batch_search(texts, numbers, k, threads)
            results = json.loads(self._to_json.writeValueAsString(found))
        return [
            [Hit(hit["docid"], hit["score"]) for hit in results[str(number)]]
            for number in range(len(queries))
        ]

    def _search_one(self, query: str, k: int) -> list[Hit]:
        """The same without Java's threads and without a string, which is several times as fast."""
        with _java_errors(self._folder):
            found = self._searcher.search(query, k)
            # A score is a float32, whose shortest decimal is what a batch's string has.
            return [Hit(hit.docid, float(str(np.float32(hit.score)))) for hit in found]

    def close(self) -> None:
        """Close the files."""
        self._searcher.close()


def _json_writer() -> Any:
    """Jackson, told to leave out the stored document of each hit."""
    mapper = java_class("com.fasterxml.jackson.databind.ObjectMapper")()
    document = java_class("java.lang.Class").forName("org.apache.lucene.document.Document")
    mapper.configOverride(document).setIsIgnoredType(java_class("java.lang.Boolean")("true"))
    return mapper
