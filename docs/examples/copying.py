"""An example of a method: the words of the passages become more likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from backbone import Backbone
from qa.method import AnsweringMethod, Prediction, QuestionInput
from qa.prompts import encode_passage


class CopyingMethod(AnsweringMethod):
    """Adds a constant to the logit of every token that occurs in the question's passages.

    Args:
        backbone: The frozen model.
        rag: Whether the passages also stand in the prompt.
        max_new_tokens: The most tokens that are decoded.
        strength: What is added, in nats.
    """

    def __init__(
        self,
        backbone: Backbone,
        rag: bool = False,
        max_new_tokens: int = 32,
        strength: float = 5.0,
    ) -> None:
        super().__init__(backbone, rag, max_new_tokens)
        self.strength = strength

    @contextmanager
    def injected(self, inputs: Sequence[QuestionInput]) -> Iterator[None]:
        """Let the head add the constant while the batch is decoded and scored."""
        tokenizer = self.backbone.tokenizer
        bonus_NV = torch.zeros(len(inputs), self.backbone.vocab_size, device=self.backbone.device)
        for row, input in enumerate(inputs):  # row i of a batch belongs to input i
            for passage in input.selection.passages:
                bonus_NV[row, encode_passage(tokenizer, passage, max_tokens=512)] = self.strength

        def add(head: Any, read: Any, logits_NTV: torch.Tensor) -> torch.Tensor:
            return logits_NTV + bonus_NV[:, None].to(logits_NTV.dtype)

        handle = self.backbone.head.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()  # the backbone is bit-identical to what it was before

    def measure(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """A metric of the method's own: how many words an answer has."""
        words = [len(prediction.text.split()) for prediction in predictions]
        return {"answer_words": sum(words) / max(len(words), 1)}
