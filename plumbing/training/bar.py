"""Lightning's progress bar with the manners of `plumbing.progress`."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from plumbing.progress import SECONDS_BETWEEN_UPDATES, is_shown
from plumbing.settings import typed


class NamedProgressBar(TQDMProgressBar):
    """Says what is done, in which epoch of how many, and when the epoch will be over.

    It is written to stderr, a few times a second at most, and only where somebody watches.

    Args:
        name: What is done, as in "Training".
        refresh_rate: Batches between two updates, at least. 0: there is no bar.
    """

    @typed
    def __init__(self, name: str = "Training", refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._name, self._updated = name, 0.0

    @property
    def is_enabled(self) -> bool:
        """False where nobody watches, too."""
        return super().is_enabled and is_shown()

    @property
    def train_description(self) -> str:
        """The name of the bar before the first epoch."""
        return self._name

    @property
    def predict_description(self) -> str:
        """The name of the bar while predicting."""
        return self._name

    def init_sanity_tqdm(self) -> Tqdm:
        """The bar of the short validation before training."""
        return self._bar(self.sanity_check_description, 0, leave=False)

    def init_train_tqdm(self) -> Tqdm:
        """The bar of the epochs."""
        return self._bar(self.train_description, 0, leave=True)

    def init_predict_tqdm(self) -> Tqdm:
        """The bar of a prediction."""
        return self._bar(self.predict_description, 0, leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of a validation; while training it stands below that of the epoch."""
        below = self.trainer.state.fn != "validate"
        return self._bar(self.validation_description, int(below), leave=not below)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Begin the bar of an epoch, with its number."""
        super().on_train_epoch_start(trainer, *args)
        last = trainer.max_epochs
        of_all = f" of {last}" if last is not None and last > 0 else ""
        self.train_progress_bar.set_description(
            f"{self._name}, epoch {trainer.current_epoch + 1}{of_all}"
        )

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the name: Lightning would add the number of the data loader."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.predict_progress_bar.set_description(self._name)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the name here, too."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.val_progress_bar.set_description(
            self.sanity_check_description
            if trainer.sanity_checking
            else self.validation_description
        )

    def _should_update(self, current: int, total: int) -> bool:
        """Whether the bar is drawn again; always at the end, else only after some time."""
        now = time.monotonic()
        due = current == total or now - self._updated >= SECONDS_BETWEEN_UPDATES
        if not due or not super()._should_update(current, total):
            return False
        self._updated = now
        return True

    def _bar(self, description: str, offset: int, leave: bool) -> Tqdm:
        return Tqdm(
            desc=description,
            position=2 * self.process_position + offset,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )
