"""Puts trained experts into the bank, and counts what was built."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from dmoe.bank import Bank
from dmoe.bank.layout import poisoned
from dmoe.training.grouped import TrainedGroup
from dmoe.training.groups import Group
from plumbing.storage.jsonl import write_jsonl

log = logging.getLogger(__name__)

_NAMED = 5  # the most ids in a line of the log


@dataclass
class Tally:
    """Sums over the experts that were built, and the ids of passages that got none.

    The tallies of several workers can be added.

    Attributes:
        experts: How many experts were built.
        failed: The ids of passages whose experts diverged and were left out.
        skipped: How many lessons had their experts in the bank already.
        without: The ids of passages without any instance.
        first_loss: The sum of the experts' mean losses in their first epoch (nats per label).
        last_loss: The sum of the experts' mean losses in their last epoch (nats per label).
        norm: The sum of the experts' ``‖ΔW‖``.
    """

    experts: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    without: list[str] = field(default_factory=list)
    first_loss: float = 0
    last_loss: float = 0
    norm: float = 0

    def __add__(self, other: Tally) -> Tally:
        """Add what two workers have built."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Tally(*(mine + theirs for mine, theirs in pairs))

    def store(self, bank: Bank, group: Group, trained: TrainedGroup) -> None:
        """Add a group's experts to the bank. Experts that diverged are named and left out.

        Args:
            bank: The bank that the experts go into.
            group: The group that was trained.
            trained: The group's experts.
        """
        bad = poisoned(bank.layout.flatten(trained.experts))
        diverged = [trained.ids[index] for index in bad.nonzero().flatten().tolist()]
        for id in diverged:
            log.warning(
                "the expert of passage %r diverged and is left out; lower the recipe's lr", id
            )
        kept = (~bad).nonzero().flatten()
        self.failed += diverged
        if len(kept):
            bank.add(
                [group.passages[index] for index in kept.tolist()],
                {name: tensor[kept] for name, tensor in trained.experts.items()},
                replace=True,  # this replaces only experts of passages whose texts have changed
            )
        self.experts += len(kept)
        self.first_loss += float(trained.first_loss[kept].sum())
        self.last_loss += float(trained.last_loss[kept].sum())
        self.norm += float(trained.norm[kept].sum())

    def write_left_out(self, folder: Path) -> None:
        """Write down the passages that got no expert.

        Args:
            folder: The run folder. Its files ``without_instances.jsonl`` and ``diverged.jsonl`` get
                a line ``{"id": str}`` for each passage.
        """
        for name, ids in (("without_instances", self.without), ("diverged", self.failed)):
            path = folder / f"{name}.jsonl"
            write_jsonl(path, ({"id": id} for id in ids))
            if ids:
                more = ", …" if len(ids) > _NAMED else ""
                few = ", ".join(map(repr, ids[:_NAMED])) + more
                log.warning("%d passages have no expert: %s; see %s", len(ids), few, path)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Compute the metrics that go into ``metrics.json``.

        Args:
            seconds: How long building took, with everything.

        Returns:
            The counts, the seconds in all and per expert, and means over the experts that were
            built. The means are left out if there is no such expert.
        """
        count = max(self.experts, 1)
        counts = {"experts": self.experts, "failed": len(self.failed)}
        counts |= {"skipped": self.skipped, "without": len(self.without)}
        sums = {"train/first_loss": self.first_loss, "train/last_loss": self.last_loss}
        sums["expert_norm"] = self.norm
        means = {name: value / count for name, value in sums.items()} if self.experts else {}
        return {
            **counts,
            **means,
            "seconds": seconds,
            "seconds_per_expert": seconds / count,
        }
