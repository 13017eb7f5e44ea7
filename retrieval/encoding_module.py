"""Encoding by Lightning's predict loop: a batch is one shard, and every process stores its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning
from torch.utils.data import DataLoader, Dataset

from retrieval.encoding import EncodingJob, log
from retrieval.passage import Passage
from retrieval.shard import store_shard


class EncodingModule(lightning.LightningModule):
    """Encodes shards on whichever devices the Trainer has; of P processes, each takes every P-th.

    Args:
        job: What is to be encoded. The encoder is made in each process, on its device.
        numbers: Of the shards.
        folder: Where shards are stored.
    """

    def __init__(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        super().__init__()
        self._job, self._numbers, self._folder = job, list(numbers), folder

    def setup(self, stage: str) -> None:
        """Make the encoder."""
        self._encoder = self._job.load(str(self.trainer.strategy.root_device))

    def predict_dataloader(self) -> DataLoader[tuple[int, list[Passage]]]:
        """The shards of this process."""
        numbers = self._numbers[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(_Shards(self._job, numbers), batch_size=None)

    def predict_step(self, batch: tuple[int, list[Passage]]) -> None:
        """Encode a shard and store it."""
        number, passages = batch
        store_shard(self._folder, number, self._encoder.encode(passages))
        log.info("encoded shard %d of %d", number + 1, self._job.shards)


class _Shards(Dataset[tuple[int, list[Passage]]]):
    def __init__(self, job: EncodingJob, numbers: Sequence[int]) -> None:
        self._job, self._numbers = job, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> tuple[int, list[Passage]]:
        return self._numbers[place], self._job.passages(self._numbers[place])
