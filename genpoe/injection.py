"""Place generated experts beside the frozen FFN of one layer (GenPoE eq. 3 and 6).

Shapes: N rows (questions), B expert sets, K experts a set, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from backbone.model import Backbone
from genpoe.experts import Around, GeneratedExperts, Looked, Site
from genpoe.watch import Watch


class ExpertLayer:
    """The passage-level MoE layer: ``FFN(x) + sum_k r_k E_k(x)`` at one layer (GenPoE eq. 6).

    A forward hook on the layer's FFN adds the experts, so no weight of the backbone is changed.
    After their removal the backbone is bit-identical, and Hugging Face's ``generate()`` with its KV
    cache works as usual. The mixing parameter lambda of eq. 3 is 1 at ``layer`` and 0 elsewhere.

    Args:
        backbone: The frozen model.
        layer: Index of the decoder layer, from 0.

    Attributes:
        looked: Where the experts looked in the last forward pass, if they have units of their own.

    Raises:
        ValueError: If ``layer`` is out of range.
    """

    def __init__(self, backbone: Backbone, layer: int) -> None:
        self.backbone = backbone
        self.ffn: nn.Module = backbone.ffn(layer)
        self._handle: RemovableHandle | None = None
        self._watch: Watch | None = None
        self.layer = layer
        self.looked: Looked | None = None

    @property
    def active(self) -> bool:
        """True while experts are injected."""
        return self._handle is not None

    def inject(
        self,
        experts: GeneratedExperts,
        relevance_BK: Tensor,
        rows_N: Tensor | None = None,
        around: Around | None = None,
    ) -> None:
        """Add experts to the layer until `remove`; they replace those injected before.

        Args:
            experts: B sets of K experts.
            relevance_BK: Weight of each expert (eq. 9).
            rows_N: The index of the set that each row of a batch uses. None: each set serves the
                same number of consecutive rows; ``generate()`` repeats rows that way for several
                beams or returned sequences.
            around: What the experts see besides the FFN, if the caller knows it. None: what they
                look at is noted while the backbone reads.
        """
        self.remove()
        watch = Watch(self.backbone, experts.looks, around) if experts.looks else None

        def add_experts(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            plain = output[0] if isinstance(output, tuple) else output
            site = Site(hidden, plain)
            if watch is not None:
                site = Site(hidden, plain, watch.stream(), watch.around())
            mixed = experts.mix(site, relevance_BK, rows_N)
            self.looked = mixed.looked
            total = plain + mixed.added_NTD
            if isinstance(output, tuple):  # some sparse blocks return their router's scores as well
                return (total, *output[1:])
            return total

        self._watch = watch
        self._handle = self.ffn.register_forward_hook(add_experts, with_kwargs=True)

    def remove(self) -> None:
        """Take the experts out. Without experts, nothing happens."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        self.looked = None

    @contextmanager
    def injected(
        self,
        experts: GeneratedExperts,
        relevance_BK: Tensor,
        rows_N: Tensor | None = None,
        around: Around | None = None,
    ) -> Iterator[None]:
        """`inject` for the duration of a ``with`` block, also if an error ends it."""
        self.inject(experts, relevance_BK, rows_N, around)
        try:
            yield
        finally:
            self.remove()
