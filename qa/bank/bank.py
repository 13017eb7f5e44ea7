"""The class that reads and changes a bank of any kind. The package says what is on disk.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar, Self

from backbone.model import Backbone
from plumbing.mounts import SettingValueError
from qa.bank.card import write_card
from qa.bank.errors import BankError, shown
from qa.bank.layout import Layout, Rows
from qa.bank.locks import publishing, writing
from qa.bank.manifest import COPY, MANIFEST, Manifest, publish
from qa.bank.places import ABSENT
from qa.bank.publish import publish_shards, write_rows
from qa.bank.records import SHA_BYTES, Records, encode_id, keys_of
from qa.bank.shard import FOLDER, write_shard
from qa.bank.spec import Spec, check_kind
from qa.bank.version import View, open_view
from retrieval.passage import Passage, text_digest

_BATCH = 4096  # how many passages are looked up at a time


class PassageBank:
    """Rows by passage id, all of one backbone and made in one way.

    What can be done without knowing what a row is, this class does for banks of every kind. A
    subclass also hands out what the rows stand for.

    An open bank is a snapshot. What it holds changes only when its own ``add``, ``remove`` or
    ``refresh`` is called. Any number of processes may read and write one folder at the same time.

    Args:
        view: The version to start from. Call ``open`` or ``create`` instead.
        read_only: Whether to refuse changes.
    """

    # The only kind of banks that the class can open; None: it can open all of them.
    KIND: ClassVar[str | None] = None

    def __init__(self, view: View, read_only: bool = False) -> None:
        self.view = view
        self.read_only = read_only

    @classmethod
    def open(
        cls, path: str | Path, backbone: Backbone | None = None, *, read_only: bool = False
    ) -> Self:
        """Open a bank.

        Args:
            path: The bank's folder.
            backbone: The model that the rows must belong to. None accepts any.
            read_only: Whether to refuse changes.

        Raises:
            BankError: If there is no bank, if its copies cannot make up for the damage, or if it
                is of another kind or belongs to another backbone.
        """
        bank = cls(open_view(Path(path)), read_only)
        if cls.KIND is not None:
            check_kind(bank.spec, cls.KIND, path)
        if backbone is not None:
            bank.check_backbone(backbone)
        return bank

    @classmethod
    def create(
        cls,
        path: str | Path,
        spec: Spec,
        exist_ok: bool = False,
        backbone: Backbone | None = None,
    ) -> Self:
        """Make an empty bank.

        Args:
            path: The bank's folder, which is made if it is missing.
            spec: What all rows of the bank will have in common.
            exist_ok: Whether to open a bank that is there already, if it has the same spec.
            backbone: The model of the spec. If it is given, a bank that is there may also name the
                model as version 0.1 did.

        Raises:
            BankError: If there is a bank already, or, with ``exist_ok``, one with another spec.
        """
        path = Path(path)
        (path / FOLDER).mkdir(parents=True, exist_ok=True)
        with writing(path), publishing(path):
            if not (path / MANIFEST).exists() and not (path / COPY).exists():
                publish(path, Manifest(spec))
                bank = cls(open_view(path))
                write_card(bank.view)
                return bank
        if not exist_ok:
            raise BankError(f"{path}: there is a bank already; open it, or choose another folder")
        bank = cls.open(path, backbone)
        bank.spec.check_same(spec, path, ("backbone_sha256",) if backbone is not None else ())
        return bank

    @property
    def path(self) -> Path:
        """The bank's folder."""
        return self.view.path

    @property
    def spec(self) -> Spec:
        """What all rows of the bank have in common."""
        return self.view.spec

    @property
    def layout(self) -> Layout:
        """How a row is laid out."""
        return self.spec.layout

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the rows, for use as the key of a cache."""
        return self.view.manifest.sha256

    def __len__(self) -> int:
        return len(self.view)

    def __contains__(self, id: object) -> bool:
        return id in self.view

    def __iter__(self) -> Iterator[str]:
        """Iterate over the passage ids, in the order of the shards."""
        return iter(self.view)

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield every passage id with the SHA-256 of the passage that its row was made of."""
        places = self.view.table.places
        for start in range(0, len(places), _BATCH):
            some = places[start : start + _BATCH]
            for place, sha256 in zip(some.tolist(), self.view.checksums(some)[0], strict=True):
                yield self.view.id(place), sha256.hex()

    def rows(self, ids: Sequence[str]) -> Rows:
        """Read N rows, and check each against its checksum.

        Raises:
            BankError: If a passage has no row; the message names it.
            DamagedError: If rows are damaged; it names each of them.
        """
        return self.view.sound_rows(self.view.places(ids))

    def missing(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Yield the passages that still need a row.

        These are the passages that have none, and those whose row was made of another text.
        """
        return (passage for passage, same in self.compared(passages) if not same)

    def check_passages(self, passages: Iterable[Passage]) -> None:
        """Check that each row was made of the text that its passage has now.

        Raises:
            BankError: If a row was made of another text; the message names its passage.
        """
        for passage, same in self.compared(passages):
            if same is False:
                raise BankError(
                    f"{self.path}: the {self.layout.NOUN} of passage {shown(passage.id)} was made "
                    f"of another text than the corpus has; make it again ({self.layout.MADE_BY}), "
                    "or give the corpus that the bank was built from"
                )

    def check_backbone(self, backbone: Backbone) -> None:
        """Check that the rows belong to a model.

        Raises:
            BankError: If they belong to another model.
        """
        identity, made_with = backbone.identity, self.spec.backbone_sha256
        if differing := identity.difference(made_with):
            raise BankError(
                f"{self.path}: expected {self.spec.kind} of {backbone.name} "
                f"({identity.fingerprint[:12]}), got a bank for {self.spec.backbone} "
                f"({made_with[:12]}); what differs: {differing}; use that model, or another bank"
            )

    def check_filled(self) -> None:
        """Check that the bank is not empty.

        Raises:
            BankError: If it holds no row.
        """
        if not len(self):
            raise BankError(
                f"{self.path}: expected {self.spec.kind}, got an empty bank; build it "
                f"({self.layout.MADE_BY}), or choose another bank"
            )

    def compared(self, passages: Iterable[Passage]) -> Iterator[tuple[Passage, bool | None]]:
        """Yield each passage, and whether its row was made of its text; None without a row."""
        view, stream = self.view, iter(passages)
        while some := list(islice(stream, _BATCH)):
            places = view.table.find(keys_of([passage.id for passage in some]))
            there = places != ABSENT
            made_of = iter(view.checksums(places[there])[0])
            for passage, is_there in zip(some, there.tolist(), strict=True):
                yield passage, next(made_of) == text_digest(passage) if is_there else None

    def refresh(self) -> None:
        """Take up what other writers have published in the meantime."""
        self.view = open_view(self.path, self.view)

    def add_rows(self, passages: Sequence[Passage], rows: Rows, replace: bool = False) -> None:
        """Add rows, either all of them or none.

        When the method returns, all of them are on the disk and survive a loss of power. Until
        then, no reader sees any of them.

        Args:
            passages: The N passages that the rows were made of.
            rows: The N rows.
            replace: Whether a passage may have a row already, which the new one replaces.

        Raises:
            BankError: If the number of rows is another one, or if a passage is given twice or has
                a row already. Then nothing is added.
        """
        self.check_writable()
        noun = self.layout.NOUN
        ids = [passage.id for passage in passages]
        _check_ids(ids)
        if len(rows) != len(ids):
            raise BankError(f"expected {len(ids)} {noun}s, one a passage, got {len(rows)}")
        keys = keys_of(ids)

        def check(view: View) -> None:
            taken = [] if replace else (view.table.find(keys) != ABSENT).nonzero()[0]
            if len(taken):
                raise BankError(
                    f"{self.path}: the {noun} of passage {shown(ids[taken[0]])} (and "
                    f"{len(taken) - 1} more) is there already; replace it (replace=True), or leave "
                    "it out"
                )

        made_of = list(map(text_digest, passages))
        self.view = publish_shards(
            self.view, lambda: write_rows(self.path, self.layout, ids, made_of, rows), check
        )

    def remove(self, ids: Sequence[str]) -> None:
        """Remove rows. Their bytes stay on the disk until the bank is compacted.

        Raises:
            BankError: If a passage has no row or is named twice. Then nothing is removed.
        """
        self.check_writable()
        _check_ids(ids)
        records = Records.of(ids, [bytes(SHA_BYTES)] * len(ids), [])
        self.view = publish_shards(
            self.view,
            lambda: [write_shard(self.path, self.layout, records, None)] if ids else [],
            lambda view: view.places(ids),
        )

    def check_writable(self) -> None:
        """Check that the bank may be changed.

        Raises:
            BankError: If it was opened for reading only.
        """
        if self.read_only:
            raise BankError(
                f"{self.path}: the bank is open for reading only; change a copy of it "
                "(scripts/bank.py export)"
            )


def check_folder(path: object) -> None:
    """Check that a path can be the folder of a bank, before anything is loaded.

    Raises:
        ValueError: If it is none; the message names the setting ``dir``.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise SettingValueError("dir", f"dir must be the path of a folder, got {path!r}")
    folder = Path(path).absolute()
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if not there.is_dir():
        raise SettingValueError("dir", f"dir must be a folder, got {path} ({there} is a file)")


def _check_ids(ids: Sequence[str]) -> None:
    if isinstance(ids, str):
        raise BankError(f"expected a list of passage ids, got the string {shown(ids)}")
    seen: set[bytes] = set()
    for id in ids:
        encoded = encode_id(id)
        if encoded in seen:
            raise BankError(f"passage {shown(id)} comes twice; give each passage once")
        seen.add(encoded)
