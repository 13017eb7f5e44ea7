"""How frozen states become inputs of a hypernetwork: standardised, with neighbours, with dropout.

Shapes: P passages, S passage tokens, M positions, D width of a state, "..." any positions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def standardize(mean_D: Tensor, scale_D: Tensor, values_MD: Tensor) -> None:
    """Set a mean and a scale by which states get mean 0 and variance 1.

    Dimensions that hardly vary are not blown up.

    Args:
        mean_D: Is overwritten with the mean.
        scale_D: Is overwritten with one over the standard deviation.
        values_MD: A sample of the states.
    """
    mean_D.copy_(values_MD.mean(0))
    deviation = values_MD.std(0)
    scale_D.copy_(1 / deviation.clamp(min=1e-3 * deviation.mean()))


def dropped(states: Tensor, share: float, noise: torch.Generator | None) -> Tensor:
    """Set a share of the numbers of states ``[...]`` to 0, and scale the others up.

    Args:
        states: The states.
        share: The share, at least 0 and less than 1.
        noise: Draws which; None: none is dropped.
    """
    if noise is None or not share:
        return states
    kept = torch.rand(states.shape, generator=noise, device=states.device) >= share
    return states * kept / (1 - share)


def with_previous(x_PSD: Tensor) -> Tensor:
    """The states at each place and at the one before, which is 0 at the first: ``[P, S, 2 D]``."""
    return torch.cat([x_PSD, functional.pad(x_PSD[:, :-1], (0, 0, 1, 0))], -1)
