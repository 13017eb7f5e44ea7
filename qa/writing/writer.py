"""Writers of augmentations: their interface, and a frozen backbone as a writer (DMoE sec. 4.3).

Shapes: N requests, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from backbone.decoding import pad_token_id
from backbone.kv_cache import make_cache
from backbone.model import Backbone
from backbone.tokens import decode, encode_prompt
from plumbing.batches import pad
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from plumbing.storage.hashing import digest, short_hash
from qa.writing.chatter import marks_thinking, opened_thinking

# Rows that have ended are dropped from a batch once at most this share of its rows still goes on.
_CROWDED = 0.875

Messages = tuple[tuple[str, str], ...]
"""Turns of a conversation: (role, content)."""


@dataclass(frozen=True, slots=True)
class WritingRequest:
    """A request for one answer.

    Attributes:
        messages: The conversation; the last turn is the user's.
        max_new_tokens: The most tokens of the answer.
        attempt: 0 asks for the most likely answer. With 1 and more, other answers are drawn.
        opening: The beginning that the answer should have, if the writer can be made to use it.
    """

    messages: Messages
    max_new_tokens: int
    attempt: int
    opening: str = ""


class WriterError(ValueError):
    """A request has no answer. Unless it is a `RefusedError`, no other request will have one."""


class RefusedError(WriterError):
    """A single request can never have an answer, for example because it is too long."""


class Writer(Protocol):
    """The interface of everything that answers requests."""

    @property
    def fingerprint(self) -> str:
        """A hash or name of everything that decides the answers; it is part of a cache's key."""
        ...

    @property
    def batch_size(self) -> int:
        """How many requests should be made at once."""
        ...

    def write(self, requests: Sequence[WritingRequest]) -> list[str | WriterError]:
        """Answer requests.

        Returns:
            One answer for each request. It begins with the request's opening if the writer can be
            made to use it. If a request has no answer, the error stands in its place, so that the
            other answers are not lost.
        """
        ...


class BackboneWriter:
    """A frozen backbone as a writer, with its chat template if it has one.

    First attempts are decoded greedily, later ones are sampled. Each row has a random generator of
    its own, so an answer depends on its request and not on the batch. The beginning that all
    requests of a batch share (the prompt's examples) is read once for all of them, and is kept from
    batch to batch.

    Args:
        backbone: The model.
        batch_size: How many requests are answered at once.
        temperature: The temperature of the attempts after the first.
        seed: The seed of the sampling.

    Raises:
        ValueError: If a number is out of range.
    """

    @typed
    def __init__(
        self, backbone: Backbone, batch_size: int = 16, temperature: float = 0.7, seed: int = 0
    ) -> None:
        for name, value in (("batch_size", batch_size), ("temperature", temperature)):
            if not value > 0:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        self.batch_size = batch_size
        self._backbone = backbone
        self._temperature = temperature
        self._seed = seed
        self._identity = backbone.identity
        self._prefix: tuple[list[int], Any] = ([], None)

    @property
    def fingerprint(self) -> str:
        """The backbone's fingerprint, and everything else that decides its answers.

        These are the chat template, the tokens that end an answer, the dtype, and the settings of
        the sampling.
        """
        template = getattr(self._backbone.tokenizer, "chat_template", None)
        ends = self._backbone.stop_token_ids
        own = digest([template, ends, str(self._backbone.dtype)])[:16]
        return f"{self._identity.fingerprint} {own} {self._temperature} {self._seed}"

    @property
    def older_fingerprint(self) -> str:
        """The fingerprint of version 0.1; what that version cached is still read."""
        return f"{self._identity.weights.legacy} {self._temperature} {self._seed}"

    def write(self, requests: Sequence[WritingRequest]) -> list[str | WriterError]:
        """Answer requests, as `Writer.write` describes.

        A request that is longer than the backbone can read is refused.
        """
        rows = [self._encode(request) for request in requests]
        refused = [self._refusal(*pair) for pair in zip(rows, requests, strict=True)]
        fitting = [i for i, refusal in enumerate(refused) if refusal is None]
        texts = iter(self._texts([rows[i] for i in fitting], [requests[i] for i in fitting]))
        return [next(texts) if refusal is None else refusal for refusal in refused]

    @torch.inference_mode()
    def _texts(self, rows: Sequence[list[int]], requests: Sequence[WritingRequest]) -> list[str]:
        """Answer requests whose token ids are ``rows``."""
        if not rows:
            return []
        tokenizer = self._backbone.tokenizer
        shared, cache = self._shared(rows)
        ids, rest = pad(
            [row[len(shared) :] for row in rows],
            pad_token_id(tokenizer),
            left=True,
            device=self._backbone.device,
        )
        mask = torch.cat([rest.new_ones(len(rows), len(shared)), rest], 1)
        new = self._continue(ids, mask, cache, requests)
        return [
            opened_thinking(self._prompt(request))
            + request.opening
            + decode_with_tags(tokenizer, row)
            for request, row in zip(requests, new, strict=True)
        ]

    def _continue(
        self, ids_NT: Tensor, mask_NT: Tensor, cache: Any, requests: Sequence[WritingRequest]
    ) -> list[list[int]]:
        """Decode each row's new tokens. Rows that have ended are dropped from the batch.

        Args:
            ids_NT: The tokens that are not in the cache yet, padded on the left.
            mask_NT: The attention mask of the tokens in the cache and of ``ids_NT``.
            cache: The KV cache of the beginning that all rows share; it grows.
            requests: N requests.
        """
        stop_ids, decoder = self._backbone.stop_token_ids, self._backbone.decoder
        generators = [self._generator(request) for request in requests]
        new: list[list[int]] = [[] for _ in requests]
        rows = list(range(len(requests)))
        start = cache.get_seq_length()
        while rows:
            output = decoder(
                input_ids=ids_NT,
                attention_mask=mask_NT,
                position_ids=(mask_NT.cumsum(1) - 1).clamp(min=0)[:, start:],
                past_key_values=cache,
                use_cache=True,
            )
            logits_NV = self._backbone.logits(output.last_hidden_state[:, -1]).float()
            add_noise(logits_NV, [generators[row] for row in rows], self._temperature)
            ids_NT = logits_NV.argmax(-1, keepdim=True)
            mask_NT = torch.cat([mask_NT, mask_NT.new_ones(len(rows), 1)], 1)
            start = mask_NT.shape[1] - 1
            for row, (id,) in zip(rows, ids_NT.tolist(), strict=True):
                if not _ended(new[row], requests[row], stop_ids):
                    new[row].append(id)
            going = [
                i for i, row in enumerate(rows) if not _ended(new[row], requests[row], stop_ids)
            ]
            if len(going) <= _CROWDED * len(rows):
                rows = [rows[i] for i in going]
                index = torch.tensor(going, dtype=torch.long, device=ids_NT.device)
                ids_NT, mask_NT = ids_NT[index], mask_NT[index]
                cache.batch_select_indices(index)
        return new

    def _encode(self, request: WritingRequest) -> list[int]:
        tokenizer = self._backbone.tokenizer
        text = self._prompt(request) + request.opening
        if not tokenizer.chat_template:
            return encode_prompt(tokenizer, text)
        # The template writes the special tokens itself.
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt(self, request: WritingRequest) -> str:
        tokenizer = self._backbone.tokenizer
        if not tokenizer.chat_template:
            return "\n\n".join(content for _, content in request.messages) + "\n\n"
        turns = [{"role": role, "content": content} for role, content in request.messages]
        # Templates that know the switch keep the model from thinking; others do not read it.
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text

    def _refusal(self, row: Sequence[int], request: WritingRequest) -> RefusedError | None:
        """Refuse a request that with its answer is longer than the backbone can read, else None."""
        config = self._backbone.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if not limit or len(row) + request.max_new_tokens <= limit:
            return None
        return RefusedError(
            f"the passage with its prompt ({len(row)} tokens) and its answer "
            f"({request.max_new_tokens}) exceeds the {limit} positions of {self._backbone.name}; "
            "split the passage, or choose a model that reads more"
        )

    def _shared(self, rows: Sequence[list[int]]) -> tuple[list[int], Any]:
        """Find the beginning that all rows share, and its KV cache, repeated for every row."""
        shortest = min(map(len, rows))
        length = next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
        shared = rows[0][: min(length, shortest - 1)]  # each row must have a token left to read
        kept, cache = self._prefix
        if kept and shared[: len(kept)] == kept:
            # Rows that share more (passages that begin alike) still use the cache that was kept.
            shared = kept
        elif len(rows) > 1 and shared:
            ids = torch.tensor([shared], device=self._backbone.device)
            cache = make_cache(self._backbone.model)
            self._backbone.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
            self._prefix = shared, cache
        else:
            return [], make_cache(self._backbone.model)
        repeated = copy.deepcopy(cache)
        repeated.batch_repeat_interleave(len(rows))
        return shared, repeated

    def _generator(self, request: WritingRequest) -> torch.Generator | None:
        if request.attempt == 0:
            return None
        key = repr((self._seed, request.messages, request.opening, request.attempt))
        generator = torch.Generator()
        return generator.manual_seed(int.from_bytes(short_hash(key), "big", signed=True))


def decode_with_tags(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some tokens without special ones, but with the tags of thinking.

    Without its tags thinking could not be told from the answer.
    """
    special = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    tags = {id: token for token, id in special if marks_thinking(token)}
    text, part = "", list[int]()
    for id in ids:
        if id in tags:
            text += decode(tokenizer, part) + tags[id]
            part = []
        else:
            part.append(id)
    return text + decode(tokenizer, part)


def _ended(new: Sequence[int], request: WritingRequest, stop_ids: Sequence[int]) -> bool:
    return len(new) >= request.max_new_tokens or bool(new and new[-1] in stop_ids)


def add_noise(
    logits_NV: Tensor, generators: Sequence[torch.Generator | None], temperature: float
) -> None:
    """Turn greedy decoding into sampling: ``argmax(logits / temperature + Gumbel noise)``.

    Args:
        logits_NV: The logits of the next token; they are changed in place.
        generators: The random generator of each row. None leaves the row as it is.
        temperature: The temperature of the distribution to sample from.
    """
    for row, generator in zip(logits_NV, generators, strict=True):
        if generator is not None:
            noise = torch.empty(row.shape).exponential_(generator=generator).log().neg()
            row.div_(temperature).add_(noise.to(row))
