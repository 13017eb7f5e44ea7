"""An expert's tensors, and the one row of numbers that they are on disk.

Shapes: N experts, P parameters of one, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dmoe.bank.errors import BankError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGEST = 1000.0  # a LoRA weight is far below 1; beyond this it has diverged or was tampered with
_FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True)
class ExpertLayout:
    """Names and shapes of an expert's tensors, in PEFT's orientation.

    Attributes:
        shapes: ``<projection>.lora_A``: ``(R, in)``, and ``<projection>.lora_B``: ``(out, R)``,
            for each projection, all of one rank. The tensors lie in a row in the order of their
            names.
        dtype: What a bank stores: "float32", "bfloat16" or "float16".

    Raises:
        BankError: If the tensors are no pairs of one rank, or the dtype is another.
    """

    shapes: dict[str, tuple[int, int]]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BankError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        shapes = {name: _pair(name, self.shapes[name]) for name in sorted(self.shapes)}
        object.__setattr__(self, "shapes", shapes)
        stems = {name.rpartition(".")[0] for name in shapes}
        wanted = {f"{stem}.{factor}" for stem in stems for factor in _FACTORS}
        if not shapes or set(shapes) != wanted or "" in stems:
            raise BankError(
                "an expert needs <projection>.lora_A and <projection>.lora_B of each projection, "
                f"got {', '.join(shapes) or 'no tensors'}"
            )
        ranks = {shape[name.endswith("B")] for name, shape in shapes.items()}
        if len(ranks) > 1:
            raise BankError(
                "expected one rank, with lora_A [rank, in] and lora_B [out, rank], got "
                f"{', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}"
            )

    @classmethod
    def of(cls, experts: Mapping[str, Tensor], dtype: str = "float32") -> ExpertLayout:
        """The layout of N experts, ``[N, R, in]`` and ``[N, out, R]`` each."""
        return cls({name: _pair(name, t.shape[1:]) for name, t in experts.items()}, dtype)

    @cached_property
    def numel(self) -> int:
        """P, the parameters of one expert."""
        return sum(map(math.prod, self.shapes.values()))

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one expert's weights."""
        return self.numel * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """What a bank stores."""
        return DTYPES[self.dtype]

    @property
    def rank(self) -> int:
        """R."""
        return next(shape[0] for name, shape in self.shapes.items() if name.endswith(".lora_A"))

    def flatten(self, experts: Mapping[str, Tensor]) -> Tensor:
        """N experts as rows.

        Args:
            experts: The tensors of every name, with a leading N.

        Returns:
            ``[N, P]``, contiguous, on the CPU, in the bank's dtype.

        Raises:
            BankError: If a tensor is missing, unknown, of another shape, or not floating.
        """
        count = next((len(tensor) for tensor in experts.values() if tensor.dim()), 0)
        wanted = {name: (count, *shape) for name, shape in self.shapes.items()}
        came = {name: tuple(tensor.shape) for name, tensor in experts.items()}
        if came != wanted or not all(tensor.is_floating_point() for tensor in experts.values()):
            raise BankError(
                f"expected floating tensors {_listed(wanted)}, got "
                f"{_listed(came)} of {', '.join({str(t.dtype) for t in experts.values()})}; give "
                "experts of the bank's layout, or use another bank"
            )
        parts = [experts[name].detach().flatten(1) for name in self.shapes]
        rows = torch.cat([part.to("cpu", self.torch_dtype) for part in parts], dim=1)
        return rows.contiguous()

    def split(self, rows_NP: Tensor) -> dict[str, Tensor]:
        """Rows ``[N, P]`` as the tensors of each name, with a leading N: views, nothing is copied.

        Move the rows to a GPU before, and one transfer does.
        """
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = rows_NP.split(sizes, dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) for (name, shape), part in named}

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a manifest and every shard hold them."""
        return {
            "dtype": self.dtype,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }


def poisoned(rows_NP: Tensor) -> Tensor:
    """``[N]``, which rows hold a NaN, an infinity, or a number beyond what a LoRA weight can be."""
    if not rows_NP.numel():
        return torch.zeros(len(rows_NP), dtype=torch.bool)
    return ~(rows_NP.abs().amax(dim=1) <= LARGEST)  # a NaN compares as false


def _pair(name: str, shape: Any) -> tuple[int, int]:
    sizes = list(shape)
    if len(sizes) != 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise BankError(f"expected two positive sizes of an expert's {name}, got {sizes}")
    return sizes[0], sizes[1]


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shapes[name])}" for name in sorted(shapes)) or "none"
