"""Experts in memory, for the tests of router, decoder and method."""

from __future__ import annotations

import torch

from backbone.model import Backbone

RANK = 4


class MemoryExperts:
    """An `ExpertSource` in memory: ``p0`` … of random weights, large enough to change tokens."""

    scaling = 4.0

    def __init__(self, backbone: Backbone, count=12, seed=0, targets=("gate", "up", "down")):
        ffn = backbone.ffn(backbone.num_layers - 1)
        generator = torch.Generator().manual_seed(seed)

        def random(*shape):
            return 0.2 * torch.randn(shape, generator=generator)

        self.experts = {}
        for index in range(count):
            expert = {}
            for target in targets:
                linear = getattr(ffn, f"{target}_proj")
                expert[f"{target}.lora_A"] = random(RANK, linear.in_features)
                expert[f"{target}.lora_B"] = random(linear.out_features, RANK)
            self.experts[f"p{index}"] = expert
        self.asked: list[list[str]] = []

    def __contains__(self, id):
        return id in self.experts

    def __iter__(self):
        return iter(self.experts)

    def get(self, ids):
        self.asked.append(list(ids))
        chosen = [self.experts[id] for id in ids]
        return {key: torch.stack([expert[key] for expert in chosen]) for key in chosen[0]}
