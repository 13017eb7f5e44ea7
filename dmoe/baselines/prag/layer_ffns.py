"""The FFNs that adapters change: those of all layers (PRAG, Su et al. 2025), or of the last few."""

from __future__ import annotations

from collections import defaultdict

from backbone.model import Backbone
from backbone.projections import AdaptedProjections, Projection, projections
from dmoe.experts.expert import Expert, ExpertSettingError, ExpertSpec, initial_expert
from plumbing.settings import typed


class LayerFFNs(AdaptedProjections):
    """The projections of several layers' FFNs, by names such as ``0.gate``.

    An adapter for them is an `Expert` with names such as ``0.gate.lora_A`` and ``0.gate.lora_B``.

    Args:
        backbone: The frozen model.
        placement: The share of the layers that have adapters, counted from the final one. It is
            rounded to whole layers, at least one. 1 means all layers (PRAG), and 0 means the final
            layer alone (DMoE sec. 3.2.1).

    Attributes:
        layers: The numbers of these layers, from 0.

    Raises:
        ValueError: If the placement is not a number.
        ExpertError: If the placement is not in 0..1.
        UnsupportedBackboneError: If the projections of a layer's FFN are not known.
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
        self.projections: dict[str, Projection] = {
            f"{layer}.{target}": projection
            for layer in self.layers
            for target, projection in projections(backbone.ffn(layer)).items()
        }

    def initial(self, spec: ExpertSpec, seed: int) -> Expert:
        """Draw an untrained adapter, whose output is zero, as `initial_expert` draws an expert.

        The adapter is the same for every passage, as in PRAG's code. A layer's part of it does not
        depend on which other layers have adapters.

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
