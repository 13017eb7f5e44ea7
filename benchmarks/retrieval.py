"""Speed of retrieval beside bm25s, and its growth: ``scripts/benchmark.py suite=retrieval``."""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.timing import interleaved, ratio, with_range
from plumbing.stopwatch import Stopwatch
from plumbing.storage.jsonl import write_jsonl
from qa.evaluation.evaluate import sample
from qa.tables.tables import markdown_table
from retrieval.bm25.index import BM25Settings
from retrieval.bm25.java import java_class
from retrieval.corpus.corpus import Corpus
from retrieval.fusion import HybridSettings
from retrieval.passage import Passage
from retrieval.retriever import Hit, Retriever

_ALIKE = 0.9  # share of the first k hits that BM25 and its peer must at least have in common
_WIKIPEDIA = 21_015_324  # passages of DPR's psgs_w100.tsv

Search = Callable[[Sequence[Any]], Any]


class Peer:
    """The library bm25s, over the terms that Lucene's analyser makes of a text.

    Args:
        corpus: The passages.
        k1: Saturation of a term's frequency, the same as for our BM25.
        b: Weight of a passage's length, the same as for our BM25.
        k: The number of hits for each query.
    """

    def __init__(self, corpus: Corpus, k1: float, b: float, k: int) -> None:
        import bm25s

        self._analyse = java_class("io.anserini.analysis.AnalyzerUtils").analyze
        self._ids, self._k = list(corpus), k
        texts = (f"{passage.title}\n{passage.text}" for passage in corpus.passages())
        self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
        self._index.index([self._terms(text) for text in texts], show_progress=False)

    def _terms(self, text: str) -> list[str]:
        return [str(term) for term in self._analyse(text)]

    def terms(self, queries: Sequence[str]) -> list[list[str]]:
        """The terms of each query that the index knows. Java makes them, which is not timed."""
        known = self._index.vocab_dict
        return [[t for t in self._terms(query) if t in known] or [""] for query in queries]

    def search(self, terms: Sequence[Sequence[str]]) -> list[list[str]]:
        """The ids of the hits for the terms of each query, found by one thread."""
        rows = self._index.retrieve(
            list(terms), k=self._k, show_progress=False, return_as="documents", n_threads=0
        )
        return [[self._ids[i] for i in row] for row in rows]


def retrieval_suite(config: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure queries per second and latency of each retriever beside bm25s, and BM25's growth.

    Raises:
        ValueError: If there is no corpus, or if BM25 and its peer find different passages.
    """
    settings = config.retrieval
    if config.corpus.path is None:
        raise ValueError(
            "suite=retrieval needs passages; give corpus.path=FILE, and data=… of them"
        )
    corpus = instantiate(config.corpus)
    questions = sample(instantiate(config.data).split("dev"), settings.questions, config.seed)
    queries = [question.question for question in questions]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bm25 = BM25Settings(Path(folder, "bm25"), threads=1)
        bm25.build(corpus)
        retrievers: dict[str, Retriever] = {"bm25": bm25.open(corpus)}
        if (given := config.get("retriever")) is not None:
            retrievers |= _opened(instantiate(given), corpus)
        peer = Peer(corpus, bm25.k1, bm25.b, settings.k)
        result: dict[str, Any] = {
            "passages": len(corpus),
            "overlap": _overlap(retrievers["bm25"].search(queries, settings.k), peer, queries),
            "speed": _speed(retrievers, peer, queries, settings, config.rounds),
            "batch_seconds": _batch(
                replace(bm25, threads=settings.threads), corpus, queries, settings.k
            ),
            "growth": [
                _grown(size, corpus, queries, settings, Path(folder)) for size in settings.sizes
            ],
        }
    return result, _lines(config, result)


def _opened(settings: Any, corpus: Corpus) -> dict[str, Retriever]:
    """The retriever of the configuration, and the parts of a hybrid one, each with one thread."""
    if isinstance(settings, HybridSettings):
        each: Mapping[str, Any] = settings.retrievers
        parts = {name: replace(part, threads=1) for name, part in each.items()}
        hybrid = replace(settings, retrievers=parts)
        return {**_each(parts, corpus), "hybrid": hybrid.open(corpus)}
    return _each({"given": replace(settings, threads=1)}, corpus)


def _each(settings: Mapping[str, Any], corpus: Corpus) -> dict[str, Retriever]:
    return {name: each.open(corpus) for name, each in settings.items()}


def _overlap(found: Sequence[Sequence[Hit]], peer: Peer, queries: Sequence[str]) -> float:
    """The mean share of the hits that both have in common.

    They differ where Lucene rounds a passage's length to one byte.

    Raises:
        ValueError: If the share is so small that the speeds cannot be compared.
    """
    pairs = zip(found, peer.search(peer.terms(queries)), strict=True)
    shares = [
        len({hit.passage_id for hit in ours} & set(theirs)) / max(1, len(ours))
        for ours, theirs in pairs
    ]
    share = statistics.fmean(shares)
    if share < _ALIKE:
        raise ValueError(f"BM25 and bm25s share only {share:.0%} of their hits: not comparable")
    return share


def _speed(
    retrievers: Mapping[str, Retriever],
    peer: Peer,
    queries: Sequence[str],
    settings: DictConfig,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Measure queries per second of a batch, and the latency of single queries, by one thread."""
    searches: dict[str, Search] = {
        name: partial(retriever.search, k=settings.k) for name, retriever in retrievers.items()
    }
    asked: dict[str, Sequence[Any]] = dict.fromkeys(searches, queries)
    searches["bm25s"], asked["bm25s"] = peer.search, peer.terms(queries)
    tasks = {name: partial(search, asked[name]) for name, search in searches.items()}
    seconds = interleaved(tasks, rounds)
    return {
        name: {
            "queries_per_second": len(queries) / statistics.median(seconds[name]),
            "times_bm25s": ratio(seconds["bm25s"], seconds[name]),
            "p95_ms": _p95(search, asked[name][: settings.single]),
        }
        for name, search in searches.items()
    }


def _p95(search: Search, queries: Sequence[Any]) -> float:
    times = []
    for query in queries:
        watch = Stopwatch()
        search([query])
        times.append(1000 * watch.seconds)
    return float(np.quantile(times, 0.95))


def _batch(settings: BM25Settings, corpus: Corpus, queries: Sequence[str], k: int) -> float:
    """The seconds of a batch of all queries, as a median of five, with the settings' threads."""
    retriever = settings.open(corpus)
    retriever.search(queries, k)
    times = []
    for _ in range(5):
        watch = Stopwatch()
        retriever.search(queries, k)
        times.append(watch.seconds)
    return statistics.median(times)


def _grown(
    size: int, corpus: Corpus, queries: Sequence[str], settings: DictConfig, folder: Path
) -> dict[str, float]:
    """Measure BM25 over a corpus of another size: the building, and a batch of queries."""
    path, home = folder / f"{size}.jsonl", folder / f"{size}"
    write_jsonl(path, map(asdict, resized(corpus, size)))
    watch = Stopwatch()
    grown = Corpus.open(path, cache_dir=folder / "cache")
    opened = watch.lap()
    bm25 = BM25Settings(home, threads=settings.threads)
    size_on_disk = bm25.build(grown)["bytes"]
    built = watch.lap()
    row = {
        "passages": size,
        "corpus_seconds": opened,
        "build_seconds": built,
        "bytes": size_on_disk,
        "batch_seconds": _batch(bm25, grown, queries, settings.k),
    }
    path.unlink()
    shutil.rmtree(home)
    return row


def resized(corpus: Corpus, size: int, seed: int = 0) -> Iterator[Passage]:
    """Make a corpus of a given size.

    A smaller corpus is a prefix. A larger one is the whole corpus and further passages in which its
    sentences are recombined.

    Args:
        corpus: The corpus from which passages and sentences come.
        size: The number of passages.
        seed: Seed of the choice of sentences.
    """
    draw, sentences = random.Random(seed), []
    for number, passage in enumerate(corpus.passages()):
        if number == size:
            return
        sentences.append(passage.text.split(". "))
        yield passage
    for number in range(len(corpus), size):
        pattern = draw.choice(sentences)  # as many sentences as a passage has
        text = ". ".join(draw.choice(draw.choice(sentences)) for _ in pattern)
        yield Passage(f"recombined-{number}", "", text or ".")


def _lines(config: DictConfig, result: dict[str, Any]) -> list[str]:
    settings = config.retrieval
    shape = (
        f"{result['passages']:,} passages, {settings.questions} questions, the first {settings.k} "
        f"hits, one thread each; {config.rounds} interleaved rounds. bm25s gets the terms "
        "of Lucene's analyser, untimed, where BM25 analyses the questions itself; it shares "
        f"{result['overlap']:.1%} of BM25's hits (Lucene rounds the lengths of passages)."
    )
    batch = (
        f"One batch of {settings.questions} questions by BM25 with {settings.threads} threads: "
        f"{result['batch_seconds']:.2f} s. Growth, also with {settings.threads} threads "
        "(beyond the corpus, its sentences recombined):"
    )
    speed = [
        [
            name,
            f"{row['queries_per_second']:.0f}",
            with_range(row["times_bm25s"], 2),
            f"{row['p95_ms']:.1f}",
        ]
        for name, row in result["speed"].items()
    ]
    columns = ["", "queries a second", "times bm25s (range)", "p95 of single queries, ms"]
    return [
        *("# Retrieval", "", shape, ""),
        *markdown_table(speed, columns, labels=1, compact=True).splitlines(),
        *("", batch, ""),
        *_growth_table(result["growth"]).splitlines(),
    ]


def _growth_table(growth: Sequence[Mapping[str, float]]) -> str:
    rows = [_growth_row(row) for row in growth]
    if len(growth) > 1:
        rows.append(_growth_row(extrapolated(growth[-2], growth[-1], _WIKIPEDIA), "about "))
    columns = ["passages", "unpacking, s", "building, s", "MiB", "batch, s"]
    return markdown_table(rows, columns, labels=0, compact=True)


def _growth_row(row: Mapping[str, float], prefix: str = "") -> list[str]:
    return [
        f"{prefix}{row['passages']:,.0f}",
        f"{row['corpus_seconds']:.1f}",
        f"{row['build_seconds']:.1f}",
        f"{row['bytes'] / 2**20:,.0f}",
        f"{row['batch_seconds']:.2f}",
    ]


def extrapolated(
    before: Mapping[str, float], last: Mapping[str, float], size: int
) -> dict[str, float]:
    """The value at another number of passages, on a line through two measurements."""
    share = (size - last["passages"]) / (last["passages"] - before["passages"])
    return {key: last[key] + share * (last[key] - before[key]) for key in last}
