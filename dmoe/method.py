"""DMoE as one of the answering methods (sec. 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbone.model import Backbone
from dmoe.decoding.controls import SomeExperts
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import Router
from dmoe.decoding.steps import Routing, Step
from dmoe.decoding.trigger import Trigger
from dmoe.kinds import ExpertKind, TrainedKind
from dmoe.metrics import routing_metrics
from plumbing.mounts import SettingValueError, mounted
from plumbing.settings import typed
from qa.method import AnsweringMethod, Prediction, QuestionInput
from retrieval.passage import Passage

log = logging.getLogger(__name__)

CONTROLS = (None, "noise")


class DMoEMethod(AnsweringMethod):
    """The frozen backbone with experts routed where it is uncertain (DMoE eq. 1 and 4-6).

    The likelihood of the right answer comes from the same decoding procedure. Its tokens are given
    instead of chosen, and each of them may trigger routing (`Session.score`).

    The details of each prediction are:

    - ``tokens``, the number of decoded tokens;
    - ``triggers``, the number of tokens that triggered routing;
    - ``uncertainty``, a value in nats for each token, taken before routing at that token;
    - ``routed``, the position of each trigger with the passages that it routed to;
    - ``routed_gold``, True if a gold passage was among these. It is null for a question without
      gold passages.

    If the evaluation gives no passages, the prediction's ``passage_ids`` are the passages that
    were routed to, each with the weight that its expert had last, which is 1 in eq. 6.

    Args:
        backbone: The frozen model.
        source: The experts, as `Routing` says.
        router: A function that makes the router, given the experts.
        trigger: Decides at which tokens the router is asked.
        experts: How many experts act at a time.
        max_query_tokens: A routing query keeps at most this many of its last tokens.
        weights: "sum" or "router"; see `Routing`.
        noise: The seed of noise in the place of the experts, as a control; see `Routing`.
        rag: Whether the passages also stand in the prompt.
        max_new_tokens: The most tokens that are decoded.
        kind: What the experts are; None: trained ones, whose passages cannot be checked against the
            texts that they were made of.

    Raises:
        ValueError: If a setting is out of range.
        UnsupportedBackboneError: If the final FFN cannot have experts.
    """

    def __init__(
        self,
        backbone: Backbone,
        source: Any,
        router: Callable[[Any], Router],
        trigger: Trigger,
        experts: int = 3,
        max_query_tokens: int = 128,
        weights: str = "sum",
        noise: int | None = None,
        rag: bool = False,
        max_new_tokens: int = 32,
        kind: ExpertKind | None = None,
    ) -> None:
        super().__init__(backbone, rag, max_new_tokens)
        self._kind = kind
        with mounted("router"):
            chosen = router(source)
        routing = Routing(source, chosen, trigger, experts, max_query_tokens, weights, noise)
        if kind is not None:
            routing = replace(routing, acting=kind.acting)
        self.decoder = DMoEDecoder(backbone, routing)
        self.uses_passages = rag or routing.router.uses_passages  # type: ignore[misc]

    def answer(self, inputs: Sequence[QuestionInput]) -> list[Prediction]:
        """Answer a batch of questions, as `AnsweringMethod.answer` says."""
        if not inputs:
            return []
        rows = [self._decoder_input(input) for input in inputs]
        session = self.decoder.start(rows, self.max_new_tokens)
        steps: list[list[Step]] = [[] for _ in rows]
        for step in session.stream(self.max_new_tokens, self.backbone.stop_token_ids):
            steps[step.row].append(step)
        nll = session.score([input.question.answers[0] for input in inputs])
        return [
            Prediction(self.decoder.text(row), value, _details(row, input))
            for row, value, input in zip(steps, nll, inputs, strict=True)
        ]

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Check that the experts were made of the texts that these passages have.

        A warning says if few of the passages have an expert.

        Raises:
            ValueError: If an expert was made of another text.
        """
        if self._kind is not None:
            self._kind.check_passages(passages)

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Measure how often routing took place, and what it found; see `routing_metrics`.

        Some kinds of experts add figures of their own.
        """
        details = [prediction.details for prediction in predictions]
        triggered = any(row["triggers"] for row in details)
        if triggered and not any(at["passage_ids"] for row in details for at in row["routed"]):
            log.warning(
                "no expert was ever routed, and all answers are the backbone's own: the router "
                "found no passage that has one (router=oracle looks among the questions' passages)"
            )
        own = {} if self._kind is None else self._kind.measure()
        return routing_metrics(details) | own

    def _decoder_input(self, input: QuestionInput) -> DecoderInput:
        given = tuple(passage.id for passage in input.selection.passages)
        question = input.question
        return DecoderInput(self.prompt(input), question.question, given, question.passage_ids)


@typed
def load_dmoe(
    backbone: Backbone,
    bank_dir: str | Path | None = None,
    kind: Callable[[Backbone], Any] | None = None,
    control: str | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    experts: int = 3,
    weights: str | None = None,
    **settings: Any,
) -> DMoEMethod:
    """Open the experts, and make the method that answers with them.

    If these were trained under another prompt than the present one, a warning says so.

    Args:
        backbone: The frozen model that the experts were made for.
        bank_dir: The bank's folder; None, where the experts need no bank.
        kind: A function that opens an `ExpertKind`, given the backbone. None: the trained experts
            of the bank.
        control: None uses the experts. "noise" lets noise act that moves the FFN's output as far
            as the experts would (`NoiseExperts`). Other controls have settings of their own:
            ``router=random`` and ``router=fixed`` route to wrong experts, and ``trigger=never``
            uses none.
        fraction: The share of the experts that is kept, drawn at random (DMoE Table 9).
        seed: The seed of this draw, and of the noise.
        experts: How many experts act at a time.
        weights: "sum", "router", or None to leave the choice to the kind of experts.
        **settings: The further arguments of `DMoEMethod`.

    Raises:
        BankError: If the bank is missing, damaged or empty, or belongs to another backbone.
        ValueError: If the control is unknown, or a setting is out of range.
    """
    if control not in CONTROLS:
        raise SettingValueError("control", f"control must be null or noise, got {control!r}")
    opened: ExpertKind
    if kind is None:
        opened = TrainedKind.open(backbone, bank_dir)  # type: ignore[arg-type]  # it refuses None
    else:
        with mounted("kind"):
            opened = kind(backbone)
    source = opened.source if fraction == 1 else SomeExperts(opened.source, fraction, seed)
    settings["weights"] = opened.weights(weights, experts)
    settings["noise"] = seed if control == "noise" else None
    return DMoEMethod(backbone, source, experts=experts, kind=opened, **settings)


def _details(steps: Sequence[Step], input: QuestionInput) -> dict[str, Any]:
    routed = {
        step.position: dict(zip((hit.passage_id for hit in step.routed), step.weights, strict=True))
        for step in steps
        if step.triggered
    }
    gold = set(input.question.passage_ids)
    acted = {id: weight for ids in routed.values() for id, weight in ids.items()}
    given = bool(input.selection.passages)  # then these are the prediction's passages
    return {
        **({} if given else {"passage_ids": [*acted], "weights": [*acted.values()]}),
        "tokens": len(steps),
        "triggers": len(routed),
        "uncertainty": [round(step.uncertainty, 4) for step in steps],
        "routed": [{"position": at, "passage_ids": [*ids]} for at, ids in routed.items()],
        "routed_gold": any(gold & ids.keys() for ids in routed.values()) if gold else None,
    }
