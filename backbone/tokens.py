"""Token ids of prompts and answers, the text of token ids, and the tokens that end an answer.

A prompt and the answer behind it are encoded apart, and together they are the encoding of the
joint text. Two habits of tokenizers stand against this, and both are dealt with here: some put a
"▁" before every text, and some put the end of the sequence behind every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEFORE_ANSWER = "Answer:"  # the end of every prompt behind which an answer is encoded


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts before a text.

    What it puts behind a text, such as the end of the sequence, is left out: the answer follows.
    """
    encoded = tokenizer(prompt, return_special_tokens_mask=True)
    ids, added = list(encoded["input_ids"]), list(encoded.get("special_tokens_mask", ()))
    while added and added.pop() and ids[-1] in _ends(tokenizer):
        ids.pop()
    return ids


def _ends(tokenizer: Any) -> tuple[int | None, ...]:
    return tokenizer.eos_token_id, tokenizer.sep_token_id


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer behind a prompt; the last is the end-of-sequence token.

    The answer is encoded behind the prompt's last word, because by itself it would begin with a
    lone "▁" in some tokenizers.
    """
    text = f" {answer.strip()}"
    before, joint = (_plain(tokenizer, each) for each in (BEFORE_ANSWER, BEFORE_ANSWER + text))
    ids = joint[len(before) :]
    if joint[: len(before)] != before:  # something in the answer merges with the word before it
        ids = _plain(tokenizer, text)
    return [*ids, tokenizer.eos_token_id]


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    """The text of token ids. Ids that the tokenizer does not know have none.

    A head may have more rows than the tokenizer has tokens, and then the model may choose such a
    row.
    """
    known = [id for id in ids if known_token(tokenizer, id) is not None]
    return str(tokenizer.decode(known, skip_special_tokens=skip_special_tokens))


def known_token(tokenizer: Any, id: int) -> str | None:
    """The token of an id, or None if the tokenizer does not know the id."""
    try:
        token: str | None = tokenizer.convert_ids_to_tokens(id)
    except (IndexError, KeyError, OverflowError):  # the slow tokenizers' answers
        return None
    return token


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
