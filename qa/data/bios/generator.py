"""Passages and questions about invented people, places, works and organisations.

The facts are invented, but the values are real words. A model cannot know an answer without the
passage, and it can write every answer. There are no digits, because a bag of words would lose their
order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from plumbing.mounts import SettingValueError
from qa.data.bios.names import MAX_ENTITIES, Draw, Namer
from qa.data.bios.organisation import ORGANISATION
from qa.data.bios.person import PERSON
from qa.data.bios.place import PLACE
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.work import WORK
from qa.data.dataset import QADataset, Question
from retrieval.passage import Passage

KINDS: tuple[Kind, ...] = (PERSON, PLACE, WORK, ORGANISATION)
MAX_DISTRACTORS = 6  # for each dev entity, because only few names resemble a given name

_MIN_WORDS = 60
_EXTRA_WORDS = 10  # fillers are added up to a random length in [60, 70)
_ATTRIBUTES = 6  # attributes of every kind of entity
_PLACEHOLDER = re.compile(r"\{([spax])\}")
_VOWEL_SOUND = re.compile(r"(?!uni|eu|ure|uku|one)[aeiou]|hour|heir|honest", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Entity:
    id: str
    kind: Kind
    name: str
    values: tuple[str, ...]


def generate(
    seed: int = 0,
    train_entities: int = 2500,
    dev_entities: int = 150,
    distractor_entities: int = 300,
    train_questions: int = 6,
) -> QADataset:
    """Generate the data set "bios"; the same arguments give the same data everywhere.

    Each entity has one passage of 60 to 120 words and six attributes. Each attribute gives a
    question whose answer stands in the passage once. No entity is in two splits, and the kinds of
    entities alternate. The dev entities depend only on the seed, so that a larger training split
    does not change them.

    Args:
        seed: The seed; not negative.
        train_entities: Entities of the split train, each with one passage and 6 questions.
        dev_entities: Entities of the split dev, each with one passage, 6 questions in the phrasings
            of training, and 6 questions of the split dev_rephrased about the same facts, in
            phrasings that do not occur in training. The first questions of both splits are a fair
            sample: kinds alternate, and the first ``dev_entities`` questions ask about each entity
            once.
        distractor_entities: Passages without questions. Each is about an entity that shares a part
            of its name, and two or three values, with a dev entity.
        train_questions: The number of questions that each training entity keeps, 1 to 6; all six
            attributes take turns.

    Returns:
        The data set, with the splits train, dev and dev_rephrased.

    Raises:
        ValueError: If a number is negative, if there are more than `MAX_ENTITIES` entities or more
            than `MAX_DISTRACTORS` distractors for each dev entity, or if ``train_questions`` is not
            in 1..6.
    """
    if not 1 <= train_questions <= _ATTRIBUTES:
        raise SettingValueError(
            "train_questions", f"train_questions must be in 1..{_ATTRIBUTES}, got {train_questions}"
        )
    _check(seed, train_entities, dev_entities, distractor_entities)
    namer = Namer(_reserved_words())
    dev = _entities("dev", dev_entities, namer, Draw(f"bios dev {seed}"))
    twins = _distractors(dev, distractor_entities, namer, Draw(f"bios distractor {seed}"))
    train = _entities("train", train_entities, namer, Draw(f"bios train {seed}"))
    passages = [
        _passage(entity, Draw(f"bios passage {seed} {entity.id}"))
        for entity in (*train, *dev, *twins)
    ]
    train_draw, dev_draw = Draw(f"bios train questions {seed}"), Draw(f"bios dev questions {seed}")
    grouped = (
        (entity, index)
        for number, entity in enumerate(train)
        for index in sorted(
            (number // len(KINDS) * train_questions + turn) % _ATTRIBUTES
            for turn in range(train_questions)
        )
    )
    splits = {
        "train": [_question(entity, index, train_draw) for entity, index in grouped],
        "dev": [_question(entity, index, dev_draw) for entity, index in _interleaved(dev)],
        "dev_rephrased": [
            _question(entity, index, dev_draw, rephrased=True)
            for entity, index in _interleaved(dev)
        ],
    }
    return QADataset("bios", {passage.id: passage for passage in passages}, splits)


def _check(seed: int, train_entities: int, dev_entities: int, distractor_entities: int) -> None:
    counts = {
        "train_entities": train_entities,
        "dev_entities": dev_entities,
        "distractor_entities": distractor_entities,
    }
    for name, number in {"seed": seed, **counts}.items():
        if number < 0:
            raise SettingValueError(name, f"{name} must not be negative, got {number}")
    total = sum(counts.values())
    if total > MAX_ENTITIES:
        raise SettingValueError(
            "train_entities",
            f"there are names for {MAX_ENTITIES} entities, got {total} in all",
            "lower {}",
        )
    if distractor_entities > MAX_DISTRACTORS * dev_entities:
        raise SettingValueError(
            "distractor_entities",
            f"distractor_entities must be at most {MAX_DISTRACTORS} for each of the {dev_entities} "
            f"dev entities, got {distractor_entities}",
            "lower {}",
        )


def _reserved_words() -> frozenset[str]:
    """All words of values, sentences and questions, in lower case."""
    texts: list[str] = []
    for kind in KINDS:
        texts += kind.fillers
        for attribute in kind.attributes:
            texts += (*attribute.values, *attribute.sentences)
            texts += (*attribute.questions, *attribute.rephrasings)
    return frozenset(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))


def _entities(split: str, count: int, namer: Namer, draw: Draw) -> list[_Entity]:
    entities = []
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        name = namer.fresh(kind.name, draw)
        values = tuple(draw.pick(attribute.values) for attribute in kind.attributes)
        entities.append(_Entity(f"bios-{split}-{index:05}", kind, name, values))
    return entities


def _distractors(dev: list[_Entity], count: int, namer: Namer, draw: Draw) -> list[_Entity]:
    twins = []
    for index in range(count):
        original = dev[index % len(dev)]
        name = namer.resembling(original.kind.name, original.name, draw)
        order = draw.shuffled(range(len(original.values)))
        shared = set(order[: 2 + draw.below(2)])
        values = tuple(
            value if place in shared else _other_value(attribute, value, draw)
            for place, (attribute, value) in enumerate(
                zip(original.kind.attributes, original.values, strict=True)
            )
        )
        twins.append(_Entity(f"bios-distractor-{index:05}", original.kind, name, values))
    return twins


def _other_value(attribute: Attribute, value: str, draw: Draw) -> str:
    return draw.pick([other for other in attribute.values if other != value])


def _passage(entity: _Entity, draw: Draw) -> Passage:
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
        texts.append(_sentence(template, value, subject, (pronoun, possessive)))
    return Passage(entity.id, entity.name, " ".join(texts))


def _sentence(
    template: str, value: str, subject: tuple[str, str], pronouns: tuple[str, str]
) -> str:
    """Fill a template; behind its first mention, the subject is a pronoun."""
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


def _interleaved(entities: list[_Entity]) -> Iterable[tuple[_Entity, int]]:
    """Rounds over all entities, in which neighbours of a kind get different attributes."""
    for shift in range(_ATTRIBUTES):
        for place, entity in enumerate(entities):
            yield entity, (place // len(KINDS) + shift) % _ATTRIBUTES


def _question(entity: _Entity, index: int, draw: Draw, rephrased: bool = False) -> Question:
    attribute = entity.kind.attributes[index]
    phrasings = attribute.rephrasings if rephrased else attribute.questions
    return Question(
        id=f"{entity.id}-{attribute.name}" + ("-r" if rephrased else ""),
        question=draw.pick(phrasings).format(name=entity.name),
        answers=(entity.values[index],),
        passage_ids=(entity.id,),
    )
