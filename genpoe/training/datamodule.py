"""Grouped batches for meta-training, and a place in them that survives a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from genpoe.training.collate import pad
from genpoe.training.examples import Examples
from genpoe.training.sampler import GroupedBatchSampler
from plumbing.training.checkpoint import CheckpointError
from plumbing.training.interval import log_every_epoch
from qa.data.dataset import QADataset, check_disjoint, drop_overlap

log = logging.getLogger(__name__)

_PASSAGES_AT_ONCE = 64  # in `passage_batches`


class BatchLoader:
    """Iterates over a sampler's batches, beginning where the trainer stands.

    It is no ``DataLoader`` itself, so that Lightning neither replaces its sampler nor moves it: the
    order is this project's own. It counts as resumable for Lightning, which asks for a
    ``state_dict``, though all there is to know is the trainer's own progress: what was trained on,
    not what workers have fetched ahead.

    Args:
        examples: What the batches are made of.
        sampler: Which batches.
        position: Epoch and batch to begin with, asked at each iteration.
        num_workers: Processes that make batches; 0: this one.
    """

    def __init__(
        self,
        examples: Examples,
        sampler: GroupedBatchSampler,
        position: Callable[[], tuple[int, int]],
        num_workers: int = 0,
    ) -> None:
        self._sampler = sampler
        self._position = position
        self._loader: DataLoader[dict[str, Any]] = DataLoader(
            examples,
            batch_size=None,  # the sampler's items are whole batches
            sampler=sampler,
            num_workers=num_workers,
            # Its own: otherwise each iteration draws from PyTorch's, and a resumed run one more.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # A generator: Lightning may ask for an iterator before it has restored its progress.
        self._sampler.seek(*self._position())
        yield from self._loader

    def state_dict(self) -> dict[str, Any]:
        """Where the trainer stands; for the record."""
        epoch, batch = self._position()
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: the trainer's progress is restored by the trainer."""


class QADataModule(LightningDataModule):
    """Batches of questions grouped by their gold passages, for training and validation.

    Args:
        dataset: Questions and passages.
        tokenizer: The backbone's.
        passages_per_batch: Passages of a step on one rank, at most.
        questions_per_passage: Questions that share one in a step, at most.
        max_passage_tokens: Longer passages are cut.
        max_prompt_tokens: Questions whose prompt and answer together are longer are left out.
        rag_fraction: Of the training questions, those trained on a second time, with their passage
            in the prompt.
        train_split: Split to train on.
        val_split: Split for the validation loss; None: no validation.
        train_limit: Train on a seeded sample of so many questions; None: on all.
        val_limit: Likewise for validation.
        drop_overlap: Leave out training questions whose gold passage is one of validation, instead
            of an error.
        num_workers: Processes that make batches; 0: this one, which rarely is a bottleneck.
        seed: Of the samples and of the order.
    """

    def __init__(
        self,
        dataset: QADataset,
        tokenizer: Any,
        passages_per_batch: int = 16,
        questions_per_passage: int = 6,
        max_passage_tokens: int = 512,
        max_prompt_tokens: int = 256,
        rag_fraction: float = 0.0,
        train_split: str = "train",
        val_split: str | None = "dev",
        train_limit: int | None = None,
        val_limit: int | None = None,
        drop_overlap: bool = False,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        limits = {"max_passage_tokens": max_passage_tokens, "max_prompt_tokens": max_prompt_tokens}
        for name, limit in limits.items():
            if limit < 1:
                raise ValueError(f"{name} must be positive, got {limit}; set batching.{name}")
        self.drop_overlap = drop_overlap
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.passages_per_batch = passages_per_batch
        self.questions_per_passage = questions_per_passage
        self.max_tokens = (max_passage_tokens, max_prompt_tokens)
        self.rag_fraction = rag_fraction
        self.train_split, self.val_split = train_split, val_split
        self.train_limit, self.val_limit = train_limit, val_limit
        self.num_workers = num_workers
        self.seed = seed
        self._examples: dict[str, Examples] = {}

    def setup(self, stage: str) -> None:
        """Tokenise once, after checking that no passage is in both splits.

        Raises:
            DataError: If a split is missing or empty, or both share a gold passage.
        """
        say = rank_zero_only(log.info)
        if stage == "fit" and self.val_split is not None:
            if self.drop_overlap:
                self.dataset, dropped = drop_overlap(self.dataset, self.train_split, self.val_split)
                say(
                    "%d questions of %s are left out: their gold passages are those of %s.",
                    *(dropped, self.train_split, self.val_split),
                )
            check_disjoint(self.dataset, self.train_split, self.val_split)
            say(
                "No gold passage of %s is one of %s: this has been checked.",
                *(self.train_split, self.val_split),
            )
        if stage == "fit":
            self._prepare(self.train_split, self.train_limit)
        if self.val_split is not None:
            self._prepare(self.val_split, self.val_limit)
        else:
            self._trainer().limit_val_batches = 0

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches, beginning with the one after the last that was trained on."""
        trainer = self._trainer()
        sampler = self._sampler(self.train_split, True, trainer.world_size, trainer.global_rank)
        if sampler.num_dropped:
            rank_zero_warn(
                f"{sampler.num_dropped} groups of questions, others in each epoch, are left out so "
                f"that each of {trainer.world_size} processes has as many steps",
                category=UserWarning,
            )

        def position() -> tuple[int, int]:
            epoch, batch = trained(trainer)
            overfit = trainer.overfit_batches  # type: ignore[attr-defined]
            return (0 if overfit else epoch, batch)

        log_every_epoch(trainer, len(sampler))
        return self._loader(self.train_split, sampler, position)

    def val_dataloader(self) -> BatchLoader:
        """The same batches every time.

        Raises:
            ValueError: If there is no split for validation.
        """
        if self.val_split is None:
            raise ValueError("there is no split to validate on; set batching.val_split")
        trainer = self._trainer()
        sampler = self._sampler(self.val_split, False, trainer.world_size, trainer.global_rank)
        return self._loader(self.val_split, sampler, lambda: (0, 0))

    def sequences(self) -> dict[str, list[list[int]]]:
        """What the backbone reads in each split, in the order of a batch's ``examples``."""
        return {split: examples.sequences() for split, examples in self._examples.items()}

    def passage_batches(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A sample of the training passages, the same on every rank.

        Args:
            n: At most so many.

        Yields:
            Token ids and attention mask, both ``[P, S]``.
        """
        examples = self._prepare(self.train_split, self.train_limit)
        random = np.random.default_rng((self.seed, 1))
        chosen = random.permutation(len(examples.passages))[:n]
        chosen = chosen[np.argsort(examples.passages.lengths[chosen], kind="stable")]
        for first in range(0, len(chosen), _PASSAGES_AT_ONCE):
            part = chosen[first : first + _PASSAGES_AT_ONCE]
            yield pad([examples.passages[index] for index in part], examples.pad_token_id)

    def question_batches(self, n: int) -> Iterator[dict[str, Any]]:
        """The first batches of training until they hold ``n`` questions, the same on every rank."""
        examples = self._prepare(self.train_split, self.train_limit)
        count = 0
        for spec in self._sampler(self.train_split, shuffle=True):
            yield examples[spec]
            count += spec.num_questions
            if count >= n:
                return

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, and all that the order of its batches depends on."""
        if self.train_split not in self._examples:
            return {}
        epoch, batch = trained(self._trainer())
        return {"epoch": epoch, "batch": batch, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on within an epoch whose batches are others now.

        Raises:
            CheckpointError: Naming what is different.
        """
        if self._trainer().state.fn != TrainerFn.FITTING:
            return
        before, now = state_dict["order"], self._order()
        changed = [f"{k} was {before.get(k)}, is {now[k]}" for k in now if before.get(k) != now[k]]
        if not changed:
            return
        if state_dict["batch"]:
            raise CheckpointError(
                f"the checkpoint was written within an epoch (after batch {state_dict['batch']}) "
                f"whose batches are others now: {'; '.join(changed)}. Go on with the same data "
                "and the same settings of batching and trainer.devices"
            )
        rank_zero_warn(
            f"the batches are not those of the run that goes on: {'; '.join(changed)}",
            category=UserWarning,
        )

    def _order(self) -> dict[str, Any]:
        return {
            "passages_per_batch": self.passages_per_batch,
            "questions_per_passage": self.questions_per_passage,
            "seed": self.seed,
            "processes": self._trainer().world_size,
            "training examples": self._examples[self.train_split].digest[:12],
        }

    def _prepare(self, split: str, limit: int | None) -> Examples:
        if split not in self._examples:
            rag = self.rag_fraction if split == self.train_split else 0.0
            self._examples[split] = Examples(
                self.dataset, split, self.tokenizer, *self.max_tokens, limit, self.seed, rag
            )
        return self._examples[split]

    def _sampler(
        self, split: str, shuffle: bool, num_replicas: int = 1, rank: int = 0
    ) -> GroupedBatchSampler:
        examples = self._examples[split]
        return GroupedBatchSampler(
            examples.groups,
            examples.lengths,
            self.passages_per_batch,
            self.questions_per_passage,
            seed=self.seed,
            shuffle=shuffle,
            num_replicas=num_replicas,
            rank=rank,
        )

    def _loader(
        self, split: str, sampler: GroupedBatchSampler, position: Callable[[], tuple[int, int]]
    ) -> BatchLoader:
        return BatchLoader(self._examples[split], sampler, position, self.num_workers)

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module belongs to no trainer yet; use trainer.fit")
        return self.trainer


def trained(trainer: Trainer) -> tuple[int, int]:
    """Epoch and index of the batch to train on next, by the trainer's own progress."""
    loop: Any = trainer.fit_loop
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    if epochs.started == epochs.processed:  # between epochs: the batches still are the last one's
        return epochs.processed, 0
    if batches.is_last_batch and batches.current.processed == batches.current.ready:
        return epochs.processed + 1, 0
    return epochs.processed, batches.current.processed
