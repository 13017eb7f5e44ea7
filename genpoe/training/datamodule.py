"""Grouped batches for meta-training, which go on at the right batch after a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbone.tokens import encode_prompt
from genpoe.training.examples import Examples
from genpoe.training.negatives import read_rankings
from genpoe.training.sampler import GroupedBatchSampler
from plumbing.batches import by_length, pad
from plumbing.mounts import SettingValueError
from plumbing.training.checkpoint import CheckpointError
from plumbing.training.interval import log_every_epoch
from qa.data.dataset import QADataset, check_disjoint, drop_overlap
from qa.prompts import build_prompt

log = logging.getLogger(__name__)

_Batch = TypeVar("_Batch")

_PASSAGES_AT_ONCE = 64  # passages in a batch of `passage_batches`


class BatchLoader(Generic[_Batch]):
    """Iterates over the batches of a sampler, beginning where the trainer stands.

    This is no subclass of ``DataLoader``, so that Lightning does not replace or advance the
    sampler: this project decides the order itself. Because the loader has a ``state_dict``,
    Lightning accepts it as resumable. The position itself is that of the trainer, which counts the
    batches that were trained on, and not those that workers have fetched ahead.

    Args:
        examples: The examples that batches are made of.
        sampler: Decides which examples form each batch.
        position: Returns the epoch and the batch to begin with. It is called at each iteration.
        num_workers: The number of processes that make batches. With 0 this process makes them.
    """

    def __init__(
        self,
        examples: Dataset[_Batch],
        sampler: GroupedBatchSampler,
        position: Callable[[], tuple[int, int]],
        num_workers: int = 0,
    ) -> None:
        self._sampler = sampler
        self._position = position
        self._loader: DataLoader[_Batch] = DataLoader(
            examples,
            batch_size=None,  # the sampler's items are whole batches
            sampler=sampler,
            num_workers=num_workers,
            # Without a generator of its own, each iteration would draw from PyTorch's global one,
            # and a resumed run would draw once more than a run that never stopped.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[_Batch]:
        # This is a generator because Lightning may ask for an iterator before it has restored its
        # progress.
        self._sampler.seek(*self._position())
        yield from self._loader

    def state_dict(self) -> dict[str, Any]:
        """The position of the trainer. It is saved for information only."""
        epoch, batch = self._position()
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, because the trainer restores its own progress."""


class QADataModule(LightningDataModule):
    """Batches of questions grouped by their gold passages, for training and validation.

    Args:
        dataset: The questions and passages.
        tokenizer: The backbone's tokenizer.
        passages_per_batch: The largest number of passages in one step on one rank.
        questions_per_passage: The largest number of questions that share a passage in one step.
        max_passage_tokens: Longer passages are cut to this many tokens.
        max_prompt_tokens: Questions are left out if prompt and answer together have more tokens.
        rag_fraction: The share of the training questions that are trained on a second time, with
            their passage in the prompt.
        gold_passages: The largest number of a question's gold passages that are injected together.
        negatives_path: A file of passages that a retriever found for the training questions, such
            as the ``rankings.jsonl`` of ``scripts/evaluate_retrieval.py``. Those without an answer
            are the first passages of others. None: all of these are passages of the same batch.
        negatives: The most passages of that file that each group of questions has in a batch.
        train_split: The split to train on.
        val_split: The split for the validation loss. With None there is no validation.
        train_limit: Train on a random sample of this many questions. None takes all.
        val_limit: Validate on a random sample of this many questions. None takes all.
        drop_overlap: If True, training questions are left out if their gold passage is one of
            validation. If False, such questions are an error.
        num_workers: The number of processes that make batches. With 0 this process makes them,
            which is rarely a bottleneck.
        seed: The seed of the samples and of the order.

    Raises:
        ValueError: If a number of tokens is not positive.
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
        gold_passages: int = 1,
        negatives_path: str | None = None,
        negatives: int = 1,
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
                raise SettingValueError(name, f"{name} must be positive, got {limit}")
        self.drop_overlap = drop_overlap
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.passages_per_batch = passages_per_batch
        self.questions_per_passage = questions_per_passage
        self.max_tokens = (max_passage_tokens, max_prompt_tokens)
        self.rag_fraction, self.gold_passages = rag_fraction, gold_passages
        self.negatives_path, self.negatives = negatives_path, negatives
        self.train_split, self.val_split = train_split, val_split
        self.train_limit, self.val_limit = train_limit, val_limit
        self.num_workers = num_workers
        self.seed = seed
        self._examples: dict[str, Examples] = {}

    def setup(self, stage: str) -> None:
        """Tokenise the questions, after checking that no gold passage is in both splits.

        Raises:
            DataError: If a split is missing or empty, if the splits share a gold passage, or if the
                training passages do not differ.
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
            self._prepare(self.train_split, self.train_limit).check_differences()
        if self.val_split is not None:
            self._prepare(self.val_split, self.val_limit)
        else:
            self._trainer().limit_val_batches = 0

    def train_dataloader(self) -> BatchLoader[dict[str, Any]]:
        """Shuffled batches, beginning after the last one that was trained on."""
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

    def val_dataloader(self) -> BatchLoader[dict[str, Any]]:
        """The batches of validation, which are the same every time.

        Raises:
            ValueError: If there is no split for validation.
        """
        if self.val_split is None:
            raise SettingValueError("val_split", "there is no split to validate on")
        trainer = self._trainer()
        sampler = self._sampler(self.val_split, False, trainer.world_size, trainer.global_rank)
        return self._loader(self.val_split, sampler, lambda: (0, 0))

    def sequences(self) -> dict[str, list[list[int]]]:
        """The tokens that the backbone reads in each split; ``examples`` of a batch are indices."""
        return {split: examples.sequences() for split, examples in self._examples.items()}

    def tokens(self) -> dict[str, tuple[list[tuple[list[int], list[int]]], list[list[int]]]]:
        """Each split's questions, as prompt and answer, and the passages.

        ``examples`` and ``passages`` of a batch are the indices of both.
        """
        return {
            split: (
                [
                    (prompt.tolist(), answer.tolist())
                    for prompt, answer in zip(examples.prompts, examples.answers, strict=True)
                ],
                [passage.tolist() for passage in examples.passages],
            )
            for split, examples in self._examples.items()
        }

    def taught(self) -> list[tuple[list[int], list[int]]]:
        """What a teacher reads of each training question: the prompt with its passages, the answer.

        ``examples`` of a batch are the indices.
        """
        examples = self._prepare(self.train_split, self.train_limit)
        prompts = (
            build_prompt(each.question, self.dataset.gold(each)[: self.gold_passages])
            for each in examples.asked
        )
        return [
            (encode_prompt(self.tokenizer, prompt), answer.tolist())
            for prompt, answer in zip(prompts, examples.answers, strict=True)
        ]

    def passage_batches(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A random sample of the training passages, which is the same on every rank.

        Args:
            n: The largest number of passages in the sample.

        Yields:
            The token ids and the attention mask of some passages, both ``[P, S]``.
        """
        examples = self._prepare(self.train_split, self.train_limit)
        random = np.random.default_rng((self.seed, 1))
        chosen = random.permutation(len(examples.passages))[:n]
        lengths = examples.passages.lengths[chosen].tolist()
        for part in by_length(lengths, max_rows=_PASSAGES_AT_ONCE):
            yield pad([examples.passages[index] for index in chosen[part]], examples.pad_token_id)

    def question_batches(self, n: int) -> Iterator[dict[str, Any]]:
        """The first batches of training, until they hold ``n`` questions.

        They are the same on every rank.
        """
        examples = self._prepare(self.train_split, self.train_limit)
        count = 0
        for spec in self._sampler(self.train_split, shuffle=True):
            yield examples[spec]
            count += spec.num_questions
            if count >= n:
                return

    def state_dict(self) -> dict[str, Any]:
        """The position of training, and everything that the order of the batches depends on."""
        if self.train_split not in self._examples:
            return {}
        epoch, batch = trained(self._trainer())
        return {"epoch": epoch, "batch": batch, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on within an epoch whose batches have changed since.

        Raises:
            CheckpointError: If the batches have changed; it names the settings that differ.
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
                "and the same settings of batching, on as many devices"
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
            trained_on = split == self.train_split
            rag = self.rag_fraction if trained_on else 0.0
            path = self.negatives_path if trained_on else None
            self._examples[split] = Examples(
                *(self.dataset, split, self.tokenizer, *self.max_tokens),
                *(limit, self.seed, rag, self.gold_passages),
                rankings=None if path is None else read_rankings(path),
                negatives=self.negatives,
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
    ) -> BatchLoader[dict[str, Any]]:
        return BatchLoader(self._examples[split], sampler, position, self.num_workers)

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module belongs to no trainer yet; use trainer.fit")
        return self.trainer


def trained(trainer: Trainer) -> tuple[int, int]:
    """The epoch and the index of the batch to train on next, by the trainer's own progress."""
    loop: Any = trainer.fit_loop
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    if epochs.started == epochs.processed:  # between epochs, the batches are those of the last one
        return epochs.processed, 0
    if batches.is_last_batch and batches.current.processed == batches.current.ready:
        return epochs.processed + 1, 0
    return epochs.processed, batches.current.processed
