"""Names of invented entities, each unique in a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

MAX_ENTITIES = 20_000  # half of the titles of works stay free, so that a new one is found quickly
_ATTEMPTS = 1000

_ONSETS = tuple("b d f g h j k l m n p r s t v z br dr gr kr th tr".split())
_VOWELS = tuple("aeiou")
_MIDDLES = tuple("b d f g l m n r s t v z lk rn nd rv ld".split())
_CLUSTERS = tuple("bl br dr f fl g gl gr k kl kr l m n p pl r sk sl sn sp st t tr v w z zw".split())
_CODAS = tuple("ck ft ld lk lm lv nd nk rd rk rn rsk rv st x zk".split())
_ENDINGS = tuple("dal dun fen gar lin mor nek rad rin sund tov vik wen zel".split())
_STEM_CODAS = tuple("b d g k l m n r s t v nd rk".split())
_COARSE = frozenset({"prick", "skank", "spank", "spunk", "bonk"})

_DIRECTIONS = tuple("New Old Upper Lower North South East West Inner Outer Little Far".split())
_LANDFORMS = tuple("Bay Hill Falls Cross Head Vale Ridge Point Bend Ford Hollow Landing".split())
SUFFIXES = tuple(
    "Institute Society Foundation Academy Association Council League Union Guild Bureau Fund "
    "Alliance Centre Club Fellowship Trust Federation Forum".split()
)
TITLE_ADJECTIVES = tuple(
    """
    Ashen Bare Blue Brass Broken Buried Burning Burnt Carved Chalk Clay Copper Cracked Crimson
    Crooked Crystal Dim Distant Double Dusty Empty Endless Fading Fallen Faded Feathered Floating
    Folded Forgotten Fourth Frozen Gilded Glass Golden Green Grey Hanging Hidden Hollow Idle
    Iron Ivory Jagged Knotted Last Leaden Left Locked Lonely Lost Marble Mended Midnight Mirrored
    Missing Muddy Narrow Nameless Northern Orange Pale Paper Pearl Pink Polished Purple
    Quiet Rainy Red Restless Rusty Sandy Scarlet Sealed Second Seventh Shattered Shining Silent
    Silken Silver Sleeping Slanted Smoky Snowy Spare Spinning Steel Stolen Stone Sunken Tall
    Tangled Thin Third Threadbare Tilted Tin Torn Twisted Unlit Unsent Velvet Vacant Violet
    Waning Wax Western Whispering Windy Winter Wooden Woollen Yellow
    """.split()
)
TITLE_NOUNS = tuple(
    """
    Acorn Almanac Anchor Anvil Apple Arrow Badger Basket Beetle Blanket Bottle Bramble Bucket
    Button Candle Card Cherry Clock Cloak Coin Comb Compass Cord Crow Crown Cup Curtain Dagger
    Door Drum Eel Envelope Falcon Fan Feather Fence Fern Fiddle Finch Flag Flute Flower Fork
    Fountain Gate Glove Goose Hammer Hare Harp Hat Heron Hinge Hook Hourglass Horn Jar Jug Kettle
    Key Kite Knife Ladder Lamp Lantern Leaf Letter Lily Lock Loom Magpie Map Mask Mirror Moth
    Nail Necklace Needle Nest Oar Orchid Otter Owl Pebble Pencil Pillar Plough Plum Poppy Puppet
    Quill Raven Ribbon Ring Robe Rope Saddle Sail Scarf Shell Shield Shoe Shutter Sickle Sparrow
    Spoon Staircase Stag Swan Table Teacup Thimble Thistle Thread Trumpet Tulip Umbrella Vase
    Violin Wheel Whistle Willow Window Wren
    """.split()
)


class Draw:
    """Random choices that are the same on every platform and in every version of Python.

    Python promises this only for ``Random.random``, so ``choice`` and ``shuffle`` are not used.
    """

    def __init__(self, seed: str) -> None:
        self._random = Random(seed).random

    def below(self, limit: int) -> int:
        """A whole number in ``[0, limit)``."""
        return int(self._random() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each with the same probability."""
        return items[self.below(len(items))]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


class Namer:
    """Makes names, each of them only once.

    Args:
        reserved: Words in lower case. No invented word equals one of them, so that a name never
            looks like a value of an attribute.
    """

    def __init__(self, reserved: frozenset[str]) -> None:
        self._reserved = reserved | _COARSE
        self._taken: set[str] = set()

    def fresh(self, kind: str, draw: Draw) -> str:
        """A new name for an entity of the given kind."""
        make = {
            "person": lambda: f"{self._given(draw)} {self._family(draw)}",
            "place": lambda: self._place(draw),
            "work": lambda: f"The {draw.pick(TITLE_ADJECTIVES)} {draw.pick(TITLE_NOUNS)}",
            "organisation": lambda: f"{self._place(draw)} {draw.pick(SUFFIXES)}",
        }
        return self._unused(make[kind])

    def resembling(self, kind: str, name: str, draw: Draw) -> str:
        """A new name that shares a part with another name of the same kind."""
        words = name.split()

        def make() -> str:
            first = draw.below(2) == 0
            if kind == "person":
                kept = (words[0], self._family(draw)), (self._given(draw), words[1])
                return " ".join(kept[first])
            if kind == "place":
                kept = (name, draw.pick(_LANDFORMS)), (draw.pick(_DIRECTIONS), name)
                return " ".join(kept[first])
            if kind == "work":
                kept = (words[1], draw.pick(TITLE_NOUNS)), (draw.pick(TITLE_ADJECTIVES), words[2])
                return "The " + " ".join(kept[first])
            return f"{words[0]} {draw.pick(SUFFIXES)}"

        return self._unused(make)

    def _unused(self, make: Callable[[], str]) -> str:
        for _ in range(_ATTEMPTS):
            name = make()
            if name not in self._taken:
                self._taken.add(name)
                return name
        raise ValueError(
            f"found no new name in {_ATTEMPTS} attempts; ask for fewer entities, distractors or "
            "namesakes"
        )

    def _given(self, draw: Draw) -> str:
        return self._word(draw, _ONSETS, _VOWELS, _MIDDLES, _VOWELS)

    def _family(self, draw: Draw) -> str:
        return self._word(draw, _CLUSTERS, _VOWELS, _CODAS)

    def _place(self, draw: Draw) -> str:
        return self._word(draw, _ONSETS, _VOWELS, _STEM_CODAS, _ENDINGS)

    def _word(self, draw: Draw, *parts: Sequence[str]) -> str:
        while True:
            word = "".join(draw.pick(part) for part in parts)
            if word not in self._reserved:
                return word.capitalize()
