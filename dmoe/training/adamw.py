"""AdamW for many experts at a time, each with its own state and its own number of steps.

Shapes: N experts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dmoe.experts.recipe import Recipe


class GroupedAdamW:
    """`torch.optim.AdamW` for each of N experts, whose parameters are stacked in shared tensors.

    Experts may take different numbers of steps. A step updates the first n experts and leaves the
    others as they are. Each expert has its own moments and its own bias corrections.

    Args:
        experts: The parameters, ``[N, …]`` each. They are changed in place.
        recipe: The learning rate, betas, eps and weight decay.
    """

    def __init__(self, experts: Mapping[str, Tensor], recipe: Recipe) -> None:
        self._experts = dict(experts)
        self._recipe = recipe
        self._first = {name: torch.zeros_like(tensor) for name, tensor in experts.items()}
        self._second = {name: torch.zeros_like(tensor) for name, tensor in experts.items()}
        count = len(next(iter(experts.values())))
        self._steps = torch.zeros(count, dtype=torch.float64)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Take one step with the first n experts.

        Args:
            gradients: The gradient of each parameter, ``[n, …]``.
        """
        recipe, (beta1, beta2) = self._recipe, self._recipe.betas
        some = next(iter(gradients.values()))
        active = len(some)
        self._steps[:active] += 1
        size_n = (recipe.lr / (1 - beta1 ** self._steps[:active])).to(some)
        root_n = (1 - beta2 ** self._steps[:active]).sqrt().to(some)
        for name, gradient in gradients.items():
            parameter = self._experts[name][:active]
            first, second = self._first[name][:active], self._second[name][:active]
            shape = (active, *[1] * (parameter.ndim - 1))
            parameter.mul_(1 - recipe.lr * recipe.weight_decay)
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = second.sqrt().div_(root_n.view(shape)).add_(recipe.eps)
            parameter.sub_(size_n.view(shape) * first / scale)
