"""An expert: LoRA on the projections of the final layer's FFN (DMoE sec. 3.2.1, 4.3).

The expert adds ``alpha / rank · B A`` to each projection that it has: gate, up or down. Experts are
plain dictionaries of tensors, ``{"gate.lora_A": A, "gate.lora_B": B, "up.lora_A": …}``, in PEFT's
orientation. A batch of N experts is the same dictionary with a leading dimension.

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
"""For each target projection: ``<target>.lora_A`` ``[R, I]`` and ``<target>.lora_B`` ``[O, R]``."""


class ExpertError(ValueError):
    """Settings or tensors that are not those of a valid expert; the message says what to do."""


class ExpertSettingError(SettingValueError, ExpertError):
    """A setting of an expert that is out of range, or does not fit the FFN."""


@dataclass(frozen=True)
class ExpertSpec:
    """What all experts of a bank have in common.

    Attributes:
        rank: The rank R (4 in sec. 4.3).
        alpha: The outputs are scaled by ``alpha / rank`` (16 in sec. 4.3).
        targets: The projections that the expert changes, any of gate, up and down.
    """

    rank: int = 4
    alpha: float = 16.0
    targets: Sequence[str] = TARGETS

    def __post_init__(self) -> None:
        check_lora(self, TARGETS, ExpertSettingError)
        chosen = list(self.targets)
        # The order and the type in which targets were given make no difference to equality.
        object.__setattr__(self, "targets", tuple(t for t in TARGETS if t in chosen))
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def scaling(self) -> float:
        """The factor ``alpha / rank`` of an expert's output."""
        return self.alpha / self.rank

    def shapes(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """The shape of each tensor.

        Args:
            sizes: The inputs and outputs of each projection, as `FinalFFN.sizes` has them.

        Raises:
            ExpertError: If the FFN lacks one of the targets.
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
        """The settings as plain values, for a manifest."""
        return {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}


def initial_expert(
    spec: ExpertSpec, sizes: Mapping[str, tuple[int, int]], key: str, seed: int = 0
) -> Expert:
    """Draw an untrained expert, whose output is zero because B is zero.

    A is drawn as PEFT draws it, by ``kaiming_uniform_(a=sqrt(5))``, which is uniform within
    ``±1 / sqrt(I)``. Each expert has its own random generator. So a passage's expert depends
    neither on the experts that are trained at the same time, nor on their order, nor on the device.

    Args:
        spec: The rank and the targets.
        sizes: The inputs and outputs of each projection, as in `ExpertSpec.shapes`.
        key: A name for what the expert belongs to, such as its passage's id.
        seed: Another seed draws another expert.

    Returns:
        The expert, as float32 tensors on the CPU.
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
    """Check that an expert, or a batch of experts, fits the settings and the backbone.

    Raises:
        ExpertError: If a tensor is missing or unknown, has the wrong shape, or is not finite.
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
    """Stack experts that have the same tensors into one batch."""
    each = list(experts)
    return {name: torch.stack([expert[name] for expert in each]) for name in each[0]}


def expert_at(batch: Mapping[str, Tensor], index: int) -> Expert:
    """Take one expert out of a batch; its tensors are views of the batch's."""
    return {name: tensor[index] for name, tensor in batch.items()}


def delta_norm(expert: Mapping[str, Tensor], scaling: float) -> Tensor:
    """Compute ``‖ΔW‖``, the Frobenius norm of what an expert adds to all its projections together.

    ``‖B A‖² = tr((Bᵀ B)(A Aᵀ))`` needs no product larger than ``[R, R]``.

    Args:
        expert: One expert, or a batch of N.
        scaling: The factor of the outputs, `ExpertSpec.scaling`.

    Returns:
        A scalar for one expert, ``[N]`` for a batch.
    """
    squared = []
    for name, a in expert.items():
        if name.endswith("lora_A"):
            a, b = a.double(), expert[name.replace("lora_A", "lora_B")].double()
            squared.append(((b.mT @ b) * (a @ a.mT)).sum((-2, -1)))
    return scaling * torch.stack(squared).sum(0).clamp(min=0).sqrt().float()
