"""An example of an encoder: a bag of hashed words, with no model behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from plumbing.settings import check_positive, check_types
from retrieval.answers import answer_tokens
from retrieval.passage import Passage, passage_text


@dataclass(frozen=True)
class HashingSettings:
    """Settings of a `HashingEncoder`: what a dense index pickles, so they hold no weights.

    Attributes:
        dimension: Length of a vector.
        device: Where the encoder runs; this one needs none.

    Raises:
        ValueError: If a value is mistyped or out of range.
    """

    dimension: int = 4096
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "dimension")

    def load(self, device: str | None = None) -> HashingEncoder:
        """Make the encoder."""
        return HashingEncoder(self.dimension)


class HashingEncoder:
    """Each word raises the entry that its hash names; a vector has length 1."""

    rounding = "none"  # what could change the last digits: here, nothing

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        fingerprint = hashlib.sha256(f"hashing/1/{dimension}".encode()).hexdigest()
        # What decides a vector: an index that was made otherwise is refused.
        self.question_fingerprint = self.passage_fingerprint = fingerprint

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """float32 ``[N, D]``."""
        vectors_ND = np.zeros((len(questions), self._dimension), np.float32)
        for row, text in enumerate(questions):
            for word in answer_tokens(text):
                vectors_ND[row, crc32(word.encode()) % self._dimension] += 1
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True).clip(min=1)

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """float32 ``[N, D]``."""
        return self.encode_questions([passage_text(passage) for passage in passages])
