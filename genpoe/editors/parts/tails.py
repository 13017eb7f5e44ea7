"""The ends of rows above a layer, whose beginnings are computed once.

What is added at one token changes nothing before it, and nothing at or below its layer. So the
states that reach the layer above are computed once, and for the tokens before it also the keys and
values of all layers above.

Shapes: N rows, T tokens, P tokens before the ends, S tokens of the ends, D d_model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from backbone.likelihood import IGNORE
from backbone.model import Backbone, UnsupportedBackboneError
from backbone.split import SplitBackbone, check_parts, same_states
from genpoe.editors.parts.rows import Rows


class PartAbove:
    """The model above one layer.

    Args:
        backbone: The model.
        layer: The layer.

    Raises:
        UnsupportedBackboneError: If the decoder cannot be cut there, or if the end of a row behind
            its cached beginning gets other states than the whole row, as a pass of three tokens
            shows.
    """

    def __init__(self, backbone: Backbone, layer: int) -> None:
        self.backbone = backbone
        self._split = SplitBackbone(backbone, layer + 1)
        self._check()

    @torch.no_grad()
    def _check(self) -> None:
        ids = torch.arange(3, device=self.backbone.device)[None].repeat(2, 1)
        rows = Rows(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE))
        first = torch.tensor([1, 2], device=ids.device)
        whole = rows.hidden(self.backbone)

        def equal() -> bool:
            ends = self.tails(rows, first).hidden()
            parts = torch.cat([ends[0, :2], ends[1, :1]])
            return same_states(parts, torch.cat([whole[0, 1:], whole[1, 2:]]))

        check_parts(equal, self._unsupported())

    def _unsupported(self) -> UnsupportedBackboneError:
        return UnsupportedBackboneError(
            f"{type(self.backbone.model).__name__} ({self.backbone.name}): expected a decoder that "
            "continues rows behind a cache in its upper layers alone, got one that computes "
            "something else; compute whole rows"
        )

    def tails(self, rows: Rows, first: Tensor) -> Tails:
        """The ends of rows.

        Args:
            rows: The rows, padded behind their tokens.
            first: The column of each end's first token ``[N]``.
        """
        return Tails(self._split, rows, first)


class Tails:
    """The ends of some rows, from one token on.

    Args:
        split: The model, cut above the layer.
        rows: The whole rows, padded behind their tokens.
        first: The column of each end's first token ``[N]``.

    Attributes:
        rows: The ends, padded behind their tokens; the first token is in column 0.
    """

    @torch.no_grad()
    def __init__(self, split: SplitBackbone, rows: Rows, first: Tensor) -> None:
        self._split = split
        states = split.below(rows.ids, rows.mask)
        every = torch.arange(len(first), device=first.device)[:, None]
        ends = (
            torch.arange(int((rows.mask.sum(1) - first).max()), device=first.device)
            + first[:, None]
        )
        there = (ends < rows.ids.shape[1]).to(rows.mask)
        at = ends.clamp(max=rows.ids.shape[1] - 1)
        mask = rows.mask[every, at] * there
        labels = rows.labels[every, at].masked_fill(mask == 0, IGNORE)
        self.rows = Rows(rows.ids[every, at], mask, labels)
        self._states, self._positions = states[every, at], at
        # The beginnings are padded before their tokens, so that the ends follow without a gap.
        width = int(first.max())
        before = torch.arange(width, device=first.device) - width + first[:, None]
        self._seen = (before >= 0).to(rows.mask)
        before = before.clamp(min=0)
        cache = DynamicCache(config=split.backbone.model.config)
        split.above(states[every, before], self._seen, before, cache)
        layers: Any = cache.layers
        kept: list[tuple[Tensor, Tensor]] = [
            (each.keys, each.values) for each in layers if each.is_initialized
        ]
        # The layers below are not computed, but the first one says how long the cache is.
        self._kept = [kept[0]] * (len(layers) - len(kept)) + kept

    def hidden(self, delta: Tensor | None = None) -> Tensor:
        """Final hidden states ``[N, S, D]``.

        Args:
            delta: What is added to the layer's output at the first token of each end ``[D]``.
        """
        states = self._states
        if delta is not None:
            states = torch.cat([states[:, :1] + delta.to(states.dtype), states[:, 1:]], 1)
        cache = DynamicCache(config=self._split.backbone.model.config)
        for layer, (keys, values) in enumerate(self._kept):
            cache.update(keys, values, layer)
        mask = torch.cat([self._seen, self.rows.mask], 1)
        return self._split.above(states, mask, self._positions, cache)
