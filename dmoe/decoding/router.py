"""The router: which experts fit what has been read and decoded so far (DMoE eq. 5).

It is decoupled from the backbone: any `Retriever` over the surrogates of the experts (the passage
and its augmentations, `dmoe.surrogates`) will do. BM25 is the paper's.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, Protocol

from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import check_seed
from retrieval.retriever import Hit, Retriever


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """What one row asks at a trigger.

    Attributes:
        query: Task input and what has been decoded before the triggering token.
        given: The passages that the evaluation gives the question, best first; only the oracle
            reads them.
    """

    query: str
    given: tuple[str, ...] = ()


def last_tokens(tokenizer: Any, query: str, limit: int) -> str:
    """The last so many tokens of a query (DMoE sec. 4.2); the query as it is if it has no more."""
    ids = tokenizer(query, add_special_tokens=False)["input_ids"]
    return query if len(ids) <= limit else str(tokenizer.decode(ids[-limit:]))


class ExpertIds(Container[str], Iterable[str], Protocol):
    """The passages that have an expert: a bank, or a set of ids."""


class Router(Protocol):
    """Selects experts."""

    @property
    def uses_passages(self) -> bool:
        """Whether `RoutingRequest.given` matters, and must be filled."""
        ...

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """At most ``k`` experts for each request, best first, each of them in the bank."""
        ...


class RetrievalRouter:
    """The experts whose surrogates a retriever finds for the query (DMoE eq. 5).

    Args:
        bank: Which passages have an expert. Hits without one are passed over, and more are asked
            for in their place, so that a bank of a part of the corpus gives k experts as well.
        retriever: BM25, dense, or any other.
    """

    uses_passages = False

    def __init__(self, bank: ExpertIds, retriever: Retriever) -> None:
        self._bank = bank
        self._retriever = retriever

    @cached_property
    def _size(self) -> int:
        """Of the bank; counted where hits are missing for the first time."""
        return sum(1 for _ in self._bank)

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """See `Router.route`; requests with the same query are searched once.

        Each search of a query goes four times deeper than the one before, until it has k experts,
        or all that there are: so all of them together cost little more than the last, which goes
        less than four times as deep as it must.
        """
        found: dict[str, list[Hit]] = {}
        pending = list(dict.fromkeys(request.query for request in requests))
        depth = k
        while pending:
            short = []
            for query, hits in zip(pending, self._retriever.search(pending, depth), strict=True):
                found[query] = [hit for hit in hits if hit.passage_id in self._bank][:k]
                may_be_more = len(found[query]) < k and len(hits) == depth
                if may_be_more and len(found[query]) < self._size:
                    short.append(query)
            pending, depth = short, 4 * depth
        return [list(found[request.query]) for request in requests]


class RandomRouter:
    """Experts at random (DMoE Table 6): the same for the same query and seed.

    Args:
        bank: The ids of all experts.
        seed: Other seeds, other experts.

    Raises:
        ValueError: If the seed is no whole number from 0 on.
    """

    uses_passages = False

    def __init__(self, bank: Iterable[str], seed: int = 0) -> None:
        check_seed(seed)
        self._ids = sorted(bank)
        self._seed = seed

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """See `Router.route`; every score is 0."""
        return [self._draw(request.query, k) for request in requests]

    def _draw(self, query: str, k: int) -> list[Hit]:
        key = f"router {self._seed} {query}".encode()
        count, chosen = len(self._ids), dict[str, None]()
        attempt = 0
        while len(chosen) < min(k, count):  # k is far smaller than the bank: repeats are rare
            digest = blake2b(key, digest_size=8, salt=attempt.to_bytes(8, "big")).digest()
            chosen[self._ids[int.from_bytes(digest, "big") % count]] = None
            attempt += 1
        return [Hit(id, 0.0) for id in chosen]


class OracleRouter:
    """The experts of the passages that the evaluation gives the question (DMoE Table 6).

    With ``passages=gold`` it is the oracle; with ``passages=shuffled`` its control.

    Args:
        bank: Which passages have an expert; those without one are passed over.
    """

    uses_passages = True

    def __init__(self, bank: Container[str]) -> None:
        self._bank = bank

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """See `Router.route`; every score is 0."""
        return [
            [Hit(id, 0.0) for id in request.given if id in self._bank][:k] for request in requests
        ]


def retrieval_router(bank: ExpertIds, retriever: Any, corpus: Any) -> RetrievalRouter:
    """A `RetrievalRouter` over an index, opened and verified.

    Args:
        bank: Which passages have an expert.
        retriever: The settings of the index, such as `retrieval.bm25.index.BM25Settings`.
        corpus: The surrogates that it was built over.

    Raises:
        IndexFolderError: If the index is missing, damaged, or of other surrogates.
        ValueError: If there are experts, but none of these passages.
    """
    some = next(iter(bank), None)
    if some is not None and not any(id in corpus for id in bank):
        raise SettingValueError(
            "corpus.path",
            f"expected experts of the router's passages, got a bank of others, such as {some!r}",
            "set {} to the surrogates of the bank's passages",
        )
    with mounted("retriever"):
        return RetrievalRouter(bank, retriever.open(corpus))
