"""Batches of whole groups of questions that share a passage, and so one generated expert.

Every batch holds each passage once. What is random depends on the seed and the epoch alone, so
that all ranks, and a run that is resumed, agree on every batch without asking each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

_WINDOW = 50  # batches among which chunks are sorted by length: little padding, random order


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the questions of one passage."""

    passage: int
    questions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """One rank's share of one batch.

    Attributes:
        chunks: Its passages, each with its questions.
        num_questions: How many questions all ranks together have in this step.
        num_replicas: How many ranks there are.
    """

    chunks: tuple[Chunk, ...]
    num_questions: int
    num_replicas: int

    @property
    def loss_weight(self) -> float:
        """What each question's loss is multiplied with before a rank sums its own.

        DDP averages the ranks' gradients, so with ``num_replicas / num_questions`` every question
        of the step weighs the same, wherever it was computed.
        """
        return self.num_replicas / self.num_questions


class GroupedBatchSampler(Sampler[BatchSpec]):
    """Batches of ``passages_per_batch`` chunks of at most ``questions_per_passage`` questions.

    A passage's questions are split into chunks of near-equal size; a batch never holds two chunks
    of one passage. Within windows of 50 batches the chunks are sorted by length, then the order of
    the batches is shuffled. All batches of an epoch hold the same number of chunks but for one, so
    that there is no small last batch; their number is the same in every epoch. Of a step's
    ``passages_per_batch * num_replicas`` chunks each rank takes every ``num_replicas``-th.

    Every chunk occurs once an epoch, unless there are several ranks and the chunks cannot be dealt
    so that each of them has at least one in every step: those left over, `num_dropped` of them,
    others in each epoch, are left out of it.

    Args:
        groups: The questions of each passage, by index; a passage may have none.
        lengths: The length of each question in tokens.
        passages_per_batch: Passages of one batch on one rank, at most.
        questions_per_passage: Questions of one passage in one batch, at most.
        seed: Of the order.
        shuffle: False: the same order in every epoch.
        num_replicas: How many ranks share each step.
        rank: Which of them this one is.

    Raises:
        ValueError: If a size is not positive, or fewer passages than ranks have questions.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        lengths: Sequence[int] | np.ndarray,
        passages_per_batch: int,
        questions_per_passage: int,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        sizes = {
            "passages_per_batch": passages_per_batch,
            "questions_per_passage": questions_per_passage,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be positive, got {size}; set batching.{name}")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be in 0..{num_replicas - 1}, got {rank}")
        self._groups = [np.asarray(group, dtype=np.int64) for group in groups]
        self._lengths = np.asarray(lengths, dtype=np.float64)
        self._questions_per_passage = questions_per_passage
        self._seed, self._shuffle = seed, shuffle
        self._num_replicas, self._rank = num_replicas, rank
        counts = np.array([-(-len(group) // questions_per_passage) for group in self._groups])
        self._cap, self._kept, self._num_batches = _plan(
            counts, passages_per_batch * num_replicas, num_replicas
        )
        self.num_dropped = int(counts.sum()) - self._kept
        self._epoch = 0
        self._start = 0

    def __len__(self) -> int:
        """How many batches a whole epoch has, on every rank."""
        return self._num_batches

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin with a certain batch of a certain epoch.

        Raises:
            ValueError: If the epoch has no such batch (its end counts as one).
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"expected a batch in 0..{len(self)}, got {batch} of epoch {epoch}")
        self._epoch, self._start = epoch, batch

    def __iter__(self) -> Iterator[BatchSpec]:
        """This rank's batches, from where `seek` said."""
        # Not a generator: what `seek` says later must not touch an iteration that has begun.
        return iter(self.batches(self._epoch)[self._start :])

    def batches(self, epoch: int) -> list[BatchSpec]:
        """This rank's batches of one epoch."""
        random = np.random.default_rng((self._seed, epoch if self._shuffle else 0))
        chunks = self._chunks(random)
        bounds = np.arange(len(self) + 1) * len(chunks) // len(self)
        order: list[Chunk] = []
        for first in range(0, len(self), _WINDOW):
            window = chunks[bounds[first] : bounds[min(first + _WINDOW, len(self))]]
            order += sorted(window, key=self._mean_length)
        batches = [order[a:b] for a, b in pairwise(bounds)]
        if not _separate(batches):
            batches = _deal(order, len(self))
        if self._shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return [self._share(batch) for batch in batches]

    def _chunks(self, random: np.random.Generator) -> list[Chunk]:
        chunks: list[Chunk] = []
        for passage, group in enumerate(self._groups):
            count = -(-len(group) // self._questions_per_passage)
            if not count:
                continue
            questions = random.permutation(group) if self._shuffle else group
            parts = np.array_split(questions, count)
            chunks += [Chunk(passage, tuple(part.tolist())) for part in parts[: self._cap]]
        if self._shuffle:
            chunks = [chunks[i] for i in random.permutation(len(chunks))]
        return chunks[: self._kept]

    def _mean_length(self, chunk: Chunk) -> float:
        return float(self._lengths[list(chunk.questions)].mean())

    def _share(self, batch: list[Chunk]) -> BatchSpec:
        return BatchSpec(
            tuple(batch[self._rank :: self._num_replicas]),
            sum(len(chunk.questions) for chunk in batch),
            self._num_replicas,
        )


def _plan(counts: np.ndarray, batch_size: int, num_replicas: int) -> tuple[int, int, int]:
    """How many chunks of one passage, how many in all, and how many batches an epoch has.

    A batch has at most ``batch_size`` chunks of as many passages, and at least ``num_replicas``.
    """
    for cap in range(int(counts.max(initial=0)), 0, -1):
        total = int(np.minimum(counts, cap).sum())
        batches = max(-(-total // batch_size), cap)
        if total // batches >= num_replicas:
            return cap, total, batches
        batches = total // num_replicas
        if batches >= cap:
            return cap, min(total, batches * batch_size), batches
    raise ValueError(
        f"every rank needs a passage of its own in each step, got {np.count_nonzero(counts)} "
        f"passages with questions for {num_replicas} ranks; use more data or fewer trainer.devices"
    )


def _separate(batches: list[list[Chunk]]) -> bool:
    """Swap chunks, as near as possible, until no batch holds two of a passage; False: failed."""
    held = [{chunk.passage for chunk in batch} for batch in batches]
    for here, batch in enumerate(batches):
        seen: set[int] = set()
        for place, chunk in enumerate(batch):
            if chunk.passage not in seen:
                seen.add(chunk.passage)
                continue
            found = _find_swap(batches, held, here, chunk.passage)
            if found is None:
                return False
            there, other = found
            batch[place], batches[there][other] = batches[there][other], chunk
            seen.add(batch[place].passage)
            for changed in (here, there):
                held[changed] = {chunk.passage for chunk in batches[changed]}
    return True


def _find_swap(
    batches: list[list[Chunk]], held: list[set[int]], here: int, passage: int
) -> tuple[int, int] | None:
    """The nearest batch without the passage, and a place in it whose passage is not ``here``."""
    for there in sorted(range(len(batches)), key=lambda other: abs(other - here)):
        if passage not in held[there]:
            for place, chunk in enumerate(batches[there]):
                if chunk.passage not in held[here]:
                    return there, place
    return None


def _deal(chunks: list[Chunk], num_batches: int) -> list[list[Chunk]]:
    """Deal passage by passage: no passage has more chunks than there are batches."""
    ordered = sorted(chunks, key=lambda chunk: chunk.passage)
    return [ordered[first::num_batches] for first in range(num_batches)]
