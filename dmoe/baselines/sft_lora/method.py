"""SFT-LoRA: one adapter for all questions, trained on the whole corpus (DMoE sec. 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from backbone.lora.adapter import LoraAdapter
from backbone.model import Backbone
from qa.method import AnsweringMethod, QuestionInput
from qa.prompts import PROMPT_OF_0_1, warn_of_another_prompt


class SFTLoRAMethod(AnsweringMethod):
    """The backbone with one adapter, the same for every question and its passages.

    Args:
        backbone: The frozen model that the adapter was trained for, dense or a mixture of experts.
        adapter_dir: The folder that ``scripts/train_sft_lora.py`` wrote.
        rag: Whether the passages stand in the prompt.
        max_new_tokens: The most tokens that are decoded.

    Raises:
        AdapterError: If the adapter is missing or damaged, or belongs to another backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter_dir: str | Path,
        rag: bool = False,
        max_new_tokens: int = 32,
    ) -> None:
        super().__init__(backbone, rag, max_new_tokens)
        self.adapter = LoraAdapter.load(adapter_dir, backbone)
        prompt = self.adapter.record.get("prompt", PROMPT_OF_0_1)
        warn_of_another_prompt(f"the adapter of {adapter_dir}", prompt)
        self.uses_passages = rag  # type: ignore[misc]

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[None]:
        """Attach the adapter, which is the same for every row of a batch."""
        return self.adapter.attached()
