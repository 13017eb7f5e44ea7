"""The frozen decoder, cut below one layer or below its final FFN.

Everything below the cut is computed once and without gradients. The parts are shallow copies that
share every weight with the backbone and do not change it.

Shapes: N rows, T tokens or nodes, D d_model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbone.final_ffn import TOLERANCE, FinalFFN, keep_residual
from backbone.model import Backbone, UnsupportedBackboneError
from backbone.token_tree import TokenTree, pack_trees
from plumbing.mounts import SettingValueError


class _Pass(nn.Module):
    """Takes the place of a layer that is not computed."""

    attention_type = "full_attention"

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class _Tap(_Pass):
    """Keeps the states that reach it or, where states were set, returns those instead."""

    states: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.states is not None:
            return self.states
        self.seen = hidden_states
        return hidden_states


class SplitBackbone:
    """The decoder cut below one layer: the part below it, and the part from it on.

    Both are shallow copies that share every weight with the backbone. The upper part keeps each
    layer at its index, because some families choose a layer's attention by its index.

    Args:
        backbone: The frozen model.
        layer: The cut lies below this layer; at least 1.

    Raises:
        ValueError: If ``layer`` is 0 or less.
        UnsupportedBackboneError: If the two parts do not compute what the whole does, as a pass of
            three tokens shows.
    """

    def __init__(self, backbone: Backbone, layer: int) -> None:
        if layer < 1:
            raise SettingValueError(
                "layer",
                f"nothing lies below layer 0, got layer={layer}",
                "set {} to 1 or more, or do not cache the frozen states",
            )
        self.backbone = backbone
        self._tap = _Tap()
        self._resume = _Tap()
        skipped = [_Pass() for _ in range(layer - 1)]
        self._below = _with_layers(backbone, [*backbone.layers[:layer], self._tap])
        self._above = _with_layers(backbone, [*skipped, self._resume, *backbone.layers[layer:]])
        self._check()

    @torch.no_grad()
    def _check(self) -> None:
        ids = torch.arange(3, device=self.backbone.device)[None]
        mask = torch.ones_like(ids)
        if mask.is_meta:  # there are shapes alone, and nothing to compare
            return
        check_parts(
            lambda: same_states(
                self.above(self._read_below(ids, mask), mask),
                self.backbone.hidden_states(ids, mask),
            ),
            self._unsupported(),
        )

    def _unsupported(self) -> UnsupportedBackboneError:
        return UnsupportedBackboneError(
            f"{type(self.backbone.model).__name__} ({self.backbone.name}): expected a decoder that "
            "can be cut below a layer, got one whose two parts compute something else than the "
            "whole; do not cache the frozen states (cache_frozen=false), and choose hypernet=mean"
        )

    @torch.no_grad()
    def below(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The states ``[N, T, D]`` that the layer reads."""
        return self._read_below(input_ids, attention_mask)

    def _read_below(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self._below(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        seen, self._tap.seen = self._tap.seen, None  # type: ignore[assignment]
        return seen

    def above(
        self,
        states_NTD: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """The final hidden states ``[N, T, D]``, after the last norm.

        Args:
            states_NTD: What `below` returned.
            attention_mask: The mask of the tokens in the cache and of the states' own.
            position_ids: The positions ``[N, T]``; None: they are those of rows without a cache.
            cache: The KV cache of earlier tokens. It grows by the states' own.
        """
        self._resume.states = states_NTD
        earlier = {} if cache is None else {"past_key_values": cache, "position_ids": position_ids}
        try:
            out = self._above(
                inputs_embeds=states_NTD,
                attention_mask=attention_mask,
                use_cache=cache is not None,
                **earlier,
            )
        finally:
            self._resume.states = None
        return out.last_hidden_state


# What a forward pass raises if a decoder's layers are not called as its parts expect.
_DIFFERENT = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def check_parts(equal: Callable[[], bool], unsupported: UnsupportedBackboneError) -> None:
    """Check that the parts of a decoder compute what the whole one computes.

    Args:
        equal: Computes both, and compares them.
        unsupported: What is raised if they differ, or if a layer cannot be called as its part
            expects.

    Raises:
        UnsupportedBackboneError: The one that was given.
    """
    try:
        found = equal()
    except _DIFFERENT as error:
        raise unsupported from error
    if not found:
        raise unsupported


def same_states(one: Tensor, other: Tensor) -> bool:
    """True if states ``[..., D]`` are equal but for rounding.

    A few dimensions are thousands of times larger than the others in many models, and rounding is
    of their size. So the difference is compared with the length of each state.
    """
    if one.shape != other.shape or one.is_meta:
        return one.shape == other.shape  # on the meta device there are no values to compare
    tolerance = TOLERANCE.get(one.dtype, 5e-2)
    near = (one - other).norm(dim=-1) <= tolerance * other.norm(dim=-1)
    return bool(near.all())  # NaN is not near


def _with_layers(backbone: Backbone, layers: Sequence[nn.Module]) -> nn.Module:
    """A shallow copy of the decoder that has these layers instead of its own."""
    part: nn.Module = copy.copy(backbone.decoder)
    part._modules = {
        name: nn.ModuleList(layers) if module is backbone.layers else module
        for name, module in backbone.decoder._modules.items()
    }
    return part


class Trunk:
    """The backbone up to its final FFN, without that FFN.

    It is a shallow copy that shares every weight with the backbone and does not change it.

    Args:
        ffn: The final FFN with its norms.

    Raises:
        UnsupportedBackboneError: If a tree of tokens gives other states than its branches give by
            themselves, as a pass over a tree of four tokens shows.
    """

    def __init__(self, ffn: FinalFFN) -> None:
        backbone = ffn.backbone
        self.backbone = backbone
        self._tap = _TrunkTap()
        layer = copy.copy(backbone.layers[-1])
        # The norm before the FFN reads the residual stream; where there is none, the FFN does.
        layer._modules = {
            name: self._tap
            if part is (ffn.pre or ffn.ffn)
            else _Skip()
            if part is ffn.ffn
            else part
            for name, part in layer._modules.items()
        }
        self._decoder: Any = _with_layers(backbone, [*backbone.layers[:-1], layer])
        self._check(ffn)

    @torch.no_grad()
    def _check(self, ffn: FinalFFN) -> None:
        tree = TokenTree()
        branches = [[0, 1, 2], [0, 3]]
        paths = [tree.add(branch) for branch in branches]
        try:
            states_TD = self._read([tree])[0]
        except _DIFFERENT as error:
            raise self._unsupported() from error
        for branch, path in zip(branches, paths, strict=True):
            ids = torch.tensor([branch], device=self.backbone.device)
            with keep_residual(ffn, len(branch)) as kept:
                self.backbone.hidden_states(ids, torch.ones_like(ids))
            if not same_states(states_TD[path], kept.hidden_BPD[0]):
                raise self._unsupported()

    def _unsupported(self) -> UnsupportedBackboneError:
        return UnsupportedBackboneError(
            f"{type(self.backbone.model).__name__} ({self.backbone.name}): expected a decoder that "
            "reads a tree of tokens, with a position and an attention mask for each, got one that "
            "computes something else; DMoE's experts cannot be trained on it"
        )

    @torch.no_grad()
    def residual(self, trees: Sequence[TokenTree]) -> Tensor:
        """The residual stream ``[N, T, D]`` before the final FFN, at every node of the trees."""
        return self._read(trees)

    def _read(self, trees: Sequence[TokenTree]) -> Tensor:
        input_ids, positions, attends = (t.to(self.backbone.device) for t in pack_trees(trees))
        self._decoder(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=self._masks(positions, attends),
            use_cache=False,
        )
        return self._tap.take()

    def _masks(self, positions: Tensor, attends: Tensor) -> Any:
        """Additive attention masks in the form that each kind of layer in the family takes."""
        config = self.backbone.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        whole = self._additive(attends)
        if window is None or int(positions.max()) < window:
            return whole
        near = self._additive(attends & (positions[:, :, None] - positions[:, None] < window))
        kinds = getattr(config, "layer_types", None)
        if kinds is None:
            return near
        return {kind: near if kind.startswith("sliding") else whole for kind in set(kinds)}

    def _additive(self, attends: Tensor) -> Tensor:
        dtype = self.backbone.dtype
        mask = torch.zeros(attends.shape, dtype=dtype, device=attends.device)
        return mask.masked_fill_(~attends, torch.finfo(dtype).min)[:, None]


class _TrunkTap(nn.Module):
    """Keeps the states that reach it, and passes them on."""

    _seen: Tensor | None = None

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor:
        self._seen = states
        return states

    def take(self) -> Tensor:
        seen, self._seen = self._seen, None
        if seen is None:
            raise RuntimeError("the decoder did not call its final layer")
        return seen


class _Skip(nn.Module):
    """Takes the place of a module that is not computed."""

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor:
        return states
