"""Exact resumption: when checkpoints are written, and the random state that they hold.

Each checkpoint can be resumed exactly, and the last one is the end of training. Lightning saves no
state of the random number generators; here it is saved, and restored when training starts, after
everything that draws numbers while it is set up.
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


_KEY = "random_state"


class RandomState(Callback):
    """Saves the generators of every rank with a checkpoint, and restores them on resuming.

    The generators are Python's, NumPy's global one, PyTorch's on the CPU and on each GPU; their
    states are tensors and numbers, so that a checkpoint loads with ``weights_only=True``.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of every rank; Lightning calls this on all of them."""
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
        """Restore what the checkpoint held; nothing when training starts afresh."""
        if self._pending is not None:
            set_random_state(self._pending)
            self._pending = None


def get_random_state() -> dict[str, Any]:
    """The state of this process's generators, of primitives and tensors only."""
    version, internal, gauss = random.getstate()
    # The global generator is where libraries draw from; it is read here, not drawn from.
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
    """Restore what `get_random_state` returned; a GPU that is not here is left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda.cpu(), device)
