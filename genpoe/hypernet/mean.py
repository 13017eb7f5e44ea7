"""The paper's hypernetwork: it reads a passage as the mean of its word embeddings (GenPoE eq. 4).

Shapes: P passages, S passage tokens, M positions, D d_model, H hidden width, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from backbone.model import Backbone
from genpoe.experts import Experts
from genpoe.hypernet.common import principal_readout
from genpoe.hypernet.hypernet import Hypernet, HypernetSettings, PassageTokens, StartSample
from plumbing.mounts import SettingValueError
from plumbing.settings import check_choice, check_positive
from plumbing.storage.jsonl import DataError

SCALINGS = ("none", "standardize", "whiten")
INITIALIZATIONS = ("copy", "random")
# Initial size of the random parts that depend on the passage, relative to the common parts.
_VARIATION = 0.1
# This share of the mean eigenvalue is added to each one, so that whitening amplifies no noise.
_SHRINKAGE = 0.01
# Passages whose embeddings differ by no more than this share of their size count as alike. The same
# words in another order differ by 5e-8, which is rounding; one word in 500 makes 2e-3.
_ALIKE = 1e-6


def mean_pool(embedded_PSD: Tensor, attention_mask_PS: Tensor) -> Tensor:
    """The mean of a passage's word embeddings without padding: Emd(psg) of GenPoE eq. 4.

    Returns:
        ``[P, D]``, float32.
    """
    mask = attention_mask_PS.to(torch.float32)[..., None]
    return (embedded_PSD.float() * mask).sum(1) / mask.sum(1).clamp(min=1)


class PassageScaler(nn.Module):
    """Centres and scales the pooled embedding before the first linear layer.

    The pooled embeddings of different passages differ by only a few percent of what they share, and
    a network that reads them unscaled learns next to nothing. The map is affine, with statistics of
    the training passages, so it could be folded into the first linear layer of eq. 4.

    Deviation: the paper does not say how Emd(psg) is scaled.

    Args:
        d_model: Width of the word embeddings.
        mode: "none"; "standardize" (subtract the mean and divide by one standard deviation);
            "whiten" (subtract the mean and multiply by the inverse square root of the covariance).
    """

    mean: Tensor
    transform: Tensor
    fitted: Tensor

    def __init__(self, d_model: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.zeros(d_model))
        self.register_buffer("transform", torch.eye(d_model))
        self.register_buffer("fitted", torch.tensor(mode == "none"))

    @torch.no_grad()
    def fit(self, pooled_PD: Tensor) -> None:
        """Take the statistics from pooled embeddings ``[P, D]`` of training passages.

        Raises:
            DataError: If there are fewer than two passages, or if they do not differ.
        """
        if self.mode == "none":
            return
        mean = pooled_PD.double().mean(0)
        centred = pooled_PD.double() - mean
        if centred.norm() <= _ALIKE * pooled_PD.double().norm():
            raise DataError(
                f"scaling needs training passages that differ in their words, got "
                f"{len(pooled_PD)} that do not; train on passages about different things"
            )
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
        """Scale pooled embeddings ``[P, D]`` to mean 0 and about unit variance."""
        return (pooled_PD.to(self.mean.dtype) - self.mean) @ self.transform


@dataclass(frozen=True, kw_only=True)
class MeanSettings(HypernetSettings):
    """Settings of the paper's hypernetwork.

    Attributes:
        rank: R, the rank of the experts (the paper's k).
        hidden_width: H, the width between the two linear layers (the paper leaves it open).
        embedding_scaling: How the pooled embedding is scaled: "none", "standardize" or "whiten", as
            in `PassageScaler`.
        initialization: "copy", as `MeanHypernet` describes it, or "random": ``W_dw2`` starts at
            zero, the other factors are random, and no statistics of the FFN are used.
        noise: Standard deviation of the Gaussian noise on the scaled pooled embedding in training.

    Raises:
        ValueError: If a size is not positive, if the noise is negative, or if a name is unknown.
    """

    rank: int
    hidden_width: int
    embedding_scaling: str = "whiten"
    initialization: str = "copy"
    noise: float = 0.0

    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset({"initialization", "noise"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rank", "hidden_width")
        check_choice("embedding_scaling", self.embedding_scaling, SCALINGS)
        check_choice("initialization", self.initialization, INITIALIZATIONS)
        if self.noise < 0:
            raise SettingValueError("noise", f"noise must not be negative, got {self.noise}")

    def build(self, backbone: Backbone) -> MeanHypernet:
        """Make an untrained hypernetwork with these settings, for one backbone."""
        return MeanHypernet(backbone, self)


class MeanHypernet(Hypernet):
    """``Linear(ReLU(Linear(Emd(psg))))``, reshaped to one expert per passage (GenPoE eq. 4).

    The bias of the second layer is an expert that is common to all passages. The layer's weights
    add the part that depends on the passage. The paper does not say how both start. With "copy":

    * ``W_dw1`` is zero. Every expert is then the zero function, and the model is the backbone.
    * ``W_dw2`` is what an expert can write. It starts as the passage itself: the pooled embedding,
      centred and multiplied by its inverse covariance (the matched filter for the passage's words),
      plus a random common part. In the embedding space of a tied head this direction raises just
      the words of the passage. At first, the experts only have to learn when to write it.
    * ``W_up1`` is what an expert reads, and it is common to all passages. It starts as the
      principal components of the FFN's input where answers are predicted, each with unit variance
      and orthogonal to the mean. The mean is more than nine tenths of that input, and it says
      nothing about the question.
    * An expert's output is in units of the FFN's own output at these places (its root mean square);
      this is a constant factor on ``W_dw2``. The residual stream of a late layer is hundreds of
      times larger than the output of a freshly initialised expert.

    The first linear layer starts as pairs of opposite directions. Its ReLU then loses nothing
    (``relu(x) - relu(-x) = x``) if ``hidden_width`` is at least twice ``d_model``.

    Deviation: the paper says nothing about initialisation.

    Args:
        backbone: The frozen model for which the experts are made.
        settings: The hypernetwork's settings.
    """

    output_scale: Tensor

    def __init__(self, backbone: Backbone, settings: MeanSettings) -> None:
        super().__init__(backbone, settings)
        self.d_model = backbone.d_model
        self.rank = settings.rank
        self.hidden_width = settings.hidden_width
        self.initialization = settings.initialization
        self.noise = settings.noise
        self.scaler = PassageScaler(self.d_model, settings.embedding_scaling)
        self.linear1 = nn.Linear(self.d_model, self.hidden_width)
        self.linear2 = nn.Linear(self.hidden_width, 4 * self.d_model * self.rank)
        self.register_buffer("output_scale", torch.ones(()))
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        half = self.linear1.weight[: (self.hidden_width + 1) // 2]
        nn.init.orthogonal_(half)
        self.linear1.weight[len(half) :] = -half[: self.hidden_width - len(half)]
        nn.init.zeros_(self.linear1.bias)
        fan_ins = (self.d_model, self.rank, self.d_model, self.d_model)
        for weight, bias, fan_in in zip(*self._factors(), fan_ins, strict=True):
            std = fan_in**-0.5
            bias.normal_(0, std)
            weight.normal_(0, _VARIATION * std * self.hidden_width**-0.5)
        zero = 2 if self.initialization == "copy" else 3
        for parameters in self._factors():
            parameters[zero].zero_()

    def _factors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Weights and biases of the second layer, each in four parts, one per factor of eq. 2."""
        return self.linear2.weight.chunk(4), self.linear2.bias.chunk(4)

    def common_parameters(self) -> list[nn.Parameter]:
        """The bias of the second layer, which is the expert common to all passages."""
        return [self.linear2.bias]

    def cast(self, dtype: torch.dtype) -> MeanHypernet:
        """For inference, compute the linear layers in another dtype; returns itself.

        They are nearly all of the network. To generate experts, every weight of the second layer is
        read, so bfloat16 halves the time. The scaler stays in float32, because whitening multiplies
        by numbers of very different sizes.
        """
        self.linear1.to(dtype)
        self.linear2.to(dtype)
        return self

    def encode(self, passages: PassageTokens) -> Tensor:
        """Emd(psg) of eq. 4: the mean-pooled word embeddings, ``[P, D]``, float32."""
        embedded_PSD = self.backbone.embedding(passages.input_ids_PS)
        return mean_pool(embedded_PSD, passages.attention_mask_PS)

    def start(self, sample: StartSample) -> None:
        """Set initial values from data: `fit` reads the passages, and `fit_ffn` the FFN."""
        pooled_PD = torch.cat([self.encode(passages) for passages in sample.passages()])
        self.fit(pooled_PD)
        self.fit_ffn(*sample.ffn())
        super().start(sample)

    @torch.no_grad()
    def fit(self, pooled_PD: Tensor) -> None:
        """Take the scaler's statistics and, with "copy", let ``W_dw2`` start as the passage.

        Args:
            pooled_PD: Pooled embeddings of a sample of the training passages.

        Raises:
            DataError: If there are fewer than two passages, or if they do not differ.
        """
        self.scaler.fit(pooled_PD)
        if self.initialization == "copy":
            filtered = self.scaler(pooled_PD) @ self.scaler.transform.T
            # relu(Ox) - relu(-Ox) = Ox, and O^T O = 1 where H >= 2D.
            read_out = self.scaler.transform @ self.linear1.weight.T / filtered.std()
            rows = self._factors()[0][3].view(self.rank, self.d_model, self.hidden_width)
            rows += read_out * self.d_model**-0.5

    @torch.no_grad()
    def fit_ffn(self, inputs_MD: Tensor, outputs_MD: Tensor) -> None:
        """With "copy", set ``W_up1`` to what varies in the FFN's input, and the output's units.

        Args:
            inputs_MD: Inputs of the expert layer's FFN at M positions that predict answers.
            outputs_MD: The FFN's outputs at these positions.
        """
        if self.initialization != "copy":
            return
        readout = principal_readout(inputs_MD, self.rank)
        up1 = self._factors()[1][0].view(self.d_model, self.rank)
        up1[:, : readout.shape[1]] = readout.to(up1.dtype)
        self.output_scale.copy_(outputs_MD.float().pow(2).mean().sqrt())

    def experts(self, code: Tensor, noise: torch.Generator | None = None) -> Experts:
        """Generate one expert for each passage from its pooled embedding (eq. 4).

        Args:
            code: ``[P, D]``, what `encode` returns.
            noise: Draws the noise of training; None: no noise.

        Returns:
            P sets of K = 1 expert.
        """
        scaled = self.scaler(code)
        # Deviation: the paper has no noise. Without it the training passages are learnt by heart.
        if noise is not None and self.noise:
            scaled = scaled + self.noise * torch.randn(
                scaled.shape, generator=noise, device=scaled.device
            )
        scaled = scaled.to(self.linear1.weight.dtype)
        return self._reshaped(self.linear2(torch.relu(self.linear1(scaled))))

    def common_expert(self) -> Experts:
        """The bias of the second layer, without the part that depends on the passage."""
        return self._reshaped(self.linear2.bias[None])

    def _reshaped(self, flat: Tensor) -> Experts:
        """Make the four factors of eq. 2 from the outputs of the second layer, one row each."""
        up1, up2, down1, down2 = flat.chunk(4, dim=-1)
        tall, wide = (-1, 1, self.d_model, self.rank), (-1, 1, self.rank, self.d_model)
        down2 = down2.view(wide) * self.output_scale.to(down2.dtype)
        return Experts(up1.view(tall), up2.view(wide), down1.view(tall), down2)
