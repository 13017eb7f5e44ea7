"""An expert: LoRA on the projections of the final layer's FFN (DMoE sec. 3.2.1, 4.3).

For a projection W (of gate, up and down) the expert adds ``alpha / rank · B A`` to it. Experts are
plain dictionaries of tensors, ``{"gate.lora_A": A, "gate.lora_B": B, "up.lora_A": …}``, in PEFT's
orientation; a batch of N experts is the same dictionary with a leading dimension.

Shapes: N experts, R rank, I inputs and O outputs of a projection.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbone.lora.settings import check_lora
from backbone.projections import TARGETS
from plumbing.mounts import SettingValueError

Expert = dict[str, Tensor]
"""Of each target projection ``<target>.lora_A`` ``[R, I]`` and ``<target>.lora_B`` ``[O, R]``."""


class ExpertError(ValueError):
    """Settings or tensors that make no expert; the message says what to do."""


class ExpertSettingError(SettingValueError, ExpertError):
    """A setting of an expert that is out of range, or does not fit the FFN."""


@dataclass(frozen=True)
class ExpertSpec:
    """What all experts of a bank have in common.

    Attributes:
        rank: R (sec. 4.3: 4).
        alpha: The outputs are scaled by ``alpha / rank`` (sec. 4.3: 16).
        targets: The projections that have an expert, any of gate, up and down.
    """

    rank: int = 4
    alpha: float = 16.0
    targets: Sequence[str] = TARGETS

    def __post_init__(self) -> None:
        check_lora(self, TARGETS, ExpertSettingError)
        chosen = list(self.targets)
        # Equal settings compare equal, in whatever order and type the targets came.
        object.__setattr__(self, "targets", tuple(t for t in TARGETS if t in chosen))
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def scaling(self) -> float:
        """What an expert's output is multiplied by."""
        return self.alpha / self.rank

    def shapes(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """The shape of each tensor.

        Args:
            sizes: Inputs and outputs of each projection; see `FinalFFN.sizes`.

        Raises:
            ExpertError: If the FFN has no such projection.
        """
        missing = [target for target in self.targets if target not in sizes]
        if missing:
            raise ExpertSettingError(
                "targets", f"this FFN has no {missing[0]!r} projection, it has {', '.join(sizes)}"
            )
        shapes = {}
        for target in self.targets:
            inputs, outputs = sizes[target]
            shapes[f"{target}.lora_A"] = (self.rank, inputs)
            shapes[f"{target}.lora_B"] = (outputs, self.rank)
        return shapes

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}


def initial_expert(
    spec: ExpertSpec, sizes: Mapping[str, tuple[int, int]], key: str, seed: int = 0
) -> Expert:
    """An untrained expert, whose output is zero: A as PEFT draws it, B zero.

    PEFT draws A by ``kaiming_uniform_(a=sqrt(5))``, which is uniform within ``±1 / sqrt(I)``. The
    generator is the expert's own: what a passage's expert becomes depends neither on the others
    that are trained at the same time, nor on their order, nor on the device.

    Args:
        spec: Rank and targets.
        sizes: See `ExpertSpec.shapes`.
        key: What the expert is of, such as its passage's id.
        seed: Other seeds draw other experts.

    Returns:
        float32 tensors on the CPU.
    """
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    expert = {}
    for name, shape in spec.shapes(sizes).items():
        tensor = torch.zeros(shape)
        if name.endswith("lora_A"):
            bound = 1 / math.sqrt(shape[1])
            tensor.uniform_(-bound, bound, generator=generator)
        expert[name] = tensor
    return expert


def check_expert(
    expert: Mapping[str, Tensor], spec: ExpertSpec, sizes: Mapping[str, tuple[int, int]]
) -> None:
    """Check an expert, or a batch of them, against what the settings and the backbone ask for.

    Raises:
        ExpertError: If a tensor is missing, unknown, of another shape, or not finite.
    """
    shapes = spec.shapes(sizes)
    if expert.keys() != shapes.keys():
        raise ExpertSettingError(
            "targets",
            f"expected the tensors {', '.join(shapes)}, got {', '.join(sorted(expert)) or 'none'}",
            "set {} to those that the expert was trained with",
        )
    for name, shape in shapes.items():
        tensor = expert[name]
        if tuple(tensor.shape[-2:]) != shape or tensor.ndim not in (2, 3):
            raise ExpertError(
                f"{name}: expected the shape {list(shape)}, got {list(tensor.shape)}; is it of "
                "another rank or of another backbone?"
            )
        if not bool(tensor.isfinite().all()):
            raise ExpertError(f"{name} holds values that are not finite; train the expert again")


def stack_experts(experts: Iterable[Mapping[str, Tensor]]) -> Expert:
    """A batch of experts that have the same tensors."""
    each = list(experts)
    return {name: torch.stack([expert[name] for expert in each]) for name in each[0]}


def expert_at(batch: Mapping[str, Tensor], index: int) -> Expert:
    """One expert of a batch, as views."""
    return {name: tensor[index] for name, tensor in batch.items()}


def delta_norm(expert: Mapping[str, Tensor], scaling: float) -> Tensor:
    """``‖ΔW‖``: the Frobenius norm of what an expert adds to all its projections together.

    ``‖B A‖² = tr((Bᵀ B)(A Aᵀ))`` needs no matrix larger than ``[R, R]``.

    Args:
        expert: One expert, or a batch.
        scaling: See `ExpertSpec.scaling`.

    Returns:
        A number, or ``[N]``.
    """
    squared = []
    for name, a in expert.items():
        if name.endswith("lora_A"):
            a, b = a.double(), expert[name.replace("lora_A", "lora_B")].double()
            squared.append(((b.mT @ b) * (a @ a.mT)).sum((-2, -1)))
    return scaling * torch.stack(squared).sum(0).clamp(min=0).sqrt().float()
