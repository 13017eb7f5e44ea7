"""The questions about invented entities, and their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from qa.data.bios.entities import Entity
from qa.data.bios.names import Draw
from qa.data.bios.splits import BIOS, BIOS_LONG, Form, Split
from qa.data.dataset import Question

Facts = Sequence[tuple[Entity, int]]  # entities, with the index of the attribute that is asked


def ask(facts: Facts, splits: Iterable[Split], draw: Draw) -> dict[str, list[Question]]:
    """The questions of splits about the same facts; none is asked twice in the same words."""
    used: dict[tuple[str, int], set[str]] = defaultdict(set)
    asked: dict[str, list[Question]] = {}
    for split in splits:
        asked[split.name] = []
        for entity, index in facts:
            attribute = entity.kind.attributes[index]
            phrasings = attribute.rephrasings if split.rephrased else attribute.questions
            there = used[entity.id, index]
            phrasing = draw.pick([each for each in phrasings if each not in there])
            there.add(phrasing)
            question = Question(
                id=f"{entity.id}-{attribute.name}{split.suffix}",
                question=phrasing.format(name=entity.called(index, split.rephrased)),
                answers=(entity.values[index],),
                passage_ids=(entity.id,),
            )
            asked[split.name].append(question)
    return asked


def by_entity(form: Form, entities: Sequence[Entity], number: int) -> Facts:
    """So many facts about each entity, one entity after the other; all attributes take turns."""
    return [
        (entity, index)
        for place, entity in enumerate(entities)
        for index in sorted(
            (place // len(form.kinds) * number + turn) % form.attributes for turn in range(number)
        )
    ]


def in_rounds(form: Form, entities: Sequence[Entity]) -> Facts:
    """Rounds over all entities, in which neighbours of a kind get different attributes."""
    return [
        (entity, (place // len(form.kinds) + shift) % form.attributes)
        for shift in range(form.attributes)
        for place, entity in enumerate(entities)
    ]


def other_phrasings(question: str, name: str) -> tuple[str, ...]:
    """The other phrasings of training for a question about an entity; none if it is not known.

    Args:
        question: The question, in a phrasing of training.
        name: How it calls the entity.
    """
    for form in (BIOS, BIOS_LONG):
        for kind in form.kinds:
            for attribute in kind.attributes:
                every = [phrasing.format(name=name) for phrasing in attribute.questions]
                if question in every:
                    return tuple(each for each in every if each != question)
    return ()
