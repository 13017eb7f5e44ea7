"""Augmentation by a language model: asked, read, and asked again a bounded number of times.

Every answer goes into a cache at once, under all that made it (model, messages with the passage,
attempt): a run that was stopped goes on where it was, and a better reader of answers reads the old
ones again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dmoe.augmentation import Augmented, missing
from dmoe.augmentation_parse import MalformedAnswerError
from dmoe.augmentation_tasks import PAIRS, task_set
from dmoe.instances import Lesson
from dmoe.writer import Writer, WritingRequest
from retrieval.entry_log import EntryLog, cache_key
from retrieval.passage import Passage
from retrieval.settings import typed

log = logging.getLogger(__name__)


@dataclass
class _Draft:
    """A passage's augmentation as far as it has come."""

    passage: Passage
    pairs: list[tuple[str, str]] = field(default_factory=list)
    doubted: list[tuple[str, str]] = field(default_factory=list)
    rewrite: str | None = None
    why: str = ""  # there is no rewrite
    answers: int = 0

    def done(self) -> Augmented:
        pairs = (self.pairs + self.doubted)[:PAIRS]
        lesson = Lesson(self.passage, tuple(pairs), self.rewrite)
        doubted = max(0, len(pairs) - len(self.pairs))
        return Augmented(lesson, self.answers, doubted, missing(lesson, self.why))


class ModelAugmenter:
    """Asks a writer for a rewrite and for pairs, passage by passage.

    Args:
        writer: The language model.
        prompts: "paper" or "small"; see `dmoe.augmentation_tasks`.
        cache_dir: Folder of the answers; one file for all writers and prompts.
        max_attempts: How often each prompt is tried; the first answer is the most likely one. What
            is missing then is reported and left out. Pairs of several attempts are joined; those in
            doubt fill up what lacks.
        chunk: Passages that are worked on at a time.

    Raises:
        ValueError: If a number is not positive, or the prompts are unknown.
    """

    @typed("augmenter")
    def __init__(
        self,
        writer: Writer,
        prompts: str = "paper",
        cache_dir: str | Path = "augmentations",
        max_attempts: int = 3,
        chunk: int = 256,
    ) -> None:
        if max_attempts < 1 or chunk < 1:
            raise ValueError(
                f"max_attempts and chunk must be positive, got {max_attempts} and {chunk}; set "
                "augmenter.max_attempts and augmenter.chunk"
            )
        self._writer = writer
        self._tasks = task_set(prompts)
        self._cache = EntryLog(Path(cache_dir) / "answers.log")
        self._max_attempts = max_attempts
        self._chunk = chunk

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """See `Augmenter.augment`: one for every passage, in their order.

        Raises:
            ValueError: If the writer cannot answer at all; what it has answered is kept.
        """
        ids, done, start = iter(passages), 0, time.perf_counter()
        while some := [passages[id] for id in islice(ids, self._chunk)]:
            yield from self._augment(some)
            done += len(some)
            rate = 60 * done / (time.perf_counter() - start)
            log.info("%d of %d passages augmented, %.0f a minute", done, len(passages), rate)

    def _augment(self, passages: Sequence[Passage]) -> Iterator[Augmented]:
        drafts = [_Draft(passage) for passage in passages]
        for attempt in range(self._max_attempts):
            self._ask_pairs([draft for draft in drafts if len(draft.pairs) < PAIRS], attempt)
            self._ask_rewrites([draft for draft in drafts if draft.rewrite is None], attempt)
        for draft in drafts:
            yield draft.done()

    def _ask_pairs(self, drafts: Sequence[_Draft], attempt: int) -> None:
        """Ask once for the pairs that some drafts lack; those of several attempts are joined."""
        task = self._tasks.pairs
        found = []
        answers = self._answers([task.ask(draft.passage, attempt) for draft in drafts])
        for draft, texts in zip(drafts, answers, strict=True):
            draft.answers += len(texts)
            taken = {question for question, _ in draft.pairs + draft.doubted}
            pairs = task.read(draft.passage, attempt, texts) if texts else []
            found.append([pair for pair in pairs if pair[0] not in taken])
        asked = zip(drafts, found, strict=True)
        answers = self._answers([task.doubt(draft.passage, pairs) for draft, pairs in asked])
        for draft, pairs, texts in zip(drafts, found, answers, strict=True):
            draft.answers += len(texts)
            sure = task.confirm(pairs, texts)
            draft.pairs += sure
            draft.doubted += [pair for pair in pairs if pair not in sure]

    def _ask_rewrites(self, drafts: Sequence[_Draft], attempt: int) -> None:
        """Ask once for the rewrites that some drafts lack."""
        task = self._tasks.rewrite
        answers = self._answers([task.ask(draft.passage, attempt) for draft in drafts])
        for draft, texts in zip(drafts, answers, strict=True):
            draft.answers += len(texts)
            try:
                draft.rewrite = task.read(draft.passage, texts)
            except MalformedAnswerError as error:
                draft.why = str(error)

    def _answers(self, requests: Sequence[Sequence[WritingRequest]]) -> Iterator[list[str]]:
        """The answers to each draft's requests, from the cache or from the writer."""
        wanted = {self._key(request): request for each in requests for request in each}
        known = {key: values[0] for key, values in self._cache.read(wanted).items()}
        # Of near-equal length, so that little is padded; the longest first: memory fails at once.
        order = sorted(
            (key for key in wanted if key not in known), key=lambda key: -_length(wanted[key])
        )
        for start in range(0, len(order), self._writer.batch_size):
            batch = order[start : start + self._writer.batch_size]
            texts = self._writer.write([wanted[key] for key in batch])
            entries = dict(zip(batch, texts, strict=True))
            self._cache.append(entries.items())
            known |= entries
        for each in requests:
            yield [known[self._key(request)] for request in each]

    def _key(self, request: WritingRequest) -> str:
        return cache_key(
            "augmentation",
            self._writer.fingerprint,
            request.messages,
            request.opening,
            request.max_new_tokens,
            request.attempt,
        )


def _length(request: WritingRequest) -> int:
    return sum(len(text) for _, text in request.messages)
