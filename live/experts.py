"""Where a session's experts come from, and those that a hypernetwork generates.

Passages have the ids of `live.passages.content_id` here. What is made of a passage is made when it
is added and forgotten when it is removed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from genpoe.model import GenPoE
from genpoe.routed import CodesOnDemand, GeneratedKind
from live.passages import Entry, PassageSet
from plumbing.storage.files import sha256_of
from qa.acting import ActingExperts
from retrieval.passage import Passage


class NoExpertError(ValueError):
    """A passage cannot be added, because it has no expert and none can be made."""


class LiveExperts(ABC):
    """The experts of a session's passages.

    Attributes:
        backbone: The frozen model.
        source: Where `acting` takes the experts from.
        reads: Whether `prepare` does something.
    """

    backbone: Backbone
    source: Any
    reads: ClassVar[bool] = False

    @abstractmethod
    def acting(self, final: FinalFFN, source: Any, rows: int, k: int) -> ActingExperts:
        """Make what acts in the rows of a batch, K experts a row at most."""

    @abstractmethod
    def weights(self, experts: int) -> str:
        """How experts are weighted, if so many act at a time: "sum" or "router"."""

    def has(self, id: str) -> bool:
        """Whether a passage has an expert without being taught one; by default each has."""
        return True

    def learn(self, passages: Sequence[Passage]) -> list[Entry]:
        """Make what new passages need before they are there; by default nothing.

        Raises:
            NoExpertError: If a passage has no expert and none can be made. Then none is made.
        """
        return [Entry(passage) for passage in passages]

    def prepare(self, ids: Sequence[str]) -> None:
        """Make now what is else made when a passage is first routed to; by default nothing."""
        return

    @abstractmethod
    def forget(self, ids: Iterable[str]) -> None:
        """Take away what was made of passages that are no longer there."""

    def keep(self, ids: Collection[str]) -> None:
        """Take away what was made of any other passage; by default nothing stays of one.

        A process that was killed between two steps of a change may have left something.
        """
        return

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What they are made of, as plain values, for the session's folder."""

    def save(self, folder: Path, passages: Sequence[Passage]) -> None:
        """Write into a session's folder what the passages alone do not give; by default nothing."""
        return


class GeneratedExperts(LiveExperts):
    """Experts that a hypernetwork generates: adding a passage is one forward pass.

    A passage is read by itself, so that its code is the same whatever else is there. The passages
    of a folder that is opened again are read when they are first routed to.

    Args:
        genpoe: The hypernetwork, whose experts stand beside the final FFN.
        checkpoint: The file that it came from.
        passages: The passages of the session.
        keep: The most passages whose codes stay in memory.

    Raises:
        SettingValueError: If its experts stand elsewhere.
    """

    reads = True

    def __init__(
        self, genpoe: GenPoE, checkpoint: str | Path, passages: PassageSet, keep: int = 4096
    ) -> None:
        self.source = CodesOnDemand(genpoe, passages, keep, at_once=1)
        self.backbone = genpoe.backbone
        self._kind = GeneratedKind(genpoe, self.source)
        self._checkpoint = Path(checkpoint).absolute()
        self._sha256 = sha256_of(self._checkpoint)

    def acting(self, final: FinalFFN, source: Any, rows: int, k: int) -> ActingExperts:
        """Make what acts in the rows of a batch, K experts a row at most."""
        return self._kind.acting(final, source, rows, k)

    def weights(self, experts: int) -> str:
        """By the router's scores."""
        return self._kind.weights(None, experts)

    def prepare(self, ids: Sequence[str]) -> None:
        """Read passages."""
        for id in ids:
            self.source.get([id])

    def forget(self, ids: Iterable[str]) -> None:
        """Drop the codes of passages."""
        self.source.forget(ids)

    def described(self) -> dict[str, Any]:
        """The checkpoint, and the hash of the file."""
        path = self._checkpoint
        return {"experts": "generated", "checkpoint": str(path), "sha256": self._sha256}
