"""When checkpoints are written: each can be resumed exactly, and the last one is the end."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class ResumableCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, but for the end of an epoch.

    After an epoch's last batch Lightning saves before the epoch is counted as over; resumed from
    there, its counters stay one epoch off for good, and the next resumption repeats batches. And
    with ``every_n_train_steps`` it saves nothing where training ends between two such steps. Here
    the save after the last batch waits for the end of the epoch, where ``last.ckpt`` is always
    written. Where training stops within an epoch (``max_steps``, ``max_time``), it is written after
    the last batch that was trained on, and not again at the end of an epoch that was none.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every so many steps and where training stops, but not at the end of an epoch."""
        if _is_whole_epoch(trainer):
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the settings say, and ``last.ckpt`` in any case."""
        if _is_whole_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def _is_whole_epoch(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)
