"""Names of which no word is shared by two splits."""

from __future__ import annotations

from collections.abc import Mapping

from plumbing.mounts import SettingValueError
from qa.data.bios.names import Draw, Namer


class SplitNames:
    """Makes names, each of them only once, and no word of one in two splits.

    Args:
        reserved: Words in lower case that no name has.
    """

    def __init__(self, reserved: frozenset[str]) -> None:
        self._namer = Namer(reserved)
        self._split_of: dict[str, str] = {}

    def fresh(self, kind: str, split: str, draw: Draw) -> str:
        """A new name for a person or a place of a split."""
        while True:
            name = self._namer.fresh(kind, draw)
            words = name.split()
            if all(self._split_of.get(word, split) == split for word in words):
                self._split_of |= dict.fromkeys(words, split)
                return name


def check_sizes(seed: int, sizes: Mapping[str, int], most: int) -> None:
    """Check the settings of a data set of pairs.

    Args:
        seed: The seed.
        sizes: The number of pairs that each setting asks for.
        most: The largest number of them that there are names for.

    Raises:
        SettingValueError: If a number is negative, or if there are too many pairs.
    """
    for name, number in {"seed": seed, **sizes}.items():
        if number < 0:
            raise SettingValueError(name, f"{name} must not be negative, got {number}")
    largest = max(sizes, key=lambda name: sizes[name])
    if sum(sizes.values()) > most:
        raise SettingValueError(
            largest,
            f"there are names for {most} pairs, got {sum(sizes.values())} in all",
            "lower {}",
        )
