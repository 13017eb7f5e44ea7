"""How a session answers."""

from __future__ import annotations

from dataclasses import dataclass

from dmoe.decoding import ConstantTrigger, FirstTrigger, UncertaintyTrigger
from dmoe.decoding.trigger import Trigger
from dmoe.decoding.weighting import check_temperature
from plumbing.settings import check_choice, check_positive, check_types

TRIGGERS = ("first", "uncertainty", "always")


@dataclass(frozen=True)
class SessionSettings:
    """How a session answers.

    Attributes:
        k: How many passages act at a time as experts, or stand in the prompt, at most.
        trigger: When the router is asked: "first" at the first token of an answer (GenPoE),
            "uncertainty" at each token that is uncertain (DMoE eq. 4), or "always".
        threshold: The token uncertainty above which "uncertainty" asks it, in nats.
        temperature: The temperature of the experts' weights, in units of the router's scores.
        rerank: How many passages the reranker orders anew, if there is one.

    Raises:
        SettingValueError: If a setting is mistyped or out of range.
    """

    k: int = 3
    trigger: str = "first"
    threshold: float = 2.0
    temperature: float = 1.0
    rerank: int = 20

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "k", "rerank")
        check_choice("trigger", self.trigger, TRIGGERS)
        check_temperature(self.temperature)
        self.make_trigger()

    def make_trigger(self) -> Trigger:
        """The trigger that the settings name."""
        if self.trigger == "first":
            return FirstTrigger()
        if self.trigger == "always":
            return ConstantTrigger(True)
        return UncertaintyTrigger(self.threshold)
