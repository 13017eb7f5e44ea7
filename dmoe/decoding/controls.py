"""Controls that stand in for a bank: noise of the same size as each expert, or fewer experts.

Shapes: N experts, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dmoe.decoding.active import ExpertSource
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from plumbing.storage.hashing import short_hash


class NoiseExperts:
    """Experts of random directions; each projection keeps the ``‖B A‖`` of the one it replaces.

    If a method still gains something with them, the gain comes from the size of the change or from
    the routing, and not from what the experts know.

    Args:
        source: The experts that they stand in for.
        seed: The seed of the noise. The noise of a passage depends on it and on nothing else.
    """

    def __init__(self, source: ExpertSource, seed: int = 0) -> None:
        self._source = source
        self._seed = seed

    @property
    def scaling(self) -> float:
        """The scaling of the source, LoRA's ``alpha / rank``."""
        return self._source.scaling

    def __contains__(self, id: object) -> bool:
        return id in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def get(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Return noise for N experts, in the shapes of `ExpertSource.get`."""
        experts = self._source.get(ids)
        noises = [self._noise(id, experts) for id in ids]
        noise = {key: torch.stack([each[key] for each in noises]) for key in experts}
        for key in [key for key in experts if key.endswith("lora_B")]:
            twin = key.replace("lora_B", "lora_A")
            wanted, got = _norm(experts[twin], experts[key]), _norm(noise[twin], noise[key])
            noise[key] *= (wanted / got)[:, None, None]
        return noise

    def _noise(self, id: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        digest = short_hash(f"{self._seed} {id}")
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
        return {key: torch.randn(like[key].shape[1:], generator=generator) for key in sorted(like)}


class SomeExperts:
    """A part of a bank, drawn at random (DMoE Table 9); the other experts seem not to exist.

    With the same seed, a smaller part lies in every larger one.

    Args:
        source: All experts.
        fraction: The share of them that exists, rounded to whole experts.
        seed: The seed of the draw.

    Raises:
        SettingValueError: If the fraction is not in 0..1.
    """

    @typed
    def __init__(self, source: ExpertSource, fraction: float, seed: int = 0) -> None:
        if not 0 <= fraction <= 1:
            raise SettingValueError("fraction", f"fraction must be in 0..1, got {fraction}")
        self._source = source
        ids = sorted(source, key=lambda id: short_hash(f"{seed} {id}"))
        self._ids = frozenset(ids[: round(fraction * len(ids))])

    @property
    def scaling(self) -> float:
        """The scaling of the source, LoRA's ``alpha / rank``."""
        return self._source.scaling

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __iter__(self) -> Iterator[str]:
        return (id for id in self._source if id in self._ids)

    def get(self, ids: Sequence[str]) -> Mapping[str, Tensor]:
        """Return N experts of the source; see `ExpertSource.get` for their shapes."""
        return self._source.get(ids)


def _norm(a_NRI: Tensor, b_NOR: Tensor) -> Tensor:
    """Compute ``‖B A‖`` of each expert, ``[N]``, from two matrices of R by R."""
    a, b = a_NRI.float(), b_NOR.float()
    return ((a @ a.mT) * (b.mT @ b)).sum((1, 2)).clamp(min=0).sqrt()
