"""Finds the question's words among the tokens that the backbone reads.

What stands before ``Question:`` and from ``Answer:`` on is no part of the question: neither the
instruction, nor passages in the prompt, nor the words of the answer. In a text without these two,
every word counts.

Shapes: N rows, T last positions, L tokens read so far, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class QuestionWords:
    """Says for each position which tokens before it are words of the question.

    A position sees only tokens up to itself, so reading a text at once and in parts give the same.

    Args:
        tokenizer: The backbone's tokenizer, or None where only shapes matter.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._begin = _marker(tokenizer, "Question:")
        self._end = _marker(tokenizer, "Answer:")

    def mask(self, ids_NL: Tensor, mask_NL: Tensor, positions: int) -> Tensor:
        """The question's tokens as seen from each of the last positions.

        Args:
            ids_NL: The tokens so far.
            mask_NL: 1 at tokens, 0 at padding.
            positions: T, the number of positions that ask.

        Returns:
            Bool ``[N, T, L]``: true where the column's token belongs to the question, as far as
            the row's position has read.
        """
        L = ids_NL.shape[1]
        place_L = torch.arange(L, device=ids_NL.device)
        at_T = place_L[L - positions :]
        begins_NL = _ends(ids_NL, self._begin)
        answers_NL = _ends(ids_NL, self._end).cumsum(1)  # how many have been read
        begin_NL = torch.where(begins_NL, place_L, -1).cummax(1).values
        begin_NT = begin_NL[:, at_T]
        before_NT = answers_NL.gather(1, begin_NT.clamp(min=0)) * (begin_NT >= 0)
        # A token belongs to the question unless it, or the marker that it begins, ends it.
        reach_TL = torch.minimum(place_L + max(len(self._end) - 1, 0), at_T[:, None])
        answered_NTL = answers_NL[:, reach_TL] > before_NT[..., None]
        inside_NTL = (place_L > begin_NT[..., None]) & (place_L <= at_T[:, None])
        return inside_NTL & ~answered_NTL & mask_NL.bool()[:, None]

    def is_settled(self, ids_NL: Tensor) -> bool:
        """Whether the question has ended in every row, so that what follows is no part of it.

        This holds until the last token of a row is one of `may_begin_or_end`.
        """
        place_L = torch.arange(ids_NL.shape[1], device=ids_NL.device)
        begin_N, end_N = (
            torch.where(_ends(ids_NL, marker), place_L, -1).amax(1)
            for marker in (self._begin, self._end)
        )
        return bool((end_N > begin_N).all())

    @property
    def may_begin_or_end(self) -> frozenset[int]:
        """The tokens with which a marker is complete, after which the question may be another."""
        return frozenset(id for marker in (self._begin, self._end) for id in marker[-1:])


def _marker(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text at the beginning of a line."""
    if tokenizer is None:
        return []
    line, whole = (
        tokenizer(each, add_special_tokens=False)["input_ids"] for each in ("\n", f"\n{text}")
    )
    return list(whole[len(line) :]) if whole[: len(line)] == line else []


def _ends(ids_NL: Tensor, marker: list[int]) -> Tensor:
    """Bool ``[N, L]``: true where the last token of a marker stands."""
    found = torch.zeros_like(ids_NL, dtype=torch.bool)
    size = len(marker)
    if 0 < size <= ids_NL.shape[1]:
        wanted = torch.tensor(marker, device=ids_NL.device)
        found[:, size - 1 :] = (ids_NL.unfold(1, size, 1) == wanted).all(-1)
    return found


def spelled(tokenizer: Any, vocab_size: int) -> list[str]:
    """The text of each token id; ids that the tokenizer does not know have none."""
    known = min(len(tokenizer), vocab_size)
    texts: list[str] = tokenizer.batch_decode([[index] for index in range(known)])
    return texts + [""] * (vocab_size - known)


def is_word(text: str) -> bool:
    """True for a token with a letter or a digit, or with a part of one that has several bytes."""
    return any(char.isalnum() or char == "\N{REPLACEMENT CHARACTER}" for char in text)


def ends_sentence(text: str) -> bool:
    """True for a token that ends a sentence or a line."""
    return "\n" in text or text.rstrip().endswith((".", "!", "?"))
