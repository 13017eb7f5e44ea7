"""The kinds of entities of the form "bios_long", whose values have several words."""

from __future__ import annotations

from qa.data.bios.long.organisation import ORGANISATION
from qa.data.bios.long.person import PERSON
from qa.data.bios.long.place import PLACE
from qa.data.bios.long.work import WORK

LONG_KINDS = (PERSON, PLACE, WORK, ORGANISATION)

__all__ = ["LONG_KINDS"]
