"""Place generated experts beside the frozen FFN of one layer (GenPoE eq. 3 and 6).

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
    """What stands beside the FFN: B sets of K experts, their weights, and each row's set."""

    experts: Experts
    relevance_BK: Tensor
    rows_N: Tensor | None = None


class ExpertLayer:
    """The passage-level MoE layer: ``FFN(x) + sum_k r_k E_k(x)`` at one layer (GenPoE eq. 6).

    A forward hook on the layer's FFN adds the experts, so no weight of the backbone is changed.
    After their removal the backbone is bit-identical, and Hugging Face's ``generate()`` with its KV
    cache works as usual. The mixing parameter lambda of eq. 3 is 1 at ``layer`` and 0 elsewhere.

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
        """True while experts are injected."""
        return self._handle is not None

    def inject(self, experts: Experts, relevance_BK: Tensor, rows_N: Tensor | None = None) -> None:
        """Add experts to the layer until `remove`; they replace those injected before.

        Args:
            experts: B sets of K experts.
            relevance_BK: Weight of each expert (eq. 9).
            rows_N: The index of the set that each row of a batch uses. None: each set serves the
                same number of consecutive rows; ``generate()`` repeats rows that way for several
                beams or returned sequences.
        """
        self.remove()
        injected = Injected(experts, relevance_BK, rows_N)

        def add_experts(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            term = mix_experts(hidden, injected.experts, injected.relevance_BK, injected.rows_N)
            if isinstance(output, tuple):  # some sparse blocks return their router's scores as well
                return (output[0] + term, *output[1:])
            return output + term

        self._handle = self.ffn.register_forward_hook(add_experts, with_kwargs=True)

    def remove(self) -> None:
        """Take the experts out. Without experts, nothing happens."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @contextmanager
    def injected(
        self, experts: Experts, relevance_BK: Tensor, rows_N: Tensor | None = None
    ) -> Iterator[None]:
        """`inject` for the duration of a ``with`` block, also if an error ends it."""
        self.inject(experts, relevance_BK, rows_N)
        try:
            yield
        finally:
            self.remove()
