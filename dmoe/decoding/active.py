"""The active experts of every row of a batch (DMoE eq. 6).

Each projection becomes ``W x + sum_i w_i s B_i A_i x``, where the sum is over the row's own K
experts. The weights ``w_i`` are 1 in the paper. The experts of a row are joined along the rank,
which gives exactly this sum, without products of one expert's B with another expert's A.

Shapes: B rows, b some of them, T tokens, N experts, K experts a row, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from backbone.projections import AdaptedProjections
from qa.acting import ActingExperts


class ExpertSource(Protocol):
    """Where experts come from: a bank, or a control that stands in for it."""

    @property
    def scaling(self) -> float:
        """LoRA's ``alpha / rank``."""
        ...

    def __contains__(self, id: object) -> bool:
        """True if this passage has an expert."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all passages that have an expert."""
        ...

    def get(self, ids: Sequence[str]) -> Mapping[str, Tensor]:
        """Get N experts: ``gate.lora_A`` ``[N, R, in]``, ``gate.lora_B`` ``[N, out, R]``, etc."""
        ...


class ActiveExperts(ActingExperts):
    """The LoRA experts that act in each row, and their effect on the backbone while attached.

    The weights of the backbone are never touched, so the backbone is bit-identical while detached.

    Args:
        places: The projections that get the experts, such as those of the final FFN.
        source: The experts.
        rows: B, the number of rows of the batch.
        k: K, the most experts that a row may have.
    """

    def __init__(self, places: AdaptedProjections, source: ExpertSource, rows: int, k: int) -> None:
        super().__init__(rows, k)
        self._places = places
        self._source = source
        # Each row's experts as one: "gate.lora_A" [B, K R, in], "gate.lora_B" [B, out, K R], …
        self._merged: dict[str, Tensor] = {}

    def _fill(self, rows: Sequence[int], weighted: Sequence[Mapping[str, float]]) -> None:
        names = list(dict.fromkeys(id for row in weighted for id in row))
        if not names:
            for factor in self._merged.values():
                factor[rows] = 0
            return
        device = self._places.backbone.device
        blank = len(names)  # the index of an expert of zeros, for rows with fewer than K

        def filled(each: Iterable[Iterable[float]], value: float) -> Tensor:
            padded = ([*row, *[value] * self.k][: self.k] for row in each)
            return torch.tensor(list(padded), device=device)

        some_are_blank = any(len(row) < self.k for row in weighted)
        index_bK = filled((map(names.index, row) for row in weighted), blank)
        weight_bK = filled((row.values() for row in weighted), 0.0)
        target_b = torch.tensor(list(rows), device=device)
        for key, tensor in self._source.get(names).items():
            tensor = tensor.to(device)
            if some_are_blank:
                tensor = torch.cat([tensor, torch.zeros_like(tensor[:1])])
            chosen = tensor[index_bK]
            if key.endswith("lora_A"):
                merged = chosen.float().flatten(1, 2)
            else:
                scaled = chosen.float() * weight_bK[:, :, None, None]
                merged = scaled.movedim(1, 2).flatten(2) * self._source.scaling
            self._buffer(key, merged)[target_b] = merged

    def _buffer(self, key: str, like: Tensor) -> Tensor:
        """Get the merged factors of one name for all rows, which are zeros at first."""
        if key not in self._merged:
            name = key.rpartition(".")[0]
            if name not in self._places.projections:
                raise ValueError(
                    f"an expert adapts the projection {name!r}, but this backbone's final FFN has "
                    f"{', '.join(self._places.projections)}; the bank is of another backbone"
                )
            self._merged[key] = like.new_zeros(len(self._ids), *like.shape[1:])
        return self._merged[key]

    @contextmanager
    def attached(self, rows: Tensor | None = None, position: int | None = None) -> Iterator[None]:
        """Let the experts act inside the block.

        Args:
            rows: ``[b]``, the rows that the batches inside hold; None: all B rows.
            position: It makes no difference, because these experts act alike at each position.
        """
        if not any(self._ids):
            yield
            return
        merged = self._merged
        if rows is not None:
            merged = {key: tensor[rows] for key, tensor in merged.items()}

        def term(name: str, x: Tensor) -> Tensor:
            """Compute the experts' term of ``[b, T, out]``, or of ``[b, out]`` at one position."""
            down, up = merged[f"{name}.lora_A"], merged[f"{name}.lora_B"]
            x_bTI = x if x.ndim == 3 else x[:, None]
            term_bTO = x_bTI.to(down.dtype) @ down.mT @ up.mT
            return term_bTO if x.ndim == 3 else term_bTO[:, 0]

        with self._places.adding(term, {key.rpartition(".")[0] for key in merged}):
            yield
