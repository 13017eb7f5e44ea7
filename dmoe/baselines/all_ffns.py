"""The FFNs of all layers, where PRAG's adapters are (Su et al. 2025)."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

from dmoe.expert import Expert, ExpertSpec, initial_expert
from dmoe.projections import AdaptedProjections, projections
from qa.backbone import Backbone


class AllFFNs(AdaptedProjections):
    """The projections of every layer's FFN, by names such as ``0.gate``.

    An adapter of them is an `Expert` with such names: ``0.gate.lora_A``, ``0.gate.lora_B``, …

    Args:
        backbone: The frozen model.

    Raises:
        UnsupportedBackboneError: If a layer's FFN has no linear maps that we know.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.projections: dict[str, nn.Linear] = {
            f"{layer}.{target}": projection
            for layer in range(backbone.num_layers)
            for target, projection in projections(backbone.ffn(layer)).items()
        }

    def initial(self, spec: ExpertSpec, seed: int) -> Expert:
        """An untrained adapter, whose output is zero; see `initial_expert`.

        It is the same for every passage, as in PRAG's code.

        Raises:
            ExpertError: If an FFN lacks one of the projections that the settings name.
        """
        sizes: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        for name, size in self.sizes.items():
            layer, _, target = name.partition(".")
            sizes[layer][target] = size
        return {
            f"{layer}.{name}": tensor
            for layer, each in sizes.items()
            for name, tensor in initial_expert(spec, each, f"layer {layer}", seed).items()
        }
