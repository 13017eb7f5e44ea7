"""The interface of every encoder of dense retrieval, whichever model is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from retrieval.passage import Passage


class Encoder(Protocol):
    """Turns questions and passages into vectors of one space."""

    @property
    def question_fingerprint(self) -> str:
        """Hash of everything, except rounding, that decides a question's vector.

        This is the weights, the tokenizer and the limits.
        """
        ...

    @property
    def passage_fingerprint(self) -> str:
        """Hash of everything, except rounding, that decides a passage's vector.

        This is the weights, the tokenizer and the limits.
        """
        ...

    @property
    def rounding(self) -> str:
        """What decides the last digits: number format, kind of device, texts in a batch."""
        ...

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Encode questions, of which those that are too long are cut: float32 ``[N, D]``."""
        ...

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Encode passages: float32 ``[N, D]``.

        The vectors depend on these passages and their order, and on nothing else.
        """
        ...


class EncoderMaker(Protocol):
    """The settings of an encoder, which make it, possibly in another process.

    They are pickled on the way there, so they hold no weights.
    """

    @property
    def device(self) -> str:
        """The device on which the encoder runs, such as "auto", "cpu" or "cuda:1"."""
        ...

    def load(self, device: str | None = None) -> Encoder:
        """Make the encoder, on another device than `device` if one is named."""
        ...
