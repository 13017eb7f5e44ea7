"""Adapters with weights that change something, and what a model consists of."""

from __future__ import annotations

import torch

from backbone.lora.adapter import LoraAdapter, LoraSettings
from tests.helpers.tiny import MOE, make_backbone

FAMILIES = ("llama", "gemma2", "olmoe")  # plain, with more norms, and a mixture of experts


def adapted_backbone(family, tokenizer):
    """A tiny backbone of one of the `FAMILIES`."""
    more = MOE if family == "olmoe" else {}
    return make_backbone(family, tokenizer=tokenizer, **more)


def save_adapter(backbone, folder):
    """Save an adapter of the default settings that changes something; returns its folder."""
    randomize(LoraAdapter.new(backbone, LoraSettings())).save(folder)
    return folder


def randomize(adapter):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.normal_(std=0.2)
    return adapter


def state(model):
    """Describe a model by its modules, its parameters in their order, and its attributes."""
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        [(name, p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()],
        set(vars(model)),
    )
