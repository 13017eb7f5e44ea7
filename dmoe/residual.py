"""The residual stream behind the final layer's attention, kept while the model runs.

It is all that a token needs to be decoded again under other experts: `FinalFFN.hidden` goes on
from it, and the KV cache is neither read nor written (DMoE eq. 10).

Shapes: B rows, P positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dmoe.final_ffn import FinalFFN


@dataclass
class Residual:
    """What `keep_residual` kept: ``[B, P, D]``, of the last forward pass."""

    hidden_BPD: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def keep_residual(final: FinalFFN, positions: int = 1) -> Iterator[Residual]:
    """Keep the residual stream at the last positions of a forward pass inside the block.

    Args:
        final: The final FFN of the model that runs.
        positions: P; at a decoding step it is one vector a row.
    """
    kept = Residual()

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        kept.hidden_BPD = args[0][:, -positions:].clone()  # a view would hold the whole prompt's

    handle = (final.ffn if final.pre is None else final.pre).register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
