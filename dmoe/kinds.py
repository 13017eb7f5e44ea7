"""The kinds of experts that decoding can route to: trained ones, or whatever a configuration names.

A kind knows where its experts come from and how they act in a batch. Other packages can have kinds
of their own; a configuration names the function that opens one (``conf/experts``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from dmoe.bank import Bank
from dmoe.decoding.active import ActiveExperts, ExpertSource
from dmoe.decoding.weighting import weights_for
from plumbing.settings import typed
from qa.acting import ActingExperts
from qa.passages.gold_ids import warn_of_missing_gold
from qa.prompts import warn_of_another_prompt
from retrieval.passage import Passage


class ExpertKind(Protocol):
    """Experts that have been opened."""

    @property
    def source(self) -> Any:
        """Where they come from: a container of the ids of all passages that have one.

        What else it has is known to `acting` alone.
        """
        ...

    def acting(self, final: FinalFFN, source: Any, rows: int, k: int) -> ActingExperts:
        """Make what acts in the rows of a batch, K experts a row at most.

        The source may be only a part of `source`.
        """
        ...

    def weights(self, weights: str | None, experts: int) -> str:
        """Choose how experts are weighted, "sum" or "router", where a user has not (None).

        Args:
            weights: What the user has set.
            experts: How many experts act at a time.
        """
        ...

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Check that the experts were made of the texts that these passages have.

        A warning says if few of the passages have an expert.
        """
        ...

    def measure(self) -> dict[str, float]:
        """Figures of this kind's own, after an evaluation."""
        ...


class TrainedKind:
    """The LoRA experts of a bank, which ``scripts/build_experts.py`` trained.

    Args:
        bank: The bank.
    """

    def __init__(self, bank: Bank) -> None:
        self.source = bank

    @classmethod
    @typed
    def open(cls, backbone: Backbone, bank_dir: str | Path) -> TrainedKind:
        """Open a bank on disk.

        If its experts were trained under another prompt than the present one, a warning says so.

        Raises:
            BankError: If the bank is missing, damaged or empty, or belongs to another backbone.
            SettingValueError: If no folder is named.
        """
        bank = Bank.open(bank_dir, backbone=backbone, read_only=True)
        bank.check_filled()
        warn_of_another_prompt(f"the bank {bank_dir}", bank.spec.prompt)
        return cls(bank)

    def acting(self, final: FinalFFN, source: ExpertSource, rows: int, k: int) -> ActiveExperts:
        """Make what acts in the rows of a batch; see `ActiveExperts`."""
        return ActiveExperts(final, source, rows, k)

    def weights(self, weights: str | None, experts: int) -> str:
        """Choose by the bank's recipe how the experts are weighted; see `weights_for`."""
        return weights_for(weights, self.source.spec.recipe, experts)

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Check that the experts were made of the texts that these passages have.

        A warning says if few of the passages have an expert.

        Raises:
            BankError: If an expert was made of another text.
        """
        passages = list(passages)
        self.source.check_passages(passages)
        warn_of_missing_gold(
            (passage.id for passage in passages),
            self.source,
            f"the bank {self.source.path}",
            "routing can hardly find a right expert; build the experts of these passages "
            "(scripts/build_experts.py), or give the bank that was built from these data",
        )

    def measure(self) -> dict[str, float]:
        """Return nothing: what was measured is in the bank."""
        return {}
