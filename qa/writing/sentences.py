"""Finds sentences in a text, and in them names, numbers, and spans that can answer a question.

All of this goes by the look of the words, as they are written in an English encyclopaedia. It needs
no model, and only a few short word lists, such as one of abbreviations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from retrieval.unspaced import spaced

# A full stop that does not end a sentence, after a single letter (J. S. Bach, U.S.) or an
# abbreviation.
_NO_END = re.compile(
    r"(?:(?<![\w'’])[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Ft|Jr|Sr|Gen|Col|Lt|Capt|Rev|Hon|Gov|Sen|Rep|No|"
    r"vs|ca|c|cf|etc|approx|Inc|Ltd|Co|Corp|Bros|Univ|Dept|lit|fl|b|d|r))\.$"
)
_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_WORD = re.compile(r"\w+(?:['’\-.,]\w+)*")
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = rf"(?:(?:{_MONTH}) \d{{1,2}}, \d{{4}}|\d{{1,2}} (?:{_MONTH}) \d{{4}}|(?:{_MONTH}) \d{{4}})"
_NAME_WORD = r"(?:(?:[A-Z]\.)+|[A-Z][\w'’\-]*)"
_NAME = rf"{_NAME_WORD}(?: (?:(?:of|the|de|von|van|and|for|del|la) )?{_NAME_WORD})*"
_UNIT = r"%| (?:per cent|percent|million|billion|thousand|km|miles|metres|feet)"
_NUMBER = rf"\d[\d,.]*\d(?![\w-])(?:{_UNIT})?"
_SPAN = re.compile(rf"\b(?:{_DATE}|{_NUMBER}|{_NAME})")
_PHRASE = re.compile(
    rf"\b(?:in|on|at|during|since|until|near) (?:the )?(?:{_DATE}|\d{{4}}|{_NAME})"
)
_LAST_WORDS = re.compile(
    r"^.*\b(?:of|the|an?|by|in|on|for|as|with|from|to|and|or|is|are|was|were|its|their|his|her) "
    r"(?P<words>(?:[a-z][\w'’\-]*)(?: [a-z][\w'’\-]*){0,3})\W*$"
)
_POSSESSIVE = re.compile(r"['’]s?$")
_MAX_SPAN_WORDS = 6
_WORDS_BEFORE, _WORDS_AFTER = 14, 6  # the most words around a span


def split_sentences(text: str) -> list[str]:
    """Split a text into its sentences, in order; together they hold all of its words."""
    bounds = [*sentence_starts(text), len(text)]
    sentences = [text[start:end].strip() for start, end in pairwise(bounds)]
    return [sentence for sentence in sentences if sentence]


def sentence_starts(text: str) -> list[int]:
    """Find where the sentences of a text begin, in characters; the first begins at 0."""
    starts = [0]
    for match in _END.finditer(text):
        if not _NO_END.search(text[starts[-1] : match.start() + 1]):
            starts.append(match.end())
    return starts


def count_words(text: str) -> int:
    """How many words a text has; each character of a script without spaces counts as one."""
    return len(spaced(text).split())


def names_and_numbers(text: str) -> set[str]:
    """Find the words with a capital first letter or with a digit, and put them in lower case.

    The first word of a sentence counts only if it has a digit, because every sentence begins with a
    capital letter.
    """
    found: set[str] = set()
    for sentence in split_sentences(spaced(text)):
        for index, match in enumerate(_WORD.finditer(sentence)):
            word = match.group()
            if any(c.isdigit() for c in word) or (index > 0 and word[0].isupper()):
                found.add(_bare(word))
    return found


def invented(text: str, sources: Iterable[str]) -> set[str]:
    """Find the names and numbers in a text that none of its sources has."""
    return names_and_numbers(text) - {word for source in sources for word in _words(source)}


def lost(text: str, source: str) -> set[str]:
    """Find the names and numbers of the source that are missing in a text."""
    return names_and_numbers(source) - _words(text)


class Span(NamedTuple):
    """A part of a sentence that may be the answer to a question, with the words around it.

    Attributes:
        text: The answer.
        before: The last few words of the sentence before the answer.
        after: The first few words of the sentence after the answer.
    """

    text: str
    before: str
    after: str

    @property
    def context(self) -> str:
        """The span with the words around it."""
        return f"{self.before}{self.text}{self.after}"

    @property
    def question_word(self) -> str:
        """The beginning of a question for this span, or "" if it cannot be told."""
        before = self.before.lower().split()
        last = before[-1] if before else ""
        if re.fullmatch(rf"{_DATE}|1\d\d\d|20\d\d", self.text):
            return "When"
        if self.text[0].isdigit():
            return "How many" if self.text[-1].isdigit() else ""
        if last in ("in", "at", "near"):
            return "Where"
        return "Who" if last == "by" else ""


def answer_spans(text: str) -> list[Span]:
    """Find spans that can be answers: dates, numbers, names, and the last words of sentences.

    Within a sentence, the dates, numbers and names come first. Then come the words that the
    sentence ends with, and last a name that it begins with, because that is mostly what the
    sentence is about.

    The first span of every sentence comes before the second of any, and so on, so that the first
    few spans come from different parts of the passage. Finally, spans with a `Span.question_word`
    are moved before all others.
    """
    by_sentence = [_spans(sentence) for sentence in split_sentences(text)]
    depth = max(map(len, by_sentence), default=0)
    turns = [span for rank in range(depth) for spans in by_sentence for span in spans[rank:][:1]]
    turns.sort(key=lambda span: not span.question_word)  # stable, so the order is kept otherwise
    return _distinct(turns)


def fronted(sentence: str) -> str:
    """Turn a sentence's last phrase such as "in 1874" or "in Porto" into a beginning, "In 1874,".

    Returns:
        The beginning, or "" if there is no such phrase or the sentence already begins with it.
    """
    found = list(_PHRASE.finditer(sentence))
    if not found or found[-1].start() == 0:
        return ""
    phrase = found[-1].group()
    return f"{phrase[0].upper()}{phrase[1:]},"


def _spans(sentence: str) -> list[Span]:
    inner: list[Span] = []
    first: list[Span] = []
    for match in _SPAN.finditer(sentence):
        text = _POSSESSIVE.sub("", match.group())
        is_first = match.start() <= 1  # a quotation mark or a bracket may stand before it
        if is_first and " " not in text and not text[0].isdigit():
            continue  # most likely not a name, but a word that begins the sentence
        if len(text.split()) <= _MAX_SPAN_WORDS:
            (first if is_first else inner).append(span_at(sentence, match.start(), text))
    if (last := _LAST_WORDS.search(sentence)) and sentence.count(last["words"]) == 1:
        inner.append(span_at(sentence, last.start("words"), last["words"]))
    return _distinct(inner + first)


def _distinct(spans: Iterable[Span]) -> list[Span]:
    """Keep the first of the spans that have the same text, in their order."""
    found: dict[str, Span] = {}
    for span in spans:
        found.setdefault(span.text, span)
    return list(found.values())


def span_at(sentence: str, start: int, text: str) -> Span:
    """Make a span with so few words around it that a question about it must mean the span."""
    before, after = sentence[:start], sentence[start + len(text) :]
    head, tail = before.split(" "), after.split(" ")
    if len(head) > _WORDS_BEFORE:
        before = " ".join(["…", *head[-_WORDS_BEFORE:]])
    if len(tail) > _WORDS_AFTER:
        after = " ".join([*tail[:_WORDS_AFTER], "…"])
    return Span(text, before, after)


def _words(text: str) -> set[str]:
    return {_bare(match.group()) for match in _WORD.finditer(spaced(text))}


def _bare(word: str) -> str:
    return _POSSESSIVE.sub("", word).lower()
