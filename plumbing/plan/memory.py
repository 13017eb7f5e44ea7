"""What a device has to hold while something is trained, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import torch

from plumbing.mounts import SettingValueError

# Bytes of a trained number: the weight itself, and the copy that mixed precision computes with.
_PRECISIONS: dict[str, tuple[int, int]] = {
    "64-true": (8, 0),
    "32-true": (4, 0),
    "bf16-true": (2, 0),
    "16-true": (2, 0),
    "bf16-mixed": (4, 2),
    "16-mixed": (4, 2),
}
_SHORT = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Memory:
    """The memory of one device, in bytes, by what it is for.

    Attributes:
        process: The process itself: Python, its libraries, and a GPU's context.
        frozen: Weights that are not trained.
        trained: Weights that are trained.
        gradients: A gradient of each of them.
        optimiser: AdamW's two running means of each of them.
        exchange: What the processes exchange gradients in.
        cached: States that are read from a cache for a step.
        working: What a step makes besides the gradients, at the moment when both together are
            largest: activations, logits, and the gradients of both.
    """

    process: int = 0
    frozen: int = 0
    trained: int = 0
    gradients: int = 0
    optimiser: int = 0
    exchange: int = 0
    cached: int = 0
    working: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts().values())

    def parts(self) -> Mapping[str, int]:
        """The bytes by name, in the order of the attributes."""
        return asdict(self)


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes of some tensors; those that share their memory, as tied weights do, count once."""
    storages = {each.untyped_storage()._cdata: each.untyped_storage() for each in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def trained_memory(numbers: int, precision: str | int | None, processes: int = 1) -> Memory:
    """What AdamW's training of some parameters holds, without what a step computes.

    Args:
        numbers: The number of trained parameters.
        precision: Lightning's ``precision``; None means 32-true.
        processes: How many processes train together by distributed data parallelism. With more
            than one, each has buckets as large as the gradients.

    Raises:
        ValueError: If the precision is none that is known here.
    """
    size, copy = number_bytes(precision)
    each = numbers * size
    exchange = each if processes > 1 else 0
    return Memory(
        trained=each,
        gradients=each,
        optimiser=2 * each,
        exchange=exchange,
        working=numbers * copy,
    )


def number_bytes(precision: str | int | None) -> tuple[int, int]:
    """Bytes of a trained number under a precision of Lightning's, and of its copy in computing.

    Raises:
        ValueError: If the precision is none that is known here.
    """
    name = "32-true" if precision is None else str(precision)
    name = _SHORT.get(name, name)
    if name not in _PRECISIONS:
        raise SettingValueError(
            "precision", f"a plan knows the precisions {', '.join(_PRECISIONS)}, got {precision!r}"
        )
    return _PRECISIONS[name]
