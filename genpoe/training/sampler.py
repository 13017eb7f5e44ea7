"""Batches of questions in groups that share a passage, and therefore one generated expert.

A batch holds each of its passages once. All random choices depend on the seed and the epoch alone.
Therefore all ranks, and a run that is resumed, agree on every batch without asking each other.

Deviation: the paper does not say how batches are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from plumbing.mounts import SettingValueError

_WINDOW = 50  # batches; chunks are sorted by length within this many, for little padding


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the questions of one passage."""

    passage: int
    questions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """One rank's share of one batch.

    Attributes:
        chunks: The passages of this rank, each with its questions.
        num_questions: The number of questions that all ranks together have in this step.
        num_replicas: The number of ranks.
    """

    chunks: tuple[Chunk, ...]
    num_questions: int
    num_replicas: int

    @property
    def loss_weight(self) -> float:
        """The factor of each question's loss, before a rank adds up the losses of its questions.

        DDP averages the gradients of the ranks. With the factor ``num_replicas / num_questions``,
        every question of the step has the same weight, whichever rank computed it.
        """
        return self.num_replicas / self.num_questions


class GroupedBatchSampler(Sampler[BatchSpec]):
    """Batches of ``passages_per_batch`` chunks of at most ``questions_per_passage`` questions.

    The questions of a passage are split into chunks of about equal size, and a batch never holds
    two chunks of one passage. Within windows of 50 batches, the chunks are sorted by length. Then
    the order of the batches is shuffled. The numbers of chunks of any two batches of an epoch
    differ by one at most, so that there is no small last batch. The number of batches is the same
    in every epoch. A step has ``passages_per_batch * num_replicas`` chunks, of which each rank
    takes every ``num_replicas``-th.

    Every chunk occurs once in each epoch, with one exception. If there are several ranks, the
    chunks may not suffice to give each rank at least one in every step. In that case `num_dropped`
    chunks are left out of each epoch, and they are different ones in each.

    Args:
        groups: The indices of the questions of each passage. A passage may have none.
        lengths: The length of each question in tokens.
        passages_per_batch: The largest number of passages in one batch on one rank.
        questions_per_passage: The largest number of questions of one passage in one batch.
        seed: The seed of the order.
        shuffle: If False, the order is the same in every epoch.
        num_replicas: The number of ranks that share each step.
        rank: The number of this rank.

    Raises:
        ValueError: If a size is not positive, or if fewer passages than ranks have questions.
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
                raise SettingValueError(name, f"{name} must be positive, got {size}")
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
        """The number of batches of a whole epoch, which is the same on every rank."""
        return self._num_batches

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Make the next iteration begin with a certain batch of a certain epoch.

        Raises:
            ValueError: If the epoch has no such batch. The end of an epoch counts as a batch.
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"expected a batch in 0..{len(self)}, got {batch} of epoch {epoch}")
        self._epoch, self._start = epoch, batch

    def __iter__(self) -> Iterator[BatchSpec]:
        """This rank's batches, beginning with the one that `seek` named."""
        # This is no generator, so that a later `seek` does not change an iteration that has begun.
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
    """The numbers of an epoch: chunks of one passage at most, chunks in all, and batches.

    A batch has at least ``num_replicas`` and at most ``batch_size`` chunks, all of different
    passages.
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
        f"passages with questions for {num_replicas} ranks; use more data or fewer devices"
    )


def _separate(batches: list[list[Chunk]]) -> bool:
    """Swap chunks with near batches until no batch holds two of one passage; False if it fails."""
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
    """The nearest batch without the passage, and a chunk in it whose passage is not in ``here``."""
    for there in sorted(range(len(batches)), key=lambda other: abs(other - here)):
        if passage not in held[there]:
            for place, chunk in enumerate(batches[there]):
                if chunk.passage not in held[here]:
                    return there, place
    return None


def _deal(chunks: list[Chunk], num_batches: int) -> list[list[Chunk]]:
    """Deal out the chunks passage by passage, which works if none has more chunks than batches."""
    ordered = sorted(chunks, key=lambda chunk: chunk.passage)
    return [ordered[first::num_batches] for first in range(num_batches)]
