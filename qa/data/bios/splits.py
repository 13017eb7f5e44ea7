"""Which entities the forms of bios have, and which splits ask about them.

A new split is one entry of a table here: entities that exist already, asked in other words, or a
group of entities of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from qa.data.bios.long import LONG_KINDS
from qa.data.bios.schema import Kind
from qa.data.bios.short import SHORT_KINDS


@dataclass(frozen=True, slots=True)
class Group:
    """Entities that are drawn together; no entity is in two groups.

    Attributes:
        name: It is a part of the entities' ids, and of the seed of all that is drawn for them.
        unseen: Whether the values come from the pools of values that no training entity has.
        held_out: Whether the entities are for evaluation, and may have namesakes.
        alone: Whether each entity is drawn by itself, so that a name that is taken already changes
            no other entity. The two oldest groups are not, because results hold for them.
    """

    name: str
    unseen: bool = False
    held_out: bool = True
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Split:
    """A split asks each entity of a group about each attribute.

    Splits of one group come one after the other. None asks about a fact in words in which a split
    before it asked about that fact.

    Attributes:
        name: The name of the split.
        group: The name of the group.
        rephrased: Whether the phrasings are those that are held out from training; train_reworded
            has others of training.
        suffix: The end of the question ids, which differs among the splits of a group.
    """

    name: str
    group: str
    rephrased: bool = False
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the data set.

    Attributes:
        name: The name of the data set; it is a part of all ids and seeds.
        kinds: The kinds of entities, which alternate.
        groups: The groups of entities. Each avoids the names of those before it.
        splits: The splits that ask about them.
    """

    name: str
    kinds: tuple[Kind, ...]
    groups: tuple[Group, ...]
    splits: tuple[Split, ...]

    @property
    def attributes(self) -> int:
        """The number of attributes of each kind, which is that of questions about an entity."""
        return len(self.kinds[0].attributes)


_GROUPS = (
    Group("dev", alone=False),
    Group("train", held_out=False, alone=False),
    Group("test"),
)
_SPLITS = (
    Split("train", "train"),
    Split("train_reworded", "train", suffix="-w"),
    Split("dev", "dev"),
    Split("dev_rephrased", "dev", rephrased=True, suffix="-r"),
    Split("test", "test"),
    Split("test_rephrased", "test", rephrased=True, suffix="-r"),
    Split("test_reworded", "test", rephrased=True, suffix="-w"),
)
_UNSEEN_SPLITS = (
    Split("test_unseen", "unseen"),
    Split("test_unseen_rephrased", "unseen", rephrased=True, suffix="-r"),
)

BIOS = Form(
    "bios", SHORT_KINDS, (*_GROUPS, Group("unseen", unseen=True)), (*_SPLITS, *_UNSEEN_SPLITS)
)
BIOS_LONG = Form("bios_long", LONG_KINDS, _GROUPS, _SPLITS)
