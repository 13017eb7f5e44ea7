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


def around_each(
    x_PSD: Tensor, mask_PS: Tensor, look_ahead: int = 0, reach: Tensor | None = None
) -> Tensor:
    """The states at each place and at the one before, and of what follows.

    Args:
        x_PSD: The states of passages.
        mask_PS: 1 at tokens, 0 at padding.
        look_ahead: How many of the next states there are as well; 0 behind the end.
        reach: Over how many tokens the weight of all that follows falls to 1 / e, if it is wanted.

    Returns:
        ``[P, S, n D]`` with n = 2, one more for each next state, and one more with ``reach``.
    """
    around = [x_PSD, functional.pad(x_PSD[:, :-1], (0, 0, 1, 0))]
    inside = x_PSD * mask_PS[..., None]
    for step in range(1, 1 + look_ahead):
        around.append(functional.pad(inside, (0, 0, 0, step))[:, step:])
    if reach is not None:
        around.append(_ahead(inside, reach))
    return torch.cat(around, -1)


def _ahead(x_PSD: Tensor, reach: Tensor) -> Tensor:
    """The sum of the states behind each place, with weights that fall with the distance.

    The weights of infinitely many states would add up to 1.
    """
    place = torch.arange(x_PSD.shape[1], device=x_PSD.device)
    ahead_SS = place - place[:, None]  # how far the column's state stands behind the row's
    kernel_SS = torch.exp(-ahead_SS.clamp(min=0) / reach) * (ahead_SS > 0)
    summed: Tensor = torch.expm1(1 / reach) * (kernel_SS @ x_PSD)
    return summed
