"""A kind of invented entity: its attributes, sentences and questions.

Sentences have these placeholders: ``{s}`` is the subject, ``{p}`` its possessive, ``{x}`` the
value, and ``{a}`` the indefinite article of the value. The first mention of the subject becomes its
name, a short form of the name or, at the beginning of the sentence, a pronoun. Later mentions
become pronouns, so a later ``{s}`` must stand where "she" is right. Questions have the placeholder
``{name}``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribute:
    """A fact that is stated, and asked, about every entity of a kind.

    Attributes:
        name: The last part of the question ids.
        values: The pool from which the value is drawn uniformly.
        sentences: Sentences that state the fact in a passage.
        questions: Phrasings of the question in the splits train and dev.
        rephrasings: Phrasings in the split dev_rephrased; none is among ``questions``.
    """

    name: str
    values: tuple[str, ...]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    rephrasings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entity.

    Attributes:
        name: "person", "place", "work" or "organisation".
        full: The form of the name in a sentence, with ``{name}``.
        shorts: Other ways to refer to an entity; a passage uses one of them. They may have
            ``{last}``, the last word of the name, and ``{lower}``, that word in lower case.
        pronouns: Pairs of subject pronoun and possessive; a passage uses one of them.
        attributes: Six attributes; no value of one is a value of another.
        fillers: Sentences that state no value.
    """

    name: str
    full: str
    shorts: tuple[str, ...]
    pronouns: tuple[tuple[str, str], ...]
    attributes: tuple[Attribute, ...]
    fillers: tuple[str, ...]
