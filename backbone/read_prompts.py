"""Prompts that are read once, and answered by several methods one after the other.

What stands beside the final FFN changes no key and no value. So methods that differ in nothing else
can go on from one KV cache; reading the prompt is most of what an answer costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backbone.decoding import Decoded, back_to_prompt
from backbone.kv_cache import trim


class ReadPrompts:
    """The KV caches of batches of prompts, each without the last token of its prompts."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}

    def take(self, prompts: Sequence[str]) -> Any:
        """The cache of a batch that was kept, for `greedy_decode`; None if there is none.

        It is no longer kept then, because decoding appends to it.
        """
        return self._kept.pop(tuple(prompts), None)

    def keep(self, prompts: Sequence[str], decoded: Decoded) -> None:
        """Keep the cache of a batch that has been answered, without the answers."""
        _, cache = back_to_prompt(decoded.cache, decoded.prompt_ids.shape[1])
        if cache is not None:
            trim(cache)
            self._kept[tuple(prompts)] = cache
