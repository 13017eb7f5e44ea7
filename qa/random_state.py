"""The state of the random number generators as part of a checkpoint: Lightning saves none.

Restored when training starts, after everything that draws numbers while it is set up.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed

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
