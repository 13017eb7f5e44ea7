"""The base class of models that read a question and a passage together and give one score.

Encoders are in `retrieval.rerank.encoder`, decoders in `retrieval.rerank.decoder`. Both take
tokenised pairs of any length. To keep the padding small, pairs are sorted by length and run in
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
    """One pair of a question and a passage, as token ids.

    Attributes:
        input_ids: All ids that the model reads, including special tokens and a prompt.
        question: The positions where the question begins and ends; the end is excluded.
        passage: The positions where the passage begins and ends; the end is excluded.
    """

    input_ids: list[int]
    question: tuple[int, int]
    passage: tuple[int, int]

    def __len__(self) -> int:
        return len(self.input_ids)


class CrossEncoder(nn.Module, ABC):
    """Scores pairs. A subclass tokenises them and runs its model on one padded part.

    Args:
        model: A transformers model, possibly wrapped by PEFT.
        tokenizer: The model's tokenizer.
        max_tokens: The largest number of tokens of a pair; `tokenize` cuts longer pairs.
        tokens_at_once: The largest number of padded tokens in one run of the model. A single pair
            may exceed it.

    Raises:
        ValueError: If a size is too small.
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
        """Tokenise pairs of a question and a passage's text.

        If a pair is too long, its passage is cut. Only a question that takes more than three
        quarters of ``max_tokens`` is cut as well, to this length, as FlagEmbedding does.
        """

    @abstractmethod
    def run(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """Run the model on pairs, padded to the longest one, and return their scores ``[N]``."""

    def forward(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """The raw scores ``[N]`` in float32, in the order of the pairs, with gradients."""
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
        """The device of the weights."""
        return next(self.model.parameters()).device

    def _question_limit(self) -> int:
        return self.max_tokens * 3 // 4

    def _ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """The ids of texts, without special tokens. A repeated text is tokenised only once."""
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
