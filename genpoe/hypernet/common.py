"""The expert that is common to all passages, and what experts read of the FFN's input.

Shapes: M positions, D d_model, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genpoe.experts import Experts


def principal_readout(inputs_MD: Tensor, count: int) -> Tensor:
    """The directions in which the FFN's input varies most, each scaled to unit variance.

    They are orthogonal to the mean, which is more than nine tenths of the input and says nothing
    about the question.

    Args:
        inputs_MD: Inputs of the FFN at M positions that predict answers.
        count: The largest number of directions.

    Returns:
        ``[D, C]``, where C is ``count`` or D - 1; in double precision.
    """
    inputs_MD = inputs_MD.double()
    mean = inputs_MD.mean(0)
    centred = inputs_MD - mean
    direction = mean / mean.norm()
    centred = centred - (centred @ direction)[:, None] * direction
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances = variances.clamp(min=variances[-1] * 1e-6)
    count = min(count, inputs_MD.shape[1] - 1)  # the mean's own direction is left out
    return (vectors * variances.rsqrt())[:, -count:]


class CommonExpert(nn.Module):
    """One low-rank expert (GenPoE eq. 2) for all passages: it learns what answers have in common.

    It starts as the zero function. It reads `principal_readout`, and its output is in units of the
    FFN's own, like the experts of `genpoe.hypernet.mean.MeanHypernet`.

    Args:
        d_model: D, the backbone's width.
        rank: R.
    """

    output_scale: Tensor

    def __init__(self, d_model: int, rank: int) -> None:
        super().__init__()
        self.up1 = nn.Parameter(torch.randn(d_model, rank) * d_model**-0.5)
        self.up2 = nn.Parameter(torch.randn(rank, d_model) * rank**-0.5)
        self.down1 = nn.Parameter(torch.zeros(d_model, rank))
        self.down2 = nn.Parameter(torch.randn(rank, d_model) * d_model**-0.5)
        self.register_buffer("output_scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, inputs_MD: Tensor, outputs_MD: Tensor) -> None:
        """Read what varies in the FFN's input, and write in units of the FFN's output.

        Args:
            inputs_MD: Inputs of the FFN at M positions that predict answers.
            outputs_MD: The FFN's outputs at these positions.
        """
        readout = principal_readout(inputs_MD, self.up1.shape[1])
        self.up1[:, : readout.shape[1]] = readout.to(self.up1.dtype)
        self.output_scale.copy_(outputs_MD.float().pow(2).mean().sqrt())

    def forward(self, hidden: Tensor) -> Tensor:
        """The expert's output ``[..., D]`` at FFN inputs ``[..., D]``."""
        inner = torch.relu(hidden @ self.up1 @ self.up2) @ self.down1
        return inner @ self.down2 * self.output_scale

    def expert(self) -> Experts:
        """Write the common expert in the form of generated ones: one set of K = 1 expert."""
        factors = self.up1, self.up2, self.down1, self.down2 * self.output_scale
        return Experts(*(factor[None, None] for factor in factors))
