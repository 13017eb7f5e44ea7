"""Cached decoding, with experts routed where the model is uncertain (DMoE sec. 3.2.2).

Shapes: B rows, T prompt tokens, N new tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from backbone.decoding import answer_text, check_room, left_padded, pad_token_id
from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from backbone.tokens import decode
from dmoe.decoding.router import RoutingRequest
from dmoe.decoding.session import Session
from dmoe.decoding.steps import Routing, Step


@dataclass(frozen=True, slots=True)
class DecoderInput:
    """The input of one row.

    Attributes:
        prompt: The text that the model reads.
        task_input: The text that the routing query begins with, such as the question alone; None:
            the prompt.
        given: The ids of the passages that an oracle router may use, the best first.
        gold: The ids of the passages that are known to answer, which a random router leaves out.
    """

    prompt: str
    task_input: str | None = None
    given: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()

    @property
    def request(self) -> RoutingRequest:
        """What the router is asked before anything has been decoded."""
        task_input = self.prompt if self.task_input is None else self.task_input
        return RoutingRequest(task_input, self.given, self.gold)


class DMoEDecoder:
    """The frozen backbone with experts that come and go while it decodes.

    At every token the uncertainty of the current effective model is computed (eq. 1). If it is
    above the threshold of the trigger (eq. 4), the router selects experts for the task input and
    what has been decoded so far (eq. 5). They take the place of those that acted before, the token
    is decoded again under them (eq. 6), and they stay until the next trigger. Each row of a batch
    triggers independently and has its own experts. Between two steps nothing is left on the
    backbone.

    Args:
        backbone: The frozen model.
        routing: The experts, the router, the trigger and their settings.

    Attributes:
        session: What decodes one batch; another kind of decoder may have another kind of sessions.

    Raises:
        UnsupportedBackboneError: If the final FFN cannot have experts.
    """

    session: ClassVar[type[Session]] = Session

    def __init__(self, backbone: Backbone, routing: Routing) -> None:
        self.backbone = backbone
        self.routing = routing
        self._final = FinalFFN(backbone)

    def start(self, inputs: Sequence[DecoderInput], max_new_tokens: int) -> Session:
        """Start a session over a batch, which streams tokens and scores answers.

        Args:
            inputs: B rows, at least one.
            max_new_tokens: There must be room for this many tokens after the longest prompt.

        Raises:
            ValueError: If there are no rows, if ``max_new_tokens`` is not positive, or if a prompt
                is empty or longer than the backbone can read.
        """
        if not inputs:
            raise ValueError("expected at least one input, got none; start no session for them")
        ids, mask = left_padded(self.backbone, [row.prompt for row in inputs], max_new_tokens)
        self._check(ids, mask, max_new_tokens)
        requests = [row.request for row in inputs]
        return self.session(self._final, self.routing, ids, mask, requests)

    def stream(
        self,
        inputs: Sequence[DecoderInput],
        max_new_tokens: int = 32,
        stop_ids: Collection[int] | None = None,
    ) -> Iterator[Step]:
        """Decode a batch, token by token, with what triggered and what was routed.

        Args:
            inputs: B rows. If there are none, there are no tokens.
            max_new_tokens: The most tokens of a row.
            stop_ids: Tokens that end a row; None: the end of sequence.

        Returns:
            The tokens of all unfinished rows, position by position.

        Raises:
            ValueError: If ``max_new_tokens`` is not positive, or a prompt is empty, or longer than
                the backbone can read.
        """
        if not inputs:
            return iter(())
        return self.start(inputs, max_new_tokens).stream(max_new_tokens, self._stops(stop_ids))

    def text(self, steps: Iterable[Step]) -> str:
        """Read the answer from the tokens of one row, as `backbone.decoding.greedy_decode` does."""
        ids = [step.token_id for step in steps]
        return answer_text(self.backbone, ids)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 32,
        stop_ids: Collection[int] | None = None,
    ) -> Tensor:
        """Decode greedily like Hugging Face's ``generate()``, with experts routed on the way.

        The routing query begins with the prompt's text.

        Args:
            input_ids: ``[B, T]``, left-padded.
            attention_mask: ``[B, T]``, 0 at padding; None: no padding.
            max_new_tokens: The most tokens of a row.
            stop_ids: Tokens that end a row; None: the end of sequence.

        Returns:
            ``[B, T + N]``: prompts and new tokens, padded after the end of a row.

        Raises:
            ValueError: If the mask has another shape or padding elsewhere than on the left, if
                ``max_new_tokens`` is not positive, or if a prompt is empty or longer than the
                backbone can read.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._check(input_ids, mask, max_new_tokens)
        check_room(self.backbone, int(mask.bool().sum(1).max()), max_new_tokens)
        tokenizer = self.backbone.tokenizer
        requests = [
            RoutingRequest(decode(tokenizer, row[keep.bool()].tolist()))
            for row, keep in zip(input_ids, mask, strict=True)
        ]
        session = self.session(self._final, self.routing, input_ids, mask, requests)
        new: list[list[int]] = [[] for _ in requests]
        for step in session.stream(max_new_tokens, self._stops(stop_ids)):
            new[step.row].append(step.token_id)
        width = max(map(len, new))
        rows = [row + [pad_token_id(tokenizer)] * (width - len(row)) for row in new]
        return torch.cat([input_ids, torch.tensor(rows).to(input_ids)], 1)

    def _check(self, input_ids: Tensor, mask: Tensor, max_new_tokens: int) -> None:
        """Check a batch before anything is read.

        Raises:
            ValueError: In the cases that `generate` names.
        """
        if max_new_tokens < 1:
            raise ValueError(
                f"max_new_tokens must be positive, got {max_new_tokens}; set it to 1 or more"
            )
        if input_ids.ndim != 2 or not input_ids.numel():
            raise ValueError(
                f"expected prompts of one token or more, [B, T], got {list(input_ids.shape)}; "
                "leave empty prompts out, or begin them with a token"
            )
        if mask.shape != input_ids.shape or bool((mask.bool().diff() & ~mask[:, 1:].bool()).any()):
            raise ValueError(
                f"expected a mask of the shape {list(input_ids.shape)} with padding on the left "
                f"only, got {list(mask.shape)}; set tokenizer.padding_side = 'left'"
            )
        tokens = mask.bool().sum(1).tolist()
        if not all(tokens):
            raise ValueError(
                f"the prompt in row {tokens.index(0)} is empty: expected one token or more; leave "
                "it out, or begin it with a token"
            )

    def _stops(self, stop_ids: Collection[int] | None) -> frozenset[int]:
        return frozenset([self.backbone.tokenizer.eos_token_id] if stop_ids is None else stop_ids)
