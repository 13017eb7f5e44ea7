"""The linear maps of FFNs that an expert adapts: gate, up and down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from backbone.model import Backbone, UnsupportedBackboneError

Extra = Callable[[str, Tensor], Tensor]
"""What an expert adds to a projection's output, given the projection's name and its input."""

# For each name in an expert, the names that the families use; the first that exists is taken.
_NAMES = {
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h"),
    "down": ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h"),
}


class AdaptedProjections:
    """Linear maps of a backbone, by name, whose outputs can be added to.

    Attributes:
        backbone: The frozen model.
        projections: Some of its linear maps, by name.
    """

    backbone: Backbone
    projections: dict[str, nn.Linear]

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The number of inputs and of outputs of each projection."""
        return {name: (p.in_features, p.out_features) for name, p in self.projections.items()}

    @contextmanager
    def adding(self, extra: Extra, targets: Iterable[str]) -> Iterator[None]:
        """Inside the block, add to the outputs of some projections. No weight is changed.

        Args:
            extra: Computes what is added to a projection's output.
            targets: The names of these projections.
        """

        def hook(name: str) -> Any:
            return lambda _, args, out: (out + extra(name, args[0])).to(out.dtype)

        handles = [self.projections[name].register_forward_hook(hook(name)) for name in targets]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def linear_maps(module: nn.Module) -> dict[str, nn.Linear]:
    """The children of a module that are projections, by their names in an expert."""
    found: dict[str, nn.Linear] = {}
    for key, names in _NAMES.items():
        parts = (getattr(module, name, None) for name in names)
        part = next((part for part in parts if isinstance(part, nn.Linear)), None)
        if part is not None:
            found[key] = part
    return found


def projections(ffn: nn.Module) -> dict[str, nn.Linear]:
    """The FFN's linear maps by their names in an expert; a plain FFN has no gate.

    Raises:
        UnsupportedBackboneError: If no up or no down projection is found under a known name.
    """
    found = linear_maps(ffn)
    if "up" not in found or "down" not in found:
        children = ", ".join(name for name, _ in ffn.named_children()) or "none"
        raise UnsupportedBackboneError(
            f"{type(ffn).__name__}: expected linear maps up_proj and down_proj in the FFN, got "
            f"{children}; experts cannot be placed in it"
        )
    return found


TARGETS = ("gate", "up", "down")
