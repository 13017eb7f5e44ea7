"""Models that read a question and a passage together and give one score.

Encoders are in `retrieval.rerank.encoder`, decoders in `retrieval.rerank.decoder`. Both take
tokenised pairs of any length and pad as little as they can: pairs are sorted by length and run in
parts of a bounded number of tokens.

Shapes: N pairs, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plumbing.batches import by_length
from plumbing.mounts import SettingValueError


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """One pair, as a model reads it.

    Attributes:
        input_ids: All of it, special tokens and prompt included.
        question: Where the question's tokens begin and end.
        passage: Where the passage's do.
    """

    input_ids: list[int]
    question: tuple[int, int]
    passage: tuple[int, int]

    def __len__(self) -> int:
        return len(self.input_ids)


class CrossEncoder(nn.Module, ABC):
    """Scores pairs; a subclass tokenises them and runs its model on one padded part.

    Args:
        model: A transformers model, or one that PEFT wrapped.
        tokenizer: Its tokenizer.
        max_tokens: Of a pair; longer passages are cut, see `tokenize`.
        tokens_at_once: Padded tokens of one run of the model, at most (one pair at least).

    Raises:
        ValueError: If a size leaves no room.
    """

    def __init__(
        self, model: Any, tokenizer: Any, max_tokens: int = 256, tokens_at_once: int = 4096
    ) -> None:
        super().__init__()
        if max_tokens < 16:
            raise SettingValueError(
                "max_tokens", f"max_tokens must be at least 16, got {max_tokens}"
            )
        if tokens_at_once < 1:
            raise SettingValueError(
                "tokens_at_once", f"tokens_at_once must be positive, got {tokens_at_once}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.tokens_at_once = tokens_at_once

    @abstractmethod
    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair]:
        """Question and passage text of each pair as ids; the passage alone is cut.

        A question that fills more than three quarters of ``max_tokens`` is cut to these, as
        FlagEmbedding does.
        """

    @abstractmethod
    def run(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """Scores ``[N]`` of pairs that are padded to the longest of them."""

    def forward(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """Raw scores ``[N]`` in float32, in the order of the pairs; with gradients."""
        if not pairs:
            return torch.zeros(0)
        parts = by_length(
            [len(pair) for pair in pairs], max_tokens=self.tokens_at_once, longest_first=True
        )
        scores = torch.cat([self.run([pairs[i] for i in part]).float() for part in parts])
        order = torch.tensor([i for part in parts for i in part], device=scores.device)
        return scores[order.argsort()]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def _question_limit(self) -> int:
        return self.max_tokens * 3 // 4

    def _ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Ids without special tokens, each text once however often it is repeated."""
        if not texts:
            return []
        unique = list(dict.fromkeys(texts))
        encoded = self.tokenizer(
            unique,
            add_special_tokens=False,
            truncation=True,
            max_length=limit,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        found = dict(zip(unique, encoded["input_ids"], strict=True))
        return [found[text] for text in texts]
