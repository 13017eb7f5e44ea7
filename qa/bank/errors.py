"""The errors that a bank raises, and what may be done about conflicts when banks are merged.

Nothing heavy is imported here, so that the command line knows the choices at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qa.bank.layout import Layout

# What may happen to a passage that has different rows in two banks that are merged.
CONFLICTS = ("error", "keep", "replace")


class BankError(ValueError):
    """A bank cannot be used or changed as asked; the message says why and what to do."""


class DamagedError(BankError):
    """Rows are no longer what was added. All other rows can still be read.

    Args:
        bank: The bank's folder.
        layout: The rows' layout, which has the words for the message.
        problems: What is wrong with each damaged row, by passage id.

    Attributes:
        problems: What is wrong with each damaged row, by passage id.
    """

    def __init__(self, bank: object, layout: Layout, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        id, problem = next(iter(self.problems.items()))
        more = len(self.problems) - 1
        others = f" (and {more} more)" if more else ""
        super().__init__(
            f"{bank}: the {layout.NOUN} of passage {shown(id)} is damaged: {problem}{others}; the "
            f"other {layout.NOUN}s can be read: remove the damaged ones (scripts/bank.py remove) "
            f"and make them again ({layout.MADE_BY})"
        )


def shown(id: str) -> str:
    """Quote a passage id for a message, and cut it if it is long."""
    return repr(id if len(id) <= 80 else f"{id[:77]}...")
