"""Servers for ``suite=serve``: plain transformers, and one whose answers are never short.

The peer is the same server around plain transformers, without any expert. Questions are batched in
the same way and pass the same HTTP, but a batch is decoded by the model's own forward pass in the
tightest possible loop. ``python -m benchmarks.servers plain NAME DTYPE`` serves it on a free port.
With ``full`` behind it, every answer has all the tokens that were asked for, as it has them from
``experts NAME DTYPE CHECKPOINT FOLDER``, the server with experts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from backbone.decoding import left_padded
from backbone.loading import load_backbone
from backbone.model import Backbone
from live.answer import Ask, Speller, Token
from live.decoding import Batch, Spoken
from live.passages import PassageSet
from live.server.run import serve
from live.server.settings import ServerSettings
from live.session import KnowledgeSession
from qa.prompts import build_prompt
from retrieval.passage import Passage


class PlainBatch:
    """Questions that are decoded together by plain transformers.

    Args:
        backbone: The model.
        asks: The questions.
        stops: Whether the tokens that end an answer end it.
    """

    def __init__(self, backbone: Backbone, asks: Sequence[Ask], stops: bool = True) -> None:
        self._model, self._asks = backbone.model, asks
        prompts = [build_prompt(ask.question) for ask in asks]
        self._ids, self._mask = left_padded(backbone, prompts, max(a.max_new_tokens for a in asks))
        self.prompt_tokens = self._mask.sum(1).tolist()
        self.shown: list[tuple[Passage, ...]] = [() for _ in asks]
        stop_ids = backbone.stop_token_ids if stops else ()
        self._spellers = [Speller(backbone.tokenizer, stop_ids) for _ in asks]
        self._spoken = [0] * len(asks)
        self._is_ended = [False] * len(asks)
        self._cache: Any = None

    @property
    def running(self) -> int:
        """How many rows have not ended."""
        return self._is_ended.count(False)

    def drop(self, row: int) -> None:
        """End a row."""
        self._is_ended[row] = True

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The next token of every row."""
        start = self._mask.shape[1] - self._ids.shape[1]
        output = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=(self._mask.cumsum(1) - 1).clamp(min=0)[:, start:],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        self._ids = output.logits[:, -1].argmax(-1, keepdim=True)
        self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], 1)
        return self._ids[:, 0]

    def step(self) -> list[Spoken]:
        """Decode one token of every row that has not ended."""
        if not self.running:
            self._cache = None
            return []
        return [
            self._speak(row, id)
            for row, id in enumerate(self.forward().tolist())
            if not self._is_ended[row]
        ]

    def _speak(self, row: int, id: int) -> Spoken:
        speller = self._spellers[row]
        text = speller.add(id)
        self._spoken[row] += 1
        is_long = self._spoken[row] == self._asks[row].max_new_tokens
        self._is_ended[row] = speller.ended or is_long
        if self._is_ended[row]:
            return Spoken(row, Token(text, 0.0, False, ()), "stop" if speller.ended else "length")
        return Spoken(row, Token(text, 0.0, False, ()), None)


class PlainSession:
    """As much of `live.session.KnowledgeSession` as the server needs, without experts.

    Args:
        backbone: The model.
        stops: Whether the model may end an answer.
    """

    def __init__(self, backbone: Backbone, stops: bool = True) -> None:
        self.backbone, self._stops = backbone, stops
        self.passages = PassageSet()

    def check(self, ask: Ask) -> None:
        """Check nothing: the benchmark asks short questions."""
        return

    def begin(self, asks: Sequence[Ask]) -> PlainBatch:
        """Start to answer questions together."""
        return PlainBatch(self.backbone, asks, self._stops)

    def close(self) -> None:
        """Nothing is open."""
        return


class FullSession(KnowledgeSession):
    """A session whose answers have all the tokens that were asked for."""

    def begin(self, asks: Sequence[Ask], stops: bool = False) -> Batch:
        """Start to answer questions together."""
        return super().begin(asks, stops)


def main(kind: str, name: str, dtype: str, *more: str) -> None:
    """Serve a model on a free port until the process is told to stop."""
    backbone = load_backbone(name, dtype=dtype)
    if kind == "plain":
        session = cast("KnowledgeSession", PlainSession(backbone, stops="full" not in more))
    else:
        session = FullSession.from_checkpoint(more[0], backbone, more[1])
    serve(session, ServerSettings(port=0, max_queue=1000))


if __name__ == "__main__":
    main(*sys.argv[1:])
