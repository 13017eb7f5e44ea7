"""A KV cache with room to grow: a new token's keys and values are written, and no others copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # spare positions behind those that are needed


class _RoomyLayer(DynamicLayer):
    """A layer whose keys and values ``[N, H, T, D]`` are views of larger buffers."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new positions; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers: list[Tensor] = [key_states[:0], value_states[:0]]  # no room yet
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        kept: list[Any] = [self.keys, self.values]
        for i, (old, new) in enumerate(zip(kept, (key_states, value_states), strict=True)):
            if not start or end > self._buffers[i].shape[-2] or not _is_in(old, self._buffers[i]):
                self._buffers[i] = new.new_empty(*new.shape[:-2], end + _ROOM, new.shape[-1])
                if start:
                    self._buffers[i][..., :start, :] = old
            self._buffers[i][..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def trim(self) -> None:
        """Give back the room that is not used."""
        kept: list[Any] = [self.keys, self.values]
        self.keys, self.values = self._buffers = [states.clone() for states in kept]


def _is_in(states: Tensor, buffer: Tensor) -> bool:
    """True if states are a view of a buffer; they are not once rows were chosen or repeated."""
    same_rows = states.shape[0] == buffer.shape[0]
    return same_rows and states.data_ptr() == buffer.data_ptr()


def can_be_cut(cache: Any) -> bool:
    """True if a cache can be cut back to fewer tokens.

    A sliding window has dropped some of them, and a convolution or a linear attention has them all
    in one state.
    """
    return bool(cache.layers) and all(
        type(layer) in (DynamicLayer, _RoomyLayer) for layer in cache.layers
    )


def make_cache(model: Any) -> DynamicCache:
    """An empty cache for a Hugging Face model.

    Layers with a sliding window keep the cache of transformers. After ``crop``, new positions
    overwrite those that were cut off.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [
        _RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def trim(cache: Any) -> None:
    """Give back what the layers of a cache do not use."""
    for layer in cache.layers:
        if isinstance(layer, _RoomyLayer):
            layer.trim()
