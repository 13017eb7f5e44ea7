"""A projection with a warm-up beside its weights, where they are too narrow to hold it.

What a warm-up adds to a weight is far less than the last bit of a bfloat16: merged, most of it
would be rounded away. So would its product be, if it were added to an output that is rounded
already. Here both products are summed before they are rounded, and a bias is added behind that.

Shapes: R rank, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WarmLinear(nn.Linear):
    """``W x + B A x``, summed before it is rounded.

    It keeps the linear map's own weights, so that a fingerprint finds them as they were. The
    factors are buffers in float32, which follow a copy and a move.

    Args:
        linear: The map whose place this takes, in a dtype of 16 bits.
    """

    warmup_A: Tensor
    warmup_B: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        for name, shape in {
            "warmup_A": (0, self.in_features),
            "warmup_B": (self.out_features, 0),
        }.items():
            self.register_buffer(name, torch.zeros(shape, device=linear.weight.device))
        self.train(linear.training)

    def add(self, a_RI: Tensor, b_OR: Tensor) -> None:
        """Let ``B A`` act as well, beside what does already."""
        self.warmup_A = torch.cat([self.warmup_A, a_RI])
        self.warmup_B = torch.cat([self.warmup_B, b_OR], 1)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``, in the dtype of the weights."""
        x = input.flatten(0, -2)
        term = x.to(self.warmup_A.dtype) @ self.warmup_A.mT @ self.warmup_B.mT
        # Not `super().forward(input) + term`: addmm sums in float32 what it rounds.
        out = torch.addmm(term.to(x.dtype), x, self.weight.mT)
        if self.bias is not None:  # not within the term, which it would round away
            out = out + self.bias
        return out.unflatten(0, input.shape[:-1])
