"""Writes words through the backbone's final norm and head, tied or untied.

Shapes: V vocabulary, D d_model, "..." any positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backbone.final_ffn import FinalFFN
from backbone.model import UnsupportedBackboneError

_SHRINKAGE = 0.01  # of the mean eigenvalue, added to each one, so that no noise is amplified
_AT_ONCE = 8192  # words


def root_mean_square(states: Tensor) -> Tensor:
    """The root mean square of states ``[..., D]``, as ``[..., 1]``; never 0."""
    return states.pow(2).mean(-1, keepdim=True).clamp(min=1e-12).sqrt()


class WordWriter(nn.Module):
    """The directions in the final FFN's output that each raise one word and hardly any other.

    The direction of word t is ``C⁻¹(E_t − μ)``, divided by the final norm's weights. E are the
    head's rows, and μ and C their mean and covariance. It is scaled so that, multiplied by the root
    mean square of the residual stream, it adds one to the word's own logit. A learnt linear map,
    which starts as the identity, turns all directions alike.

    Where a norm stands behind the FFN (Gemma), its weights are divided out, too. That norm bounds
    what an FFN can write, so the word's logit then grows by at most as much as the norm lets it.

    Args:
        final: The final FFN with its norms.

    Raises:
        UnsupportedBackboneError: If the head has no matrix with one row for each word.
    """

    inverse: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, final: FinalFFN) -> None:
        super().__init__()
        self._final = final
        backbone = final.backbone
        size = (backbone.vocab_size, backbone.d_model)
        weight = getattr(backbone.head, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != size or not weight.is_floating_point():
            found = "none" if weight is None else f"{list(weight.shape)} of {weight.dtype}"
            raise UnsupportedBackboneError(
                f"{type(backbone.model).__name__} ({backbone.name}): expected a head with weights "
                f"{list(size)} of floating-point numbers, got {found}; the reader writes words "
                "through these, so choose another hypernetwork (hypernet=mean) or an unquantized "
                "backbone"
            )
        self.register_buffer("inverse", torch.zeros(size[1], size[1]))
        self.register_buffer("mean", torch.zeros(size[1]))
        self.register_buffer("scale", torch.zeros(size[0]))
        self.turn = nn.Parameter(torch.zeros(size[1], size[1]))  # the map is 1 + turn

    @torch.no_grad()
    def fit(self) -> None:
        """Compute the words' directions from the head and the norms."""
        final, backbone = self._final, self._final.backbone
        E = backbone.head.weight.float()
        self.mean.copy_(E.mean(0))
        centred = E - self.mean
        covariance = (centred.T @ centred / len(E)).double()
        covariance += torch.eye(len(covariance)).to(covariance) * (
            _SHRINKAGE * covariance.diagonal().mean()
        )
        matched = torch.linalg.inv(covariance)
        norm = _norm_weight(backbone.final_norm, E.shape[1], backbone.device)
        self.inverse.copy_(matched * _reciprocal(norm))
        filtered = (matched * _reciprocal(norm) * norm).float()
        own = torch.cat(
            [
                (part @ filtered * e).sum(1)
                for part, e in zip(centred.split(_AT_ONCE), E.split(_AT_ONCE), strict=True)
            ]
        )
        # Words that are nearly the mean (never trained) would get enormous directions.
        reach = final.multiplier * backbone.logit_scale
        self.scale.copy_(1 / (own.clamp(min=0.1 * own.median()) * reach))
        if final.post is not None:
            post = _norm_weight(final.post, E.shape[1], backbone.device)
            self.inverse.mul_(_reciprocal(post).to(self.inverse.dtype))

    def values(self, ids: Tensor) -> Tensor:
        """What is summed up for words ``[...]`` before `forward`: ``[..., D]``, no gradients."""
        rows = self._final.backbone.head.weight[ids].to(self.mean.dtype)
        return (rows - self.mean) * self.scale[ids][..., None]

    @torch.no_grad()
    def whole(self) -> Tensor:
        """The one linear map ``[D, D]`` that `forward` applies in two steps, for inference."""
        return self.inverse + self.inverse @ self.turn

    def forward(
        self, read: Tensor, stream: Tensor, output: Tensor, whole: Tensor | None = None
    ) -> Tensor:
        """What to add to the FFN's output.

        Args:
            read: A weighted sum of `values` ``[..., D]``; a weight of 1 adds one to a logit.
            stream: The residual stream before the FFN.
            output: The FFN's output.
            whole: What `whole` returned, if it was computed before; it saves time.
        """
        post: Any = self._final.post
        if whole is None:
            written = read @ self.inverse
            written = written + written @ self.turn
        else:
            written = read @ whole
        if post is None:
            return written * root_mean_square(stream + self._final.multiplier * output)
        after = post(output.to(self._final.backbone.dtype)).to(stream.dtype)
        total = stream + self._final.multiplier * after
        return written * root_mean_square(total) * root_mean_square(output)


def _norm_weight(norm: Any, width: int, device: torch.device) -> Tensor:
    """The factors of a norm, whatever it calls them: measured with inputs of mean 0 and size 1."""
    dtype = next((p.dtype for p in norm.parameters()), torch.float32)
    signs = torch.ones(width, dtype=dtype, device=device)
    signs[1::2] = -1
    both: Tensor = (norm(signs[None]) - norm(-signs[None]))[0] / 2 * signs
    return both.double()


def _reciprocal(weights: Tensor) -> Tensor:
    """1 / w, but nearly 0 for weights that are tiny: what is written there cannot be seen."""
    floor = 0.01 * weights.pow(2).mean()
    return weights / (weights.pow(2) + 0.01 * floor)
