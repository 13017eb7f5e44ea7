"""Encoding with Lightning's predict loop. A batch is one shard; each process stores its shards."""

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
    """Encodes shards on the Trainer's devices. With P processes, each takes every P-th shard.

    Args:
        job: The passages and their encoder. Each process loads the encoder on its own device.
        numbers: The numbers of the shards to encode.
        folder: The folder that the shards are stored in.
    """

    def __init__(self, job: EncodingJob, numbers: Sequence[int], folder: Path) -> None:
        super().__init__()
        self._job, self._numbers, self._folder = job, list(numbers), folder
        self._rounding = job.load().rounding

    def setup(self, stage: str) -> None:
        """Load the encoder.

        Raises:
            ValueError: If its rounding differs (`retrieval.dense.encoding.check_rounding`).
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
