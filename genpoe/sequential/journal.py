"""A journal of edits on disk, from which every earlier state comes back bit for bit.

    journal = Journal("journal", editor)
    first = journal.commit(facts)
    journal.rollback("start")

A commit holds the XOR of the bytes before and after of every weight that it changed, and what the
editor knew after it. So it can be applied and taken back, in this process or in another one that
has loaded the untouched model. A commit's folder appears whole, and only then the file that names
the present commit is exchanged. So a process that is killed leaves the state before or after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from backbone.edits import state_hash
from backbone.model import Backbone
from genpoe.editors.editor import EditReport
from genpoe.sequential.packing import hash_of, pack, unpack
from plumbing.storage.files import write_json
from plumbing.storage.folders import new_folder
from plumbing.storage.hashing import digest
from plumbing.storage.tensors import DamagedTensorsError, read_tensors, write_tensors

START = "start"  # the state before the first commit
_MAIN = "main"
_FORMAT = 1
_HEAD, _COMMIT, _CHANGES, _STATE = (
    *("journal.json", "commit.json"),
    *("changes.safetensors", "state.safetensors"),
)


class JournalError(ValueError):
    """A journal cannot be used, or has no such commit; the message says why."""


class Journaled(Protocol):
    """What a journal keeps the states of: an editor, or a bank of passages."""

    backbone: Backbone

    @property
    def batches(self) -> int:
        """How many batches of edits stand now."""
        ...

    @property
    def state(self) -> Any:
        """What it knows besides the weights; `genpoe.sequential.packing.pack` says of what kind."""
        ...

    def edit(self, facts: Sequence[Any]) -> EditReport:
        """Edit a batch of things that have an ``id``."""
        ...

    def undo(self, batches: int = 0) -> None:
        """Take back all batches but the first ones."""
        ...

    def redo(self, weights: Mapping[str, Tensor], state: Any) -> None:
        """Take up a batch by what it left behind."""
        ...

    def changed(self, batches: int = 0) -> dict[str, Tensor]:
        """What the parameters were, that have changed since so many batches stood."""
        ...


@dataclass(frozen=True)
class Commit:
    """One batch of edits in a journal.

    Attributes:
        id: Its id, a hash of its parent, its edits and the state after it.
        parent: The id of the commit before it, or "start".
        edits: The ids of the edits.
        parameters: The names of the weights that changed.
        weights: The `backbone.edits.state_hash` after it.
        state: A hash of the weights and of what the editor knew, after it.
        report: The `EditReport`, as plain values.
    """

    id: str
    parent: str
    edits: tuple[str, ...]
    parameters: tuple[str, ...]
    weights: str
    state: str
    report: dict[str, Any]


class Journal:
    """The states of one editor, or of one bank of passages.

    Opening a journal brings the editor to the journal's present commit.

    Args:
        folder: The journal's folder, which is made if it does not exist.
        editor: The editor, without any edits yet. From now on the journal alone edits with it.

    Raises:
        JournalError: If the editor has edits, if the journal is of other weights or is damaged, or
            if a commit does not bring back its state.
    """

    def __init__(self, folder: str | Path, editor: Journaled) -> None:
        self.folder, self.editor = Path(folder), editor
        if editor.batches:
            raise JournalError(
                f"{folder}: a journal begins before the first edit, but {editor.batches} batches "
                "stand; undo them, or open the journal first"
            )
        self._path: list[str] = []
        start = self.hashes()
        if not (self.folder / _HEAD).is_file():
            self._head: dict[str, Any] = {
                "format": _FORMAT,
                "start": start,
                "branch": _MAIN,
                "branches": {_MAIN: START},
            }
            self._write_head()
            return
        self._head = self._read(self.folder / _HEAD)
        if self._head.get("format") != _FORMAT or self._head["start"] != start:
            raise JournalError(
                f"{folder}: the journal begins with other weights or another editor than the ones "
                "given; load the model and the editor that it was made with, or give another folder"
            )
        self._move(self.head)

    @property
    def head(self) -> str:
        """The id of the present commit, or "start"."""
        return str(self._head["branches"][self._head["branch"]])

    @property
    def start(self) -> dict[str, str]:
        """The hashes ``weights`` and ``state`` before the first commit."""
        return dict(self._head["start"])

    def hashes(self) -> dict[str, str]:
        """The hashes ``weights`` and ``state`` as they are now, computed anew."""
        return {"weights": state_hash(self.editor.backbone), "state": hash_of_all(self.editor)}

    def commit(self, facts: Sequence[Any]) -> Commit:
        """Edit a batch, and keep it.

        Args:
            facts: What `Journaled.edit` takes; each has an ``id``.

        Raises:
            ValueError: If the edit cannot be made; nothing has changed then.
        """
        batches, parent = self.editor.batches, self.head
        report = self.editor.edit(facts)
        try:
            found = self._keep(parent, [str(fact.id) for fact in facts], batches, report)
        except BaseException:
            self.editor.undo(batches)
            raise
        self._path = [*self._path[:batches], found.id]
        self._set_head(found.id)
        return found

    def _keep(self, parent: str, edits: Sequence[str], batches: int, report: EditReport) -> Commit:
        weights, state = state_hash(self.editor.backbone), hash_of_all(self.editor)
        before = self.editor.changed(batches)
        now = dict(self.editor.backbone.model.named_parameters())
        changes = {name: _bytes(old) ^ _bytes(now[name]) for name, old in before.items()}
        id = digest([parent, list(edits), state])[:12]
        found = Commit(id, parent, tuple(edits), tuple(changes), weights, state, asdict(report))
        packed, tensors = pack(self.editor.state)
        with new_folder(self._commit_folder(id), replace=True) as new:
            write_tensors(new / _CHANGES, {name: each.cpu() for name, each in changes.items()})
            write_tensors(new / _STATE, tensors)
            write_json(new / _COMMIT, {**asdict(found), "packed": packed})
        return found

    def rollback(self, to: str = START) -> None:
        """Bring back the state of a commit of any branch; the present branch then ends there.

        Args:
            to: The id of the commit, the beginning of it, or "start".

        Raises:
            JournalError: If there is no such commit, or it does not bring back its state.
        """
        id = self._resolve(to)
        self._move(id)
        self._set_head(id)

    def branch(self, name: str) -> None:
        """Go to the end of a branch; if there is none of this name, it begins here.

        Raises:
            JournalError: If the state of the branch cannot be brought back.
        """
        if name in self._head["branches"]:
            self._move(self._head["branches"][name])
        branches = {name: self.head, **self._head["branches"]}
        self._head = {**self._head, "branch": name, "branches": branches}
        self._write_head()

    @property
    def branches(self) -> dict[str, str]:
        """The last commit of each branch."""
        return dict(self._head["branches"])

    def log(self) -> list[Commit]:
        """The commits from the first one to the present one."""
        return [self._commit(id) for id in self._chain(self.head)]

    def _chain(self, id: str) -> list[str]:
        found: list[str] = []
        while id != START:
            found.append(id)
            id = self._commit(id).parent
        return found[::-1]

    def _move(self, id: str) -> None:
        """Bring the editor to a commit, over the last one that both paths have."""
        wanted = self._chain(id)
        self._path = self._path[: self.editor.batches]
        both = sum(1 for _ in _common(self._path, wanted))
        self.editor.undo(both)
        self._path = self._path[:both]
        for each in wanted[both:]:
            self._redo(each)
            self._path.append(each)
        expected = self._commit(id).weights if wanted else self.start["weights"]
        if (got := state_hash(self.editor.backbone)) != expected:
            raise JournalError(
                f"{self.folder}: the weights of {id} should have the hash {expected[:12]}, got "
                f"{got[:12]}; something else changed the model, so load it anew"
            )

    def _redo(self, id: str) -> None:
        folder = self._commit_folder(id)
        now = dict(self.editor.backbone.model.named_parameters())
        try:
            changes, tensors = read_tensors(folder / _CHANGES), read_tensors(folder / _STATE)
        except (OSError, DamagedTensorsError) as error:
            raise JournalError(f"{folder}: the commit is damaged ({error})") from error
        packed = self._read(folder / _COMMIT)["packed"]
        new = {
            name: _from_bytes(_bytes(now[name]) ^ each.to(now[name].device), now[name])
            for name, each in changes.items()
        }
        self.editor.redo(new, unpack(packed, tensors, self.editor.backbone))

    def _commit(self, id: str) -> Commit:
        row = self._read(self._commit_folder(id) / _COMMIT)
        row.pop("packed")
        row |= {"edits": tuple(row["edits"]), "parameters": tuple(row["parameters"])}
        return Commit(**row)

    def _resolve(self, to: str) -> str:
        if to == START:
            return START
        folder = self.folder / "commits"
        ids = sorted(path.name for path in folder.glob(f"{to}*")) if to else []
        if len(ids) != 1:
            there = ", ".join([START, *(commit.id for commit in self.log())])
            raise JournalError(
                f"{self.folder}: expected the id of one commit, got {to!r}, which "
                f"{'several have' if ids else 'none has'}; the present branch has {there}"
            )
        return ids[0]

    def _commit_folder(self, id: str) -> Path:
        return self.folder / "commits" / id

    def _set_head(self, id: str) -> None:
        branches = {**self._head["branches"], self._head["branch"]: id}
        self._head = {**self._head, "branches": branches}
        self._write_head()

    def _write_head(self) -> None:
        write_json(self.folder / _HEAD, self._head)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JournalError(
                f"{path}: expected a file of a journal ({error}); the journal is damaged, so give "
                "another folder"
            ) from error
        return found


def hash_of_all(editor: Journaled) -> str:
    """A hash of every weight, and of what an editor knows besides."""
    return digest([state_hash(editor.backbone), hash_of(editor.state)])


def _common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    both: list[str] = []
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        both.append(a)
    return both


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _from_bytes(raw: Tensor, like: Tensor) -> Tensor:
    return raw.view(like.dtype).view(like.shape)
