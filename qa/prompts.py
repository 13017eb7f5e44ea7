r"""The prompt that every method shows the model.

It is an instruction, then ``Question: …\nAnswer:``. With RAG, the title and the text of each
passage stand before it. Without the instruction, small models answer in sentences
(docs/results/prompts.md). The answer follows after one space and ends with the end-of-sequence
token.

Deviation: GenPoE's paper gives no instruction, and DMoE's has examples for some data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrieval.passage import Passage, passage_text

INSTRUCTION = "Answer the question with a short phrase."


def build_prompt(question: str, passages: Sequence[Passage] = ()) -> str:
    """The prompt of a question; with RAG, its passages stand before it, the best one first."""
    context = "".join(f"{passage_text(passage)}\n\n" for passage in passages)
    return f"{context}{INSTRUCTION}\nQuestion: {question.strip()}\nAnswer:"


def encode_passage(tokenizer: Any, passage: Passage, max_tokens: int) -> list[int]:
    """Token ids of a passage for the hypernetwork, at most ``max_tokens`` of them."""
    ids = tokenizer(passage_text(passage), add_special_tokens=False)["input_ids"]
    return list(ids[:max_tokens])
