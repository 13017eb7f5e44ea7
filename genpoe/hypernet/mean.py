"""The MoE-generating hypernetwork (GenPoE sec. 3.2.1, eq. 4).

Shapes: P passages, S passage tokens, M positions, D d_model, H hidden width, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genpoe.experts import Experts

SCALINGS = ("none", "standardize", "whiten")
INITIALIZATIONS = ("copy", "random")
_VARIATION = 0.1  # of the random passage-dependent parts at the start, relative to the common ones
_SHRINKAGE = (
    0.01  # share of the mean eigenvalue added to each, so that whitening amplifies no noise
)


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

    The bias of the second layer is an expert common to all passages; its weights add what is a
    passage's own. How both start (the paper does not say), with "copy":

    * ``W_dw1`` is zero, so every expert is the zero function and the model the backbone itself.
    * ``W_dw2``, what an expert can write, is the passage itself: the pooled embedding, centred and
      multiplied by its inverse covariance (the matched filter for the words in it), beside a
      random common part. In the embedding space of a tied head that direction raises just the
      words of the passage, and all there is left to learn at first is when to write it.
    * ``W_up1``, what an expert reads, is common: the principal components of the FFN's input where
      answers are predicted, each with unit variance, orthogonal to their mean. The mean is more
      than nine tenths of that input and says nothing about the question.
    * What an expert writes is in units of the FFN's own output there (its root mean square), a
      constant factor on ``W_dw2``. The residual stream of a late layer is hundreds of times larger
      than a freshly initialised expert's output.

    The first linear layer starts as pairs of opposite directions, so that its ReLU loses nothing
    (``relu(x) - relu(-x) = x``) once ``hidden_width`` is at least twice ``d_model``.

    Deviation: the paper says nothing of initialisation.

    Args:
        d_model: D, width of the backbone.
        rank: R of the experts (the paper's k).
        hidden_width: H, between the two linear layers (open in the paper).
        embedding_scaling: See `PassageScaler`.
        initialization: "copy", as described; "random": ``W_dw2`` zero, the other factors random,
            no statistics of the FFN.
        noise: Standard deviation of the Gaussian noise that `forward` adds to the scaled pooled
            embedding when it is given a generator.

    Raises:
        ValueError: If a size is not positive, the noise negative, or a name unknown.
    """

    output_scale: Tensor
    started: Tensor

    def __init__(
        self,
        d_model: int,
        rank: int,
        hidden_width: int,
        embedding_scaling: str = "whiten",
        initialization: str = "copy",
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("rank", rank), ("hidden_width", hidden_width)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be a positive integer, got {value!r}; set model.{name}"
                )
        if initialization not in INITIALIZATIONS:
            raise ValueError(
                f"initialization must be one of {', '.join(INITIALIZATIONS)}, got "
                f"{initialization!r}; set model.initialization"
            )
        if noise < 0:
            raise ValueError(f"noise must not be negative, got {noise}; set model.noise")
        self.d_model = d_model
        self.rank = rank
        self.hidden_width = hidden_width
        self.initialization = initialization
        self.noise = noise
        self.scaler = PassageScaler(d_model, embedding_scaling)
        self.linear1 = nn.Linear(d_model, hidden_width)
        self.linear2 = nn.Linear(hidden_width, 4 * d_model * rank)
        self.register_buffer("output_scale", torch.ones(()))
        self.register_buffer("started", torch.tensor(False))  # whether `start` was called
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
        """Weights and biases of the second layer, a part for each factor of eq. 2."""
        return self.linear2.weight.chunk(4), self.linear2.bias.chunk(4)

    def cast(self, dtype: torch.dtype) -> Hypernet:
        """Let the linear layers, nearly all of it, compute in another dtype, for inference.

        Generating experts reads every weight of the second layer, so bfloat16 halves its time. The
        scaler stays in float32: whitening multiplies by numbers of very different sizes.
        """
        self.linear1.to(dtype)
        self.linear2.to(dtype)
        return self

    def start(self, pooled_PD: Tensor, inputs_MD: Tensor, outputs_MD: Tensor) -> None:
        """Fit all that starts from data: `fit` and `fit_ffn`, once in a training."""
        self.fit(pooled_PD)
        self.fit_ffn(inputs_MD, outputs_MD)
        self.started.fill_(True)

    @torch.no_grad()
    def fit(self, pooled_PD: Tensor) -> None:
        """Take the scaler's statistics, and let ``W_dw2`` start as the passage ("copy").

        Args:
            pooled_PD: Pooled embeddings of (a sample of) the training passages.

        Raises:
            ValueError: If there are fewer than two passages to scale by.
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
        """Let ``W_up1`` start by reading what varies, and write in the FFN's units ("copy").

        Args:
            inputs_MD: Inputs of the expert layer's FFN at M positions that predict answers.
            outputs_MD: Its outputs there.
        """
        if self.initialization != "copy":
            return
        inputs_MD = inputs_MD.double()
        mean = inputs_MD.mean(0)
        centred = inputs_MD - mean
        direction = mean / mean.norm()
        centred = centred - (centred @ direction)[:, None] * direction
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        variances = variances.clamp(min=variances[-1] * 1e-6)
        count = min(self.rank, self.d_model - 1)  # the mean's own direction is left out
        up1 = self._factors()[1][0].view(self.d_model, self.rank)
        up1[:, :count] = (vectors * variances.rsqrt())[:, -count:].to(up1.dtype)
        self.output_scale.copy_(outputs_MD.float().pow(2).mean().sqrt())

    def forward(self, pooled_PD: Tensor, noise: torch.Generator | None = None) -> Experts:
        """Generate one expert for each passage.

        Args:
            pooled_PD: Mean-pooled word embeddings, see `mean_pool`.
            noise: Draws the noise of training; None: there is none.

        Returns:
            P sets of K = 1 expert.
        """
        scaled = self.scaler(pooled_PD)
        if noise is not None and self.noise:
            scaled = scaled + self.noise * torch.randn(
                scaled.shape, generator=noise, device=scaled.device
            )
        scaled = scaled.to(self.linear1.weight.dtype)
        flat = self.linear2(torch.relu(self.linear1(scaled)))
        up1, up2, down1, down2 = flat.chunk(4, dim=-1)
        tall, wide = (-1, 1, self.d_model, self.rank), (-1, 1, self.rank, self.d_model)
        down2 = down2.view(wide) * self.output_scale.to(down2.dtype)
        return Experts(up1.view(tall), up2.view(wide), down1.view(tall), down2)
