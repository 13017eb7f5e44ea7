"""What every encoder of dense retrieval is, whichever model is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from retrieval.passage import Passage


class Encoder(Protocol):
    """Turns questions and passages into vectors of one space."""

    @property
    def question_fingerprint(self) -> str:
        """Hash of all that decides a question's vector but rounding: weights, tokenizer, limits."""
        ...

    @property
    def passage_fingerprint(self) -> str:
        """The same for a passage's vector."""
        ...

    @property
    def rounding(self) -> str:
        """What decides the last digits: number format, kind of device, texts a batch."""
        ...

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """float32 ``[N, D]``; longer questions are cut."""
        ...

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """float32 ``[N, D]``; a function of these passages, in this order, alone."""
        ...


class EncoderMaker(Protocol):
    """What makes an encoder, possibly in another process: it is pickled, so it holds no weights.

    Attributes:
        device: Where the encoder runs; see `EncoderSettings`.
    """

    @property
    def device(self) -> str:
        """See above."""
        ...

    def load(self, device: str | None = None) -> Encoder:
        """Make it, on another device than its own if one is named."""
        ...
