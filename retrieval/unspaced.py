"""Scripts that are written without spaces between words, such as Chinese, Japanese and Thai.

What stands between two spaces is a phrase or a sentence there, and comparing such pieces as words
finds next to nothing. So each character of these scripts counts as a token by itself, with the
marks on it. Korean and Vietnamese have spaces and stay as they are. A text without any character of
these scripts, and without full-width forms, is not changed by anything here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_SMALL = (  # blocks with marks, digits and punctuation of their own
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark and zero
    (0x3021, 0x303C),  # Hangzhou numerals, kana repeat marks
    (0x3040, 0x312F),  # hiragana, katakana, bopomofo
    (0x31A0, 0x31BF),  # more bopomofo
    (0x31F0, 0x31FF),  # more katakana
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, more Myanmar
    (0xAA60, 0xAADF),  # more Myanmar, Tai Viet
    (0x1AFF0, 0x1B16F),  # more kana
)
_LARGE = (  # Chinese characters: letters throughout
    (0x2E80, 0x2FDF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x16FE0, 0x18D8F),  # Tangut, Khitan
    (0x20000, 0x3FFFD),
)
_TYPOGRAPHY = ((0x3000, 0x303F), (0xFE10, 0xFE1F), (0xFE30, 0xFE6F))  # used by these scripts alone
_SHARED = "\u00b7\u00ab\u00bb\u2010-\u2027\u2030-\u205e"  # punctuation that other scripts use, too


def _those(kind: str, blocks: Iterable[tuple[int, int]]) -> str:
    """The characters of some blocks whose Unicode category begins with a letter."""
    codes = (code for first, last in blocks for code in range(first, last + 1))
    return "".join(char for char in map(chr, codes) if unicodedata.category(char)[0] == kind)


_OF_SCRIPT = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*_SMALL, *_LARGE))
_MARKS = _those("M", _SMALL) + "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_OWN_PUNCTUATION = re.escape(_those("P", (*_SMALL, *_TYPOGRAPHY)))
_CHARACTER = re.compile(f"[{_OF_SCRIPT}][{_MARKS}]*")
_FULL_WIDTH = re.compile("[\uff01-\uffee]+")
_PUNCTUATION = re.compile(
    f"[{_OWN_PUNCTUATION}]|(?<=[{_OF_SCRIPT}])[{_SHARED}]+|[{_SHARED}]+(?=[{_OF_SCRIPT}])"
)


def fold_width(text: str) -> str:
    """Replace full-width and half-width forms by the usual ones.

    >>> fold_width("ＡＢＣ，２００８")
    'ABC,2008'
    """
    if text.isascii():
        return text
    return _FULL_WIDTH.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)


def without_punctuation(text: str) -> str:
    """Leave out the punctuation of these scripts, and other punctuation that touches them."""
    return text if text.isascii() else _PUNCTUATION.sub("", text)


def spaced(text: str) -> str:
    """Put spaces around each character of these scripts, which keeps the marks on it.

    >>> spaced("NBA球员").split()
    ['NBA', '球', '员']
    """
    if text.isascii():
        return text
    return _CHARACTER.sub(lambda found: f" {unicodedata.normalize('NFC', found[0])} ", text)
