"""BM25 in memory, for a set of passages that changes while questions are asked.

Lucene's index is made for large corpora: a change writes files, and removed passages count in its
statistics until it is compacted. Here a change takes less than a millisecond and writes nothing.
All statistics are whole numbers that a removal takes back exactly, so the scores are those of an
index that never had the passage, bit for bit. It needs no Java.

It is meant for up to some ten thousand passages, whose postings stay in memory.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from plumbing.storage.hashing import digest
from plumbing.storage.jsonl import DataError
from retrieval.answers import answer_tokens
from retrieval.passage import Passage, SetHash, passage_digest, passage_text
from retrieval.retriever import Editable, Hit

_FORMAT = 1  # version of what a search does; part of the fingerprint
_STOP_WORDS = frozenset(  # Lucene's English ones
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with".split()
)
_DEAD = 64  # places of removed passages that are kept before all postings are made anew


def terms(text: str) -> list[str]:
    """The terms of a text: its words in lower case, without stop words, plurals and accents apart.

    >>> terms("Tova Blick's bodies of water")
    ['tova', 'blick', 'body', 'water']
    """
    words = (word for word in answer_tokens(text) if any(map(str.isalnum, word)))
    return [_singular(word) for word in words if word not in _STOP_WORDS and word != "s"]


def _singular(word: str) -> str:
    """Take off an English plural's ending (Harman 1991, "S stemmer")."""
    if len(word) <= 3 or not word.endswith("s"):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]


@dataclass
class _Postings:
    """The places of the passages that have a term, how often each has it, and how many live."""

    places: array[int] = field(default_factory=lambda: array("q"))
    counts: array[int] = field(default_factory=lambda: array("q"))
    living: int = 0


class InMemoryBM25(Editable):
    """BM25 over passages in memory; a `retrieval.retriever.Retriever`.

    The formula is Lucene's, with exact lengths. Terms differ from Lucene's: only plurals are
    stemmed. Threads may share it.

    Args:
        passages: The passages that it holds at first.
        k1: Saturation of a term's frequency.
        b: How much a passage's length counts, from 0 to 1.

    Raises:
        DataError: If two passages have one id.
    """

    def __init__(self, passages: Iterable[Passage] = (), k1: float = 0.9, b: float = 0.4) -> None:
        self._k1, self._b = k1, b
        self._lock = threading.Lock()
        self._passages: dict[str, Passage] = {}
        self._members = SetHash()
        self._forget()
        self.update(add=passages)

    def _forget(self) -> None:
        """Begin without any postings."""
        self._postings: dict[str, _Postings] = {}
        self._places: dict[str, int] = {}
        self._ids: list[str | None] = []  # by place; None: the passage was removed
        self._lengths = array("q")  # in terms; 0 at the place of a removed passage
        self._total = 0  # the sum of the lengths of all passages
        self._dead = 0

    def __len__(self) -> int:
        return len(self._passages)

    def __contains__(self, id: object) -> bool:
        return id in self._passages

    @property
    def fingerprint(self) -> str:
        """Hash of the passages and settings that decide the hits."""
        return digest([_FORMAT, self._k1, self._b, self._members.hexdigest()])

    def update(self, add: Iterable[Passage] = (), remove: Iterable[str] = ()) -> None:
        """Remove passages, then add others, in one step, as `Editable.update` describes."""
        new, gone = list(add), list(remove)
        with self._lock:
            self._check(new, gone)
            for id in gone:
                self._remove(id)
            for passage in new:
                self._add(passage)
                self._members.add(passage_digest(passage))
                self._passages[passage.id] = passage
            if self._dead > max(_DEAD, len(self._passages)):
                self._rebuild()

    def _check(self, new: Sequence[Passage], gone: Sequence[str]) -> None:
        named = Counter(gone)
        for id, times in named.items():
            if times > 1 or id not in self._passages:
                raise DataError(
                    f"cannot remove the passage {id!r}: it is not in the index, or is named twice"
                )
        for id, times in Counter(passage.id for passage in new).items():
            if times > 1 or (id in self._passages and id not in named):
                raise DataError(
                    f"cannot add the passage {id!r}: its id is in the index already, or is given "
                    "twice; remove the old one in the same update"
                )

    def compact(self) -> None:
        """Make all postings anew, without places of removed passages. No score changes."""
        with self._lock:
            self._rebuild()

    def _rebuild(self) -> None:
        self._forget()
        for passage in self._passages.values():
            self._add(passage)

    def _add(self, passage: Passage) -> None:
        place = len(self._ids)
        counted = Counter(terms(passage_text(passage)))
        for term, count in counted.items():
            postings = self._postings.setdefault(term, _Postings())
            postings.places.append(place)
            postings.counts.append(count)
            postings.living += 1
        self._ids.append(passage.id)
        self._places[passage.id] = place
        self._lengths.append(counted.total())
        self._total += counted.total()

    def _remove(self, id: str) -> None:
        passage, place = self._passages.pop(id), self._places.pop(id)
        self._members.remove(passage_digest(passage))
        for term in set(terms(passage_text(passage))):
            postings = self._postings[term]
            postings.living -= 1
            if not postings.living:
                del self._postings[term]
        self._ids[place] = None
        self._total -= self._lengths[place]
        self._lengths[place] = 0
        self._dead += 1

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits for each query, best first, ties in the order of the ids.

        Raises:
            ValueError: If ``k`` is not positive.
        """
        if k < 1:
            raise ValueError(f"k must be positive, got {k}")
        with self._lock:
            return [self._search(terms(query), k) for query in queries]

    def _search(self, query: Sequence[str], k: int) -> list[Hit]:
        known = [(term, self._postings[term]) for term in query if term in self._postings]
        if not known:
            return []
        N = len(self._passages)
        lengths = np.array(self._lengths, dtype=np.float64)
        norms = self._k1 * (1 - self._b + self._b * lengths / (self._total / N))
        scores = np.zeros(len(self._ids))
        for _, postings in known:
            places = np.array(postings.places)
            counts = np.array(postings.counts, dtype=np.float64)
            rarity = math.log(1 + (N - postings.living + 0.5) / (postings.living + 0.5))
            scores[places] += rarity * counts / (counts + norms[places])
        living = [place for place in _best(scores, k + self._dead) if self._ids[place] is not None]
        hits = [Hit(str(self._ids[place]), float(scores[place])) for place in living]
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage_id))[:k]


def _best(scores: np.ndarray, k: int) -> list[int]:
    """The places of the ``k`` best positive scores and of all that equal the last, in any order."""
    places = scores.nonzero()[0]
    if len(places) > k:
        least = np.partition(scores[places], -k)[-k]
        places = places[scores[places] >= least]
    found: list[int] = places.tolist()
    return found
