"""Doing a job with Lightning's predict loop. A batch is one piece; each process stores its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lightning
from torch.utils.data import DataLoader

from plumbing.engines.job import Job, check_rounding

log = logging.getLogger(__name__)


class PiecesModule(lightning.LightningModule):
    """Does pieces on the Trainer's devices. With P processes, each takes every P-th piece.

    Args:
        job: The job. Each process loads a worker on its own device.
        numbers: The numbers of the pieces to do.
    """

    def __init__(self, job: Job, numbers: Sequence[int]) -> None:
        super().__init__()
        self._job, self._numbers = job, list(numbers)
        self._rounding = job.load().rounding

    def setup(self, stage: str) -> None:
        """Load the worker.

        Raises:
            ValueError: If its rounding differs (`plumbing.engines.job.check_rounding`).
        """
        self._worker = self._job.load(str(self.trainer.strategy.root_device))
        check_rounding(self._worker.rounding, self._rounding)

    def predict_dataloader(self) -> DataLoader[int]:
        """The numbers of this process's pieces."""
        mine = self._numbers[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, number: int) -> int:
        """Do a piece, store it, and return its number."""
        self._job.store(number, self._worker.work(self._job.piece(number)))
        log.info("%s: %d of %d", self._job.doing, number + 1, self._job.pieces)
        return number
