"""The settings of routing while decoding, and the record of each decoded token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backbone.final_ffn import FinalFFN
from dmoe.decoding.active import ActiveExperts
from dmoe.decoding.controls import NoiseExperts
from dmoe.decoding.router import Router
from dmoe.decoding.trigger import Trigger
from dmoe.decoding.weighting import WEIGHTS, softmax_weights
from plumbing.settings import check_choice, check_positive, check_seed, check_types
from qa.acting import ActingExperts
from retrieval.retriever import Hit


@dataclass(frozen=True)
class Routing:
    """How experts are chosen while decoding.

    Attributes:
        source: Where the experts come from: for `ActiveExperts` a
            `dmoe.decoding.active.ExpertSource`, such as a bank.
        router: Selects some of the experts for a query.
        trigger: Decides at which tokens the router is asked.
        experts: How many experts act at a time (DMoE sec. 4.2: 3).
        max_query_tokens: A routing query keeps at most this many of its last tokens (DMoE
            sec. 4.2).
        weights: How the experts that act are weighted: "sum", each by 1 (eq. 6), or "router", by
            `softmax_weights` of the router's scores.
        noise: A seed: `NoiseExperts` take the place of the experts, as a control. None: the experts
            themselves act.
        acting: Makes what acts in the rows of a batch, given the final FFN, the source, the number
            of rows and the most experts of a row. By default the source has trained experts.

    Raises:
        SettingValueError: If a number is mistyped or not positive, or the weights are neither.
    """

    source: Any
    router: Router
    trigger: Trigger
    experts: int = 3
    max_query_tokens: int = 128
    weights: str = "sum"
    noise: int | None = None
    acting: Callable[[FinalFFN, Any, int, int], ActingExperts] = ActiveExperts

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "experts", "max_query_tokens")
        check_choice("weights", self.weights, WEIGHTS)
        if self.noise is not None:
            check_seed(self.noise)

    def begin(self, final: FinalFFN, rows: int) -> ActingExperts:
        """Make what acts in the rows of a batch; at first nothing does."""
        experts = self.acting(final, self.source, rows, self.experts)
        return experts if self.noise is None else NoiseExperts(final, experts, self.noise)

    def weigh(self, hits: Sequence[Hit]) -> list[float]:
        """The weights of the experts that the router has chosen, in their order."""
        if self.weights == "sum":
            return [1.0] * len(hits)
        return softmax_weights(hits, self.router.temperature)


@dataclass(frozen=True, slots=True)
class Step:
    """One decoded token.

    Attributes:
        row: The row of the batch that it belongs to.
        position: Its position; the first new token of the row has position 0.
        token_id: The id of the token.
        token: The text of the token.
        uncertainty: The entropy of the effective model before anything was routed here (eq. 1), in
            nats.
        triggered: Whether the router was asked, and the token decoded again.
        routed: What the router chose, the best first. It is empty if nothing triggered.
        weights: The weights of these.
        active: The passages whose experts acted when this token was chosen.
    """

    row: int
    position: int
    token_id: int
    token: str
    uncertainty: float
    triggered: bool
    routed: tuple[Hit, ...]
    weights: tuple[float, ...]
    active: tuple[str, ...]
