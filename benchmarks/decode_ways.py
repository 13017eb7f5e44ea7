"""The ways to decode that ``scripts/benchmark.py suite=decode`` compares, and a check of equality.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from backbone.decoding import left_padded
from backbone.final_ffn import FinalFFN
from dmoe.decoding.router import Router, RoutingRequest
from dmoe.decoding.session import Session
from dmoe.decoding.steps import Routing, Step
from dmoe.decoding.trigger import ConstantTrigger, Trigger
from qa.data.dataset import Question
from qa.prompts import build_prompt
from retrieval.retriever import Hit

_TOLERANCE = 1e-3  # nats: largest difference of a token's uncertainty, cached and recomputed
_EFFECT = 10  # the experts must change the uncertainty by this many times that difference


class RecomputingSession(Session):
    """A session of one row that reads all of its tokens again at each swap of experts.

    Experts below the final FFN would need this: the keys and values above them depend on the
    experts that were active (DMoE eq. 9).
    """

    def _redecode(self, logits_BV: Tensor, rows: list[int], position: int) -> None:
        if rows:
            prompt_ids, prompt_mask = self._prompt
            new = prompt_ids.new_tensor(self._new)
            mask = torch.cat([prompt_mask, torch.ones_like(new)], 1)
            self.cache = None
            logits_BV[:] = self._logits(self._read(torch.cat([prompt_ids, new], 1), mask)[:, 0])


class AlternatingRouter:
    """Returns other experts at each call: the k best, then the next k, then the k best again.

    Args:
        router: The router that finds them.
    """

    uses_passages = False

    def __init__(self, router: Router) -> None:
        self._router = router
        self.temperature = router.temperature
        self._best = False

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Find k experts for each request, as `Router.route` does."""
        self._best = not self._best
        found = self._router.route(requests, 2 * k)
        return [hits[:k] if self._best else hits[k:] for hits in found]


class Decoding:
    """The ways to decode that are compared, for one question at a time.

    Args:
        final: The final FFN of the model.
        routing: Experts and router; each way has its own trigger.
        tokens: The largest number of new tokens.
    """

    def __init__(self, final: FinalFFN, routing: Routing, tokens: int) -> None:
        self.backbone = final.backbone
        self._final, self._routing, self._tokens = final, routing, tokens

    @torch.inference_mode()
    def plain(self, question: Question, stop_ids: Collection[int] = ()) -> Iterator[int]:
        """Decode with the backbone alone in the tightest possible loop; yields each token."""
        ids, _ = self._prompt(question)
        cache = None
        for _ in range(self._tokens):
            output = self.backbone.model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
            yield int(ids)
            if int(ids) in stop_ids:
                return

    def routed(
        self,
        question: Question,
        trigger: Trigger,
        stop_ids: Collection[int] = (),
        recompute: bool = False,
    ) -> Iterator[Step]:
        """Decode with experts where the trigger fires."""
        return self._stream(question, replace(self._routing, trigger=trigger), stop_ids, recompute)

    def swapping(self, question: Question, recompute: bool = False) -> Iterator[Step]:
        """Decode with other experts at every token."""
        router = AlternatingRouter(self._routing.router)
        routing = replace(self._routing, trigger=ConstantTrigger(True), router=router)
        return self._stream(question, routing, (), recompute)

    def _stream(
        self, question: Question, routing: Routing, stop_ids: Collection[int], recompute: bool
    ) -> Iterator[Step]:
        kind = RecomputingSession if recompute else Session
        requests = [RoutingRequest(question.question)]
        session = kind(self._final, routing, *self._prompt(question), requests)
        return session.stream(self._tokens, stop_ids)

    def _prompt(self, question: Question) -> tuple[Tensor, Tensor]:
        return left_padded(self.backbone, [build_prompt(question.question)], self._tokens)


def check_equal_decoding(decoding: Decoding, question: Question) -> float:
    """The largest difference between a token's uncertainty cached and recomputed, in nats.

    Every token gets other experts, so that everything is recomputed for every token. Without a
    trigger, the tokens must be those of the backbone alone.

    Args:
        decoding: The ways to decode, in float32.
        question: The question that is answered.

    Raises:
        ValueError: If the tokens differ, if their uncertainty differs by more than rounding, or if
            the experts change nothing.
    """
    never = list(decoding.routed(question, ConstantTrigger(False)))
    if [step.token_id for step in never] != list(decoding.plain(question)):
        raise ValueError("without a trigger, other tokens are decoded than by the backbone alone")
    cached, recomputed = (list(decoding.swapping(question, way)) for way in (False, True))
    difference, effect = (
        max(abs(a.uncertainty - b.uncertainty) for a, b in zip(cached, other, strict=True))
        for other in (recomputed, never)
    )
    ids, others = ([(s.token_id, s.active) for s in steps] for steps in (cached, recomputed))
    if ids != others or difference > _TOLERANCE or effect <= _EFFECT * difference:
        raise ValueError(
            "cached decoding and full recomputation differ: the tokens "
            f"{'agree' if ids == others else 'do not agree'}, their uncertainty differs by "
            f"{difference:.1e} nats, where the experts change it by {effect:.1e}"
        )
    return difference
