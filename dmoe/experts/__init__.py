"""One expert: its tensors, the settings of its training, and its form as a PEFT adapter."""

from __future__ import annotations

from dmoe.experts.expert import Expert, ExpertSpec
from dmoe.experts.recipe import Recipe

__all__ = ["Expert", "ExpertSpec", "Recipe"]
