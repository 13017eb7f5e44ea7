"""Sentences, and what in them must not change: names, numbers, and spans that answer a question.

All of it by the look of the words, as in an encyclopaedia in English: no model, no word lists but
one of abbreviations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

# A stop that ends no sentence: after one letter (J. S. Bach, U.S.) or an abbreviation.
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
_WORDS_BEFORE, _WORDS_AFTER = 14, 6  # of a span


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order; together they hold all of its words."""
    bounds = [*sentence_starts(text), len(text)]
    sentences = [text[start:end].strip() for start, end in pairwise(bounds)]
    return [sentence for sentence in sentences if sentence]


def sentence_starts(text: str) -> list[int]:
    """Where the sentences of a text begin, in characters; the first one at 0."""
    starts = [0]
    for match in _END.finditer(text):
        if not _NO_END.search(text[starts[-1] : match.start() + 1]):
            starts.append(match.end())
    return starts


def names_and_numbers(text: str) -> set[str]:
    """Words with a capital or a digit, in small letters; a sentence's first word needs a digit.

    Capitals begin every sentence, so there they say nothing.
    """
    found: set[str] = set()
    for sentence in split_sentences(text):
        for index, match in enumerate(_WORD.finditer(sentence)):
            word = match.group()
            if any(c.isdigit() for c in word) or (index > 0 and word[0].isupper()):
                found.add(_bare(word))
    return found


def invented(text: str, sources: Iterable[str]) -> set[str]:
    """Names and numbers in a text that none of its sources has."""
    return names_and_numbers(text) - {word for source in sources for word in _words(source)}


def lost(text: str, source: str) -> set[str]:
    """Names and numbers of the source that a text has not."""
    return names_and_numbers(source) - _words(text)


class Span(NamedTuple):
    """A part of a sentence that may be the answer to a question, where it stands.

    Attributes:
        text: The answer.
        before: The words of its sentence before it, the last few.
        after: Those behind it, the first few.
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
        """How a question for it may begin; nothing where that cannot be told."""
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
    """Dates, numbers, names and last words, each with the part of its sentence around it.

    Those come first for which there is a `Span.question_word`. Among these, one of every sentence
    comes first, then the second of every sentence, and so on: questions about the first few ask
    about different parts of the passage. Behind a sentence's dates, numbers and names come the
    words that it ends with, and then a name that it begins with: that is mostly what it is about.
    """
    by_sentence = [_spans(sentence) for sentence in split_sentences(text)]
    depth = max(map(len, by_sentence), default=0)
    turns = [span for rank in range(depth) for spans in by_sentence for span in spans[rank:][:1]]
    turns.sort(key=lambda span: not span.question_word)  # stable: else in turns as before
    return _distinct(turns)


def fronted(sentence: str) -> str:
    """The last "in 1874" or "in Porto" of a sentence as its beginning, "In 1874,"; or nothing."""
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
            continue  # most likely no name at all, only a capital
        if len(text.split()) <= _MAX_SPAN_WORDS:
            (first if is_first else inner).append(_span(sentence, match.start(), text))
    if (last := _LAST_WORDS.search(sentence)) and sentence.count(last["words"]) == 1:
        inner.append(_span(sentence, last.start("words"), last["words"]))
    return _distinct(inner + first)


def _distinct(spans: Iterable[Span]) -> list[Span]:
    """The first of the spans with the same text, in their order."""
    found: dict[str, Span] = {}
    for span in spans:
        found.setdefault(span.text, span)
    return list(found.values())


def _span(sentence: str, start: int, text: str) -> Span:
    """A span with so few words around it that a question about them cannot mean another part."""
    before, after = sentence[:start], sentence[start + len(text) :]
    head, tail = before.split(" "), after.split(" ")
    if len(head) > _WORDS_BEFORE:
        before = " ".join(["…", *head[-_WORDS_BEFORE:]])
    if len(tail) > _WORDS_AFTER:
        after = " ".join([*tail[:_WORDS_AFTER], "…"])
    return Span(text, before, after)


def _words(text: str) -> set[str]:
    return {_bare(match.group()) for match in _WORD.finditer(text)}


def _bare(word: str) -> str:
    return _POSSESSIVE.sub("", word).lower()
