"""Encoding by Lightning's predict loop: a batch is one shard, and every process stores its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning
from torch.utils.data import DataLoader

from retrieval.dense.encoding import EncodingJob, check_rounding
from retrieval.dense.shard import store_shard

log = logging.getLogger(__name__)


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
        self._rounding = job.load().rounding

    def setup(self, stage: str) -> None:
        """Make the encoder.

        Raises:
            ValueError: See `retrieval.dense.encoding.check_rounding`.
        """
        self._encoder = self._job.load(str(self.trainer.strategy.root_device))
        check_rounding(self._encoder.rounding, self._rounding)

    def predict_dataloader(self) -> DataLoader[int]:
        """The numbers of this process's shards."""
        mine = self._numbers[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, number: int) -> int:
        """Encode a shard, store it, and return its number."""
        store_shard(self._folder, number, self._encoder.encode(self._job.passages(number)))
        log.info("encoded shard %d of %d", number + 1, self._job.shards)
        return number
