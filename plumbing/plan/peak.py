"""The most bytes that a computation holds at a time, besides what was there before."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside a ``with`` block, while they live.

    It counts what PyTorch's operations return: results, what autograd keeps of them, and gradients.
    On the meta device nothing is computed and no memory is needed, and the numbers are the same.
    Weights and other tensors that exist already count nothing. Scratch memory inside an operation
    is not seen.

    >>> with PeakMemory() as memory:
    ...     _ = torch.zeros(1024, device="meta").exp().sum()
    >>> memory.peak
    8196

    Attributes:
        now: The bytes that live at this moment.
        peak: The most bytes that lived at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what it returns."""
        for value in tree_iter((args, kwargs)):
            if isinstance(value, torch.Tensor):
                self._note(value, counts=False)
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._note(value, counts=True)
        self.peak = max(self.peak, self.now)
        return result

    def _note(self, tensor: torch.Tensor, *, counts: bool) -> None:
        """Count the memory behind a tensor once, until the last tensor that shares it is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counts else 0

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
