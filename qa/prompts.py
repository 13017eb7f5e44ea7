r"""The prompt that every method shows the model.

It is an instruction, then ``Question: …\nAnswer:``. With RAG, the title and the text of each
passage stand before it. Without the instruction, small models answer in sentences
(docs/measurements/prompts.md). The answer follows after one space and ends with the end-of-sequence
token.

Deviation: GenPoE's paper gives no instruction, and DMoE's has examples for some data sets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from retrieval.passage import Passage, passage_text

log = logging.getLogger(__name__)

INSTRUCTION = "Answer the question with a short phrase."

COMPLETE = "Complete the sentence with a short phrase."

# What `prompt_template` was in version 0.1, whose artefacts do not say it. It stays what it is.
PROMPT_OF_0_1 = (
    "{title}\n{text}\n\nAnswer the question with a short phrase.\nQuestion: {question}\nAnswer:"
)


def build_prompt(question: str, passages: Sequence[Passage] = ()) -> str:
    """The prompt of a question; with RAG, its passages stand before it, the best one first."""
    return f"{_context(passages)}{INSTRUCTION}\nQuestion: {question.strip()}\nAnswer:"


def build_start(start: str, passages: Sequence[Passage] = ()) -> str:
    """The prompt of the start of a sentence, which the model completes."""
    return f"{_context(passages)}{COMPLETE}\n{start.strip()}"


def _context(passages: Sequence[Passage]) -> str:
    return "".join(f"{passage_text(passage)}\n\n" for passage in passages)


def prompt_template() -> str:
    """The prompt with names in braces for its parts, by which artefacts keep it."""
    return build_prompt("{question}", [Passage("", "{title}", "{text}")])


def warn_of_another_prompt(what: str, prompt: str | None) -> None:
    """Warn if something was trained under another prompt than the one that questions have now.

    It is used all the same, because an answer may still be right; to compare prompts is a question
    of its own.

    Args:
        what: What was trained, such as "the hypernetwork of last.ckpt".
        prompt: The `prompt_template` then. None if it was trained without any prompt.
    """
    if prompt is not None and prompt != (now := prompt_template()):
        log.warning(
            "%s was trained under the prompt %r, but is asked under %r; its answers may be worse: "
            "train it again, or set the prompt in qa/prompts.py back",
            *(what, prompt, now),
        )


def encode_passage(tokenizer: Any, passage: Passage, max_tokens: int) -> list[int]:
    """Token ids of a passage for the hypernetwork, at most ``max_tokens`` of them."""
    ids = tokenizer(passage_text(passage), add_special_tokens=False)["input_ids"]
    return list(ids[:max_tokens])
