"""Notes what experts look at while the backbone reads: earlier states, and the tokens so far.

Shapes: N rows, T tokens of one forward pass, L tokens read so far, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from backbone.model import Backbone
from genpoe.experts import Around, Looks


class Watch:
    """Hooks that note what experts look at in each forward pass; no computation is changed.

    With a KV cache, a forward pass reads only the new tokens. Those before are remembered, so that
    experts see the same tokens with and without a cache.

    Args:
        backbone: The frozen model.
        looks: What the experts look at.
        around: What they see in the forward passes to come, if the caller knows it. Only the
            residual stream is then noted.
    """

    def __init__(self, backbone: Backbone, looks: Looks, around: Around | None = None) -> None:
        self._decoder = backbone.decoder
        self._given = around
        self._ids: Tensor | None = None
        self._mask: Tensor | None = None
        self._stream: Tensor | None = None
        self._earlier: list[Tensor] = [torch.empty(0)] * len(looks.layers)
        self._handles: list[RemovableHandle] = [on_input(looks.stream, self._note_stream)]
        if around is None:
            self._handles.append(
                self._decoder.register_forward_pre_hook(self._note_tokens, with_kwargs=True)
            )
            for place, layer in enumerate(looks.layers):
                note = self._note_earlier(place)
                self._handles.append(on_input(backbone.layers[layer], note))

    def stream(self) -> Tensor | None:
        """The residual stream ``[N, T, D]`` of the forward pass that is running."""
        return self._stream

    def around(self) -> Around:
        """What else the experts see in the forward pass that is running.

        Raises:
            ValueError: If the token ids are not known.
        """
        if self._given is not None:
            return self._given
        if self._ids is None or self._mask is None:
            raise ValueError(
                "these experts look at the words of the question, but the model has been given no "
                "token ids since they were injected; inject them before the prompt is read, and "
                "give input_ids instead of inputs_embeds"
            )
        return Around(self._ids, self._mask, tuple(self._earlier))

    def end(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _note_stream(self, states: Tensor) -> None:
        self._stream = states

    def _note_earlier(self, place: int) -> Callable[[Tensor], None]:
        def note(states: Tensor) -> None:
            self._earlier[place] = states

        return note

    def _note_tokens(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if module is not self._decoder:  # a shallow copy of the decoder has the same hooks
            return
        ids = args[0] if args else kwargs.get("input_ids")
        cache = kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        if past and self._ids is None:  # the prompt was read before these hooks were there
            self._ids = getattr(cache, "token_ids", None)
        if ids is None or (past and (self._ids is None or self._ids.shape[1] < past)):
            self._ids = self._mask = None
            return
        self._ids = ids if not past else torch.cat([self._ids[:, :past], ids], 1)  # type: ignore[index]
        mask = kwargs.get("attention_mask")
        known = isinstance(mask, Tensor) and mask.shape == self._ids.shape
        self._mask = mask if known else torch.ones_like(self._ids)


def on_input(module: nn.Module, note: Callable[[Tensor], None]) -> RemovableHandle:
    """Call ``note`` with the states that a module reads, in each of its forward passes."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(args[0] if args else kwargs["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True)
