"""Questions that are decoded together, each with its own experts, its own mode and its own end.

All of them pass the same decoder (`dmoe.decoding.session.Session`), so the modes differ in nothing
but what is injected or stands in the prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import nn

from backbone.decoding import positions
from backbone.model import Backbone
from backbone.tokens import encode_prompt
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import RoutingRequest
from dmoe.decoding.steps import Step
from live.answer import ActingExpert, Answer, Ask, Speller, Token
from qa.prompts import build_prompt
from retrieval.passage import Passage
from retrieval.pipeline import Pipeline
from retrieval.retriever import Hit

Reason = Literal["stop", "length"]
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def lock_of(backbone: Backbone | None) -> Any:
    """The lock that a thread holds while experts stand on a model, or while it is looked through.

    Experts are hooks on the model, so all sessions of a model share one lock, which the same thread
    may take again. Without a model, the lock is one that nobody else has.
    """
    lock = threading.RLock()
    return lock if backbone is None else _LOCKS.setdefault(backbone.model, lock)


class TooLongError(ValueError):
    """A question is too long for the model."""


@dataclass(frozen=True, slots=True)
class LiveRequest(RoutingRequest):
    """The request of a row.

    Attributes:
        routes: Whether the row has experts at all.
    """

    routes: bool = True


@dataclass(frozen=True, slots=True)
class LiveInput(DecoderInput):
    """The input of a row.

    Attributes:
        routes: Whether the row has experts at all.
    """

    routes: bool = True

    @property
    def request(self) -> RoutingRequest:
        """What the router is asked before anything has been decoded."""
        task_input = self.prompt if self.task_input is None else self.task_input
        return LiveRequest(task_input, routes=self.routes)


class LiveRouter:
    """Finds passages among those that are there when it is asked (DMoE eq. 5).

    Args:
        pipeline: Searches the passages, and orders what was found anew if it has a reranker.
        temperature: The temperature of the experts' weights, in units of the scores.
    """

    uses_passages = False

    def __init__(self, pipeline: Pipeline, temperature: float = 1.0) -> None:
        self._pipeline, self.temperature = pipeline, temperature

    def route(self, requests: Sequence[RoutingRequest], k: int) -> list[list[Hit]]:
        """Find at most ``k`` passages for each request; rows without experts get none."""
        asked = [not isinstance(each, LiveRequest) or each.routes for each in requests]
        rows = list(zip(requests, asked, strict=True))
        queries = dict.fromkeys(request.query for request, is_asked in rows if is_asked)
        found = {query: self.find(query, k) for query in queries}
        return [found[request.query] if is_asked else [] for request, is_asked in rows]

    def find(self, query: str, k: int) -> list[Hit]:
        """Find at most ``k`` passages, the best first, whatever else is asked at the same time."""
        return self._pipeline.rank([query])[0][:k]


@dataclass(frozen=True, slots=True)
class Spoken:
    """A token of one row of a batch.

    Attributes:
        row: The row.
        token: The token; None if the row ends without adding anything.
        finish: Why the row ends here; None: it goes on.
    """

    row: int
    token: Token | None
    finish: Reason | None


class _Row:
    """What is known of a row while it is decoded."""

    def __init__(self, ask: Ask, speller: Speller) -> None:
        self.ask, self.speller = ask, speller
        self.spoken = 0
        self.weights: dict[str, ActingExpert] = {}  # of what the last trigger routed to
        self.finish: Reason | None = None


class Batch:
    """Questions that are decoded together, token by token. A step holds the lock of the model.

    Args:
        decoder: The decoder.
        asks: The questions.
        inputs: Their inputs for the decoder.
        shown: The passages that stand in the prompt of each.
        passages: The passages of the session as they are while it is stepped.
        stops: Whether the model may end an answer.
    """

    def __init__(
        self,
        decoder: DMoEDecoder,
        asks: Sequence[Ask],
        inputs: Sequence[LiveInput],
        shown: Sequence[Sequence[Passage]],
        passages: Mapping[str, Passage],
        stops: bool = True,
    ) -> None:
        backbone = decoder.backbone
        self._stops = frozenset(backbone.stop_token_ids if stops else ())
        self._passages, self._lock = passages, lock_of(backbone)
        self.shown = [tuple(each) for each in shown]
        self.prompt_tokens = [len(encode_prompt(backbone.tokenizer, i.prompt)) for i in inputs]
        self._rows = [_Row(ask, Speller(backbone.tokenizer, self._stops)) for ask in asks]
        longest = max(ask.max_new_tokens for ask in asks)
        session = decoder.start(inputs, longest)
        self._steps: Iterator[Step] = session.stream(longest, self._stops)
        self._decoded = len(asks)  # rows that the decoder goes on with

    @property
    def running(self) -> int:
        """How many rows have not ended."""
        return sum(row.finish is None for row in self._rows)

    @property
    def texts(self) -> list[str]:
        """What each row has said so far."""
        return [row.speller.text for row in self._rows]

    def drop(self, row: int) -> None:
        """End a row, because nobody waits for it any longer."""
        self._rows[row].finish = self._rows[row].finish or "stop"

    def step(self) -> list[Spoken]:
        """Decode one token of every row that has not ended."""
        with self._lock:
            if not self.running:
                self._steps.close()  # type: ignore[attr-defined]  # a generator
                return []
            steps = list(islice(self._steps, self._decoded))
            self._decoded -= sum(step.token_id in self._stops for step in steps)
            return [self._speak(step) for step in steps if self._rows[step.row].finish is None]

    def _speak(self, step: Step) -> Spoken:
        row = self._rows[step.row]
        routes = row.ask.mode == "experts"
        if step.triggered and routes:
            row.weights = {
                hit.passage_id: ActingExpert(self._passages[hit.passage_id], weight)
                for hit, weight in zip(step.routed, step.weights, strict=True)
            }
        text = row.speller.add(step.token_id)
        row.spoken += 1
        if row.speller.ended:
            row.finish = "stop"
        elif row.spoken == row.ask.max_new_tokens:
            row.finish = "length"
            text += row.speller.end()
        # An answer without a word has one token all the same, which says whose experts ended it.
        if row.finish == "stop" and not text and row.spoken > 1:
            return Spoken(step.row, None, row.finish)
        acting = tuple(row.weights[id] for id in step.active)
        token = Token(text, step.uncertainty, step.triggered and routes, acting)
        return Spoken(step.row, token, row.finish)

    def answer(self, row: int, tokens: Sequence[Token]) -> Answer:
        """The answer of a row that has ended, given its tokens."""
        whole = self._rows[row]
        return Answer(
            whole.speller.text,
            tuple(tokens),
            self.shown[row],
            self.prompt_tokens[row],
            whole.finish or "length",
        )


class Prompts:
    """Writes the prompts of questions, and checks that they fit into the model.

    Args:
        decoder: The decoder.
        router: Finds the passages that stand in a prompt.
        passages: The passages of the session.
        k: How many of them, at most.
    """

    def __init__(
        self, decoder: DMoEDecoder, router: LiveRouter, passages: Mapping[str, Passage], k: int
    ) -> None:
        self._backbone = decoder.backbone
        self._room = positions(decoder.backbone)
        self._router, self._passages, self._k = router, passages, k

    def check(self, ask: Ask) -> None:
        """Check that a question fits into the model without any passage.

        Raises:
            TooLongError: If it does not.
        """
        tokens = self._tokens(build_prompt(ask.question))
        if self._room is not None and tokens + ask.max_new_tokens > self._room:
            raise TooLongError(
                f"the question has {tokens} tokens with its instruction, and {ask.max_new_tokens} "
                f"new ones exceed the {self._room} positions of {self._backbone.name}; ask a "
                "shorter question, or for fewer tokens"
            )

    def write(self, ask: Ask) -> tuple[LiveInput, tuple[Passage, ...]]:
        """The input of a question, and the passages that stand in its prompt.

        With "rag", as many of the best passages stand there as fit into the model.

        Raises:
            TooLongError: If the question does not fit.
        """
        self.check(ask)
        shown: list[Passage] = []
        if ask.mode == "rag":
            hits = self._router.find(ask.question, self._k)
            shown = [self._passages[hit.passage_id] for hit in hits]
            while shown and not self._fits(build_prompt(ask.question, shown), ask):
                shown.pop()
        prompt = build_prompt(ask.question, shown)
        return LiveInput(prompt, ask.question, routes=ask.mode == "experts"), tuple(shown)

    def _fits(self, prompt: str, ask: Ask) -> bool:
        return self._room is None or self._tokens(prompt) + ask.max_new_tokens <= self._room

    def _tokens(self, prompt: str) -> int:
        return len(encode_prompt(self._backbone.tokenizer, prompt))
