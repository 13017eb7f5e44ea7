"""The linear maps of FFNs that an expert adapts: gate, up and down.

Most families have one ``nn.Linear`` for each. Some store gate and up as the two blocks of one map
(Phi3, GLM4), and GPT-2's maps hold their weights the other way round. Such a projection is a
`Block` of the map's outputs.

Shapes: I inputs and O outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from backbone.model import Backbone, UnsupportedBackboneError

Extra = Callable[[str, Tensor], Tensor]
"""What an expert adds to a projection's output, given the projection's name and its input."""

# For each name in an expert, the names that the families use; the first that exists is taken.
_NAMES = {
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h", "fc_in"),
    "down": ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h", "fc_out"),
}
_FUSED = "gate_up_proj"  # gate's outputs, then up's


@dataclass(frozen=True)
class Block:
    """A projection that is some outputs of a linear map of the model.

    Attributes:
        module: The map: an ``nn.Linear``, or a ``Conv1D``, whose weight is ``[I, O]``.
        first: The first of the outputs.
        out_features: O, the number of outputs.
    """

    module: Any
    first: int
    out_features: int

    @property
    def weight(self) -> Tensor:
        """The projection's part of the weights ``[O, I]``: a view, through which they change."""
        return self.part(self.module.weight)

    def part(self, weight: Tensor) -> Tensor:
        """The projection's part ``[O, I]`` of a tensor that has the form of the map's weights."""
        weight_OI = weight.mT if isinstance(self.module, Conv1D) else weight
        return weight_OI[self.first : self.first + self.out_features]

    @property
    def in_features(self) -> int:
        """I, the number of inputs."""
        return int(self.weight.shape[1])

    def add(self, out: Tensor, term: Tensor) -> Tensor:
        """Add a term to the projection's part of the map's output."""
        last = self.first + self.out_features
        before, own, after = out[..., : self.first], out[..., self.first : last], out[..., last:]
        return torch.cat([before, (own + term).to(out.dtype), after], -1)

    def of(self, module: nn.Module) -> Block:
        """The block with this place among the outputs of another map of the same shape."""
        return replace(self, module=module)


Projection = nn.Linear | Block


def as_block(projection: Projection) -> Block:
    """A projection as a block of outputs; a linear map of its own is one block."""
    if isinstance(projection, Block):
        return projection
    return Block(projection, 0, projection.out_features)


class AdaptedProjections:
    """Linear maps of a backbone, by name, whose outputs can be added to.

    Attributes:
        backbone: The frozen model.
        projections: Some of its linear maps, by name.
    """

    backbone: Backbone
    projections: dict[str, Projection]

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

        def hook(name: str, part: Projection) -> Any:
            if isinstance(part, Block):
                return lambda _, args, out: part.add(out, extra(name, args[0]))
            return lambda _, args, out: (out + extra(name, args[0])).to(out.dtype)

        parts = {name: self.projections[name] for name in targets}
        handles = [
            (part.module if isinstance(part, Block) else part).register_forward_hook(
                hook(name, part)
            )
            for name, part in parts.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def linear_maps(module: nn.Module) -> dict[str, Projection]:
    """The children of a module that are projections, by their names in an expert."""
    found: dict[str, Projection] = {}
    fused = getattr(module, _FUSED, None)
    if isinstance(fused, nn.Linear) and fused.out_features % 2 == 0:
        half = fused.out_features // 2
        found = {"gate": Block(fused, 0, half), "up": Block(fused, half, half)}
    for key, names in _NAMES.items():
        parts = (getattr(module, name, None) for name in names)
        part = next((part for part in parts if isinstance(part, nn.Linear | Conv1D)), None)
        if part is not None:
            found[key] = Block(part, 0, part.nf) if isinstance(part, Conv1D) else part
    return found


def projections(ffn: nn.Module) -> dict[str, Projection]:
    """The FFN's linear maps by their names in an expert; a plain FFN has no gate.

    Raises:
        UnsupportedBackboneError: If the FFN is a sparse block, or if no up or no down projection is
            found under a known name.
    """
    found = linear_maps(ffn)
    children = [name for name, _ in ffn.named_children()]
    if {"experts", "router"} & set(children):
        raise UnsupportedBackboneError(
            f"{type(ffn).__name__} is a sparse block, whose own router sends each token to a few "
            "of many FFNs: expected one FFN that reads every token; neither DMoE's experts nor the "
            "reader's can stand there (those of hypernet=mean can, and SFT-LoRA adapts each FFN)"
        )
    if "up" not in found or "down" not in found:
        raise UnsupportedBackboneError(
            f"{type(ffn).__name__}: expected linear maps up_proj and down_proj in the FFN, got "
            f"{', '.join(children) or 'none'}; experts cannot be placed in it"
        )
    return found


TARGETS = ("gate", "up", "down")
