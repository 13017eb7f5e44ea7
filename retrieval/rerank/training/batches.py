"""Batches of lists for a reranker, and a place in them that survives a restart.

What is random depends on the seed, the epoch and the list alone: all ranks, and a run that is
resumed, agree on every batch without asking each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer

from plumbing.storage.jsonl import DataError
from plumbing.training.interval import log_every_epoch
from retrieval.passage import Passage, passage_text
from retrieval.rerank.cross_encoder import TokenizedPair
from retrieval.rerank.training.lists import RankedList, digest

Tokenize = Callable[[Sequence[tuple[str, str]]], list[TokenizedPair]]


@dataclass(frozen=True)
class ListBatch:
    """Tokenised candidates of several queries, one query's after the other's.

    Attributes:
        pairs: All of them; of each query its positives come first.
        sizes: How many each query has.
        num_positives: How many of them are positive.
        above: How many negatives the retriever ranks above every positive.
    """

    pairs: list[TokenizedPair]
    sizes: list[int]
    num_positives: list[int]
    above: list[int]


class TrainingBatches:
    """One positive and at most L negatives a query, in random order and drawn anew in each epoch.

    Queries that do not fill a last batch are left out of an epoch, others in each. It is no
    ``DataLoader``, so that Lightning neither replaces its order nor moves it.

    Args:
        lists: All lists of training.
        collate: Makes a batch of lists.
        batch_size: Queries of a step on one rank.
        negatives: L.
        seed: Of order and draws.
        position: Epoch and batch to begin with, asked at each iteration.
        rank: Which process this is.
        num_replicas: Of how many.

    Raises:
        ValueError: If a size is not positive, or there are fewer lists than processes.
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
                raise ValueError(f"{name} must be positive, got {value}; set batching.{name}")
        if len(lists) < num_replicas:
            raise ValueError(
                f"every process needs a question in each step, got {len(lists)} questions for "
                f"{num_replicas} processes; use more data or fewer trainer.devices"
            )
        self._lists, self._collate = lists, collate
        self._negatives, self._seed, self._position = negatives, seed, position
        self._rank, self._num_replicas = rank, num_replicas
        self._step = min(batch_size, len(lists) // num_replicas) * num_replicas

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._lists) // self._step

    def __iter__(self) -> Iterator[ListBatch]:
        # A generator: Lightning may ask for an iterator before it has restored its progress.
        epoch, start = self._position()
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._lists))
        for batch in range(start, len(self)):
            step = order[batch * self._step : (batch + 1) * self._step]
            yield self._collate(
                [self._draw(int(i), epoch) for i in step[self._rank :: self._num_replicas]]
            )

    def _draw(self, index: int, epoch: int) -> RankedList:
        """One positive and L negatives of a list."""
        one = self._lists[index]
        random = np.random.default_rng((self._seed, epoch, index))
        positive = one.positive_ids[random.integers(len(one.positive_ids))]
        chosen = random.permutation(len(one.negative_ids))[: self._negatives]
        return RankedList(one.query, (positive,), tuple(one.negative_ids[i] for i in chosen), 0)

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own: the trainer's progress says all. It makes Lightning trust us."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing, likewise."""


class ValidationBatches:
    """Lists with all their candidates, in their order.

    Args:
        lists: The lists of one rank.
        collate: Makes a batch of lists.
        batch_size: Lists of a batch.
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
    """Lists as tokenised batches, for training and validation.

    Args:
        corpus: The passages.
        train: Lists to train on.
        val: Lists to validate on, with all their candidates; may be empty.
        tokenize: The model's; see `CrossEncoder.tokenize`.
        batch_size: Queries of a step on one rank.
        negatives: L of eq. 8.
        seed: Of order and draws.

    Raises:
        ValueError: See `TrainingBatches`, once training begins.
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
        """Without lists held out there is no validation."""
        if not self.val:
            self._trainer().limit_val_batches = 0

    def train_dataloader(self) -> TrainingBatches:
        """Shuffled batches, beginning with the one after the last that was trained on."""
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
        """Every list held out, with all its candidates; the same batches every time."""
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
        """As it is: the model pads its parts, and moves these."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """All that the order of the batches depends on."""
        return {
            "batch_size": self.batch_size,
            "negatives": self.negatives,
            "seed": self.seed,
            "processes": self._trainer().world_size,
            "lists": digest(self.train)[:12],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other batches.

        Raises:
            DataError: Naming what is different.
        """
        now = self.state_dict()
        changed = [
            f"{key} was {state_dict.get(key)}, is {now[key]}"
            for key in now
            if state_dict.get(key) != now[key]
        ]
        if changed:
            raise DataError(
                f"the checkpoint's run had other batches: {'; '.join(changed)}; go on with the "
                "same data, retriever, mining, batching and trainer.devices"
            )

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module belongs to no trainer yet; use trainer.fit")
        return self.trainer


def next_batch(trainer: Trainer) -> tuple[int, int]:
    """Epoch and batch to train on next, by the steps that the trainer has done.

    Checkpoints are written between steps, so that a step counts for all the batches it accumulates.
    """
    batches, accumulated = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    epoch, step = divmod(trainer.global_step, -(-batches // accumulated))
    return epoch, step * accumulated
