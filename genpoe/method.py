"""GenPoE among the other answering methods (sec. 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from backbone.model import Backbone
from genpoe.model import GenPoE
from qa.method import AnsweringMethod, QuestionInput


class GenPoEMethod(AnsweringMethod):
    """Puts the passages of each question into one layer as K experts, weighted by relevance.

    Args:
        backbone: The frozen model with which the hypernetwork was trained.
        ckpt_path: A checkpoint of ``scripts/train_hypernet.py``.
        rag: True: the passages also stand in the prompt (the paper's GenPoE with RAG).
        max_new_tokens: The largest number of tokens that are decoded.

    Raises:
        BackboneMismatchError: If the checkpoint belongs to another backbone.
        CheckpointError: If the file is missing, is damaged or is no GenPoE checkpoint.
        ValueError: If no checkpoint is named.
    """

    def __init__(
        self,
        backbone: Backbone,
        ckpt_path: str | None = None,
        rag: bool = False,
        max_new_tokens: int = 32,
    ) -> None:
        super().__init__(backbone, rag, max_new_tokens)
        if not ckpt_path:
            raise ValueError("method=genpoe needs a trained hypernetwork: give ckpt_path=…")
        self.genpoe = GenPoE.from_checkpoint(ckpt_path, backbone)

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        """Generate and inject the experts of each question's passages (eq. 4 and 6)."""
        return self.genpoe.injected(
            [input.selection.passages for input in inputs],
            [input.selection.weights for input in inputs],
        )
