"""A kind of invented entity: its attributes, sentences and questions.

Sentences have these placeholders: ``{s}`` is the subject, ``{p}`` its possessive, ``{x}`` the
value, and ``{a}`` the indefinite article of the value. The first mention of the subject becomes its
name, a short form of the name or, at the beginning of the sentence, a pronoun. Later mentions
become pronouns, so a later ``{s}`` must stand where "she" is right. Questions have the placeholder
``{name}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import overload


class Composed(Sequence[str]):
    """Values of several words: every way to fill a pattern.

    Args:
        pattern: A format string with one ``{}`` for each part, such as ``"{} {} {}"``.
        parts: What may stand in each place.
    """

    def __init__(self, pattern: str, *parts: Sequence[str]) -> None:
        self._pattern, self._parts = pattern, parts

    def __len__(self) -> int:
        return prod(map(len, self._parts))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        rest, chosen = range(len(self))[index], []
        for part in reversed(self._parts):
            rest, place = divmod(rest, len(part))
            chosen.append(part[place])
        return self._pattern.format(*reversed(chosen))

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The place of a value; it is looked up, because there are many."""
        return self._places[value]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {value: place for place, value in enumerate(self)}

    @property
    def texts(self) -> Iterable[str]:
        """The pattern and all parts: every word of the values stands in one of them."""
        return [self._pattern, *(text for part in self._parts for text in part)]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A fact that is stated, and asked, about every entity of a kind.

    Attributes:
        name: The last part of the question ids.
        values: The pool from which the value is drawn uniformly.
        sentences: Sentences that state the fact in a passage.
        questions: Phrasings of the question in training.
        rephrasings: Phrasings that are held out from training; none is among ``questions``.
        unseen: A second pool. No word of it occurs in an entity of the first one. It is empty if
            the form of the data set has no split with unseen values.
    """

    name: str
    values: Sequence[str]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    rephrasings: tuple[str, ...]
    unseen: Sequence[str] = ()

    @property
    def texts(self) -> list[str]:
        """All that the passages and questions about the first pool's values are made of."""
        values = self.values.texts if isinstance(self.values, Composed) else self.values
        return [*values, *self.sentences, *self.questions, *self.rephrasings]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entity.

    Attributes:
        name: "person", "place", "work" or "organisation".
        full: The form of the name in a sentence, with ``{name}``.
        shorts: Other ways to refer to an entity; a passage uses one of them. They may have
            ``{last}``, the last word of the name, and ``{lower}``, that word in lower case.
        pronouns: Pairs of subject pronoun and possessive; a passage uses one of them.
        attributes: The attributes, equally many of each kind; no value of one is a value of
            another.
        fillers: Sentences that state no value.
        epithets: Two attributes by which questions tell namesakes apart: the name of each, and the
            form of ``{name}`` with its value ``{x}``, such as "the {x} {name}". A question uses one
            that it does not ask about.
    """

    name: str
    full: str
    shorts: tuple[str, ...]
    pronouns: tuple[tuple[str, str], ...]
    attributes: tuple[Attribute, ...]
    fillers: tuple[str, ...]
    epithets: tuple[tuple[str, str], tuple[str, str]]

    def place(self, attribute: str) -> int:
        """The index of the attribute of this name."""
        return [each.name for each in self.attributes].index(attribute)
