"""The gradient of a linear map as factors: one input and one output gradient for each token.

For y = W u and a loss L, the gradient is dL/dW = sum_t delta_t u_t^T with delta_t = dL/dy_t.

Shapes: N rows, T tokens, i inputs and o outputs of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    hidden: Callable[[], Tensor] | None = None,
) -> tuple[Mapping[Place, Factors], Tensor]:
    """Compute the factors of some maps.

    Args:
        backbone: The model. No weight needs a gradient.
        places: The maps.
        rows: The batch.
        loss_of: The loss, made of each row's negative log-likelihood ``[N]``; default: their sum,
            so that a fact's factors do not depend on how many others share its batch.
        hidden: Computes the final hidden states ``[N, T, D]`` of the rows; default: the backbone.

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
        nll_N = rows.nll(backbone, hidden() if hidden is not None else None)
        loss = nll_N.sum() if loss_of is None else loss_of(nll_N)
        gradients = torch.autograd.grad(loss, [outputs[place] for place in places])
    found = {}
    for place, gradient in zip(places, gradients, strict=True):
        first, last = place.block.first, place.block.first + place.block.out_features
        by_row = gradient.view(*rows.ids.shape, -1)[..., first:last]
        found[place] = Factors(inputs[place].view(*rows.ids.shape, -1), by_row)
    return found, nll_N.detach()


@contextmanager
def shifted(updates: Mapping[Place, Tensor]) -> Iterator[None]:
    """Let maps write y + D u for the duration of a block, as with the weights W + D.

    No weight is written, and a gradient reaches every D that wants one.

    Args:
        updates: D of each place, ``[o, i]``.
    """

    def hook(place: Place, update: Tensor) -> Any:
        def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return place.block.add(output, functional.linear(args[0], update.to(args[0].dtype)))

        return add

    with ExitStack() as stack:
        for place, update in updates.items():
            module = place.block.module
            stack.callback(module.register_forward_hook(hook(place, update)).remove)
        yield


def positions(rows: Rows, tokens: str, sinks: bool = True) -> tuple[Tensor, Tensor]:
    """The rows and columns of the tokens whose factors count.

    Args:
        rows: The batch.
        tokens: answer (those that predict a label) or all.
        sinks: Whether each row's first token may count, where many models keep a state that is
            thousands of times larger than the others.
    """
    count = rows.mask.bool()
    if tokens == "answer":
        count = torch.zeros_like(count).index_put(
            rows.predicting, torch.ones((), dtype=torch.bool, device=count.device)
        )
    if not sinks:
        count[torch.arange(len(count)), rows.starts] = False
    every, columns = count.nonzero(as_tuple=True)
    return every, columns
