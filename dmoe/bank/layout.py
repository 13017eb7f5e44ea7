"""The tensors of an expert, and how they become one row of numbers on disk.

Shapes: N experts, P parameters of one, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qa.bank.errors import BankError
from qa.bank.layout import Layout, Rows

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A LoRA weight is far below 1. A larger number than this has diverged or was tampered with.
LARGEST = 1000.0
_FACTORS = ("lora_A", "lora_B")
_TAGS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_POISONED = "it holds a NaN, an infinity, or a number that no LoRA weight can be"


@dataclass(frozen=True)
class ExpertLayout(Layout):
    """The names and shapes of an expert's tensors, in PEFT's orientation.

    Attributes:
        shapes: For each projection, ``<projection>.lora_A`` with the shape ``(R, in)`` and
            ``<projection>.lora_B`` with ``(out, R)``, all of one rank. A row holds the tensors in
            the order of their names.
        dtype: The dtype that a bank stores: "float32", "bfloat16" or "float16".

    Raises:
        BankError: If the tensors are not pairs of one rank, or if the dtype is none of the three.
    """

    NOUN: ClassVar[str] = "expert"
    MADE_BY: ClassVar[str] = "scripts/build_experts.py"

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
        """Take the layout of N experts, which are ``[N, R, in]`` and ``[N, out, R]`` each."""
        return cls({name: _pair(name, t.shape[1:]) for name, t in experts.items()}, dtype)

    @cached_property
    def numel(self) -> int:
        """P, the number of parameters of one expert."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def row_bytes(self) -> int:
        """How many bytes the weights of one expert take."""
        return self.numel * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that a bank stores."""
        return DTYPES[self.dtype]

    @property
    def rank(self) -> int:
        """R, the rank of every pair."""
        return next(shape[0] for name, shape in self.shapes.items() if name.endswith(".lora_A"))

    def flatten(self, experts: Mapping[str, Tensor]) -> Tensor:
        """Turn N experts into rows.

        Args:
            experts: The tensors by name, each with a leading dimension N.

        Returns:
            Rows ``[N, P]``, contiguous, on the CPU, in the bank's dtype.

        Raises:
            BankError: If a tensor is missing, is unknown, has another shape, or holds no floats.
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
        """Turn rows ``[N, P]`` into tensors by name, each with a leading dimension N.

        The tensors are views, so nothing is copied. Whoever needs them on a GPU moves the rows
        there first, which takes a single transfer.
        """
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = rows_NP.split(sizes, dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) for (name, shape), part in named}

    def rows(self, rows_NP: Tensor) -> Rows:
        """The bytes of rows ``[N, P]`` that `flatten` returned."""
        ends = np.arange(1, len(rows_NP) + 1, dtype=np.int64) * self.row_bytes
        return Rows(rows_NP.view(torch.uint8).numpy().reshape(-1), ends)

    def numbers(self, rows: Rows) -> Tensor:
        """The rows ``[N, P]`` that N rows of bytes stand for; they are a view."""
        raw_N = torch.from_numpy(rows.data.reshape(len(rows), self.row_bytes))
        return raw_N.view(self.torch_dtype)

    def column(self, rows: int, total: int) -> tuple[str, tuple[int, ...]]:
        """The type in safetensors, and the shape, of a column of rows."""
        return _TAGS[self.dtype], (rows, self.numel)

    def wrong(self, rows: Rows) -> dict[int, str]:
        """Say which rows hold a number that no LoRA weight can be."""
        return dict.fromkeys(poisoned(self.numbers(rows)).nonzero().flatten().tolist(), _POISONED)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain JSON values, as the manifest and every shard hold it."""
        return {
            "dtype": self.dtype,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }


def poisoned(rows_NP: Tensor) -> Tensor:
    """Find the rows that hold a number which no LoRA weight can be.

    Returns:
        ``[N]``, true for rows with a NaN, an infinity, or a number beyond ``LARGEST``.
    """
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
