"""Whether a text holds an answer, as DPR counts it (Karpukhin et al. 2020, "top-K accuracy").

Text and answers are compared as lower-case tokens after Unicode's decomposition (NFD): a token is a
run of letters, numbers and marks, or one single other sign; white space and control characters
separate. An answer is held if the tokens of any of its aliases follow one another in the text:
"U.S." is found in "the U.S. Navy", and "art" not in "party".
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence


class _TokenTable(dict[int, str]):
    """For ``str.translate``: signs get spaces around them, white space becomes one.

    Filled as characters come up. Where DPR has a regular expression this is twice as fast.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        spaced = character if kind in "LNM" else " " if kind in "ZC" else f" {character} "
        self[code] = spaced
        return spaced


_TABLE = _TokenTable()


def answer_tokens(text: str) -> list[str]:
    """The lower-case tokens of a text (DPR's ``SimpleTokenizer``, uncased).

    >>> answer_tokens("The U.S. Navy")
    ['the', 'u', '.', 's', '.', 'navy']
    """
    spaced = unicodedata.normalize("NFD", text).translate(_TABLE)
    # Split before lower(): a sigma's small form depends on whether it ends its token.
    return " ".join(spaced.split()).lower().split()


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds any of the answers, token-wise.

    Deviation: an alias without a single token (only control characters, say) is held by no text;
    DPR's loop finds it in every one.

    Args:
        text: A passage's text. Tokens of the last texts are remembered, because lists of passages
            for related questions repeat them.
        answers: All aliases, at least one.

    Raises:
        ValueError: If there is no answer, or one string in place of a list.
    """
    if isinstance(answers, str) or not answers:
        raise ValueError(f"expected a list of at least one answer, got {answers!r}")
    padded = _padded(text)
    return any(needle in padded for needle in _needles(tuple(answers)))


@functools.lru_cache(maxsize=16_384)  # passages of about 1.5 kB with their tokens: 25 MB at most
def _padded(text: str) -> str:
    """The tokens with a space around each, so that finding a substring finds whole tokens."""
    return f" {' '.join(answer_tokens(text))} "


@functools.lru_cache(maxsize=4096)
def _needles(answers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f" {' '.join(t)} " for t in map(answer_tokens, answers) if t))
