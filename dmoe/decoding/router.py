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

from dmoe.decoding.weighting import check_temperature
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
        gold: The passages that are known to answer the question. Only the random control reads
            them, to leave them out.
    """

    query: str
    given: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()


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

    @property
    def temperature(self) -> float:
        """The temperature of `softmax_weights`, in units of the router's scores."""
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
        temperature: The temperature of `softmax_weights`, in units of the retriever's scores.

    Raises:
        SettingValueError: If the temperature is not positive.
    """

    uses_passages = False

    def __init__(self, bank: ExpertIds, retriever: Retriever, temperature: float = 1.0) -> None:
        check_temperature(temperature)
        self._bank = bank
        self._retriever = retriever
        self.temperature = temperature

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

    It is a control, so it never chooses the right expert: gold passages are left out.

    Args:
        bank: The ids of all experts.
        seed: The seed of the draw.
        redraw: True draws for each query anew. False draws once, so that all questions get the
            same experts, except that a question to which one of them is right gets the next ones.

    Raises:
        SettingValueError: If the seed is not a whole number from 0 on, or if ``redraw`` is neither
            true nor false.
    """

    uses_passages = False
    temperature = 1.0  # every score is 0, so the weights are equal at any temperature

    def __init__(self, bank: Iterable[str], seed: int = 0, redraw: bool = True) -> None:
        check_seed(seed)
        if not isinstance(redraw, bool):
            raise SettingValueError("redraw", f"redraw must be true or false, got {redraw!r}")
        self._ids = sorted(bank)
        self._bank = frozenset(self._ids)
        self._seed = seed
        self._redraw = redraw

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Choose at most ``k`` wrong experts for each request; every score is 0."""
        return [self._draw(request, k) for request in requests]

    def _draw(self, request: RoutingRequest, k: int) -> list[Hit]:
        key = f"router {self._seed} {request.query if self._redraw else ''}".encode()
        right = self._bank.intersection(request.gold)
        count, chosen = len(self._ids), dict[str, None]()
        attempt = 0
        # Repeats are rare, because k is far smaller than the bank.
        while len(chosen) < min(k, count - len(right)):
            digest = blake2b(key, digest_size=8, salt=attempt.to_bytes(8, "big")).digest()
            id = self._ids[int.from_bytes(digest, "big") % count]
            if id not in right:
                chosen[id] = None
            attempt += 1
        return [Hit(id, 0.0) for id in chosen]


class OracleRouter:
    """Chooses the experts of the passages that the evaluation gives the question (DMoE Table 6).

    With ``passages=gold`` it is the oracle, and with ``passages=shuffled`` the oracle's control.

    Args:
        bank: The passages that have an expert. Passages without one are left out.
    """

    uses_passages = True
    temperature = 1.0  # every score is 0, so the weights are equal at any temperature

    def __init__(self, bank: Container[str]) -> None:
        self._bank = bank

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Choose at most ``k`` experts for each request; every score is 0."""
        return [
            [Hit(id, 0.0) for id in request.given if id in self._bank][:k] for request in requests
        ]


def retrieval_router(
    bank: ExpertIds, retriever: Any, corpus: Any, temperature: float = 1.0
) -> RetrievalRouter:
    """Open and verify an index, and make a `RetrievalRouter` over it.

    Args:
        bank: The passages that have an expert.
        retriever: The settings of the index, such as `retrieval.bm25.index.BM25Settings`.
        corpus: The surrogates that the index was built over.
        temperature: The temperature of `softmax_weights`, in units of the retriever's scores.

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
        opened = retriever.open(corpus)
    return RetrievalRouter(bank, opened, temperature)
