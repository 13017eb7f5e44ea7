"""The training data of a reranker: for each question its gold passages and mined negatives.

Negatives are passages that the retriever itself finds for the question (GenPoE sec. 3.3.2:
"passages retrieved by DPR"). A passage that answers the question is never a negative. The caller
provides the function that decides this.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.mounts import SettingValueError
from plumbing.progress import progress
from plumbing.storage import hashing
from plumbing.storage.jsonl import DataError, read_jsonl, write_jsonl
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage
from retrieval.retriever import Retriever
from retrieval.unspaced import spaced

log = logging.getLogger(__name__)

_FORMAT = 2  # version of the cached lists and of the way they are mined; part of their key
_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query, the answers that no negative may contain, and the ids of its gold passages."""

    query: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...]


Answers = Callable[[LabelledQuery, Passage], bool]  # True if the passage answers the query


@dataclass(frozen=True, slots=True)
class RankedList:
    """The candidates of one query.

    Attributes:
        query: The query.
        positive_ids: The gold passages, whether they were retrieved or not; at least one.
        negative_ids: The retrieved passages that do not answer the query, best first; at least one.
        above: The number of negatives that the retriever ranks above every gold passage. If it
            found no gold passage, these are all negatives.
    """

    query: str
    positive_ids: tuple[str, ...]
    negative_ids: tuple[str, ...]
    above: int


@dataclass(frozen=True)
class MinedLists:
    """The lists, and the number of queries that gave no list.

    Attributes:
        lists: One list for each of the other queries, in the order of the queries.
        without_positive: The number of queries without a gold passage in the corpus.
        without_negative: The number of queries with a gold passage for which the retriever found
            no negative.
    """

    lists: list[RankedList]
    without_positive: int
    without_negative: int


def mine(
    queries: Sequence[LabelledQuery],
    retriever: Retriever,
    corpus: Mapping[str, Passage],
    answers: Answers,
    depth: int = 20,
    held_out: Collection[str] = (),
) -> MinedLists:
    """Search for every query, and divide what is found into positives and negatives.

    Args:
        queries: The queries, with their answers and gold passages.
        retriever: Finds the negatives.
        corpus: The passages that the retriever searches.
        answers: Returns True if a passage answers a query; such a passage is not a negative.
        depth: The number of passages that are retrieved for a query.
        held_out: The ids of passages that must be in no list, such as the gold passages of the
            evaluation.

    Raises:
        ValueError: If ``depth`` is not positive, or if no query gives a list.
    """
    if depth < 1:
        raise SettingValueError("depth", f"depth must be positive, got {depth}")
    lists: list[RankedList] = []
    held_out = frozenset(held_out)

    def is_usable(id: str) -> bool:
        return id in corpus and id not in held_out

    usable = [query for query in queries if any(map(is_usable, query.gold_ids))]
    for first in progress(range(0, len(usable), _QUERIES_AT_ONCE), "Mining lists"):
        part = usable[first : first + _QUERIES_AT_ONCE]
        found = retriever.search([query.query for query in part], depth)
        for query, hits in zip(part, found, strict=True):
            gold = tuple(filter(is_usable, query.gold_ids))
            ids = [hit.passage_id for hit in hits if is_usable(hit.passage_id)]
            ranked = _sort(query, gold, ids, corpus, answers)
            if ranked.negative_ids:
                lists.append(ranked)
    if not lists:
        raise DataError(
            f"expected queries with a gold passage in the corpus and a negative among the "
            f"{depth} passages found, got none among {len(queries)} queries, of which "
            f"{len(usable)} have a gold passage there; give the corpus that the data set's "
            "passage_ids name"
        )
    return MinedLists(lists, len(queries) - len(usable), len(usable) - len(lists))


def mine_cached(
    queries: Sequence[LabelledQuery],
    retriever: Retriever,
    corpus: Corpus,
    answers: Answers,
    depth: int,
    held_out: Collection[str],
    cache_dir: Path | None,
) -> MinedLists:
    """Mine lists as `mine` does, and keep them on disk, so that this is done only once.

    The key of the lists contains everything that decides them, except ``answers``.

    Args:
        queries: As in `mine`.
        retriever: As in `mine`.
        corpus: As in `mine`.
        answers: As in `mine`. Another function needs another ``cache_dir``.
        depth: As in `mine`.
        held_out: As in `mine`.
        cache_dir: The folder of the lists; None to keep none.
    """
    if cache_dir is None:
        return mine(queries, retriever, corpus, answers, depth, held_out)
    decisive = [_FORMAT, retriever.fingerprint, corpus.sha256, depth, sorted(held_out)]
    if any(spaced(answer) != answer for query in queries for answer in query.answers):
        decisive.append("characters are tokens")  # they were not in the first lists of format 2
    path = cache_dir / f"{_key(decisive, queries)}.jsonl.gz"
    if path.is_file():
        try:
            return _read(path)
        except (DataError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged and made again: %s", path, error)
    mined = mine(queries, retriever, corpus, answers, depth, held_out)
    counts = {name: getattr(mined, name) for name in ("without_positive", "without_negative")}
    write_jsonl(path, [counts | {"lists": len(mined.lists)}, *map(asdict, mined.lists)])
    return mined


def hold_out(
    lists: Sequence[RankedList], size: int, seed: int = 0
) -> tuple[list[RankedList], list[RankedList]]:
    """Hold lists out, so that none of their gold passages is in a list that remains.

    Where such a passage is a negative of another list, it is removed from that list. A list that
    has no negative left is dropped.

    Args:
        lists: The lists; several may have the same gold passages.
        size: The largest number of lists to hold out. There may be fewer, because all lists with
            the same first gold passage are held out together.
        seed: The seed of the random choice.

    Returns:
        The lists that remain for training, and the lists that are held out, each in their order.

    Raises:
        ValueError: If no list remains for training.
    """
    order = np.random.default_rng(seed).permutation(len(lists))
    # Whole passages are chosen, in random order, because data files list all questions about a
    # passage together.
    passages = list(dict.fromkeys(lists[i].positive_ids[0] for i in order))
    counts = Counter(one.positive_ids[0] for one in lists)
    chosen: set[str] = set()
    total = 0
    for passage in passages:
        if total + counts[passage] <= size:
            chosen.add(passage)
            total += counts[passage]
    held_out = [one for one in lists if one.positive_ids[0] in chosen]
    seen = {id for one in held_out for id in one.positive_ids}
    rest = [_without(one, seen) for one in lists if seen.isdisjoint(one.positive_ids)]
    train = [one for one in rest if one.negative_ids]
    if not train:
        raise ValueError(
            f"expected lists to train on beside {size} held out, got {len(lists)} in all; give "
            "more questions or a smaller mining.val_limit"
        )
    return train, held_out


def _without(one: RankedList, ids: set[str]) -> RankedList:
    """A list without those of its negatives that are among these passages."""
    if ids.isdisjoint(one.negative_ids):
        return one
    kept = tuple(id for id in one.negative_ids if id not in ids)
    above = sum(id not in ids for id in one.negative_ids[: one.above])
    return replace(one, negative_ids=kept, above=above)


def digest(lists: Sequence[RankedList]) -> str:
    """Hash of the lists in their order."""
    return hashing.digest([astuple(one) for one in lists])


def _sort(
    query: LabelledQuery,
    gold: tuple[str, ...],
    hits: list[str],
    corpus: Mapping[str, Passage],
    answers: Answers,
) -> RankedList:
    negatives: list[str] = []
    above: int | None = None
    for id in hits:
        if id in gold:
            above = len(negatives) if above is None else above
        elif not answers(query, corpus[id]):
            negatives.append(id)
    above = len(negatives) if above is None else above
    return RankedList(query.query, gold, tuple(negatives), above)


def _key(decisive: list[Any], queries: Sequence[LabelledQuery]) -> str:
    # Piece by piece, for there may be millions of questions; the keys are names of files on disk.
    what = hashlib.sha256(json.dumps(decisive).encode())
    for query in queries:
        what.update(json.dumps(astuple(query)).encode())
    return what.hexdigest()


def _read(path: Path) -> MinedLists:
    counts, *rows = [row for _, row in read_jsonl(path)] or [{"lists": -1}]
    if counts.pop("lists") != len(rows):
        raise DataError(f"{path}: expected another number of lists than {len(rows)}")
    lists = [
        RankedList(
            row["query"], tuple(row["positive_ids"]), tuple(row["negative_ids"]), row["above"]
        )
        for row in rows
    ]
    return MinedLists(lists, **counts)
