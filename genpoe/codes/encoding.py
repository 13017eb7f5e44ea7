"""Reads the passages of a corpus, and puts their codes into a bank.

The work is done in pieces by an engine (`plumbing.engines`). A piece is in the bank as soon as it
is done, and what is in the bank is not read again; so an interrupted encoding goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backbone.model import Backbone
from genpoe.codes.bank import CodeBank
from genpoe.codes.spec import CodeSpec
from genpoe.hypernet.hypernet import PassageTokens
from genpoe.model import GenPoE
from plumbing.batches import by_length
from qa.bank.layout import Rows
from retrieval.corpus import Corpus
from retrieval.passage import Passage

_PIECES = 256  # at most, as long as none has more than _MOST passages
_FEWEST, _MOST = 256, 16384  # passages of a piece


class MakesBackbone(Protocol):
    """Loads the backbone in the calling process."""

    def __call__(self, *, device: str = ...) -> Backbone:
        """Load it on a device; by default where the settings say."""
        ...


class CodeEncoder:
    """Turns passages into the rows of a bank. Each process of an engine has one.

    Args:
        genpoe: The backbone with its hypernetwork.
        keys: In which form keys are kept; see `genpoe.codes.layout.CodeLayout`.
        batch_tokens: How many positions are read at once, padding among them.

    Attributes:
        backbone: The backbone.
        spec: The spec of the bank that the rows belong to.

    Raises:
        ValueError: If the hypernetwork is none that reads.
    """

    def __init__(self, genpoe: GenPoE, keys: str, batch_tokens: int) -> None:
        self._genpoe, self._batch_tokens = genpoe, batch_tokens
        self.backbone = genpoe.backbone
        limit = genpoe.max_passage_tokens
        self.spec = CodeSpec.of(genpoe.backbone, genpoe.hypernet, limit, keys)

    @property
    def rounding(self) -> str:
        """What decides the last digits of keys: number format, device, batch."""
        device = self.backbone.device.type
        return f"{self.spec.backbone_dtype} {device} {self._batch_tokens}"

    def work(self, piece: list[Passage]) -> Rows:
        """Read passages, those of about equal length together; return their rows."""
        tokens = self._genpoe.tokens(piece)
        lengths = tokens.attention_mask_PS.sum(1).tolist()
        rows = [b""] * len(piece)
        for batch in by_length(lengths, max_tokens=self._batch_tokens):
            width = max(1, lengths[batch[-1]])
            ids_PS, mask_PS = (
                each[batch, :width] for each in (tokens.input_ids_PS, tokens.attention_mask_PS)
            )
            some = self.spec.layout.rows(self._genpoe.code(PassageTokens(ids_PS, mask_PS)))
            for place, index in enumerate(batch):
                rows[index] = some[place].tobytes()
        return Rows.of(rows)


@dataclass(frozen=True)
class CodeLoader:
    """Loads a `CodeEncoder`; it can be sent to other machines.

    Attributes:
        make_backbone: Loads the backbone.
        ckpt_path: A checkpoint of ``scripts/train_hypernet.py``.
        keys: In which form keys are kept.
        batch_tokens: How many positions are read at once.
    """

    make_backbone: MakesBackbone
    ckpt_path: str
    keys: str = "int8"
    batch_tokens: int = 2048

    def __call__(self, device: str | None = None) -> CodeEncoder:
        """Load the encoder in the calling process, on a device; None: where the settings say."""
        backbone = self.make_backbone() if device is None else self.make_backbone(device=device)
        genpoe = GenPoE.from_checkpoint(self.ckpt_path, backbone)
        return CodeEncoder(genpoe, self.keys, self.batch_tokens)


class CodesJob:
    """The passages of a corpus whose codes a bank lacks: a `plumbing.engines.job.Job`.

    Args:
        folder: The bank's folder. A bank that is there must have the encoder's spec.
        passages: The passages, by id.
        loader: Loads the encoder.
        limit: How many passages count, from the beginning. None: all.

    Raises:
        BankError: If there is a bank of another hypernetwork, backbone, dtype or form of keys.
        CheckpointError: If the checkpoint is none.
    """

    def __init__(
        self,
        folder: str | Path,
        passages: Mapping[str, Passage],
        loader: CodeLoader,
        limit: int | None = None,
    ) -> None:
        self._passages, self._loader = _in_order(passages), loader
        self._encoder: CodeEncoder | None = loader()
        self._folder = str(folder)
        spec, backbone = self._encoder.spec, self._encoder.backbone
        bank = CodeBank.create(folder, spec, exist_ok=True, backbone=backbone)
        self._bank: CodeBank | None = bank
        total = len(passages) if limit is None else min(limit, len(passages))
        compared = bank.compared(self._passages(0, total))
        self._lacking = np.fromiter((not same for _, same in compared), bool, total)
        self._rows = max(_FEWEST, min(_MOST, -(-total // _PIECES)))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what each process opens for itself."""
        return {**vars(self), "_encoder": None, "_bank": None}

    @property
    def doing(self) -> str:
        """What is done, for the bar and the log."""
        return f"Reading {self._rows} passages at a time"

    @property
    def total(self) -> int:
        """How many passages there are."""
        return len(self._lacking)

    @property
    def lacking(self) -> int:
        """How many of them the bank lacked when the job was made."""
        return int(self._lacking.sum())

    @property
    def pieces(self) -> int:
        """The number of pieces."""
        return -(-self.total // self._rows)

    @property
    def to_do(self) -> list[int]:
        """The numbers of the pieces that have passages to read."""
        return sorted(set((np.flatnonzero(self._lacking) // self._rows).tolist()))

    def lacking_ids(self) -> Iterator[str]:
        """The ids of the passages that the bank lacked when the job was made."""
        for number in self.to_do:
            for passage in self.piece(number):
                yield passage.id

    @property
    def bank(self) -> CodeBank:
        """The bank, open in this process."""
        if self._bank is None:
            self._bank = CodeBank.open(self._folder)
        return self._bank

    def piece(self, number: int) -> list[Passage]:
        """The passages of a piece that are to be read."""
        start, stop = number * self._rows, min((number + 1) * self._rows, self.total)
        some = zip(self._passages(start, stop), self._lacking[start:stop], strict=True)
        return [passage for passage, lacking in some if lacking]

    def load(self, device: str | None = None) -> CodeEncoder:
        """The encoder for the calling process."""
        if device is not None:
            return self._loader(device)
        self._encoder = self._encoder or self._loader()
        return self._encoder

    def loader(self) -> CodeLoader:
        """Loads the encoder on another machine."""
        return self._loader

    def store(self, number: int, result: Rows) -> None:
        """Add the codes of a piece to the bank; they replace those of other texts."""
        self.bank.add_rows(self.piece(number), result, replace=True)


def _in_order(passages: Mapping[str, Passage]) -> Callable[[int, int], Iterable[Passage]]:
    """Reads the passages from one place up to another."""
    return passages.passages if isinstance(passages, Corpus) else _Listed(passages.values())


class _Listed:
    def __init__(self, passages: Iterable[Passage]) -> None:
        self._passages = list(passages)

    def __call__(self, start: int, stop: int) -> Iterable[Passage]:
        return islice(self._passages, start, stop)
