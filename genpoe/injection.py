"""Placing generated experts beside the frozen FFN of one layer (GenPoE eq. 3 and 6).

Shapes: N rows (questions), B expert sets, K experts a set, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from backbone.model import Backbone
from genpoe.experts import Experts, mix_experts


@dataclass(frozen=True)
class Injected:
    """What stands beside the FFN: B sets of K experts, their weights, and who uses which."""

    experts: Experts
    relevance_BK: Tensor
    rows_N: Tensor | None = None


class ExpertLayer:
    """The passage-level MoE layer: ``FFN(x) + sum_k r_k E_k(x)`` at one layer (GenPoE eq. 6).

    The experts enter by a forward hook on the layer's FFN, so that no weight of the backbone is
    touched: removing them leaves it bit-identical, and Hugging Face's ``generate()`` with its KV
    cache works unchanged. The mixing parameter lambda of eq. 3 is 1 at ``layer``, 0 elsewhere.

    Args:
        backbone: The frozen model.
        layer: Index of the decoder layer, from 0.

    Raises:
        ValueError: If ``layer`` is out of range.
    """

    def __init__(self, backbone: Backbone, layer: int) -> None:
        self.ffn: nn.Module = backbone.ffn(layer)
        self._handle: RemovableHandle | None = None
        self.layer = layer

    @property
    def active(self) -> bool:
        """Whether experts are injected now."""
        return self._handle is not None

    def inject(self, experts: Experts, relevance_BK: Tensor, rows_N: Tensor | None = None) -> None:
        """Add experts to the layer until `remove`; those injected before leave.

        Args:
            experts: B sets of K experts.
            relevance_BK: Weight of each expert (eq. 9).
            rows_N: Which set each row of a batch uses; None: consecutive rows share a set evenly
                (``generate()`` with several beams or returned sequences repeats rows that way).
        """
        self.remove()
        injected = Injected(experts, relevance_BK, rows_N)

        def add_experts(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor:
            hidden = args[0] if args else kwargs["hidden_states"]
            return output + mix_experts(
                hidden, injected.experts, injected.relevance_BK, injected.rows_N
            )

        self._handle = self.ffn.register_forward_hook(add_experts, with_kwargs=True)

    def remove(self) -> None:
        """Take the experts out; without experts nothing happens."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @contextmanager
    def injected(
        self, experts: Experts, relevance_BK: Tensor, rows_N: Tensor | None = None
    ) -> Iterator[None]:
        """`inject` for the duration of a ``with`` block, whatever happens inside."""
        self.inject(experts, relevance_BK, rows_N)
        try:
            yield
        finally:
            self.remove()
