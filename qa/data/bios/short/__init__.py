"""The kinds of entities of the form "bios", whose values are single words."""

from __future__ import annotations

from qa.data.bios.short.organisation import ORGANISATION
from qa.data.bios.short.person import PERSON
from qa.data.bios.short.place import PLACE
from qa.data.bios.short.work import WORK

SHORT_KINDS = (PERSON, PLACE, WORK, ORGANISATION)

__all__ = ["SHORT_KINDS"]
