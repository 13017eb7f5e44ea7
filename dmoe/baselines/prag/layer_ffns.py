"""The FFNs of all layers, where PRAG's adapters are (Su et al. 2025), or of the final ones."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

from backbone.model import Backbone
from backbone.projections import AdaptedProjections, projections
from dmoe.experts.expert import Expert, ExpertSettingError, ExpertSpec, initial_expert
from plumbing.settings import typed


class LayerFFNs(AdaptedProjections):
    """The projections of several layers' FFNs, by names such as ``0.gate``.

    An adapter of them is an `Expert` with such names: ``0.gate.lora_A``, ``0.gate.lora_B``, …

    Args:
        backbone: The frozen model.
        placement: Share of the layers, the final ones, rounded to whole layers and at least one: 1
            is all of them (PRAG), 0 the final layer alone (DMoE sec. 3.2.1).

    Attributes:
        layers: Which layers, from 0.

    Raises:
        ValueError: If the placement is no number.
        ExpertError: If it is not in 0..1.
        UnsupportedBackboneError: If a layer's FFN has no linear maps that we know.
    """

    @typed
    def __init__(self, backbone: Backbone, placement: float = 1.0) -> None:
        if not 0 <= placement <= 1:
            raise ExpertSettingError(
                "placement",
                f"placement must be in 0..1, got {placement}",
                "set {} to the share of the final layers (0: the final layer alone)",
            )
        count = max(1, round(placement * backbone.num_layers))
        self.backbone = backbone
        self.layers = list(range(backbone.num_layers))[-count:]
        self.projections: dict[str, nn.Linear] = {
            f"{layer}.{target}": projection
            for layer in self.layers
            for target, projection in projections(backbone.ffn(layer)).items()
        }

    def initial(self, spec: ExpertSpec, seed: int) -> Expert:
        """An untrained adapter, whose output is zero; see `initial_expert`.

        It is the same for every passage, as in PRAG's code, and a layer's part of it is the same
        whatever the other layers are.

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
