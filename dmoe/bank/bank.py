"""The class that reads and changes a bank of experts.

Shapes: N experts, P parameters of one, R rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from torch import Tensor

from backbone.model import Backbone
from dmoe.bank.layout import LARGEST, ExpertLayout, poisoned
from dmoe.bank.spec import BankSpec
from qa.bank.bank import PassageBank
from qa.bank.errors import BankError, DamagedError, shown
from qa.bank.hub import fetched
from retrieval.passage import Passage

DamagedExpertError = DamagedError


class Bank(PassageBank):
    """Experts by passage id, all of one backbone, layout and recipe.

    An open bank is a snapshot. What it holds changes only when its own ``add``, ``remove`` or
    ``refresh`` is called. Any number of processes may read and write one folder at the same time.
    """

    KIND = "experts"

    @classmethod
    def open(
        cls,
        path: str | Path,
        backbone: Backbone | None = None,
        recipe: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open a bank.

        Args:
            path: The bank's folder.
            backbone: The model that the experts must belong to. None accepts any.
            recipe: The recipe that the experts must have been trained with. None accepts any.
            read_only: Whether to refuse changes.

        Raises:
            BankError: If there is no bank, if its copies cannot make up for the damage, or if it
                belongs to another backbone or recipe.
        """
        bank = super().open(path, backbone, read_only=read_only)
        if recipe is not None:
            bank.spec.check_same(dataclasses.replace(bank.spec, recipe=dict(recipe)), path)
        return bank

    @property
    def spec(self) -> BankSpec:
        """What all experts of the bank have in common."""
        return cast("BankSpec", self.view.spec)

    @property
    def layout(self) -> ExpertLayout:
        """The names and shapes of an expert's tensors, and the dtype that they are stored in."""
        return self.spec.layout

    @property
    def scaling(self) -> float:
        """LoRA's scale, ``alpha / rank``."""
        return self.spec.alpha / self.layout.rank

    def get(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Read N experts, and check each against its checksum.

        Args:
            ids: N passage ids.

        Returns:
            ``<projection>.lora_A`` ``[N, R, in]`` and ``<projection>.lora_B`` ``[N, out, R]``, in
            the bank's dtype on the CPU.

        Raises:
            BankError: If a passage has no expert; the message names it.
            DamagedError: If experts are damaged; it names each of them.
        """
        return self.layout.split(self.matrix(ids))

    def matrix(self, ids: Sequence[str]) -> Tensor:
        """Read N experts as rows ``[N, P]`` of numbers.

        They can be moved to a GPU in one transfer; ``layout.split`` then makes tensors of them.

        Raises:
            BankError: If a passage has no expert; the message names it.
            DamagedError: If experts are damaged; it names each of them.
        """
        return self.layout.numbers(self.rows(ids))

    def add(
        self,
        passages: Sequence[Passage],
        experts: Mapping[str, Tensor],
        replace: bool = False,
    ) -> None:
        """Add experts, either all of them or none.

        When the method returns, all of them are on the disk and survive a loss of power. Until
        then, no reader sees any of them.

        Args:
            passages: The N passages that the experts were made of.
            experts: ``[N, R, in]`` and ``[N, out, R]`` for every projection, in any float dtype.
            replace: Whether a passage may have an expert already, which the new one replaces.

        Raises:
            BankError: If the experts do not have the bank's layout or hold a number that is not
                finite, or if a passage is given twice or has an expert already. Then nothing is
                added.
        """
        self.check_writable()
        rows_NP = self.layout.flatten(experts)
        for passage, wrong in zip(passages, poisoned(rows_NP).tolist(), strict=False):
            if wrong:
                raise BankError(
                    f"the expert of passage {shown(passage.id)} holds a NaN, an infinity, or a "
                    f"number beyond {LARGEST:g} (in {self.layout.dtype}); its training has "
                    "diverged: lower the learning rate, or leave it out"
                )
        self.add_rows(passages, self.layout.rows(rows_NP), replace)


def from_pretrained(
    name: str | Path,
    backbone: Backbone | None = None,
    recipe: Mapping[str, Any] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Bank:
    """Open a bank of experts for reading, from a folder or from the hub.

    Args:
        name: A folder, or ``owner/name`` on the Hugging Face hub.
        backbone: The model that the experts must belong to. None accepts any.
        recipe: The recipe that the experts must have been trained with. None accepts any.
        revision: A branch, tag or commit on the hub.
        token: The token for the hub. None takes the one that is logged in.

    Raises:
        BankError: If there is no such bank, or if it belongs to another backbone or recipe.
    """
    return Bank.open(fetched(name, revision, token), backbone, recipe, read_only=True)
