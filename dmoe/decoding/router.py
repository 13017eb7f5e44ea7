"""Routers, which choose the experts that fit what has been read and decoded so far (DMoE eq. 5).

A router does not depend on the backbone. Any `Retriever` over the surrogates of the experts will
do; a surrogate is a passage and its augmentations. The paper uses BM25.
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
    """The request of one row whose token triggered.

    Attributes:
        query: The task input, and what has been decoded before the token that triggered.
        given: The passages that the evaluation gives the question, the best first. Only the oracle
            reads them.
    """

    query: str
    given: tuple[str, ...] = ()


def last_tokens(tokenizer: Any, query: str, limit: int) -> str:
    """Cut a query to the last ``limit`` tokens (DMoE sec. 4.2); a shorter query stays as it is.

    Deviation: the paper says that queries are truncated. The last tokens stay here, so that what
    was generated is always among them.
    """
    ids = tokenizer(query, add_special_tokens=False)["input_ids"]
    return query if len(ids) <= limit else str(tokenizer.decode(ids[-limit:]))


class ExpertIds(Container[str], Iterable[str], Protocol):
    """The ids of the passages that have an expert, such as a bank or a set."""


class Router(Protocol):
    """Selects the experts that act."""

    @property
    def uses_passages(self) -> bool:
        """Whether the router reads `RoutingRequest.given`, so that it must be filled."""
        ...

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Choose at most ``k`` experts of the bank for each request, the best first."""
        ...


class RetrievalRouter:
    """The experts whose surrogates a retriever finds for the query (DMoE eq. 5).

    Args:
        bank: The passages that have an expert. Hits without an expert are left out and more are
            asked for in their place, so that the bank of a part of a corpus gives k experts, too.
        retriever: BM25, dense retrieval, or any other retriever.
    """

    uses_passages = False

    def __init__(self, bank: ExpertIds, retriever: Retriever) -> None:
        self._bank = bank
        self._retriever = retriever

    @cached_property
    def _size(self) -> int:
        """The size of the bank, which is counted when hits are missing for the first time."""
        return sum(1 for _ in self._bank)

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Choose at most ``k`` experts for each request; equal queries are searched once.

        Each search for a query goes four times deeper than the one before, until the query has k
        experts or all that there are. So all searches together cost little more than the last one,
        which goes less than four times as deep as it must.
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
    """Chooses experts at random (DMoE Table 6), the same ones for equal queries and seeds.

    Args:
        bank: The ids of all experts.
        seed: The seed of the draw.

    Raises:
        SettingValueError: If the seed is not a whole number from 0 on.
    """

    uses_passages = False

    def __init__(self, bank: Iterable[str], seed: int = 0) -> None:
        check_seed(seed)
        self._ids = sorted(bank)
        self._seed = seed

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Choose at most ``k`` experts for each request; every score is 0."""
        return [self._draw(request.query, k) for request in requests]

    def _draw(self, query: str, k: int) -> list[Hit]:
        key = f"router {self._seed} {query}".encode()
        count, chosen = len(self._ids), dict[str, None]()
        attempt = 0
        while len(chosen) < min(
            k, count
        ):  # repeats are rare, because k is far smaller than the bank
            digest = blake2b(key, digest_size=8, salt=attempt.to_bytes(8, "big")).digest()
            chosen[self._ids[int.from_bytes(digest, "big") % count]] = None
            attempt += 1
        return [Hit(id, 0.0) for id in chosen]


class OracleRouter:
    """Chooses the experts of the passages that the evaluation gives the question (DMoE Table 6).

    With ``passages=gold`` it is the oracle, and with ``passages=shuffled`` the oracle's control.

    Args:
        bank: The passages that have an expert. Passages without one are left out.
    """

    uses_passages = True

    def __init__(self, bank: Container[str]) -> None:
        self._bank = bank

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Choose at most ``k`` experts for each request; every score is 0."""
        return [
            [Hit(id, 0.0) for id in request.given if id in self._bank][:k] for request in requests
        ]


def retrieval_router(bank: ExpertIds, retriever: Any, corpus: Any) -> RetrievalRouter:
    """Open and verify an index, and make a `RetrievalRouter` over it.

    Args:
        bank: The passages that have an expert.
        retriever: The settings of the index, such as `retrieval.bm25.index.BM25Settings`.
        corpus: The surrogates that the index was built over.

    Raises:
        FolderError: If the index is missing, damaged, or of other surrogates.
        SettingValueError: If there are experts, but none of these passages has one.
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
