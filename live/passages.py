"""The passages of a session: by ids that their content decides, searched by BM25, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from live.journal import ChangeLog
from retrieval.bm25.in_memory import InMemoryBM25
from retrieval.passage import Passage, text_digest

ID_DIGITS = 32  # hexadecimal digits of SHA-256 in an id
_MOST_REMOVED = 64  # lines of removed passages that a small journal may have


def is_text(text: str) -> bool:
    """True if UTF-8 can express a string, so that tokenizers can read it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def content_id(title: str, text: str) -> str:
    """The id of a passage: a hash of its title and its text, 32 hexadecimal digits.

    Whoever adds the same passage gets the same id, and an id never names another text.
    """
    return text_digest(Passage("", title, text)).hex()[:ID_DIGITS]


def as_passage(given: Passage | tuple[str, str]) -> Passage:
    """A passage under its `content_id`.

    Args:
        given: A passage, whose own id does not count, or a pair of a title and a text.

    Raises:
        ValueError: If the text is blank, or holds what UTF-8 cannot express.
    """
    title, text = (given.title, given.text) if isinstance(given, Passage) else given
    if not text.strip():
        raise ValueError(f"the text of the passage {title!r} is empty; give its text")
    if not is_text(title + text):
        raise ValueError(
            f"the passage {title!r} holds half of a surrogate pair, which is no text; leave it out"
        )
    return Passage(content_id(title, text), title, text)


@dataclass(frozen=True)
class Entry:
    """A passage of a session.

    Attributes:
        passage: The passage.
        surrogate: What the router searches, if that is more than the passage (DMoE sec. 3.2.2).
    """

    passage: Passage
    surrogate: str | None = None

    @property
    def searched(self) -> Passage:
        """The passage as the router sees it."""
        passage = self.passage
        if self.surrogate is None:
            return passage
        return Passage(passage.id, passage.title, self.surrogate)


class PassageSet(Mapping[str, Passage]):
    """Passages by id, in the order in which they were added.

    Args:
        path: The journal, which is read; None: nothing is kept on disk.

    Attributes:
        index: BM25 over the passages as they are now.

    Raises:
        JournalError: If the journal is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self.index = InMemoryBM25()
        self._log = None if path is None else ChangeLog(path)
        if self._log is not None:
            for change in self._log.read():
                self._apply(change)
            self.index.add(entry.searched for entry in self._entries.values())

    def _apply(self, change: Mapping[str, Any]) -> None:
        if "remove" in change:
            self._entries.pop(change["remove"], None)  # somebody may have deleted a damaged line
        else:
            passage = Passage(change["add"], change["title"], change["text"])
            self._entries[passage.id] = Entry(passage, change.get("surrogate"))

    def __getitem__(self, id: str) -> Passage:
        return self._entries[id].passage

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All passages, with what the router searches."""
        return list(self._entries.values())

    def add(self, entries: Sequence[Entry]) -> None:
        """Add passages that are not there yet; when this returns, they are on the disk."""
        if self._log is not None:
            self._log.append([_added(entry) for entry in entries])
        for entry in entries:
            self._entries[entry.passage.id] = entry
        self.index.add(entry.searched for entry in entries)

    def remove(self, ids: Sequence[str]) -> None:
        """Remove passages that are there; when this returns, they will not come back.

        Their text leaves the disk when the journal is next written anew: once there are more
        changes to skip than passages, and whenever `tidy` is called.
        """
        if self._log is not None:
            self._log.append([{"remove": id} for id in ids])
        for id in ids:
            del self._entries[id]
        self.index.remove(ids)
        if self._log is not None:
            skipped = self._log.lines - len(self._entries)
            if skipped > 2 * max(_MOST_REMOVED, len(self._entries)):
                self.tidy()

    def tidy(self) -> None:
        """Write the journal anew, so that it holds the passages of now and no others."""
        if self._log is not None and self._log.lines > len(self._entries):
            self._log.rewrite(map(_added, self._entries.values()))

    def save(self, path: Path) -> None:
        """Write a journal of the passages of now to another file."""
        ChangeLog(path).rewrite(map(_added, self._entries.values()))

    def page(self, limit: int, after: str | None = None) -> tuple[list[Passage], str | None]:
        """Some passages in their order.

        Args:
            limit: The most passages.
            after: The id of the passage behind which they stand; None: from the first one.

        Returns:
            The passages, and the id to give as ``after`` for those behind them; None if there are
            none.

        Raises:
            KeyError: If there is no passage with the id ``after``.
        """
        there = self.entries()  # as of now: another thread may change them meanwhile
        ids = [entry.passage.id for entry in there]
        if after is not None and after not in ids:
            raise KeyError(after)
        start = 0 if after is None else ids.index(after) + 1
        chosen = [entry.passage for entry in there[start : start + limit]]
        following = chosen[-1].id if chosen and start + limit < len(ids) else None
        return chosen, following


def _added(entry: Entry) -> dict[str, Any]:
    passage = entry.passage
    change = {"add": passage.id, "title": passage.title, "text": passage.text}
    return change if entry.surrogate is None else {**change, "surrogate": entry.surrogate}
