"""Exact resumption: when checkpoints are written, and the random state that they hold.

Training can be resumed exactly from each checkpoint, and the last checkpoint is the end of
training. Lightning does not save the state of the random number generators. Here it is saved with
each checkpoint. It is restored when training starts, because setting up draws numbers before that.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed


class ResumableCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, except for when it saves at the end of an epoch.

    After the last batch of an epoch, Lightning saves before it counts the epoch as over. The
    counters of a run that goes on from such a checkpoint stay wrong by one epoch, and the next
    resumption repeats batches. With ``every_n_train_steps``, moreover, Lightning saves nothing if
    training ends between two such steps.

    Here, the save after the last batch waits for the end of the epoch, and ``last.ckpt`` is always
    written there. If training stops within an epoch (``max_steps``, ``max_time``), ``last.ckpt`` is
    written after the last batch that was trained on. It is then not written once more when
    Lightning ends the incomplete epoch.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save at an interval of steps and when training stops, but not at the end of an epoch."""
        if _is_whole_epoch(trainer):
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save as the settings say, and write ``last.ckpt`` in any case."""
        if _is_whole_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def _is_whole_epoch(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


_KEY = "random_state"


class RandomState(Callback):
    """Saves the random number generators of every rank with a checkpoint, and restores them.

    The generators are those of Python, NumPy (the global one) and PyTorch (on the CPU and on each
    GPU). Their states are saved as tensors and numbers, so that a checkpoint can be loaded with
    ``weights_only=True``.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of every rank. Lightning calls this on all of them."""
        states: list[Any] = [get_random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            distributed.all_gather_object(states, get_random_state())
        checkpoint[_KEY] = states

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep this rank's state until training starts."""
        states = checkpoint.get(_KEY)
        if states is None or len(states) != trainer.world_size:
            there = "no state" if states is None else f"those of {len(states)} processes"
            rank_zero_warn(
                f"the checkpoint holds {there} of random number generators, expected those of "
                f"{trainer.world_size}; they go on as they were seeded",
                category=UserWarning,
            )
            return
        self._pending = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state of the checkpoint, if training goes on from one."""
        if self._pending is not None:
            set_random_state(self._pending)
            self._pending = None


def get_random_state() -> dict[str, Any]:
    """The state of this process's generators, in primitive values and tensors alone."""
    version, internal, gauss = random.getstate()
    # Libraries draw from the global generator. It is only read here.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": (version, torch.tensor(internal, dtype=torch.int64), gauss),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `get_random_state` returned, except for the states of GPUs that are not here."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda.cpu(), device)
