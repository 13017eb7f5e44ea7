"""Adapters with weights that change something, and what a model consists of."""

from __future__ import annotations

import torch


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
