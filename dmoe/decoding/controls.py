"""Controls: noise in the place of what experts add, or fewer experts.

Shapes: B rows, b some of them, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from backbone.final_ffn import FinalFFN
from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from plumbing.storage.hashing import short_hash
from qa.acting import ActingExperts, LastRead
from qa.noise import RandomTurns


class NoiseExperts(ActingExperts):
    """Noise in the place of active experts; it moves the FFN's output as far as they would.

    At each position the experts are computed as always, and the change that they make to the FFN's
    output is turned in a random direction (`RandomTurns`). All experts of a row are turned
    together, so their joint change has the right size, however many there are.

    Args:
        final: The final FFN.
        experts: The experts in whose place the noise acts.
        seed: The seed of the directions. The noise of a row depends on it and on the passages whose
            experts act.
    """

    def __init__(self, final: FinalFFN, experts: ActingExperts, seed: int = 0) -> None:
        super().__init__(len(experts.ids), experts.k)
        self._final = final
        self._experts = experts
        self._seed = seed

    def _fill(self, rows: Sequence[int], weighted: Sequence[Mapping[str, float]]) -> None:
        self._experts.swap(rows, weighted, [list(row.values()) for row in weighted])

    @contextmanager
    def watching(self, read: LastRead) -> Iterator[None]:
        """Note what the experts look at."""
        with self._experts.watching(read):
            yield

    @contextmanager
    def attached(self, rows: Tensor | None = None, position: int | None = None) -> Iterator[None]:
        """Let the noise act inside the block, as `ActingExperts.attached` lets experts act."""
        acting = self.ids if rows is None else [self.ids[row] for row in rows.tolist()]
        if not any(acting):
            yield
            return
        backbone = self._final.backbone
        names = ["\n".join(sorted(ids)) for ids in acting]
        turns = RandomTurns(names, backbone.d_model, self._seed, backbone.device)
        inside = False

        def turn(ffn: nn.Module, args: tuple[Any, ...], plain: Tensor) -> Tensor | None:
            nonlocal inside
            if inside:  # the FFN runs once more, for the sake of what the experts change
                return None
            inside = True
            try:
                with self._experts.attached(rows, position):
                    moved = ffn(*args)
            finally:
                inside = False
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
        source: All experts: trained ones (`dmoe.decoding.active.ExpertSource`) or others.
        fraction: The share of them that exists, rounded to whole experts.
        seed: The seed of the draw.

    Raises:
        SettingValueError: If the fraction is not in 0..1.
    """

    @typed
    def __init__(self, source: Any, fraction: float, seed: int = 0) -> None:
        if not 0 <= fraction <= 1:
            raise SettingValueError("fraction", f"fraction must be in 0..1, got {fraction}")
        self._source = source
        ids = sorted(source, key=lambda id: short_hash(f"{seed} {id}"))
        self._ids = frozenset(ids[: round(fraction * len(ids))])

    @property
    def scaling(self) -> float:
        """The scaling of trained experts, LoRA's ``alpha / rank``."""
        return float(self._source.scaling)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __iter__(self) -> Iterator[str]:
        return (id for id in self._source if id in self._ids)

    def get(self, ids: Sequence[str]) -> Any:
        """What the source has of N experts."""
        return self._source.get(ids)
