"""Asks a writer, and keeps its answers, so that nothing is asked twice.

Every answer goes into a cache at once. Its key holds everything that decides the answer: the model,
the messages with the passage, and the attempt. So a run that was stopped goes on where it was, and
improved parsing can read the old answers again. Refusals of the writer are not kept, so that a run
with another limit asks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plumbing.storage.log import EntryLog, cache_key
from qa.writing.writer import RefusedError, Writer, WriterError, WritingRequest


class Asker:
    """A writer with a cache of its answers.

    Args:
        writer: The language model.
        cache_dir: The folder of the cached answers. One file serves all writers and prompts.
    """

    def __init__(self, writer: Writer, cache_dir: str | Path) -> None:
        self._writer = writer
        self._cache = EntryLog(Path(cache_dir).expanduser() / "answers.log")
        self._refused: dict[str, RefusedError] = {}

    def forget_refusals(self) -> None:
        """Let requests be made again that were refused."""
        self._refused = {}

    def ask(
        self, about: Sequence[str], requests: Sequence[Sequence[WritingRequest]]
    ) -> list[list[str | WriterError]]:
        """Get the answers to requests about some passages from the cache or from the writer.

        Requests that were refused before are not made again.

        Args:
            about: The id of each passage, for messages.
            requests: The requests about each passage.

        Returns:
            For each passage an answer or a refusal for each request.

        Raises:
            WriterError: If the writer cannot answer at all; the message names a passage.
        """
        wanted = {
            self._key(request): _Wanted(request, id)
            for id, each in zip(about, requests, strict=True)
            for request in each
        }
        known: dict[str, str | WriterError] = {
            key: self._refused[asked]
            for key, each in wanted.items()
            if (asked := self._key(each.request, attempt=0)) in self._refused
        }
        known |= self._read(wanted)
        known |= self._written({key: each for key, each in wanted.items() if key not in known})
        return [[known[self._key(request)] for request in each] for each in requests]

    def _read(self, wanted: Mapping[str, _Wanted]) -> dict[str, str]:
        """Read answers from the cache, also those that version 0.1 keeps under another key."""
        found = {key: values[0] for key, values in self._cache.read(wanted).items()}
        older = getattr(self._writer, "older_fingerprint", None)
        if older is None or len(found) == len(wanted):
            return found
        lacking = {key: each.request for key, each in wanted.items() if key not in found}
        keys = {self._key(request, fingerprint=older): key for key, request in lacking.items()}
        return found | {keys[old]: values[0] for old, values in self._cache.read(keys).items()}

    def _written(self, wanted: Mapping[str, _Wanted]) -> dict[str, str | WriterError]:
        """Let the writer answer requests, and put its answers into the cache.

        Returns:
            An answer or a refusal for each key.
        """
        written: dict[str, str | WriterError] = {}
        # Requests of a batch have similar lengths, so that little is padded. The longest come
        # first, so that memory runs out at the beginning or not at all.
        order = sorted(wanted, key=lambda key: -_length(wanted[key].request))
        for start in range(0, len(order), self._writer.batch_size):
            batch = order[start : start + self._writer.batch_size]
            replies = self._writer.write([wanted[key].request for key in batch])
            entries = dict(zip(batch, replies, strict=True))
            # Received answers are stored first, whatever happened to the other requests.
            self._cache.append((key, text) for key, text in entries.items() if type(text) is str)
            for key, reply in entries.items():
                if isinstance(reply, RefusedError):
                    self._refused[self._key(wanted[key].request, attempt=0)] = reply
                elif isinstance(reply, WriterError):
                    raise WriterError(f"passage {wanted[key].about!r}: {reply}") from reply
            written |= entries
        return written

    def _key(
        self,
        request: WritingRequest,
        attempt: int | None = None,
        fingerprint: str | None = None,
    ) -> str:
        return cache_key(
            "augmentation",
            self._writer.fingerprint if fingerprint is None else fingerprint,
            request.messages,
            request.opening,
            request.max_new_tokens,
            request.attempt if attempt is None else attempt,
        )


class _Wanted(NamedTuple):
    """A request, and the id of the passage that it is about."""

    request: WritingRequest
    about: str


def _length(request: WritingRequest) -> int:
    return sum(len(text) for _, text in request.messages)
