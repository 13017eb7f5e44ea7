"""The control of an expert's content: noise of the same size in its place.

Shapes: N experts, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from dmoe.active import ExpertSource


class NoiseExperts:
    """Experts of random directions, each projection with the ``‖B A‖`` of the one it replaces.

    What remains of a method's gain under them is owed to the size of the change, or to the routing,
    and not to what the experts know.

    Args:
        source: The experts that they stand in for.
        seed: Other seeds, other noise; a passage's noise depends on nothing else.
    """

    def __init__(self, source: ExpertSource, seed: int = 0) -> None:
        self._source = source
        self._seed = seed

    @property
    def scaling(self) -> float:
        """That of the source."""
        return self._source.scaling

    def __contains__(self, id: object) -> bool:
        return id in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def get(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """See `ExpertSource.get`."""
        experts = self._source.get(ids)
        noises = [self._noise(id, experts) for id in ids]
        noise = {key: torch.stack([each[key] for each in noises]) for key in experts}
        for key in [key for key in experts if key.endswith("lora_B")]:
            twin = key.replace("lora_B", "lora_A")
            wanted, got = _norm(experts[twin], experts[key]), _norm(noise[twin], noise[key])
            noise[key] *= (wanted / got)[:, None, None]
        return noise

    def _noise(self, id: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        digest = blake2b(f"{self._seed} {id}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
        return {key: torch.randn(like[key].shape[1:], generator=generator) for key in sorted(like)}


def _norm(a_NRI: Tensor, b_NOR: Tensor) -> Tensor:
    """``‖B A‖`` of each expert, ``[N]``, from two matrices of R by R."""
    a, b = a_NRI.float(), b_NOR.float()
    return ((a @ a.mT) * (b.mT @ b)).sum((1, 2)).clamp(min=0).sqrt()
