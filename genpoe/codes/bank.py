"""The class that reads and changes a bank of codes.

Shapes: P passages, S passage tokens, U key width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from backbone.model import Backbone
from genpoe.codes.layout import CodeLayout
from genpoe.codes.spec import CodeSpec
from genpoe.hypernet.hypernet import Hypernet
from genpoe.hypernet.reader_experts import ReaderCode
from qa.bank.bank import PassageBank
from qa.bank.errors import BankError, shown
from retrieval.passage import Passage

_FORM = ("backbone_dtype", "keys")  # may differ from what would be written now


class CodeBank(PassageBank):
    """Codes by passage id, all of one backbone and hypernetwork.

    An open bank is a snapshot. What it holds changes only when its own ``add``, ``remove`` or
    ``refresh`` is called. Any number of processes may read and write one folder at the same time.
    """

    KIND = "codes"

    @property
    def spec(self) -> CodeSpec:
        """What all codes of the bank have in common."""
        return cast("CodeSpec", self.view.spec)

    @property
    def layout(self) -> CodeLayout:
        """How a code is laid out."""
        return self.spec.layout

    def get(self, ids: Sequence[str]) -> ReaderCode:
        """Read P codes, and check each against its checksum.

        Args:
            ids: P passage ids.

        Returns:
            The codes in float32 on the CPU, padded on the right to the longest of them.

        Raises:
            BankError: If a passage has no code; the message names it.
            DamagedError: If codes are damaged; it names each of them.
        """
        return self.layout.code(self.rows(ids))

    def add(self, passages: Sequence[Passage], code: ReaderCode, replace: bool = False) -> None:
        """Add codes, either all of them or none.

        Args:
            passages: The P passages that the codes were made of.
            code: Their codes.
            replace: Whether a passage may have a code already, which the new one replaces.

        Raises:
            BankError: If the number of codes is another one, if a code holds what none can, or if a
                passage is given twice or has a code already. Then nothing is added.
        """
        rows = self.layout.rows(code)
        wrong = self.layout.wrong(rows)
        for index, passage in enumerate(passages):
            if index in wrong:
                raise BankError(
                    f"the code of passage {shown(passage.id)} cannot be kept as "
                    f"{self.layout.keys}: {wrong[index]}; choose another form of the keys, or "
                    "leave it out"
                )
        self.add_rows(passages, rows, replace)

    def check_hypernet(
        self, backbone: Backbone, hypernet: Hypernet, max_passage_tokens: int
    ) -> None:
        """Check that the codes are those of a hypernetwork on a backbone.

        The backbone may compute in another dtype than when it read the passages.

        Args:
            backbone: The frozen model.
            hypernet: The hypernetwork.
            max_passage_tokens: At how many tokens it cuts passages.

        Raises:
            BankError: If they belong to another one; the message says what differs.
            ValueError: If the hypernetwork is none that reads.
        """
        self.check_backbone(backbone)
        wanted = CodeSpec.of(backbone, hypernet, max_passage_tokens, self.layout.keys)
        self.spec.check_same(wanted, self.path, ("backbone_sha256", *_FORM))
