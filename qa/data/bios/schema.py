"""What a kind of invented entity is made of: its attributes, sentences and questions.

Placeholders in sentences: ``{s}`` the subject and ``{p}`` its possessive, ``{x}`` the value,
``{a}`` the indefinite article that suits it. The first mention of the subject becomes the name, a
short form of it or, where it opens the sentence, a pronoun; later mentions become pronouns, so
``{s}`` must then stand where "she" is right. Placeholder in questions: ``{name}``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that is said, and asked, about every entity of a kind.

    Attributes:
        name: Last part of the question ids.
        values: What the value is drawn from, uniformly.
        sentences: Ways of saying it in a passage.
        questions: Phrasings of the splits train and dev.
        rephrasings: Phrasings of the split dev_rephrased; none is among ``questions``.
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
        full: How a sentence writes the name, with ``{name}``.
        shorts: Other ways to refer to an entity, one a passage, which may use ``{last}``, the last
            word of the name, and ``{lower}``, the same in lower case.
        pronouns: Pairs of subject pronoun and possessive, one a passage.
        attributes: Six attributes, no value of one is a value of another.
        fillers: Sentences without any value.
    """

    name: str
    full: str
    shorts: tuple[str, ...]
    pronouns: tuple[tuple[str, str], ...]
    attributes: tuple[Attribute, ...]
    fillers: tuple[str, ...]
