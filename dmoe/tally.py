"""Puts trained experts into the bank, and counts what was built."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields

from dmoe.bank import Bank
from dmoe.bank.layout import poisoned
from dmoe.grouped import TrainedGroup
from dmoe.groups import Group

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """Sums over experts; those of several workers add up.

    Attributes:
        experts: Experts that were built.
        failed: Experts whose training diverged; they are left out.
        skipped: Lessons whose experts were there.
        without: Lessons without an instance.
        first_loss: Sum of the experts' mean losses in their first epoch (nats a label).
        last_loss: Likewise, in their last.
        norm: Sum of ``‖ΔW‖``.
    """

    experts: float = 0
    failed: float = 0
    skipped: float = 0
    without: float = 0
    first_loss: float = 0
    last_loss: float = 0
    norm: float = 0

    def store(self, bank: Bank, group: Group, trained: TrainedGroup) -> None:
        """Add a group's experts to the bank; those that diverged are named and left out.

        Args:
            bank: Where they go.
            group: Whose experts they are.
            trained: The experts.
        """
        bad = poisoned(bank.layout.flatten(trained.experts))
        for index in bad.nonzero().flatten().tolist():
            log.warning(
                "the expert of passage %r diverged and is left out; lower recipe.lr",
                trained.ids[index],
            )
        kept = (~bad).nonzero().flatten()
        self.failed += int(bad.sum())
        if len(kept):
            bank.add(
                [group.passages[index] for index in kept.tolist()],
                {name: tensor[kept] for name, tensor in trained.experts.items()},
                replace=True,  # only ever of a passage whose text has changed
            )
        self.experts += len(kept)
        self.first_loss += float(trained.first_loss[kept].sum())
        self.last_loss += float(trained.last_loss[kept].sum())
        self.norm += float(trained.norm[kept].sum())

    def values(self) -> list[float]:
        """All sums, in the order of the attributes."""
        return [getattr(self, field.name) for field in fields(self)]

    def metrics(self, seconds: float) -> dict[str, float]:
        """What ``metrics.json`` says.

        Args:
            seconds: That building took, everything included.

        Returns:
            Counts, and the means over the experts that were built, if any.
        """
        count = max(self.experts, 1)
        counts = {name: getattr(self, name) for name in ("experts", "failed", "skipped", "without")}
        sums = {"train/first_loss": self.first_loss, "train/last_loss": self.last_loss}
        sums["expert_norm"] = self.norm
        means = {name: value / count for name, value in sums.items()} if self.experts else {}
        return {
            **counts,
            **means,
            "seconds": seconds,
            "seconds_per_expert": seconds / count,
        }
