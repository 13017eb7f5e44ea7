"""Controls: noise in the place of what experts add, or fewer experts.

Shapes: B rows, b some of them, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from backbone.final_ffn import FinalFFN
from dmoe.decoding.active import ActiveExperts, ExpertSource
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from plumbing.storage.hashing import short_hash
from qa.noise import RandomTurns


class NoiseExperts(ActiveExperts):
    """Noise in the place of active experts; it moves the FFN's output as far as they would.

    At each position the experts are computed as always, and the change that they make to the FFN's
    output is turned in a random direction (`RandomTurns`). All experts of a row are turned
    together, so their joint change has the right size, however many there are.

    Args:
        final: The final FFN.
        source: The experts.
        rows: B, the number of rows of the batch.
        k: The most experts that a row may have.
        seed: The seed of the directions. The noise of a row depends on it and on the passages whose
            experts act.
    """

    def __init__(
        self, final: FinalFFN, source: ExpertSource, rows: int, k: int, seed: int = 0
    ) -> None:
        super().__init__(final, source, rows, k)
        self._final = final
        self._seed = seed

    @contextmanager
    def attached(self, rows: Tensor | None = None) -> Iterator[None]:
        """Let the noise act inside the block, as `ActiveExperts.attached` lets experts act."""
        acting = self.ids if rows is None else [self.ids[row] for row in rows.tolist()]
        if not any(acting):
            yield
            return
        backbone = self._final.backbone
        names = ["\n".join(sorted(ids)) for ids in acting]
        turns = RandomTurns(names, backbone.d_model, self._seed, backbone.device)

        def turn(ffn: nn.Module, args: tuple[Any, ...], plain: Tensor) -> Tensor:
            with super(NoiseExperts, self).attached(rows):
                moved = ffn.forward(*args)  # calls no hook of the FFN, so not this one either
            change = moved.float() - plain.float()
            return (plain.float() + turns(change)).to(plain.dtype)

        handle = self._final.ffn.register_forward_hook(turn)
        try:
            yield
        finally:
            handle.remove()


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
