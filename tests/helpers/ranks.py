"""What each process of a training ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback

from plumbing.storage.tensors import write_tensors


class KeepWeights(Callback):
    """Writes the hypernetwork of each process, as ``rank0`` and so on.

    Args:
        folder: The folder of the files.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Write the parameters of this process."""
        named = {n: p.detach().clone() for n, p in module.hypernet.named_parameters()}
        write_tensors(self._folder / f"rank{trainer.global_rank}", named)
