"""Finds all spans of a passage that could answer a question: names, numbers, dates, noun groups.

`qa.writing.sentences.answer_spans` finds the few spans that a small model asks good questions
about. Here nothing that people ask for should be missing, so that whatever is asked about a passage
later, its answer has been asked for before. A noun group is what stands between two function words
or punctuation marks; groups that "of", "and" or a comma joins are spans as well. All of this goes
by the look of the words, as they are written in an English encyclopaedia, and needs no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest

from qa.metrics import normalize_answer
from qa.writing.sentences import Span, answer_spans, span_at, split_sentences

MAX_WORDS = 6  # words of a span, at most

_FUNCTION = frozenset(
    (
        "a an the this that these those some any each every no all both either neither such same "
        "and or but nor so yet if then than as because while although though unless until since "
        "of in on at by for with from to into onto over under between among through during before "
        "after above below up down out off against about across along around behind beside besides "
        "beyond despite except inside outside near per toward towards upon via within without like "
        "i he she it they we you him her them us his hers its their theirs our your my me who whom "
        "whose which what when where why how there here not also only just even very too more most "
        "is are was were be been being am has have had having do does did done will would shall "
        "should can could may might must became become becomes called named known used made "
        "including however therefore thus hence often sometimes usually always never still already "
        "ever later said says say began began gave took went came led left held won lost include "
        "includes made"
    ).split()
)
_NUMBERS = frozenset(
    "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty "
    "sixty hundred thousand million billion first second third fourth fifth".split()
)
_TOKEN = re.compile(r"[$£€]?\w+(?:['’\-–.,/&]\w+)*%?|[^\w\s]|\.")
_WORD = re.compile(r"[$£€]?\w")
_JOINING = ("of", "and", "the", "for", "de", "von", "van", "to", "&", ",", "-", "–", "or", "in")
_MANNER = re.compile(r"[a-z]+ly$")
_VERBAL = re.compile(r"[a-z]+(?:ed|ing)$")
_POSSESSIVE = re.compile(r"['’]s?$")


def covering_spans(text: str) -> list[Span]:
    """Find the spans of a text, each once.

    Those of `answer_spans` come first, because they are asked for most often. Then come names,
    numbers and dates, then other noun groups, and last the groups that are joined. Within each kind
    the first span of every sentence comes before the second of any, so that a budget that ends
    early has asked about all parts of the passage.
    """
    kinds: tuple[list[list[Span]], ...] = ([answer_spans(text)], [], [], [])
    for sentence in split_sentences(text):
        found = _Sentence(sentence)
        for kind, spans in zip(
            kinds[1:], (found.names(), found.groups(), found.joined()), strict=True
        ):
            kind.append(list(spans))
    seen: dict[str, Span] = {}
    for kind in kinds:
        for turn in zip_longest(*kind):
            for span in turn:
                key = "" if span is None else normalize_answer(span.text)
                if span is not None and key:
                    seen.setdefault(key, span)
    return list(seen.values())


class _Sentence:
    """A sentence cut into words, and its noun groups as ranges of words."""

    def __init__(self, sentence: str) -> None:
        self._text = sentence
        self._words = [
            (m.start(), m.start() + len(_POSSESSIVE.sub("", m.group()) or m.group()))
            for m in _TOKEN.finditer(sentence)
        ]
        self._groups = list(self._find())

    def _word(self, index: int) -> str:
        start, end = self._words[index]
        return self._text[start:end]

    def _is_content(self, index: int) -> bool:
        word = self._word(index)
        if not _WORD.match(word):
            return False
        begins = self._words[index][0] <= 1 and word[0].isupper()
        known = word.lower() in _FUNCTION and (word.islower() or begins)
        return not known and not _MANNER.fullmatch(word)

    def _find(self) -> Iterator[tuple[int, int]]:
        start = None
        for index in range(len(self._words) + 1):
            inside = index < len(self._words) and self._is_content(index)
            if inside and start is None:
                start = index
            elif not inside and start is not None:
                yield from self._trimmed(start, index)
                start = None

    def _trimmed(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Leave out verbs at the ends of a group, as far as their look tells them."""
        whole = start, end
        while end - start > 1 and _VERBAL.fullmatch(self._word(start)):
            start += 1
        while end - start > 1 and _VERBAL.fullmatch(self._word(end - 1)):
            end -= 1
        yield start, end
        if (start, end) != whole:
            yield whole

    def names(self) -> Iterator[Span]:
        """Groups with a number or a capital letter inside, and the runs of such words in them."""
        for start, end in self._groups:
            marked = [i for i in range(start, end) if self._is_marked(i)]
            if not marked:
                continue
            yield from self._span(start, end)
            for first, last in _runs(marked):
                yield from self._span(first, last)
            for index in marked:
                if self._is_number(index) and end - start > 1:
                    yield from self._span(index, index + 1)

    def groups(self) -> Iterator[Span]:
        """Groups without a name or number; of longer ones also the last words."""
        for start, end in self._groups:
            yield from self._span(start, end)
            for first in range(start + 1, end):
                yield from self._span(first, end)

    def joined(self) -> Iterator[Span]:
        """Two groups next to each other, with only joining words or commas between them."""
        groups = sorted(set(self._groups))
        for (start, end), (first, last) in pairwise(groups):
            between = [self._word(i).lower() for i in range(end, first)]
            if between and all(word in _JOINING for word in between):
                yield from self._span(start, last)
        for start, end in groups:  # "in 1874", "at birth": what people ask for with "when" or "how"
            if start and self._word(start - 1).lower() in ("to", "by", "in", "from"):
                yield from self._span(start - 1, end)

    def _is_marked(self, index: int) -> bool:
        return self._is_number(index) or any(c.isupper() for c in self._word(index))

    def _is_number(self, index: int) -> bool:
        word = self._word(index)
        return any(c.isdigit() for c in word) or word.lower() in _NUMBERS

    def _span(self, start: int, end: int) -> Iterator[Span]:
        if end - start <= MAX_WORDS:
            first, last = self._words[start][0], self._words[end - 1][1]
            yield span_at(self._text, first, self._text[first:last])


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of successive numbers, each as its first one and the one behind its last."""
    start = previous = indices[0]
    for index in indices[1:]:
        if index != previous + 1:
            yield start, previous + 1
            start = index
        previous = index
    yield start, previous + 1
