"""Augmentation by a language model, which is asked a bounded number of times for each passage.

Every answer is kept by `qa.writing.asking`, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dmoe.augmentation.sources import Augmented, missing
from dmoe.augmentation.tasks import PAIRS, task_set
from dmoe.training.lessons import Lesson
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from plumbing.stopwatch import Stopwatch
from qa.writing.asking import Asker
from qa.writing.chatter import without_thinking
from qa.writing.parse import MalformedAnswerError
from qa.writing.writer import Writer, WriterError, WritingRequest
from retrieval.passage import Passage

log = logging.getLogger(__name__)

# If the writer refuses everything about this many passages, the fault does not lie with them.
_HOPELESS = 64  # passages


@dataclass
class _Draft:
    """The augmentation of a passage, as far as it has come."""

    passage: Passage
    pairs: list[tuple[str, str]] = field(default_factory=list)
    doubted: list[tuple[str, str]] = field(default_factory=list)
    rewrite: str | None = None
    no_pairs: str = ""  # why there are too few pairs
    no_rewrite: str = ""  # why there is no rewrite
    refusal: str = ""
    answers: int = 0

    def take(self, replies: Sequence[str | WriterError]) -> tuple[list[str], str]:
        """Count the answers among some replies.

        Returns:
            The answers, "" for a refused one, and the reason if they are empty or refused, else "".
        """
        refusals = [str(reply) for reply in replies if isinstance(reply, WriterError)]
        texts = ["" if isinstance(reply, WriterError) else reply for reply in replies]
        self.answers += len(texts) - len(refusals)
        if refusals:
            self.refusal = refusals[0]
            return texts, refusals[0]
        is_silent = bool(texts) and not any(text.strip() for text in texts)
        thinks = texts and not any(without_thinking(text, self.passage.text) for text in texts)
        if thinks and not is_silent:
            return texts, "the answer is thinking alone, which is cut off"
        return texts, "the answer is empty" if is_silent else ""

    def done(self) -> Augmented:
        pairs = (self.pairs + self.doubted)[:PAIRS]
        lesson = Lesson(self.passage, tuple(pairs), self.rewrite)
        doubted = max(0, len(pairs) - len(self.pairs))
        problems = missing(lesson, self.no_rewrite, self.no_pairs)
        return Augmented(lesson, self.answers, doubted, problems, self.refusal)


class ModelAugmenter:
    """Asks a writer for a rewrite and for pairs, passage by passage.

    Args:
        writer: The language model.
        prompts: "paper" or "small", the names of the tasks in `dmoe.augmentation.tasks`.
        cache_dir: The folder of the cached answers. One file serves all writers and prompts.
        max_attempts: How often each prompt is tried at most. The first attempt asks for the most
            likely answer. Pairs of several attempts are joined. If they are too few, pairs that the
            model did not confirm are added. What is still missing in the end is reported.
        chunk: How many passages are worked on at a time.

    Raises:
        ValueError: If a number is not positive, or the prompts are unknown.
    """

    @typed
    def __init__(
        self,
        writer: Writer,
        prompts: str = "paper",
        cache_dir: str | Path = "augmentations",
        max_attempts: int = 3,
        chunk: int = 256,
    ) -> None:
        for name, value in (("max_attempts", max_attempts), ("chunk", chunk)):
            if value < 1:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        self._tasks = task_set(prompts)
        self._asker = Asker(writer, cache_dir)
        self._max_attempts = max_attempts
        self._chunk = chunk

    def augment(self, passages: Mapping[str, Passage]) -> Iterator[Augmented]:
        """Augment every passage, in their order.

        Raises:
            WriterError: If the writer cannot answer at all, or refuses everything. Its answers so
                far are kept in the cache.
        """
        ids, done, watch = iter(passages), 0, Stopwatch()
        answers, refused = 0, 0
        while some := [passages[id] for id in islice(ids, self._chunk)]:
            found = self._augment(some)
            answers += sum(each.answers for each in found)
            refusals = _refusals(found)
            refused += len(refusals)
            if refusals and not answers and refused >= min(len(passages), _HOPELESS):
                raise WriterError(
                    f"expected answers, but all was refused that was asked about {refused} "
                    f"passages: {refusals[0]}; check the writer and its model"
                )
            yield from found
            done += len(some)
            rate = 60 * done / watch.seconds
            log.info("%d of %d passages augmented, %.0f a minute", done, len(passages), rate)

    def _augment(self, passages: Sequence[Passage]) -> list[Augmented]:
        self._asker.forget_refusals()
        drafts = [_Draft(passage) for passage in passages]
        for attempt in range(self._max_attempts):
            self._ask_pairs([draft for draft in drafts if len(draft.pairs) < PAIRS], attempt)
            self._ask_rewrites([draft for draft in drafts if draft.rewrite is None], attempt)
        return [draft.done() for draft in drafts]

    def _ask_pairs(self, drafts: Sequence[_Draft], attempt: int) -> None:
        """Ask once for the pairs that some drafts lack, and add them to those of other attempts."""
        task = self._tasks.pairs
        found = []
        answers = self._answers(drafts, [task.ask(draft.passage, attempt) for draft in drafts])
        for draft, (texts, why) in zip(drafts, answers, strict=True):
            draft.no_pairs = why
            taken = {question for question, _ in draft.pairs + draft.doubted}
            pairs = task.read(draft.passage, attempt, texts) if texts else []
            found.append([pair for pair in pairs if pair[0] not in taken])
        asked = zip(drafts, found, strict=True)
        doubts = [task.doubt(draft.passage, pairs) for draft, pairs in asked]
        for draft, pairs, (texts, _) in zip(
            drafts, found, self._answers(drafts, doubts), strict=True
        ):
            sure = task.confirm(pairs, texts)
            draft.pairs += sure
            draft.doubted += [pair for pair in pairs if pair not in sure]

    def _ask_rewrites(self, drafts: Sequence[_Draft], attempt: int) -> None:
        """Ask once for the rewrites that some drafts do not have yet."""
        task = self._tasks.rewrite
        answers = self._answers(drafts, [task.ask(draft.passage, attempt) for draft in drafts])
        for draft, (texts, why) in zip(drafts, answers, strict=True):
            try:
                draft.rewrite = task.read(draft.passage, texts)
            except MalformedAnswerError as error:
                draft.no_rewrite = why or str(error)

    def _answers(
        self, drafts: Sequence[_Draft], requests: Sequence[Sequence[WritingRequest]]
    ) -> Iterator[tuple[list[str], str]]:
        """Get the answers to each draft's requests from the cache or from the writer.

        Yields:
            What `_Draft.take` returns: the answers, and the reason if they are empty.

        Raises:
            WriterError: If the writer cannot answer at all; the message names a passage.
        """
        replies = self._asker.ask([draft.passage.id for draft in drafts], requests)
        for draft, each in zip(drafts, replies, strict=True):
            yield draft.take(each)


def _refusals(found: Sequence[Augmented]) -> list[str]:
    """List a reason for each passage about which a request was refused, and log the first."""
    refused = [each for each in found if each.refusal]
    if refused:
        log.warning(
            "the writer refused requests about %d of %d passages, such as %r: %s",
            *(len(refused), len(found), refused[0].lesson.passage.id, refused[0].refusal),
        )
    return [each.refusal for each in refused]
