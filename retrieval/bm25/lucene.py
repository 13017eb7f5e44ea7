"""Writes, changes and searches a folder of Lucene segments, through Pyserini.

Pyserini's ``LuceneIndexer`` does the writing. For searching we call the Anserini class that
Pyserini's ``LuceneSearcher`` wraps, for two reasons: importing the wrapper loads encoders that BM25
does not need, and the wrapper fetches each attribute of each hit from Java separately. Here the
hits of a whole batch come as one string.
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
from plumbing.storage.manifest import FolderError
from retrieval.bm25.java import HEAP, find_jar, java_class, start_java
from retrieval.passage import Passage
from retrieval.retriever import Hit

LOCK = "write.lock"  # a file that Lucene puts into the folder; it is not part of the index
_LONGEST_ID = 32_766  # bytes; Lucene's limit for a term
_BATCH = 2_000  # passages that are handed to Java at once
_FLUSH = 200_000  # passages after which Lucene must write to disk; otherwise it would take 2 GB


def software() -> str:
    """The name and release of Anserini, which decides how text is split into terms."""
    return find_jar().name.removesuffix("-fatjar.jar")


def append(folder: Path, passages: Iterable[Passage], threads: int) -> int:
    """Add passages to a folder of segments, which may be empty.

    As in Pyserini's corpora, the title comes before the text, on its own line.

    Args:
        folder: The folder.
        passages: Passages whose ids are not in the folder yet.
        threads: The number of Java threads.

    Returns:
        The number of passages.

    Raises:
        DataError: If an id is too long.
        FolderError: If Lucene fails.
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
            raise FolderError(
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
    """Delete passages by id. They still count in BM25's statistics until `merge` is called."""
    term = java_class("org.apache.lucene.index.Term")
    with _writer(folder) as writer:
        writer.deleteDocuments([term("id", id) for id in ids])


def merge(folder: Path) -> None:
    """Merge all segments into one that no longer contains the deleted passages."""
    with _writer(folder) as writer:
        writer.forceMerge(1)


@contextmanager
def _writer(folder: Path) -> Iterator[Any]:
    """Lucene's writer for a folder; it commits if the block ends without an error."""
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
    """``IndexWriter`` with the methods that we call; jnius alone confuses their overloads."""
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
    """The number of passages in a folder of segments, without deleted ones."""
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
        if "InvalidPathException" in reason:
            advice = "; set LC_ALL=C.UTF-8, or choose a folder whose name is plain ASCII"
        raise FolderError(f"{folder}: Lucene failed ({reason}){advice}") from error


class Searcher:
    """An open folder of segments. Python threads may share it.

    Args:
        folder: The folder.
        k1: Saturation of a term's frequency in BM25.
        b: How much a passage's length counts, from 0 to 1.

    Raises:
        FolderError: If Lucene cannot open the folder.
    """

    def __init__(self, folder: Path, k1: float, b: float) -> None:
        self._folder = folder
        searcher_class = java_class("io.anserini.search.SimpleSearcher")
        # By default, Lucene raises an error for a query of more than 1,024 distinct terms.
        java_class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)
        with _java_errors(folder):
            self._searcher = searcher_class(str(folder))
            self._searcher.set_bm25(k1, b)
        self._to_json = _json_writer()

    def search(self, queries: Sequence[str], k: int, threads: int) -> list[list[Hit]]:
        """The ``k`` best passages for each query, ties in the order of the ids."""
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
        """Search for one query, without Java's threads and without JSON.

        This is several times as fast as a batch of one query.
        """
        with _java_errors(self._folder):
            found = self._searcher.search(query, k)
            # A score is a float32; a batch's JSON contains its shortest decimal form, as here.
            return [Hit(hit.docid, float(str(np.float32(hit.score)))) for hit in found]

    def close(self) -> None:
        """Close the files."""
        self._searcher.close()


def _json_writer() -> Any:
    """Jackson's JSON writer, which is told to leave out the stored document of each hit."""
    mapper = java_class("com.fasterxml.jackson.databind.ObjectMapper")()
    document = java_class("java.lang.Class").forName("org.apache.lucene.document.Document")
    mapper.configOverride(document).setIsIgnoredType(java_class("java.lang.Boolean")("true"))
    return mapper
