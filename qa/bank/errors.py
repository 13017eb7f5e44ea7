"""The errors that a bank raises, and what may be done about conflicts when banks are merged.

Nothing heavy is imported here, so that the command line knows the choices at once.
"""

from __future__ import annotations

from collections.abc import Mapping

# What may happen to a passage that has different experts in two banks that are merged.
CONFLICTS = ("error", "keep", "replace")


class BankError(ValueError):
    """A bank cannot be used or changed as asked; the message says why and what to do."""


class DamagedExpertError(BankError):
    """Experts are no longer what was added. All other experts can still be read.

    Args:
        bank: The bank's folder.
        problems: What is wrong with each damaged expert, by passage id.

    Attributes:
        problems: What is wrong with each damaged expert, by passage id.
    """

    def __init__(self, bank: object, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        id, problem = next(iter(self.problems.items()))
        more = len(self.problems) - 1
        others = f" (and {more} more)" if more else ""
        super().__init__(
            f"{bank}: the expert of passage {shown(id)} is damaged: {problem}{others}; the other "
            "experts can be read: remove the damaged ones (scripts/bank.py remove) and build them "
            "again"
        )


def shown(id: str) -> str:
    """Quote a passage id for a message, and cut it if it is long."""
    return repr(id if len(id) <= 80 else f"{id[:77]}...")
