"""Token ids of prompts and answers, and the tokens that end an answer."""

from __future__ import annotations

from typing import Any


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts before a text."""
    return list(tokenizer(prompt)["input_ids"])


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer behind a prompt; the last is the end-of-sequence token."""
    ids = tokenizer(f" {answer.strip()}", add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def stop_token_ids(tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the end of sequence, and tokens that begin with a newline.

    An answer is one line. Below it, a base model would write another question.
    """
    newline = {
        index
        for token, index in tokenizer.get_vocab().items()
        if token.startswith(("\n", "Ċ"))
        or token == "<0x0A>"  # plain, byte-level BPE, byte fallback
    }
    return sorted({tokenizer.eos_token_id, *newline})
