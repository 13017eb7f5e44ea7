"""The invented entities: their names, their values, and others that are like them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from qa.data.bios.names import Draw, Namer
from qa.data.bios.schema import Attribute, Kind
from qa.data.bios.splits import Form, Group

# Entities of training whose names no later group has, whatever the size of training.
USUAL_TRAINING = 2500


@dataclass(frozen=True, slots=True)
class Entity:
    """An invented person, place, work or organisation.

    Attributes:
        id: The id of its passage.
        kind: What it is.
        name: Its name. Only namesakes have the same one.
        values: The value of each attribute.
        shares_name: Whether there is a namesake, so that a question must tell them apart.
    """

    id: str
    kind: Kind
    name: str
    values: tuple[str, ...]
    shares_name: bool = False

    def called(self, asked: int, rephrased: bool = False) -> str:
        """What a question calls it: its name, with an epithet if it shares the name.

        Args:
            asked: The index of the attribute that is asked about; the epithet is another one.
            rephrased: Whether the second epithet is preferred to the first one.
        """
        if not self.shares_name:
            return self.name
        epithets = self.kind.epithets[:: -1 if rephrased else 1]
        told = ((self.kind.place(name), form) for name, form in epithets)
        place, form = next(each for each in told if each[0] != asked)
        return form.format(x=self.values[place], name=self.name)


@dataclass(frozen=True, slots=True)
class Population:
    """The entities of a group, and those that are like them.

    Attributes:
        entities: Those that the group is made for, of all kinds in turn.
        distractors: Others with a similar name, about which nothing is asked.
        namesakes: Others with the same or a similar name, about which the same is asked.
    """

    entities: list[Entity]
    distractors: list[Entity]
    namesakes: list[Entity]


def draw_populations(
    form: Form, seed: int, sizes: Mapping[str, int], distractors: int, namesakes: int
) -> dict[str, Population]:
    """Draw all entities of a data set.

    Args:
        form: The form of the data set.
        seed: The seed.
        sizes: The number of entities in each group.
        distractors: The number of distractors of the group dev; those of other held-out groups are
            as many for each entity.
        namesakes: The number of namesakes of each held-out entity.

    Returns:
        The population of each group, in the order of the splits.
    """
    namer = Namer(_reserved_words(form))
    drawn: dict[str, Population] = {}
    for group in form.groups:
        size = sizes[group.name]
        taken = size if group.held_out else max(size, USUAL_TRAINING)
        entities = draw_entities(form, group, taken, namer, seed)[:size]
        count = distractors * size // max(1, sizes["dev"]) if group.held_out else 0
        like = draw_distractors(form, group, entities, count, namer, seed)
        drawn[group.name] = Population(entities, like, [])
    for group in form.groups:  # the last ones, so that they change nobody else's name
        if namesakes and group.held_out:
            people = drawn[group.name]
            further = [
                draw_namesakes(form, group, entity, namesakes, namer, seed)
                for entity in people.entities
            ]
            drawn[group.name] = Population(
                [replace(entity, shares_name=True) for entity in people.entities],
                people.distractors,
                [each for found in further for each in found],
            )
    return {split.group: drawn[split.group] for split in form.splits}


def _reserved_words(form: Form) -> frozenset[str]:
    """All words of values, sentences and questions, in lower case; no invented name is one."""
    texts = [text for kind in form.kinds for text in kind.fillers]
    for kind in form.kinds:
        for attribute in kind.attributes:
            texts += attribute.texts
    return frozenset(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))


def draw_entities(form: Form, group: Group, count: int, namer: Namer, seed: int) -> list[Entity]:
    """Draw the entities of a group, of all kinds in turn."""
    entities = []
    stream = Draw(f"{form.name} {group.name} {seed}")
    for index in range(count):
        id = f"{form.name}-{group.name}-{index:05}"
        draw = Draw(f"{form.name} entity {seed} {id}") if group.alone else stream
        kind = form.kinds[index % len(form.kinds)]
        name = namer.fresh(kind.name, draw)
        values = tuple(draw.pick(pool_of(attribute, group)) for attribute in kind.attributes)
        entities.append(Entity(id, kind, name, values))
    return entities


def pool_of(attribute: Attribute, group: Group) -> Sequence[str]:
    """The values that an entity of the group may have."""
    return attribute.unseen if group.unseen else attribute.values


def draw_distractors(
    form: Form, group: Group, originals: Sequence[Entity], count: int, namer: Namer, seed: int
) -> list[Entity]:
    """Draw entities that share a part of the name, and two or three values, with an original."""
    prefix = f"{form.name}-{group.name}_distractor" if group.alone else f"{form.name}-distractor"
    stream = Draw(f"{form.name} distractor {seed}")
    twins = []
    for index in range(count):
        id = f"{prefix}-{index:05}"
        draw = Draw(f"{form.name} entity {seed} {id}") if group.alone else stream
        original = originals[index % len(originals)]
        name = namer.resembling(original.kind.name, original.name, draw)
        order = draw.shuffled(range(len(original.values)))
        shared = order[: 2 + draw.below(2)]
        twins.append(_other(id, name, original, shared, group, draw))
    return twins


def draw_namesakes(
    form: Form, group: Group, original: Entity, count: int, namer: Namer, seed: int
) -> list[Entity]:
    """Draw others that questions about the original could be taken to be about.

    In turn, one has the same name and other values, and one shares a part of the name and the two
    values by which questions tell namesakes apart. Those of the same name differ in all values.
    """
    kind, same, similar = original.kind, [original], []
    for number in range(1, count + 1):
        id = f"{original.id}n{number}"
        draw = Draw(f"{form.name} entity {seed} {id}")
        if number % 2 == 0:
            name = namer.resembling(kind.name, original.name, draw)
            shared = [kind.place(attribute) for attribute, _ in kind.epithets]
            similar.append(_other(id, name, original, shared, group, draw))
            continue
        values = tuple(
            _other_value(pool_of(attribute, group), [each.values[place] for each in same], draw)
            for place, attribute in enumerate(kind.attributes)
        )
        same.append(Entity(id, kind, original.name, values, shares_name=True))
    return same[1:] + similar


def _other(
    id: str, name: str, original: Entity, shared: Collection[int], group: Group, draw: Draw
) -> Entity:
    """An entity that shares some of its values with the original, and no other."""
    values = tuple(
        value
        if place in shared
        else _other_value(pool_of(original.kind.attributes[place], group), [value], draw)
        for place, value in enumerate(original.values)
    )
    return Entity(id, original.kind, name, values)


def _other_value(values: Sequence[str], taken: Collection[str], draw: Draw) -> str:
    """One of the values that are not taken, each with the same probability."""
    place = draw.below(len(values) - len(taken))
    for skipped in sorted(map(values.index, taken)):
        place += place >= skipped
    return values[place]
