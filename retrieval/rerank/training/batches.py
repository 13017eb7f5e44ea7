"""Batches of lists for a reranker. A run that is resumed continues with the right batch.

Every random choice depends only on the seed, the epoch and the list. All ranks, and a run that is
resumed, therefore agree on every batch without communication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer

from plumbing.mounts import SettingValueError
from plumbing.storage import hashing
from plumbing.storage.jsonl import DataError
from plumbing.training.interval import log_every_epoch
from retrieval.passage import Passage, passage_text
from retrieval.rerank.cross_encoder import TokenizedPair
from retrieval.rerank.training.lists import RankedList, digest

_LISTS_TO_HASH = 8  # lists whose tokens show that tokenizer, prompt and limits are the same

Tokenize = Callable[[Sequence[tuple[str, str]]], list[TokenizedPair]]


@dataclass(frozen=True)
class ListBatch:
    """The tokenised candidates of several queries, one query after the other.

    Attributes:
        pairs: All candidates; the positives of each query come before its negatives.
        sizes: The number of candidates of each query.
        num_positives: The number of positives of each query.
        above: The number of negatives of each query that the retriever ranks above every positive.
    """

    pairs: list[TokenizedPair]
    sizes: list[int]
    num_positives: list[int]
    above: list[int]


class TrainingBatches:
    """One positive and at most L negatives for each query, in random order.

    Each epoch draws them anew. Queries that do not fill the last batch are left out of the epoch;
    each epoch leaves out others. This class is not a ``DataLoader``, so that Lightning does not
    replace its order or its position.

    Args:
        lists: All lists of the training data.
        collate: Makes a batch from lists.
        batch_size: The number of queries in a step on one rank.
        negatives: L, the largest number of negatives of a query.
        seed: The seed of the order and of the draws.
        position: Returns the epoch and the batch to begin with; it is called at each iteration.
        rank: The number of this process.
        num_replicas: The number of processes.

    Raises:
        ValueError: If a size is not positive, or if there are fewer lists than processes.
    """

    def __init__(
        self,
        lists: Sequence[RankedList],
        collate: Callable[[Sequence[RankedList]], ListBatch],
        batch_size: int,
        negatives: int,
        seed: int,
        position: Callable[[], tuple[int, int]],
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("negatives", negatives)):
            if value < 1:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        if len(lists) < num_replicas:
            raise ValueError(
                f"every process needs a question in each step, got {len(lists)} questions for "
                f"{num_replicas} processes; use more data or fewer devices"
            )
        self._lists, self._collate = lists, collate
        self._negatives, self._seed, self._position = negatives, seed, position
        self._rank, self._num_replicas = rank, num_replicas
        self._step = min(batch_size, len(lists) // num_replicas) * num_replicas

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._lists) // self._step

    def __iter__(self) -> Iterator[ListBatch]:
        # This is a generator, because Lightning may create it before it restores its progress.
        epoch, start = self._position()
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._lists))
        for batch in range(start, len(self)):
            step = order[batch * self._step : (batch + 1) * self._step]
            yield self._collate(
                [self._draw(int(i), epoch) for i in step[self._rank :: self._num_replicas]]
            )

    def _draw(self, index: int, epoch: int) -> RankedList:
        """Draw one positive and at most L negatives of a list."""
        one = self._lists[index]
        random = np.random.default_rng((self._seed, epoch, index))
        positive = one.positive_ids[random.integers(len(one.positive_ids))]
        chosen = random.permutation(len(one.negative_ids))[: self._negatives]
        return RankedList(one.query, (positive,), tuple(one.negative_ids[i] for i in chosen), 0)

    def state_dict(self) -> dict[str, Any]:
        """An empty state, because the position follows from the trainer's progress.

        Lightning trusts a loader to resume only if it has this method.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, because there is no state to restore."""


class ValidationBatches:
    """Batches of lists with all their candidates, in the order of the lists.

    Args:
        lists: The lists of one rank.
        collate: Makes a batch from lists.
        batch_size: The number of lists in a batch.
    """

    def __init__(
        self,
        lists: Sequence[RankedList],
        collate: Callable[[Sequence[RankedList]], ListBatch],
        batch_size: int,
    ) -> None:
        self._lists, self._collate, self._batch_size = lists, collate, batch_size

    def __len__(self) -> int:
        return -(-len(self._lists) // self._batch_size)

    def __iter__(self) -> Iterator[ListBatch]:
        for first in range(0, len(self._lists), self._batch_size):
            yield self._collate(self._lists[first : first + self._batch_size])


class RerankerDataModule(LightningDataModule):
    """Turns lists into tokenised batches for training and validation.

    Args:
        corpus: The passages by id.
        train: The lists to train on.
        val: The lists to validate on, with all their candidates; there may be none.
        tokenize: The model's `CrossEncoder.tokenize`.
        batch_size: The number of queries in a step on one rank.
        negatives: L of eq. 8, the largest number of negatives of a query.
        seed: The seed of the order and of the draws.

    Raises:
        ValueError: When training begins, if a size is not positive or if there are too few lists.
    """

    def __init__(
        self,
        corpus: Mapping[str, Passage],
        train: Sequence[RankedList],
        val: Sequence[RankedList],
        tokenize: Tokenize,
        batch_size: int = 16,
        negatives: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.corpus, self.train, self.val = corpus, train, val
        self.tokenize = tokenize
        self.batch_size, self.negatives, self.seed = batch_size, negatives, seed

    def setup(self, stage: str) -> None:
        """Switch validation off if there are no lists to validate on."""
        if not self.val:
            self._trainer().limit_val_batches = 0

    def train_dataloader(self) -> TrainingBatches:
        """The shuffled batches, from the first one that was not trained on yet."""
        trainer = self._trainer()
        batches = TrainingBatches(
            self.train,
            self.collate,
            self.batch_size,
            self.negatives,
            self.seed,
            lambda: next_batch(trainer),
            trainer.global_rank,
            trainer.world_size,
        )
        log_every_epoch(trainer, len(batches))
        return batches

    def val_dataloader(self) -> ValidationBatches:
        """The batches of this rank's validation lists, with all their candidates."""
        trainer = self._trainer()
        share = self.val[trainer.global_rank :: trainer.world_size]
        return ValidationBatches(share, self.collate, self.batch_size)

    def collate(self, lists: Sequence[RankedList]) -> ListBatch:
        """Tokenise the candidates of some lists."""
        pairs = [
            (one.query, passage_text(self.corpus[id]))
            for one in lists
            for id in one.positive_ids + one.negative_ids
        ]
        return ListBatch(
            self.tokenize(pairs),
            [len(one.positive_ids) + len(one.negative_ids) for one in lists],
            [len(one.positive_ids) for one in lists],
            [one.above for one in lists],
        )

    def transfer_batch_to_device(
        self, batch: ListBatch, device: torch.device, dataloader_idx: int
    ) -> ListBatch:
        """Return the batch unchanged; the model pads its parts and moves them to the device."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Everything that the batches and their order depend on."""
        return {
            "batch_size": self.batch_size,
            "negatives": self.negatives,
            "seed": self.seed,
            "processes": self._trainer().world_size,
            "lists": digest(self.train)[:12],
            "tokens of the first lists": self._inputs,
        }

    @cached_property
    def _inputs(self) -> str:
        """A hash of the passages, and of what the model reads of the first lists."""
        pairs = self.collate(self.train[:_LISTS_TO_HASH]).pairs
        corpus = getattr(self.corpus, "sha256", None)
        return hashing.digest([corpus, *(pair.input_ids for pair in pairs)])[:12]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume a run with other batches.

        Raises:
            DataError: If anything differs; the message names it.
        """
        now = self.state_dict()
        changed = [
            f"{key} was {state_dict.get(key)}, is {now[key]}"
            for key in now
            if state_dict.get(key, now[key]) != now[key]  # earlier versions had fewer keys
        ]
        if changed:
            raise DataError(
                f"the checkpoint's run had other batches: {'; '.join(changed)}; go on with the "
                "same data, retriever, mining, cross_encoder, batching and trainer.devices"
            )

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module has no trainer yet; use trainer.fit")
        return self.trainer


def next_batch(trainer: Trainer) -> tuple[int, int]:
    """The epoch and the batch to train on next, computed from the steps that the trainer has done.

    Checkpoints are written between steps, so each step counts for all batches that it accumulates.
    """
    batches, accumulated = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    epoch, step = divmod(trainer.global_step, -(-batches // accumulated))
    return epoch, step * accumulated
