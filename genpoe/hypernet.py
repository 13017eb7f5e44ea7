"""The MoE-generating hypernetwork (GenPoE sec. 3.2.1, eq. 4).

Shapes: P passages, S passage tokens, D d_model, H hidden width, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genpoe.experts import Experts

SCALINGS = ("none", "standardize", "whiten")
_SHRINKAGE = 0.1  # share of the mean eigenvalue added to each, so that whitening amplifies no noise


def mean_pool(embedded_PSD: Tensor, attention_mask_PS: Tensor) -> Tensor:
    """Mean of a passage's word embeddings, padding left out: Emd(psg) of GenPoE eq. 4.

    Returns:
        ``[P, D]``, float32.
    """
    mask = attention_mask_PS.to(torch.float32)[..., None]
    return (embedded_PSD.float() * mask).sum(1) / mask.sum(1).clamp(min=1)


class PassageScaler(nn.Module):
    """Centres and scales the pooled embedding before the first linear layer.

    The pooled embeddings of different passages differ by a few percent of what they share; a
    network fed with them as they are learns next to nothing. The map is affine and its statistics
    are those of the training passages, so it could be folded into the first linear layer of eq. 4.

    Deviation: the paper does not say how Emd(psg) is scaled.

    Args:
        d_model: Width of the word embeddings.
        mode: "none"; "standardize" (subtract the mean, divide by one standard deviation);
            "whiten" (subtract the mean, multiply by the inverse square root of the covariance).

    Raises:
        ValueError: If the mode is unknown.
    """

    mean: Tensor
    transform: Tensor
    fitted: Tensor

    def __init__(self, d_model: int, mode: str) -> None:
        super().__init__()
        if mode not in SCALINGS:
            raise ValueError(
                f"embedding_scaling must be one of {', '.join(SCALINGS)}, got {mode!r}; "
                "set model.embedding_scaling"
            )
        self.mode = mode
        self.register_buffer("mean", torch.zeros(d_model))
        self.register_buffer("transform", torch.eye(d_model))
        self.register_buffer("fitted", torch.tensor(mode == "none"))

    @torch.no_grad()
    def fit(self, pooled_PD: Tensor) -> None:
        """Take the statistics from the pooled embeddings of (a sample of) the training passages."""
        if self.mode == "none":
            return
        if len(pooled_PD) < 2:
            raise ValueError(f"scaling needs at least 2 training passages, got {len(pooled_PD)}")
        mean = pooled_PD.double().mean(0)
        centred = pooled_PD.double() - mean
        if self.mode == "standardize":
            transform = torch.eye(len(mean), dtype=torch.double, device=mean.device)
            transform /= centred.pow(2).mean().sqrt()
        else:
            eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
            eigenvalues = eigenvalues.clamp(min=0) + _SHRINKAGE * eigenvalues.mean()
            transform = vectors * eigenvalues.rsqrt() @ vectors.T
        self.mean.copy_(mean)
        self.transform.copy_(transform)
        self.fitted.fill_(True)

    def forward(self, pooled_PD: Tensor) -> Tensor:
        """``[P, D]`` pooled embeddings to ``[P, D]`` of mean 0 and about unit variance."""
        return (pooled_PD.to(self.mean.dtype) - self.mean) @ self.transform


class Hypernet(nn.Module):
    """``Linear(ReLU(Linear(Emd(psg))))``, reshaped to one expert a passage (GenPoE eq. 4).

    At the start the last factor ``W_dw2`` is zero, so every expert is the zero function and the
    model the backbone itself; the other three are a random expert common to all passages (the
    bias) with a small passage-dependent part, so that gradients flow from the first step.

    Deviation: the paper does not say how the hypernetwork is initialised.

    Args:
        d_model: D, width of the backbone.
        rank: R of the experts (the paper's k).
        hidden_width: H, between the two linear layers (open in the paper).
        embedding_scaling: See `PassageScaler`.
        variation: Standard deviation of the passage-dependent part of the first three factors at
            the start, relative to the common part.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self,
        d_model: int,
        rank: int,
        hidden_width: int,
        embedding_scaling: str = "whiten",
        variation: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("rank", rank), ("hidden_width", hidden_width)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}; set model.{name}")
        self.d_model = d_model
        self.rank = rank
        self.hidden_width = hidden_width
        self.scaler = PassageScaler(d_model, embedding_scaling)
        self.linear1 = nn.Linear(d_model, hidden_width)
        self.linear2 = nn.Linear(hidden_width, 4 * d_model * rank)
        self._reset_parameters(variation)

    @torch.no_grad()
    def _reset_parameters(self, variation: float) -> None:
        nn.init.orthogonal_(self.linear1.weight, gain=math.sqrt(2))
        nn.init.zeros_(self.linear1.bias)
        weights = self.linear2.weight.chunk(4)
        biases = self.linear2.bias.chunk(4)
        fan_ins = (self.d_model, self.rank, self.d_model)
        for weight, bias, fan_in in zip(weights, biases, fan_ins, strict=False):
            std = fan_in**-0.5
            bias.normal_(0, std)
            weight.normal_(0, variation * std * self.hidden_width**-0.5)
        weights[3].zero_()
        biases[3].zero_()

    def forward(self, pooled_PD: Tensor) -> Experts:
        """Generate one expert for each passage.

        Args:
            pooled_PD: Mean-pooled word embeddings, see `mean_pool`.

        Returns:
            P sets of K = 1 expert.
        """
        flat = self.linear2(torch.relu(self.linear1(self.scaler(pooled_PD))))
        up1, up2, down1, down2 = flat.chunk(4, dim=-1)
        tall, wide = (-1, 1, self.d_model, self.rank), (-1, 1, self.rank, self.d_model)
        return Experts(up1.view(tall), up2.view(wide), down1.view(tall), down2.view(wide))
