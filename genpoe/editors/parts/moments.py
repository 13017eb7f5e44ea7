"""Running mean and standard deviation, kept across batches without loss.

Shapes: n samples, z coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

_EPSILON = 1e-7


@dataclass(frozen=True)
class Moments:
    """The moments of all samples so far. An update gives new ones, so old ones can be kept.

    Attributes:
        count: The number of samples, a whole number.
        mean: Their mean ``[z]``, float64.
        squares: The sum of their squared distances from the mean ``[z]``, float64.
    """

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()).double())
    squares: Tensor = field(default_factory=lambda: torch.zeros(()).double())

    def updated(self, samples: Tensor) -> Moments:
        """The moments with further samples ``[n, z]`` (Chan et al.'s formula)."""
        if not len(samples):
            return self
        samples = samples.double()
        more, mean = len(samples), samples.mean(0)
        shift, count = mean - self.mean.to(mean.device), self.count + more
        squares = (samples - mean).square().sum(0) + shift.square() * (self.count * more / count)
        return Moments(
            count, self.mean.to(mean) + shift * (more / count), self.squares.to(mean) + squares
        )

    @property
    def std(self) -> Tensor:
        """The standard deviation ``[z]``, with n - 1 in the denominator.

        Raises:
            ValueError: If there are fewer than two samples.
        """
        if self.count < 2:
            raise ValueError(
                f"a standard deviation needs at least two samples, got {self.count}; edit with a "
                "target that ends in the end-of-sequence token"
            )
        return (self.squares / (self.count - 1)).sqrt()

    def normalised(self, samples: Tensor) -> Tensor:
        """``(x - mean) / (std + 1e-7)`` of samples ``[n, z]``, in float64."""
        return (samples.double() - self.mean) / (self.std + _EPSILON)
