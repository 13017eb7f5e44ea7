"""The gradient of a linear map as factors: one input and one output gradient for each token.

For y = W u and a loss L, the gradient is dL/dW = sum_t delta_t u_t^T with delta_t = dL/dy_t.

Shapes: N rows, T tokens, i inputs and o outputs of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from genpoe.editors.parts.places import Place
from genpoe.editors.parts.rows import Rows


@dataclass(frozen=True)
class Factors:
    """What one map read, and the gradient of the loss for what it wrote.

    Attributes:
        inputs: u, ``[N, T, i]``.
        gradients: delta, ``[N, T, o]``.
    """

    inputs: Tensor
    gradients: Tensor

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors at some positions, ``[n, i]`` and ``[n, o]``."""
        return self.inputs[rows, columns], self.gradients[rows, columns]


def gradient_factors(
    backbone: Backbone,
    places: Sequence[Place],
    rows: Rows,
    loss_of: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Mapping[Place, Factors], Tensor]:
    """Compute the factors of some maps.

    Args:
        backbone: The model. No weight needs a gradient.
        places: The maps.
        rows: The batch.
        loss_of: The loss, made of each row's negative log-likelihood ``[N]``; default: their sum,
            so that a fact's factors do not depend on how many others share its batch.

    Returns:
        The factors by place, and each row's negative log-likelihood ``[N]``.
    """
    inputs: dict[Place, Tensor] = {}
    outputs: dict[Place, Tensor] = {}

    def hook(place: Place) -> Any:
        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                output.requires_grad_()
            inputs[place], outputs[place] = args[0].detach(), output

        return keep

    with ExitStack() as stack, torch.enable_grad():
        for place in places:
            stack.callback(place.block.module.register_forward_hook(hook(place)).remove)
        nll_N = rows.nll(backbone)
        loss = nll_N.sum() if loss_of is None else loss_of(nll_N)
        gradients = torch.autograd.grad(loss, [outputs[place] for place in places])
    found = {}
    for place, gradient in zip(places, gradients, strict=True):
        first, last = place.block.first, place.block.first + place.block.out_features
        by_row = gradient.view(*rows.ids.shape, -1)[..., first:last]
        found[place] = Factors(inputs[place].view(*rows.ids.shape, -1), by_row)
    return found, nll_N.detach()
