"""Finds out if a text contains an answer, as DPR does (Karpukhin et al. 2020, "top-K accuracy").

Texts and answers are decomposed (Unicode's NFD) and compared as lower-case tokens. A token is a run
of letters, numbers and marks, or one other character by itself. White space and control characters
separate tokens. In scripts without spaces, such as Chinese, each character is a token
(`retrieval.unspaced`). A text contains an answer if the tokens of one of its aliases follow one
another in the text: "the U.S. Navy" contains "U.S.", but "party" does not contain "art".
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

from retrieval.unspaced import fold_width, spaced


class _TokenTable(dict[int, str]):
    """A table for ``str.translate``.

    It puts spaces around punctuation and symbols, and turns each white-space or control character
    into a space. An entry is added when its character first appears. This is twice as fast as DPR's
    regular expression.
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

    Deviation: characters of scripts without spaces are tokens; DPR takes whole sentences for one.

    >>> answer_tokens("The U.S. Navy")
    ['the', 'u', '.', 's', '.', 'navy']
    >>> answer_tokens("2008年的NBA")
    ['2008', '年', '的', 'nba']
    """
    apart = spaced(unicodedata.normalize("NFD", fold_width(text))).translate(_TABLE)
    # The text is split before lower(), because a lower-case sigma has another form at a word's end.
    return " ".join(apart.split()).lower().split()


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """True if the tokens of any of the answers stand next to one another in a text.

    Deviation: an alias without any token (for example, one of control characters only) is found in
    no text. DPR's loop finds it in every text.

    Args:
        text: A passage's text. The tokens of recent texts are cached, because related questions
            often retrieve the same passages.
        answers: All aliases; at least one.

    Raises:
        ValueError: If the list is empty, or if a string is given instead of a list.
    """
    if isinstance(answers, str) or not answers:
        raise ValueError(f"expected a list of at least one answer, got {answers!r}")
    padded = _padded(text)
    return any(needle in padded for needle in _needles(tuple(answers)))


@functools.lru_cache(maxsize=16_384)  # passages of about 1.5 kB with their tokens: 25 MB at most
def _padded(text: str) -> str:
    """The tokens with spaces around each, so that a substring search matches whole tokens only."""
    return f" {' '.join(answer_tokens(text))} "


@functools.lru_cache(maxsize=4096)
def _needles(answers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f" {' '.join(t)} " for t in map(answer_tokens, answers) if t))
