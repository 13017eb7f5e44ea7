"""The passage about an invented entity."""

from __future__ import annotations

import re

from qa.data.bios.entities import Entity
from qa.data.bios.names import Draw
from retrieval.passage import Passage

_MIN_WORDS = 60
_EXTRA_WORDS = 10  # fillers are added up to a random length in [60, 70)
_PLACEHOLDER = re.compile(r"\{([spax])\}")
_VOWEL_SOUND = re.compile(r"(?!uni|eu|ure|uku|one)[aeiou]|hour|heir|honest", re.IGNORECASE)


def write_passage(entity: Entity, draw: Draw) -> Passage:
    """A passage of shuffled sentences: one for each attribute, and fillers for the length."""
    kind = entity.kind
    sentences = [
        (draw.pick(attribute.sentences), value)
        for attribute, value in zip(kind.attributes, entity.values, strict=True)
    ]
    fillers = draw.shuffled(kind.fillers)
    target = _MIN_WORDS + draw.below(_EXTRA_WORDS)
    length = sum(len(template.split()) for template, _ in sentences)
    while length < target:
        filler = fillers.pop()
        sentences.append((filler, ""))
        length += len(filler.split())
    last = entity.name.split()[-1]
    full = kind.full.format(name=entity.name)
    short = draw.pick(kind.shorts).format(last=last, lower=last.lower())
    pronoun, possessive = draw.pick(kind.pronouns)
    texts: list[str] = []
    for template, value in draw.shuffled(sentences):
        if not texts:
            subject = full, f"{full}'s"
        elif draw.below(2) and template.startswith("{"):  # only there is "she" surely right
            subject = pronoun, possessive
        else:
            subject = short, f"{short}'s"
        texts.append(fill_sentence(template, value, subject, (pronoun, possessive)))
    return Passage(entity.id, entity.name, " ".join(texts))


def fill_sentence(
    template: str, value: str, subject: tuple[str, str], pronouns: tuple[str, str]
) -> str:
    """Fill a template of a sentence; behind its first mention, the subject is a pronoun.

    Args:
        template: A sentence with the placeholders that `qa.data.bios.schema` explains.
        value: The value.
        subject: What the first mention is called, and its possessive.
        pronouns: The subject pronoun and its possessive.
    """
    mentions = iter((subject,))

    def fill(match: re.Match[str]) -> str:
        placeholder = match[1]
        if placeholder == "x":
            return value
        if placeholder == "a":
            return "an" if _VOWEL_SOUND.match(value) else "a"
        return next(mentions, pronouns)["sp".index(placeholder)]

    text = _PLACEHOLDER.sub(fill, template)
    return text[0].upper() + text[1:]
