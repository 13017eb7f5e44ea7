"""An example of a hypernetwork: all experts read alike, and each writes what its passage says.

Shapes: P passages, D d_model, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbone import Backbone
from genpoe.experts import Experts
from genpoe.hypernet import Hypernet, HypernetSettings, PassageTokens
from genpoe.hypernet.mean import mean_pool
from plumbing.settings import check_positive


@dataclass(frozen=True, kw_only=True)
class SharedSettings(HypernetSettings):
    """Settings of a `SharedHypernet`; a checkpoint keeps them.

    Attributes:
        rank: R of the experts.

    Raises:
        ValueError: If the rank is not positive.
    """

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rank")

    def build(self, backbone: Backbone) -> SharedHypernet:
        """An untrained hypernetwork for a backbone."""
        return SharedHypernet(backbone, self)


class SharedHypernet(Hypernet):
    """Three of an expert's four factors are learnt once; the fourth is a linear map of the passage.

    Args:
        backbone: The frozen model that the experts are for.
        settings: Its settings.
    """

    def __init__(self, backbone: Backbone, settings: SharedSettings) -> None:
        super().__init__(backbone, settings)
        D, R = backbone.d_model, settings.rank
        self.up1 = nn.Parameter(torch.randn(D, R) * D**-0.5)
        self.up2 = nn.Parameter(torch.randn(R, D) * R**-0.5)
        self.down1 = nn.Parameter(torch.zeros(D, R))  # every expert starts as the zero function
        self.write = nn.Linear(D, R * D)

    def encode(self, passages: PassageTokens) -> Tensor:
        """The mean of the passages' word embeddings, ``[P, D]``: it is frozen, so it is kept."""
        embedded_PSD = self.backbone.embedding(passages.input_ids_PS)
        return mean_pool(embedded_PSD, passages.attention_mask_PS)

    def experts(self, code: Tensor, noise: torch.Generator | None = None) -> Experts:
        """One expert for each passage: ``[P, 1, D, R]`` or ``[P, 1, R, D]`` for each factor."""
        P = len(code)
        down2 = self.write(code.to(self.write.weight.dtype)).view(P, 1, *self.up2.shape)
        up1, up2, down1 = (
            factor.expand(P, 1, *factor.shape) for factor in (self.up1, self.up2, self.down1)
        )
        return Experts(up1, up2, down1, down2)
