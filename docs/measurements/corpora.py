"""Make the corpora of dmoe.md: ``python docs/measurements/corpora.py DATA INDEX OUT``.

DATA is a folder with one folder a data set, as ``data.dir`` takes them (hotpotqa, cwq, quasart,
strategyqa, squad), and wiki/passages.jsonl.gz; INDEX a BM25 index over the latter
(``scripts/build_index.py``).

OUT/passages.jsonl: the gold passages of 300 dev questions of each set (those that ``limit=300``
asks), and of the Wikipedia passages as many of what BM25 ranks first for these questions as make
2,000 with the gold ones; 2,300 with StrategyQA's facts.
OUT/squad: 1,000 SQuAD training passages with four questions or more, all their questions as train,
and as dev the second, fourth, … of each, which ``instances.part=even`` does not see.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.storage.jsonl import read_jsonl, write_jsonl
from qa.evaluation.evaluate import sample
from retrieval.bm25.index import BM25Settings
from retrieval.corpus.corpus import Corpus

SETS = ("hotpotqa", "cwq", "quasart", "strategyqa")
QUESTIONS, PASSAGES, PARAGRAPHS, DEPTH = 300, 2000, 1000, 20


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return (row for _, row in read_jsonl(path))


def wikipedia(data: Path, index: Path) -> Iterator[dict[str, Any]]:
    """The passages of OUT/passages.jsonl."""
    wiki = {row["id"]: row for row in rows(data / "wiki/passages.jsonl.gz")}
    facts = {row["id"]: row for row in rows(data / "strategyqa/passages.jsonl.gz")}
    asked: list[Any] = []
    for name in SETS:
        questions: list[Any] = list(rows(data / name / "dev.jsonl.gz"))
        asked += sample(questions, QUESTIONS)
    chosen = {id: wiki.get(id) or facts[id] for row in asked for id in row["passage_ids"]}
    free = PASSAGES - sum(id in wiki for id in chosen)
    bm25 = BM25Settings(index).open(Corpus.open(data / "wiki/passages.jsonl.gz"))
    found = bm25.search([row["question"] for row in asked], DEPTH)
    hits = (each[rank] for rank, each in product(range(DEPTH), found) if rank < len(each))
    new = (hit.passage_id for hit in hits if hit.passage_id not in chosen)
    for _, id in zip(range(free), dict.fromkeys(new), strict=False):
        chosen[id] = wiki[id]
    yield from chosen.values()


def halves(data: Path, out: Path) -> None:
    """OUT/squad."""
    questions: dict[str, list[dict[str, Any]]] = {}
    for row in rows(data / "squad/train.jsonl.gz"):
        questions.setdefault(row["passage_ids"][0], []).append(row)
    several = [id for id, each in questions.items() if len(each) >= 4]
    order = np.random.default_rng(0).permutation(len(several))[:PARAGRAPHS]
    drawn = {several[i] for i in order}
    kept = [questions[id] for id in several if id in drawn]
    passages = (row for row in rows(data / "squad/passages.jsonl.gz") if row["id"] in drawn)
    write_jsonl(out / "passages.jsonl", passages)
    write_jsonl(out / "train.jsonl", (row for each in kept for row in each))
    write_jsonl(out / "dev.jsonl", (row for each in kept for row in each[1::2]))


if __name__ == "__main__":
    source, index_dir, target = map(Path, sys.argv[1:])
    write_jsonl(target / "passages.jsonl", wikipedia(source, index_dir))
    halves(source, target / "squad")
