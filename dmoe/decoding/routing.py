"""The settings of routing while decoding, and what is said of each decoded token."""

from __future__ import annotations

from dataclasses import dataclass

from dmoe.decoding.active import ExpertSource
from dmoe.decoding.router import Router
from dmoe.decoding.trigger import Trigger
from plumbing.settings import check_types
from retrieval.retriever import Hit


@dataclass(frozen=True)
class Routing:
    """How experts are chosen while decoding.

    Attributes:
        source: The experts.
        router: Selects k of them for a query.
        trigger: Decides at which tokens it is asked.
        k: Experts at a time.
        max_query_tokens: A query's last so many tokens are kept (DMoE sec. 4.2).

    Raises:
        ValueError: If a number is not positive.
    """

    source: ExpertSource
    router: Router
    trigger: Trigger
    k: int = 3
    max_query_tokens: int = 128

    def __post_init__(self) -> None:
        check_types(self, "method")
        for name in ("k", "max_query_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}; set {name}")


@dataclass(frozen=True, slots=True)
class Step:
    """One decoded token.

    Attributes:
        row: Which row of the batch.
        position: Of the token, from 0 for the first new one.
        token_id: The token.
        token: Its text.
        uncertainty: Entropy of the effective model before anything was routed here (eq. 1), nats.
        triggered: Whether the router was asked, and the token decoded again.
        routed: What the router chose, best first; empty unless triggered.
        active: The passages whose experts acted when this token was chosen.
    """

    row: int
    position: int
    token_id: int
    token: str
    uncertainty: float
    triggered: bool
    routed: tuple[Hit, ...]
    active: tuple[str, ...]
